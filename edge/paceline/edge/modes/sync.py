"""Mode `sync`: draft a block, send it, wait for the verdict. Textbook speculative decoding over a link."""

import time
from collections.abc import AsyncIterator

from paceline.common.drafter import Proposal
from paceline.common.hops.base import Stream
from paceline.common.messages import Close, FillPolicy
from paceline.common.session import Commit, EdgeSession
from paceline.edge.draft_length import draft_length
from paceline.edge.drafting import Drafted
from paceline.edge.modes.base import Run, event, next_commit
from paceline.edge.request import Round, TokensEvent


async def sync(run: Run) -> AsyncIterator[TokensEvent]:
    """One round after another. The first block is drafted while the verifier reads the prompt."""
    hop, verifier = run.require_hop()
    session = run.session(FillPolicy.OFF)
    drafting = run.drafting(verifier.vocab_size)
    length = draft_length(run.request.num_speculative_tokens)
    try:
        async with hop.stream() as stream:
            run.report.traffic = stream.traffic
            await stream.send(session.open())
            while not session.is_complete:
                # One token less than may follow: the verifier adds its own.
                limit = min(session.remaining - 1, verifier.max_draft_tokens)
                drafted = await drafting.propose(length.plan(), limit)
                commit, round_s = await _exchange(session, stream, drafted.proposal)
                if commit is None:
                    break
                drafting.observe(commit.position, commit.token_ids)
                if not run.report.rounds and session.opened is not None:
                    length.believe(session.opened.verify_per_token_s)
                outcome = _outcome(drafted, commit, round_s)
                length.observe(outcome, drafted.proposal.probs)
                run.report.rounds.append(outcome)
                yield event(commit)
            await next_commit(session, stream)
            await stream.send(Close())
    finally:
        drafting.close()
    run.report.finish_reason = session.finish_reason


async def _exchange(session: EdgeSession, stream: Stream, proposal: Proposal) -> tuple[Commit | None, float]:
    """Send a block, await its verdict; seconds in between."""
    block = session.block(proposal.base, proposal.token_ids, proposal.probs, proposal.how, proposal.laws)
    began_s = time.perf_counter()
    await stream.send(block)
    commit = await next_commit(session, stream)
    return commit, time.perf_counter() - began_s


def _outcome(drafted: Drafted, commit: Commit, round_s: float) -> Round:
    verdict = commit.verdict
    return Round(
        num_drafted=len(drafted.proposal),
        num_accepted=verdict.num_accepted,
        draft_s=drafted.draft_s,
        round_s=round_s,
        verify_s=verdict.verify_s,
        queue_s=verdict.queue_s,
    )
