"""Mode `local`: the drafter writes alone. Every token is marked unverified; no verifier is asked."""

from collections.abc import AsyncIterator

from paceline.common.tokens import FinishReason, Origin
from paceline.edge.draft_length import Plan
from paceline.edge.modes.base import Run
from paceline.edge.request import TokensEvent

_BLOCK = 8


async def local(run: Run) -> AsyncIterator[TokensEvent]:
    """Propose blocks until a stop token, the length, or the drafter's end."""
    request = run.request
    vocab_size = run.drafter.vocab_size if run.drafter is not None else None
    drafting = run.drafting(vocab_size or 1 << 31)
    stop_token_ids = set(request.stop_token_ids) | (set() if request.ignore_eos else set(run.eos_token_ids))
    remaining = request.max_new_tokens
    run.report.finish_reason = FinishReason.LENGTH
    try:
        while remaining > 0:
            proposal = (await drafting.propose(Plan(_BLOCK), remaining)).proposal
            token_ids = _until_stop(proposal.token_ids, stop_token_ids)
            if not token_ids:
                return
            yield TokensEvent(proposal.base, token_ids, (Origin.UNVERIFIED,) * len(token_ids))
            remaining -= len(token_ids)
            if token_ids[-1] in stop_token_ids:
                run.report.finish_reason = FinishReason.STOP
                return
    finally:
        drafting.close()


def _until_stop(token_ids: tuple[int, ...], stop_token_ids: set[int]) -> tuple[int, ...]:
    """Everything up to the first stop token, inclusive."""
    for index, token_id in enumerate(token_ids):
        if token_id in stop_token_ids:
            return token_ids[: index + 1]
    return token_ids
