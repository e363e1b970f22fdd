"""Several hops behind one face: who is asked, in which order, and what brings one back."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import chain
from typing import Any

import pytest

from paceline.cloud.engine.table import TableEngine
from paceline.cloud.verifier import TargetInfo, Verifier
from paceline.common.errors import InvalidRequest, PacelineError, Status, Unreachable
from paceline.common.hops.base import SESSION_HEADER, Elsewhere, Hop, Stream, stream_headers
from paceline.common.hops.first_reachable import FirstReachable, connect_to
from paceline.common.hops.grpc import GrpcHop
from paceline.common.hops.inproc import InProcessHop
from paceline.common.messages import (
    ClientMessage,
    Close,
    Description,
    Draining,
    ErrorMessage,
    Finished,
    Open,
    Opened,
    ServerMessage,
)
from paceline.common.session.remote import RemoteError
from paceline.common.tokens import FinishReason, Rule
from paceline.edge.client import Client
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.request import GenerationRequest

HELLO = Open((1, 2, 3), 8)
DONE = Finished(FinishReason.LENGTH, 8)
REFUSED_BLOCK = ErrorMessage(Status.INVALID_ARGUMENT, "BAD_DRAFT", "one block", fatal=False)
VOCAB = 64


class Named:
    """A verifier that says its name and answers each message with the next of its answers."""

    def __init__(self, name: str, *answers: ServerMessage) -> None:
        self.name = name
        self.num_streams = 0
        self.opens: Iterator[ServerMessage] = iter(())
        """What it says to the first message of each stream, while there is some."""
        self._answers = answers or (DONE,)

    def describe(self) -> Description:
        """Its name as the model's."""
        return Description("0", self.name, VOCAB, 99, 1, 4, (Rule.GREEDY,))

    async def decode(
        self, requests: AsyncIterator[ClientMessage | PacelineError]
    ) -> AsyncIterator[ServerMessage]:
        """One answer each; then the stream ends."""
        self.num_streams += 1
        answers = chain([one] if (one := next(self.opens, None)) else [], self._answers)
        async for message in requests:
            if isinstance(message, Close) or (answer := next(answers, None)) is None:
                return
            yield answer


class Switched:
    """A hop that can be away: then it says so, or is silent."""

    def __init__(self, hop: Hop) -> None:
        self.is_away = self.is_silent = self.is_closed = False
        self.takes_streams = True
        self.num_asked = 0
        self._hop = hop

    async def describe(self) -> Description:
        """Unless it is away."""
        self.num_asked += 1
        if self.is_silent:
            await asyncio.Event().wait()
        if self.is_away:
            raise Unreachable("away", field="verifier")
        return await self._hop.describe()

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Stream]:
        """Of the hop behind."""
        if not self.takes_streams:
            raise Unreachable("away", field="verifier")
        async with self._hop.stream() as stream:
            yield stream

    async def close(self) -> None:
        """Remember it."""
        self.is_closed = True


class Clock:
    """Seconds that pass when told."""

    now_s = 0.0

    def __call__(self) -> float:
        """Now."""
        return self.now_s


class Chain:
    """Three named hops, each of which can be away."""

    def __init__(self, *answers: ServerMessage) -> None:
        self.clock = Clock()
        self.verifiers = [Named("metro", *answers), Named("city"), Named("cloud")]
        self.hops = {one.name: Switched(InProcessHop(one)) for one in self.verifiers}
        self.first = FirstReachable(self.hops, connect_timeout_s=0.05, clock=self.clock)

    async def who_answers(self) -> str:
        """Whose stream a new one is."""
        before = [one.num_streams for one in self.verifiers]
        async with self.first.stream() as stream:
            await stream.send(HELLO)
            await stream.receive()
        (who,) = (
            one.name for one, count in zip(self.verifiers, before, strict=True) if one.num_streams > count
        )
        return who


async def test_the_best_one_is_taken_while_it_answers() -> None:
    """Description and streams come from the first; who answered once is not asked before every stream."""
    chain = Chain()

    assert (await chain.first.describe()).model_name == "metro"
    assert [await chain.who_answers() for _ in range(3)] == ["metro"] * 3
    assert [hop.num_asked for hop in chain.hops.values()] == [1, 0, 0]


@pytest.mark.parametrize("how", ["is_away", "is_silent"])
async def test_the_next_one_stands_in(how: str) -> None:
    """Away or silent, the ones before are passed over, in order."""
    chain = Chain()
    setattr(chain.hops["metro"], how, True)

    assert await chain.who_answers() == "city"
    setattr(chain.hops["city"], how, True)
    assert (await chain.first.describe()).model_name == "cloud"


async def test_all_away_names_all() -> None:
    """One error, with every address."""
    chain = Chain()
    for hop in chain.hops.values():
        hop.is_away = True

    with pytest.raises(Unreachable, match="metro, city, cloud"):
        await chain.who_answers()
    with pytest.raises(Unreachable, match="metro, city, cloud"):
        await chain.first.describe()


