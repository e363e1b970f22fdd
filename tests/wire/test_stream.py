"""The stream: many blocks in flight, fill, links that break. The text is the target's all the same."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest

from paceline.cloud.config import ServerConfig
from paceline.cloud.engine.table import TableEngine
from paceline.cloud.server import Server
from paceline.cloud.verifier import TargetInfo, Verifier
from paceline.common.errors import InvalidRequest, Unreachable
from paceline.common.hops.base import Hop, Stream
from paceline.common.hops.grpc import GrpcHop
from paceline.common.messages import Description, FillPolicy, Open
from paceline.common.session import EdgeSession
from paceline.common.tokens import FinishReason, Origin, Rule, SamplingParams
from paceline.edge import attempts
from paceline.edge.client import Client
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.request import (
    GenerationRequest,
    LinkEvent,
    ProvisionalEvent,
    RetractedEvent,
    TokensEvent,
)

PROMPT = (1, 2, 3, 1, 2, 3, 1, 2)
FILLS = [None, *FillPolicy]


def slow_engine(step_s: float = 0.003) -> TableEngine:
    """A target whose passes last long enough for drafts to arrive in time."""
    return TableEngine(64, spread=2.0, max_context=1024, step_s=step_s)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("rule", [Rule.GREEDY, Rule.COUPLED, Rule.ONE_HOT])
async def test_text_is_the_targets_whoever_fills(serve: Any, rule: Rule, fill: FillPolicy | None) -> None:
    """Under every fill policy, with drafts that come in time and drafts that are wrong."""
    sampling = SamplingParams(0.0 if rule is Rule.GREEDY else 0.8)
    async with serve(slow_engine()) as served:
        for agreement in (0.3, 0.95):
            drafter = TableDrafter(64, target_seed=0, agreement=agreement, scale=2.0)
            async with served.client(drafter) as client:
                for length in (4, None):
                    request = GenerationRequest(
                        PROMPT, 40, sampling, rule, seed=3, num_speculative_tokens=length, fill=fill
                    )
                    report = await client.complete(request, "stream")
                    assert report.token_ids == served.text(request), (agreement, length)


async def test_a_stream_saves_passes_and_does_not_wait(serve: Any) -> None:
    """With a good drafter and no fill, several blocks are checked in one pass and most tokens are drafted ones."""
    async with (
        serve(slow_engine()) as served,
        served.client(TableDrafter(64, agreement=0.95, scale=2.0)) as client,
    ):
        request = GenerationRequest(PROMPT, 120, num_speculative_tokens=4, fill=FillPolicy.OFF)
        report = await client.complete(request, "stream")
        assert report.token_ids == served.text(request)
        assert report.num_passes < 60
        assert Origin.FILLED not in report.origins
        assert max(one.num_drafted for one in report.rounds) > 4, "no pass ever took two blocks"


async def test_fill_never_stands_still_without_a_drafter_that_has_something_to_say(serve: Any) -> None:
    """A drafter with nothing to copy leaves the text to the verifier, under every policy."""
    from paceline.edge.drafters.ngram import NgramDrafter

    async with serve() as served:
        for fill in FILLS:
            async with served.client(NgramDrafter(min_ngram=4)) as client:
                request = GenerationRequest((1, 9, 17), 40, fill=fill)
                report = await asyncio.wait_for(client.complete(request, "stream"), 20)
                assert report.token_ids == served.text(request)


# --- links that break -------------------------------------------------------------------------------------------------


class FragileHop:
    """A hop whose streams fail after so many messages, and which is away for a while then.

    Args:
        hop: the real one.
        every: messages a stream carries before it breaks.
        attempts: how many times connecting fails after each break.
    """

    def __init__(self, hop: Hop, every: int, attempts: int = 1) -> None:
        self.num_breaks = 0
        self._hop = hop
        self._every = every
        self._attempts = attempts
        self._refusals = 0

    async def describe(self) -> Description:
        """See `Hop`."""
        return await self._hop.describe()

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Stream]:
        """See `Hop`."""
        if self._refusals > 0:
            self._refusals -= 1
            raise Unreachable("away", field="verifier")
        async with self._hop.stream() as stream:
            yield _FragileStream(stream, self)

    async def close(self) -> None:
        """See `Hop`."""
        await self._hop.close()

    def break_now(self) -> None:
        """The link is gone."""
        self.num_breaks += 1
        self._refusals = self._attempts


class _FragileStream:
    def __init__(self, stream: Stream, hop: FragileHop) -> None:
        self._stream = stream
        self._hop = hop
        self._left = hop._every
        self.traffic = stream.traffic

    async def send(self, message: Any) -> None:
        await self._stream.send(message)

    async def receive(self) -> Any:
        self._left -= 1
        if self._left < 0:
            self._hop.break_now()
            raise Unreachable("cut", field="verifier")
        return await self._stream.receive()


@pytest.mark.parametrize("mode", ["auto", "stream", "sync", "cloud"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
async def test_a_broken_link_changes_nothing(serve: Any, mode: str, temperature: float) -> None:
    """Streams that break every few messages: the text goes on where it stood, and is the same."""
    async with serve(slow_engine(0.001)) as served:
        for every in (1, 2, 3, 7):
            async with served.client(hop="inproc") as whole:
                fragile = FragileHop(whole._hop, every)  # type: ignore[arg-type]
                client = Client(fragile, TableDrafter(64, agreement=0.9, scale=2.0))
                await client.connect()
                request = GenerationRequest(PROMPT, 12 * every, SamplingParams(temperature), seed=9)
                if (
                    every == 1
                ):  # a stream that carries one message carries no verdict: it must be given up in the end
                    with pytest.raises(Unreachable):
                        await client.complete(GenerationRequest(PROMPT, 12, reconnect_s=0.3), mode)
                    continue
                report = await client.complete(request, mode)
                assert report.token_ids == served.text(request)
                assert report.num_reconnects == fragile.num_breaks > 0


async def test_a_link_that_breaks_before_a_text_is_taken_is_tried_again(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a while: whoever asked what is served knows that somebody is there. It counts as no reconnect."""
    async with serve() as served, served.client(hop="inproc") as whole:
        fragile = FragileHop(whole._hop, 0, attempts=2)
        client = Client(fragile, TableDrafter(64, agreement=0.9, scale=2.0))
        await client.connect()
        monkeypatch.setattr(attempts, "OPENING_S", 0.2)
        with pytest.raises(Unreachable):
            await client.complete(GenerationRequest(PROMPT, 12))

        monkeypatch.setattr(fragile, "break_now", lambda: setattr(fragile, "_every", 10**6))
        monkeypatch.setattr(attempts, "OPENING_S", 60.0)
        report = await client.complete(GenerationRequest(PROMPT, 12))
        assert report.token_ids == served.text(GenerationRequest(PROMPT, 12))
        assert report.num_reconnects == 0


