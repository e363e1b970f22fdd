"""Mode `cloud`: the verifier decodes alone and streams; the baseline every user could have without a drafter."""

from collections.abc import AsyncIterator

from paceline.common.messages import Close, FillPolicy
from paceline.edge.modes.base import Run, event, next_commit
from paceline.edge.request import TokensEvent


async def cloud(run: Run) -> AsyncIterator[TokensEvent]:
    """Open with unlimited fill and read."""
    hop, _ = run.require_hop()
    session = run.session(FillPolicy.UNLIMITED)
    async with hop.stream() as stream:
        run.report.traffic = stream.traffic
        await stream.send(session.open())
        while (commit := await next_commit(session, stream)) is not None:
            yield event(commit)
        await stream.send(Close())
    run.report.finish_reason = session.finish_reason