async def test_one_that_failed_is_left_alone_for_a_while_and_then_preferred_again() -> None:
    """Within the pause nobody asks it; after the pause the next new stream does; each failure doubles the pause."""
    chain = Chain()
    metro = chain.hops["metro"]
    metro.is_away = True

    assert await chain.who_answers() == "city"
    assert await chain.who_answers() == "city"
    assert metro.num_asked == 1
    chain.clock.now_s = 1.0
    assert await chain.who_answers() == "city"
    assert metro.num_asked == 2
    metro.is_away = False
    chain.clock.now_s = 2.5
    assert await chain.who_answers() == "city"
    chain.clock.now_s = 3.0
    assert await chain.who_answers() == "metro"


async def test_one_that_is_left_alone_is_asked_where_no_other_answers() -> None:
    """A pause never turns a hop that is there into an error."""
    chain = Chain()
    chain.hops["metro"].is_away = True
    await chain.who_answers()
    chain.hops["metro"].is_away = False
    for name in ("city", "cloud"):
        chain.hops[name].is_away = True
    with pytest.raises(Unreachable):
        await FirstReachable({"city": chain.hops["city"]}, clock=chain.clock).describe()

    assert (await chain.first.describe()).model_name == "metro"


@pytest.mark.parametrize(
    ("answer", "who_is_next"),
    [
        (DONE, "metro"),
        (Draining(5.0), "city"),
        (ErrorMessage(Status.UNAVAILABLE, "UNREACHABLE", "its upstream is away"), "city"),
        (ErrorMessage(Status.UNAVAILABLE, "IDLE", "its client said nothing"), "metro"),
        (REFUSED_BLOCK, "metro"),
    ],
)
async def test_a_hop_that_goes_away_in_the_middle_gets_no_new_stream(
    answer: ServerMessage, who_is_next: str
) -> None:
    """One that drains, or has lost its own upstream, still answers; new streams go past it."""
    chain = Chain(answer)
    await chain.who_answers()

    assert await chain.who_answers() == who_is_next


async def test_what_many_streams_say_of_one_drain_is_one_failure() -> None:
    """However many it told, the hop is asked again after the first pause: it may be back by then."""
    chain = Chain(Draining(1.0))
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(chain.first.stream()) for _ in range(8)]
        for stream in streams:
            await stream.send(HELLO)
            await stream.receive()
    assert await chain.who_answers() == "city"
    chain.clock.now_s += 1.0

    assert await chain.who_answers() == "metro"


async def test_after_a_stream_that_broke_off_its_hop_is_asked_again() -> None:
    """An end without a last word may be a death: the next stream makes sure."""
    chain = Chain(REFUSED_BLOCK)
    async with chain.first.stream() as stream:
        await stream.send(HELLO)
        await stream.receive()
        await stream.send(HELLO)
        assert await stream.receive() is None
    chain.hops["metro"].is_away = True

    assert await chain.who_answers() == "city"


async def test_a_stream_that_was_closed_says_nothing_against_its_hop() -> None:
    """Its end was asked for: the next stream is opened without asking first."""
    chain = Chain(REFUSED_BLOCK)
    async with chain.first.stream() as stream:
        await stream.send(HELLO)
        await stream.receive()
        await stream.send(Close())
        assert await stream.receive() is None

    assert await chain.who_answers() == "metro"
    assert chain.hops["metro"].num_asked == 1


async def test_a_hop_that_takes_no_stream_is_asked_again() -> None:
    """One that answered once and has died since is not tried for ever."""
    chain = Chain()
    assert await chain.who_answers() == "metro"
    chain.hops["metro"].takes_streams = False
    chain.hops["metro"].is_away = True
    with pytest.raises(Unreachable):
        await chain.who_answers()

    assert await chain.who_answers() == "city"


# --- hops that are full -----------------------------------------------------------------------------------------------


def full(retry_after_s: float) -> ErrorMessage:
    """No place here, but later."""
    return ErrorMessage(Status.RESOURCE_EXHAUSTED, "BUSY", "no place", retry_after_s=retry_after_s)


OPENED = Opened(64, 8, 4, 3)


class Fleet(Chain):
    """Three hops, each with the answers it gives to one Open after the other."""

    def __init__(self, **answers: list[ServerMessage]) -> None:
        super().__init__()
        for one in self.verifiers:
            one.opens = iter(answers.get(one.name, [OPENED] * 9))

    async def ask(self, name: str = "text", last: ClientMessage | None = None) -> tuple[str, ServerMessage]:
        """Who is asked last for a text of that name, and what is said in the end."""
        token = stream_headers.set(((SESSION_HEADER, name),))
        try:
            while True:
                before = [one.num_streams for one in self.verifiers]
                with suppress(Elsewhere):
                    async with self.first.stream() as stream:
                        await stream.send(HELLO)
                        message = await stream.receive()
                        if last is not None:
                            await stream.send(last)
                    break
        finally:
            stream_headers.reset(token)
        now = [one.num_streams for one in self.verifiers]
        (who,) = [self.verifiers[index].name for index in range(3) if now[index] > before[index]]
        assert message is not None
        return who, message


