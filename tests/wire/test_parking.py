"""A stream that breaks off leaves its cache for whoever comes back; and proof of what was written, over gRPC."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from paceline.cloud.config import VerifierConfig
from paceline.cloud.engine.base import Row
from paceline.cloud.engine.table import TableEngine
from paceline.cloud.verifier import TargetInfo, Verifier
from paceline.common.errors import Status, Unreachable
from paceline.common.hops.base import Hop, Stream
from paceline.common.hops.grpc import GrpcHop
from paceline.common.hops.inproc import InProcessHop
from paceline.common.messages import (
    Cancel,
    ClientMessage,
    Close,
    ErrorMessage,
    Feature,
    FillPolicy,
    Finished,
    Open,
    Opened,
    Provisional,
    ServerMessage,
)
from paceline.common.session import EdgeSession
from paceline.common.tokens import Verdict
from paceline.edge.request import GenerationRequest
from paceline.relay.relay import Relay

ID = b"sixteen bytes id"
OPEN = Open(tuple(range(1, 31)), 20, fill=FillPolicy.UNLIMITED, session_id=ID)
KEYS = (b"what all verifiers of the fleet share",)


class CountingEngine(TableEngine):
    """Counts the tokens it is given."""

    num_run = 0

    def step(self, rows: Sequence[Row]) -> Any:
        """See `TargetEngine`."""
        self.num_run += sum(len(row.token_ids) for row in rows)
        return super().step(rows)


def engine(**options: Any) -> CountingEngine:
    """A target that is slow enough to be left in the middle."""
    return CountingEngine(64, spread=2.0, max_context=1024, **{"step_s": 0.01, **options})


async def begin(hop: Hop, opening: Open, stack: AsyncExitStack) -> tuple[Stream, EdgeSession, Opened]:
    """A stream with some tokens of its text."""
    stream = await stack.enter_async_context(hop.stream())
    session = EdgeSession(opening)
    await stream.send(session.open())
    opened = await stream.receive()
    assert isinstance(opened, Opened), opened
    session.receive(opened)
    while len(session.committed) < opened.committed_length + 3:
        message = await stream.receive()
        assert isinstance(message, Verdict | Provisional), message
        session.receive(message)
    return stream, session, opened


async def left(hop: Hop, opening: Open, *last: ClientMessage) -> EdgeSession:
    """A text that is begun and left, with these last words."""
    async with AsyncExitStack() as stack:
        stream, session, _ = await begin(hop, opening, stack)
        for message in last:
            await stream.send(message)
        return session


async def until(condition: Any) -> None:
    """Wait for another thread."""
    while not condition():
        await asyncio.sleep(0.001)


async def all_of(stream: Stream) -> list[ServerMessage]:
    """What is still to come."""
    messages = []
    while (message := await stream.receive()) is not None:
        messages.append(message)
        if isinstance(message, Finished) or (isinstance(message, ErrorMessage) and message.fatal):
            await stream.send(Close())  # or the verifier waits for it
            break
    return messages


async def test_who_comes_back_finds_the_text_cached(serve: Any) -> None:
    """All but the last token, which is run again; the engine runs nothing else twice, and the text is the target's."""
    async with serve(engine()) as served:
        hop = GrpcHop(served.address)
        session = await left(hop, OPEN)
        await until(lambda: served.verifier.num_parked == 1)
        assert served.verifier.num_sessions == 0
        num_run = served.engine.num_run
        async with AsyncExitStack() as stack:
            stream, again, opened = await begin(hop, session.open(), stack)
            assert opened.cached_length == len(session.committed) - 1
            for message in await all_of(stream):
                again.receive(message)
        assert again.committed.list(30) == served.text(GenerationRequest(OPEN.prompt_token_ids, 20))
        assert served.engine.num_run - num_run == 50 - opened.cached_length - 1
        await hop.close()