class _Refusing(_FragileStream):
    """Breaks for good, while a message is being sent that takes a while to give up."""

    async def send(self, message: Any) -> None:
        if isinstance(message, Open):
            await self._stream.send(message)
            return
        try:
            await asyncio.Event().wait()
        finally:
            self._hop.break_now()
            await asyncio.sleep(0.2)

    async def receive(self) -> Any:
        if self._left:
            self._left -= 1
            return await self._stream.receive()
        await asyncio.sleep(0.1)
        raise InvalidRequest("no", field="open")


async def test_whoever_cancels_a_text_that_is_failing_is_obeyed(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancellation that comes while a failed text is cleaned up is not swallowed."""
    monkeypatch.setattr(sys.modules[__name__], "_FragileStream", _Refusing)
    async with serve() as served, served.client(hop="inproc") as whole:
        fragile = FragileHop(whole._hop, 1)
        client = Client(fragile, TableDrafter(64, agreement=0.9, scale=2.0))
        await client.connect()
        writing = asyncio.create_task(client.complete(GenerationRequest(PROMPT, 12), "sync"))
        while not fragile.num_breaks:
            await asyncio.sleep(0.01)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing


async def test_a_lost_link_is_an_error_after_a_while(serve: Any) -> None:
    """Without leave to go on alone, a text whose verifier stays away ends with the reason."""
    async with serve(slow_engine(0.001)) as served, served.client(hop="inproc") as whole:
        fragile = FragileHop(whole._hop, 5, attempts=10**6)
        client = Client(fragile, TableDrafter(64, agreement=0.9, scale=2.0))
        await client.connect()
        with pytest.raises(Unreachable, match="away"):
            await client.complete(GenerationRequest(PROMPT, 200, reconnect_s=0.2), "stream")


async def test_a_verifier_that_is_stopped_and_started_again_changes_nothing(serve: Any) -> None:
    """Stopped in the middle without notice, another one takes its place at the same address: the text goes on."""
    request = GenerationRequest(PROMPT, 80, seed=2)
    async with serve(slow_engine(0.02)) as first:
        address, text = first.address, first.text(request)
        client = first.client(TableDrafter(64, agreement=0.5, scale=2.0))
        await client.connect()
        generation = client.generate(request, "stream")
        events = aiter(generation)
        await anext(events)
        await first.server.stop(0)
    second = Server(
        Verifier(slow_engine(), TargetInfo("table", "test", tokenizer_fingerprint=b"table tokenizer.")),
        ServerConfig(address),
    )
    await second.start()
    async for _ in events:
        pass
    assert generation.report.token_ids == text
    assert generation.report.num_reconnects == 1
    await client.close()
    await second.stop(0)


async def test_a_call_that_the_server_cancels_is_a_lost_link() -> None:
    """So ends a stream whose verifier is told twice to stop: that is no refusal, and worth another attempt."""
    nothing = grpc.aio.Metadata()
    hop = GrpcHop("127.0.0.1:1")
    error = hop._translate(grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, nothing, nothing))
    assert isinstance(error, Unreachable)
    await hop.close()


async def replay(client: Client, request: GenerationRequest, mode: str) -> tuple[list[int], list[int], Any]:
    """Generate; the text as events of verified tokens give it, as a screen would show it, and the report."""
    verified: list[int] = []
    screen: list[int] = []
    start = len(request.prompt_token_ids)
    generation = client.generate(request, mode)
    async for event in generation:
        match event:
            case TokensEvent():
                assert event.position == start + len(verified), "verified tokens come in order"
                verified.extend(event.token_ids)
                screen[event.position - start : event.position - start + len(event.token_ids)] = (
                    event.token_ids
                )
            case ProvisionalEvent():
                assert event.position == start + len(screen), "provisional tokens follow what is shown"
                screen.extend(event.token_ids)
            case RetractedEvent():
                assert event.position >= start + len(verified), "what is verified is never retracted"
                del screen[event.position - start :]
            case LinkEvent():
                pass
    return verified, screen, generation.report


@pytest.mark.parametrize("agreement", [0.5, 0.95])
async def test_provisional_tokens_are_verified_or_retracted(serve: Any, agreement: float) -> None:
    """Following the events gives the text, whatever was shown in between."""
    drafter = TableDrafter(64, agreement=agreement, scale=2.0)
    async with serve(slow_engine()) as served, served.client(drafter) as client:
        request = GenerationRequest(PROMPT, 80, provisional=True)
        verified, screen, _ = await replay(client, request, "stream")
        assert verified == screen == served.text(request)


@pytest.mark.parametrize(("agreement", "temperature"), [(0.6, 0.8), (1.0, 0.0), (1.0, 0.8)])
async def test_offline_the_drafter_goes_on_and_is_checked_later(
    serve: Any, agreement: float, temperature: float
) -> None:
    """While the verifier is away the drafter writes on; when it is back few passes check the backlog."""
    async with serve(slow_engine()) as served, served.client(hop="inproc") as whole:
        fragile = FragileHop(whole._hop, 6, attempts=3)
        client = Client(fragile, TableDrafter(64, agreement=agreement, scale=2.0))
        await client.connect()
        request = GenerationRequest(PROMPT, 100, SamplingParams(temperature), offline=True, seed=4)
        verified, screen, report = await replay(client, request, "auto")
        assert verified == screen == served.text(request)
        assert Origin.UNVERIFIED not in report.origins
        assert report.num_reconnects > 0
        if agreement == 1.0:
            assert report.num_passes < 60, "a backlog that stands is verified in few passes"


async def test_offline_from_the_start_to_the_end(serve: Any) -> None:
    """No verifier at all: the text is the drafter's, marked as unverified."""
    async with serve() as served, served.client(hop="inproc") as whole:
        away = FragileHop(whole._hop, 5, attempts=10**6)
        away.break_now()
        drafter = TableDrafter(64, agreement=1.0, scale=2.0)
        client = Client(away, drafter)
        request = GenerationRequest(PROMPT, 30, offline=True, reconnect_s=0.2)
        _, screen, report = await replay(client, request, "auto")
        assert report.token_ids == screen == served.text(request)
        assert set(report.origins) == {Origin.UNVERIFIED}
        assert report.finish_reason is FinishReason.LENGTH


async def test_whoever_gives_up_waiting_misses_no_message(serve: Any) -> None:
    """A read that nobody waits for any more is finished: the next one to ask has its message, and when the stream ends
    nothing is left reading."""
    async with serve(slow_engine(0.02)) as served:
        hop = GrpcHop(served.address)
        session = EdgeSession(Open(PROMPT, 500, fill=FillPolicy.UNLIMITED))
        num_given_up = 0
        async with hop.stream() as stream:
            await stream.send(session.open())
            while len(session.committed) < len(PROMPT) + 5:
                try:
                    async with asyncio.timeout(0.004):
                        message = await stream.receive()
                except TimeoutError:
                    num_given_up += 1
                else:
                    session.receive(message)
            with suppress(TimeoutError):
                async with asyncio.timeout(0.001):
                    await stream.receive()
        text = served.text(GenerationRequest(PROMPT, 500))
        assert session.committed.list() == [*PROMPT, *text[: len(session.committed) - len(PROMPT)]]
        assert num_given_up > 3
        assert not [one for one in asyncio.all_tasks() if one.get_coro().__qualname__.endswith(".read")]
        await hop.close()
