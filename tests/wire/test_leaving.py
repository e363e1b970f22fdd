"""A text left on purpose: the verifier is told, and keeps nothing for somebody who does not come back. Over gRPC, with
caches of lost streams kept as long as they are by default."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from tests.wire.test_parking import OPEN, begin, engine, left, until

from paceline.cloud.verifier import Verifier
from paceline.common.errors import DeadlineExceeded, Status, Unreachable
from paceline.common.hops.base import Hop, Stream, Traffic
from paceline.common.hops.grpc import GrpcHop
from paceline.common.messages import (
    Cancel,
    ClientMessage,
    Close,
    Description,
    ErrorMessage,
    Open,
    ServerMessage,
)
from paceline.edge import pipeline
from paceline.edge.client import Client, Generation
from paceline.edge.request import GenerationRequest

PATIENCE_S = 5.0
LONG = GenerationRequest(OPEN.prompt_token_ids, 800)
Leave = Callable[[Generation], Any]


async def closes_the_iterator(generation: Generation) -> None:
    """Leaves a loop over events."""
    events = aiter(generation)
    await anext(events)
    await events.aclose()


async def is_cancelled(generation: Generation, times: int = 1) -> None:
    """Is a task that somebody ends, and ends again at every step of its clean-up."""
    has_begun = asyncio.Event()

    async def write() -> None:
        async for _ in generation:
            has_begun.set()

    writing = asyncio.create_task(write())
    await has_begun.wait()
    for _ in range(times):
        writing.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await writing


async def is_cancelled_over_and_over(generation: Generation) -> None:
    """As a cancel scope of anyio does it, and with it the local endpoint's web framework."""
    await is_cancelled(generation, times=20)


async def runs_out_of_time(generation: Generation) -> None:
    """Does not come to its end before its deadline."""
    with pytest.raises(DeadlineExceeded):
        async for _ in generation:
            pass


LEAVE: dict[str, Leave] = {
    "closed": closes_the_iterator,
    "cancelled": is_cancelled,
    "cancelled over and over": is_cancelled_over_and_over,
    "late": runs_out_of_time,
}


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ends share an event loop here, which a busy machine may hold up for longer than a client usually waits."""
    monkeypatch.setattr(pipeline, "FAREWELL_S", PATIENCE_S)


async def assert_nothing_is_kept(*verifiers: Verifier) -> None:
    """Neither a session nor what a lost stream leaves behind."""
    async with asyncio.timeout(10):
        await until(lambda: not any(one.num_sessions for one in verifiers))
    assert [one.num_parked for one in verifiers] == [0] * len(verifiers)


@pytest.mark.parametrize("mode", ["cloud", "stream"])
@pytest.mark.parametrize("how", LEAVE)
async def test_a_text_that_is_left_is_not_kept(serve: Any, how: str, mode: str) -> None:
    """However it is left, and whether the verifier waits for drafts or writes on."""
    async with serve(engine()) as served, served.client() as client:
        request = replace(LONG, deadline_s=0.3) if how == "late" else LONG
        await LEAVE[how](client.generate(request, mode))
        await assert_nothing_is_kept(served.verifier)


@pytest.mark.parametrize("how", LEAVE)
async def test_nor_is_it_at_any_hop_of_a_chain(serve: Any, relay: Any, how: str) -> None:
    """A relay whose client says that it is gone says so too."""
    async with serve(engine()) as served, relay(served, [engine()]) as (relays, hop):
        await relays[0].connected()
        async with Client(hop) as client:
            request = replace(LONG, deadline_s=0.3) if how == "late" else LONG
            await LEAVE[how](client.generate(request, "cloud"))
            await until(lambda: not relays[0].num_sessions)
            await assert_nothing_is_kept(served.verifier, relays[0].verifier)


@pytest.mark.parametrize("last", [Close(), Cancel()], ids=["close", "cancel"])
async def test_a_relay_passes_a_last_word_on(serve: Any, relay: Any, last: ClientMessage) -> None:
    """Of any client, whatever it is made of."""
    async with serve(engine()) as served, relay(served, [engine()]) as (relays, hop):
        await relays[0].connected()
        await left(hop, replace(OPEN, max_new_tokens=800), last)
        await until(lambda: not relays[0].num_sessions)
        await assert_nothing_is_kept(served.verifier, relays[0].verifier)


async def test_a_text_that_was_not_complete_in_time_is_kept_nowhere(serve: Any, relay: Any) -> None:
    """A relay's client that is only told so says nothing: there is no more time in which to come back."""
    async with (
        serve(engine()) as served,
        relay(served, [engine()]) as (relays, hop),
        AsyncExitStack() as stack,
    ):
        await relays[0].connected()
        stream, _, _ = await begin(hop, replace(OPEN, max_new_tokens=800, deadline_s=0.3), stack)
        while not isinstance(message := await stream.receive(), ErrorMessage):
            assert message is not None
        assert message.status is Status.DEADLINE_EXCEEDED
        await until(lambda: not relays[0].num_sessions)
        await assert_nothing_is_kept(served.verifier, relays[0].verifier)


