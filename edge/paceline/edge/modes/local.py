"""Mode `local`: the drafter writes alone. Every token is marked unverified; no verifier is asked."""

from collections.abc import AsyncGenerator

from paceline.common.tokens import FinishReason, Origin
from paceline.edge.draft_length import Plan
from paceline.edge.request import Event, TokensEvent
from paceline.edge.run import Run

_BLOCK = 8


async def local(run: Run) -> AsyncGenerator[Event, None]:
    """Propose blocks until a stop token, the length, or the drafter's end."""
    drafting = run.drafting()
    stop_token_ids = run.stop_token_ids
    remaining = run.request.end - len(run.request.text)
    run.report.finish_reason = FinishReason.LENGTH
    try:
        while remaining > 0:
            proposal = (await drafting.propose(Plan(_BLOCK), remaining)).proposal
            token_ids = _until_stop(proposal.token_ids, stop_token_ids)
            if not token_ids:
                return
            count = len(token_ids)
            yield TokensEvent(proposal.base, token_ids, (Origin.UNVERIFIED,) * count, (0,) * count)
            remaining -= len(token_ids)
            if token_ids[-1] in stop_token_ids:
                run.report.finish_reason = FinishReason.STOP
                return
    finally:
        drafting.close()


def _until_stop(token_ids: tuple[int, ...], stop_token_ids: frozenset[int]) -> tuple[int, ...]:
    """Everything up to the first stop token, inclusive."""
    for index, token_id in enumerate(token_ids):
        if token_id in stop_token_ids:
            return token_ids[: index + 1]
    return token_ids