@pytest.mark.parametrize("last", [Close(), Cancel()], ids=["close", "cancel"])
async def test_who_says_goodbye_leaves_nothing(serve: Any, last: ClientMessage) -> None:
    """Close and Cancel free a cache at once; so does a text that is complete, and a client without a session id."""
    async with serve(engine()) as served:
        hop = GrpcHop(served.address)
        await left(hop, OPEN, last)
        await until(lambda: not served.verifier.num_sessions)
        assert (served.verifier.num_parked, served.engine.cached_tokens()) == (0, 0)
        async with AsyncExitStack() as stack:
            stream, _, _ = await begin(hop, OPEN, stack)
            assert isinstance((await all_of(stream))[-1], Finished)
        await left(hop, replace(OPEN, session_id=b""))
        await until(lambda: not served.verifier.num_sessions)
        assert (served.verifier.num_parked, served.engine.cached_tokens()) == (0, 0)
        await hop.close()


async def test_a_live_stream_is_fenced_by_the_next_one(serve: Any) -> None:
    """The verifier has not noticed that the old one is dead: it ends it, and hands its cache over."""
    async with serve(engine()) as served, AsyncExitStack() as stack:
        hop = GrpcHop(served.address)
        old, session, _ = await begin(hop, replace(OPEN, max_new_tokens=500), stack)
        _, _, opened = await begin(hop, session.open(), stack)
        assert opened.cached_length == len(session.committed) - 1
        error = (await all_of(old))[-1]
        assert isinstance(error, ErrorMessage)
        assert (error.status, error.reason, error.fatal) == (Status.ABORTED, "FENCED", True)
        assert (served.verifier.num_sessions, served.verifier.num_parked) == (1, 0)
        await hop.close()


async def test_a_stream_is_not_fenced_by_an_older_one(serve: Any, relay: Any) -> None:
    """A link held an Open back until the next had overtaken it: it is refused, by a verifier and by a relay, and the
    newer one's text is complete."""
    long = replace(OPEN, max_new_tokens=60)
    async with (
        serve(engine()) as served,
        relay(served, [engine()]) as (relays, hop),
        AsyncExitStack() as stack,
    ):
        await relays[0].connected()
        straight = GrpcHop(served.address)
        for way in (straight, hop):
            session = EdgeSession(long)
            held_back = session.open()
            stream, newer, _ = await begin(way, replace(long, attempt=(1, 2)), stack)
            late = await stack.enter_async_context(way.stream())
            await late.send(held_back)
            (error,) = await all_of(late)
            assert isinstance(error, ErrorMessage)
            assert (error.status, error.reason, error.fatal) == (Status.ABORTED, "FENCED", True)
            for message in await all_of(stream):
                newer.receive(message)
            assert newer.committed.list(30) == served.text(GenerationRequest(OPEN.prompt_token_ids, 60))
        await stack.aclose()
        await straight.close()


class Noting:
    """A way to a verifier that notes which stream is which; the first one breaks at once."""

    def __init__(self, hop: Hop) -> None:
        self.attempts: list[tuple[int, ...]] = []
        self.describe = hop.describe
        self.close = hop.close
        self._hop = hop

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Stream]:
        """See `Hop`."""
        async with self._hop.stream() as stream:
            send = stream.send

            async def noted(message: ClientMessage) -> None:
                if isinstance(message, Open):
                    self.attempts.append(message.attempt)
                    if len(self.attempts) == 1:
                        raise Unreachable("it broke")
                await send(message)

            stream.send = noted  # type: ignore[method-assign]
            yield stream


@pytest.mark.parametrize("counts", [True, False])
async def test_a_relay_counts_its_streams_below_those_of_the_client(serve: Any, counts: bool) -> None:
    """What it opens anew for one stream of the client's is older than all it opens for the next; where the client does
    not count, the relay counts its streams for it."""
    async with serve(engine()) as served:
        above = Noting(InProcessHop(served.verifier))
        relay = Relay(Verifier(engine(), TargetInfo("middle", "test")), above, name="relay")
        relay.start()
        await relay.connected()
        opening = EdgeSession(OPEN).open()
        for number in (1, 2):
            async with InProcessHop(relay).stream() as stream:
                await stream.send(replace(opening, attempt=(number,) if counts else ()))
                assert isinstance((await all_of(stream))[-1], Finished)
        assert above.attempts == [(1, 1), (1, 2), (2, 1)]
        await relay.close()