async def test_a_text_that_finds_one_full_is_led_to_the_next() -> None:
    """In order of preference, at once; whoever begins meanwhile goes past the full one."""
    fleet = Fleet(metro=[full(5.0), OPENED], city=[full(5.0), OPENED])

    assert await fleet.ask("a") == ("cloud", OPENED)
    assert await fleet.ask("b") == ("cloud", OPENED)
    assert [one.num_streams for one in fleet.verifiers] == [1, 1, 2]
    fleet.clock.now_s = 5.0
    assert await fleet.ask("c") == ("metro", OPENED)


async def test_if_all_are_full_the_shortest_wait_is_told() -> None:
    """And whoever comes back then asks that hop alone: the others said later."""
    fleet = Fleet(metro=[full(5.0), OPENED], city=[full(2.0), full(1.0)], cloud=[full(3.0)])

    who, refusal = await fleet.ask()
    assert (who, refusal) == ("cloud", full(2.0))
    fleet.clock.now_s = 2.0
    who, refusal = await fleet.ask()
    assert (who, refusal) == ("city", full(1.0))
    assert [one.num_streams for one in fleet.verifiers] == [1, 2, 1]
    fleet.clock.now_s = 5.0
    assert (await fleet.ask())[0] == "metro"


async def test_each_is_asked_once_however_soon_it_would_have_one_back() -> None:
    """A hop that says to come back at once is no reason never to get to the next."""
    fleet = Fleet(metro=[full(0.001), full(0.001)])
    clock = fleet.clock
    fleet.first.clock = lambda: setattr(clock, "now_s", clock.now_s + 1.0) or clock.now_s  # type: ignore[func-returns-value]

    assert await fleet.ask() == ("city", OPENED)


async def test_while_some_are_full_and_the_rest_is_away_a_text_is_told_to_wait() -> None:
    """Whichever is full: a place is sure to come there."""
    for name in ("metro", "city", "cloud"):
        fleet = Fleet(**{name: [full(5.0)]})
        for other in fleet.hops.keys() - {name}:
            fleet.hops[other].is_away = True
        told: list[Any] = []
        try:
            told.append((await fleet.ask())[1])
        except RemoteError as error:
            told.append(error)
        assert [(one.is_full, one.retry_after_s) for one in told] == [(True, 5.0)]


async def test_a_text_that_comes_back_asks_who_had_it_first() -> None:
    """Its cache may be there; but not if that hop is away, nor once the text was over."""
    fleet = Fleet(metro=[full(5.0), *[OPENED] * 9])
    assert (await fleet.ask("a"))[0] == "city"
    assert (await fleet.ask("b"))[0] == "city"
    fleet.clock.now_s = 6.0

    assert (await fleet.ask("c"))[0] == "metro"
    assert (await fleet.ask("a"))[0] == "city"
    assert (await fleet.ask("b", Close()))[0] == "city"
    assert (await fleet.ask("b"))[0] == "metro"
    fleet.first._candidates[1].is_known = False
    fleet.hops["city"].is_away = True
    assert (await fleet.ask("a"))[0] == "metro"


async def test_what_is_remembered_of_texts_is_bounded() -> None:
    """Of those that never came to an end."""
    fleet = Fleet(metro=[OPENED] * 2000)
    for number in range(1100):
        await fleet.ask(f"text {number}")

    assert len(fleet.first._texts) == 1024


async def test_closing_closes_all() -> None:
    """Whoever was used."""
    chain = Chain()
    await chain.first.close()

    assert all(hop.is_closed for hop in chain.hops.values())


async def test_a_text_is_the_same_past_a_hop_that_is_away() -> None:
    """A client with two verifiers of one law writes what one with the second alone writes."""

    async def text(is_away: bool) -> list[int]:
        verifiers = [Verifier(TableEngine(VOCAB, seed=3), TargetInfo("table", "test")) for _ in range(2)]
        for one in verifiers:
            one.start()
        near, far = (Switched(InProcessHop(one)) for one in verifiers)
        near.is_away = is_away
        drafter = TableDrafter(VOCAB, agreement=0.7)
        async with Client(FirstReachable({"near": near, "far": far}), drafter) as client:
            report = await client.complete(GenerationRequest((5, 6), max_new_tokens=24), "sync")
        for one in verifiers:
            one.stop()
        return report.token_ids

    assert await text(is_away=True) == await text(is_away=False)


async def test_addresses_make_a_hop() -> None:
    """One address is a plain link, several are alternatives, and none may be malformed."""
    one, several = connect_to(["127.0.0.1:1"]), connect_to(["127.0.0.1:1", "127.0.0.1:2"])

    assert isinstance(one, GrpcHop)
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1, 127\.0\.0\.1:2"):
        await several.describe()
    await several.close()
    with pytest.raises(InvalidRequest, match="HOST:PORT"):
        connect_to(["127.0.0.1:1", "nowhere"])