async def test_a_relay_whose_client_is_lost_keeps_the_text_at_every_hop(serve: Any, relay: Any) -> None:
    """It may come back; one that gave no name to come back under cannot."""
    async with serve(engine()) as served, relay(served, [engine()]) as (relays, hop):
        await relays[0].connected()
        verifiers = [served.verifier, relays[0].verifier]
        for session_id in (OPEN.session_id, b""):
            await left(hop, replace(OPEN, max_new_tokens=800, session_id=session_id))
            await until(lambda: not (relays[0].num_sessions or any(one.num_sessions for one in verifiers)))
            await until(lambda: [one.num_parked for one in verifiers] == [1, 1])


async def test_a_caller_that_comes_back_finds_its_text(serve: Any) -> None:
    """Whoever says so before leaving; `session_id` is what it comes back with."""
    request = replace(LONG, session_id=OPEN.session_id)
    async with serve(engine()) as served, served.client() as client:
        generation = client.generate(request, "cloud", comes_back=lambda: True)
        await closes_the_iterator(generation)
        await until(lambda: served.verifier.num_parked == 1)
        assert not served.verifier.num_sessions
        async with AsyncExitStack() as stack:
            hop = GrpcHop(served.address)
            opening = replace(
                OPEN, max_new_tokens=800, committed_token_ids=tuple(generation.report.token_ids)
            )
            _, _, opened = await begin(hop, opening, stack)
            assert opened.cached_length >= len(OPEN.prompt_token_ids)
            await hop.close()


# --- the link meanwhile -----------------------------------------------------------------------------------------------


class RecordingHop:
    """Notes what is sent.

    Args:
        hop: the real one.
        takes: messages its link takes; the next one never gets through.
        send_s: how long each takes.
    """

    def __init__(self, hop: Hop, takes: int = 1 << 30, send_s: float = 0.0) -> None:
        self.sent: list[ClientMessage] = []
        self.is_broken = self.has_ended = False
        self._hop = hop
        self._takes = takes
        self._send_s = send_s

    async def describe(self) -> Description:
        """See `Hop`."""
        return await self._hop.describe()

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Stream]:
        """See `Hop`."""
        if self.is_broken:
            raise Unreachable("away", field="verifier")
        async with self._hop.stream() as stream:
            yield _RecordingStream(stream, self)

    async def close(self) -> None:
        """See `Hop`."""
        await self._hop.close()

    async def send(self, stream: Stream, message: ClientMessage) -> None:
        """As far as the link lets it."""
        self.sent.append(message)
        if len(self.sent) > self._takes:
            await asyncio.Event().wait()
        await asyncio.sleep(self._send_s)
        await stream.send(message)


class _RecordingStream:
    def __init__(self, stream: Stream, hop: RecordingHop) -> None:
        self.traffic: Traffic = stream.traffic
        self._stream = stream
        self._hop = hop

    async def send(self, message: ClientMessage) -> None:
        await self._hop.send(self._stream, message)

    async def receive(self) -> ServerMessage | None:
        if self._hop.is_broken:
            raise Unreachable("away", field="verifier")
        message = await self._stream.receive()
        self._hop.has_ended = message is None
        return message


async def test_the_stream_is_not_cut_off_before_the_verifier_has_heard(serve: Any) -> None:
    """It ends it; what is cut off may lose its last words on the way. Nor does it matter who else is impatient."""
    async with serve(engine()) as served:
        hop = RecordingHop(GrpcHop(served.address), send_s=0.01)
        async with Client(hop) as client:
            await closes_the_iterator(client.generate(LONG, "cloud"))
            assert hop.has_ended
            await is_cancelled_over_and_over(client.generate(LONG, "cloud"))
            await assert_nothing_is_kept(served.verifier)
            assert served.engine.steps < LONG.max_new_tokens, "it has not come to its end"


async def test_a_dead_link_holds_nobody_up(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A last word that nobody takes is not waited for; the verifier keeps the text, as of any lost stream."""
    monkeypatch.setattr(pipeline, "FAREWELL_S", 0.05)
    async with serve(engine()) as served:
        hop = RecordingHop(GrpcHop(served.address), takes=1)
        async with asyncio.timeout(10), Client(hop) as client:
            await is_cancelled(client.generate(LONG, "cloud"))
            assert [type(one) for one in hop.sent] == [Open, Close]
            await until(lambda: served.verifier.num_parked == 1)


async def test_nothing_is_said_to_a_link_that_is_known_to_be_broken(serve: Any) -> None:
    """A text that looks for a verifier and is left meanwhile just ends."""
    async with serve(engine()) as served:
        hop = RecordingHop(GrpcHop(served.address))
        async with Client(hop) as client:
            events = aiter(client.generate(LONG, "cloud"))
            await anext(events)
            hop.is_broken = True
            await until(lambda: served.verifier.num_parked == 1)
            await events.aclose()
            assert [type(one) for one in hop.sent] == [Open]