async def test_a_fenced_client_goes_on_under_another_name(serve: Any) -> None:
    """A copy of its session ends its stream; its text is complete all the same, and the copy's too."""
    async with serve(engine()) as served, served.client() as client, AsyncExitStack() as stack:
        request = GenerationRequest(OPEN.prompt_token_ids, 60, session_id=ID)
        generation = client.generate(request, "cloud")
        events = aiter(generation)
        await anext(events)
        copy, _, _ = await begin(GrpcHop(served.address), replace(OPEN, max_new_tokens=60), stack)
        async for _ in events:
            pass
        assert generation.report.token_ids == served.text(request)
        assert generation.report.num_reconnects == 1
        assert isinstance((await all_of(copy))[-1], Finished)


async def test_parked_caches_make_room_and_go_with_the_verifier(serve: Any) -> None:
    """A live session's room is its own; a verifier that drains keeps nothing for anybody."""
    async with serve(engine(capacity_tokens=256)) as served:
        hop = GrpcHop(served.address)
        for number in range(3):
            await left(hop, replace(OPEN, session_id=bytes([number]) * 16))
            await until(lambda: not served.verifier.num_sessions)
        assert served.verifier.num_parked == 3
        async with AsyncExitStack() as stack:
            long = replace(OPEN, max_new_tokens=162, session_id=b"")
            await begin(hop, long, stack)
            assert served.verifier.num_parked == 0, "30 + 162 + a block, in pages: all of 256"
        await until(lambda: not served.verifier.num_sessions)
        await left(hop, OPEN)
        await until(lambda: served.verifier.num_parked)
        served.verifier.drain(0.0)
        await until(lambda: not served.verifier.num_parked)
        assert served.engine.cached_tokens() == 0
        await hop.close()


async def test_a_receipt_proves_the_history_also_over_a_relay(serve: Any, relay: Any) -> None:
    """Whoever needs proof gets it from a client that came over a relay, and refuses what was changed."""
    config = VerifierConfig(receipt_keys=lambda: KEYS, require_receipts=True)
    async with serve(engine(), config) as served, relay(served, [engine()]) as (relays, hop):
        await relays[0].connected()
        session = await left(hop, replace(OPEN, max_new_tokens=60))
        assert session.receipt_length == len(session.committed)
        reopened = session.open()
        await until(lambda: served.verifier.num_parked and relays[0].verifier.num_parked)
        async with AsyncExitStack() as stack:
            stream, again, opened = await begin(hop, reopened, stack)
            assert Feature.RECEIPTS in opened.features & (await hop.describe()).features
            assert opened.cached_length >= 30, "the relay's own model does not read the prompt again either"
            for message in await all_of(stream):
                again.receive(message)
        assert again.committed.list(30) == served.text(GenerationRequest(OPEN.prompt_token_ids, 60))
        async with GrpcHop(served.address).stream() as stream:
            forged = (*reopened.committed_token_ids[:-1], reopened.committed_token_ids[-1] ^ 1)
            await stream.send(replace(reopened, committed_token_ids=forged))
            error = await stream.receive()
        assert isinstance(error, ErrorMessage)
        assert (error.status, error.reason, error.field) == (
            Status.FAILED_PRECONDITION,
            "BAD_RECEIPT",
            "receipt",
        )
        assert error.message == "history does not match its receipt"


async def test_a_receipt_that_is_refused_is_left_out(serve: Any) -> None:
    """The keys were changed under a live text: it is opened again without its receipt, and goes on."""
    keys = list(KEYS)
    config = VerifierConfig(receipt_keys=lambda: tuple(keys))
    async with serve(engine(), config) as served, served.client() as client, AsyncExitStack() as stack:
        request = GenerationRequest(OPEN.prompt_token_ids, 60, session_id=ID)
        generation = client.generate(request, "cloud")
        events = aiter(generation)
        await anext(events)
        keys[0] = KEYS[0][::-1]
        await begin(GrpcHop(served.address), replace(OPEN, max_new_tokens=60), stack)
        async for _ in events:
            pass
        assert generation.report.token_ids == served.text(request)
        registry = served.verifier.metrics.registry
        errors = {"hop": "cloud", "reason": "BAD_RECEIPT"}
        assert registry.get_sample_value("paceline_errors_total", errors) == 1
        assert registry.get_sample_value("paceline_unproved_tokens_total", {"hop": "cloud"}) > 0
