"""The simulated hop: a real client and verifier on the real clock, a small fake one on the virtual clock."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from paceline.cloud.engine.table import TableEngine
from paceline.cloud.verifier import TargetInfo, Verifier
from paceline.common.errors import InternalError, PacelineError, Unreachable
from paceline.common.hops.base import Hop, Stream
from paceline.common.hops.inproc import InProcessHop
from paceline.common.messages import ClientMessage, Close, Description, Draining, Open, ServerMessage
from paceline.common.tokens import Rule
from paceline.edge.client import Client
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.request import GenerationRequest
from paceline.simulation.clock import run_virtual
from paceline.simulation.hop import SimulatedHop
from paceline.simulation.link import Cut, LinkShape

VOCAB = 64
HELLO = Open((1, 2, 3), 8)


class Echo:
    """Answers every message by the number of messages so far, on the clock of the loop."""

    def __init__(self, fails: bool = False) -> None:
        self.heard_s: list[float] = []
        self.ended_s: float | None = None
        self._fails = fails

    def describe(self) -> Description:
        """Something."""
        return Description("0", "echo", VOCAB, 99, 1, 4, (Rule.GREEDY,))

    async def decode(
        self, requests: AsyncIterator[ClientMessage | PacelineError]
    ) -> AsyncIterator[ServerMessage]:
        """One answer each, until the client is gone."""
        loop = asyncio.get_running_loop()
        async for _ in requests:
            self.heard_s.append(loop.time())
            if self._fails:
                raise InternalError("as asked")
            yield Draining(float(len(self.heard_s)))
        self.ended_s = loop.time()


Talk = Callable[[Stream], Coroutine[Any, Any, Any]]


def talk(shape: LinkShape, what: Talk, verifier: Echo | None = None) -> Any:
    """Have a talk over a link of that shape in virtual time."""

    async def main() -> Any:
        hop = SimulatedHop(verifier or Echo(), shape)
        async with hop.stream() as stream:
            said = await what(stream)
        await hop.close()
        return said

    return run_virtual(main())


def now_s() -> float:
    """By the running loop's clock."""
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("mode", ["sync", "cloud"])
async def test_a_text_is_the_same_over_any_link(mode: str) -> None:
    """The real client and verifier, on the real clock: a link changes when, never what."""
    verifier = Verifier(TableEngine(VOCAB, spread=2.0, max_context=1024), TargetInfo("table", "test"))
    verifier.start()
    shape = LinkShape(0.004, 0.002, stall_every_s=0.05, stall_s=0.01, bytes_per_s=1e6, seed=2)

    async def text(hop: Hop) -> list[int]:
        drafter = TableDrafter(VOCAB, target_seed=0, agreement=0.8, scale=2.0)
        async with Client(hop, drafter) as client:
            report = await client.complete(GenerationRequest((1, 2, 3), 40, ignore_eos=True), mode)
            return list(report.token_ids)

    try:
        assert await text(SimulatedHop(verifier, shape)) == await text(InProcessHop(verifier))
    finally:
        verifier.stop()


def test_an_answer_takes_a_round_trip_and_so_does_a_description() -> None:
    """Half of it each way."""

    async def main() -> list[float]:
        verifier = Echo()
        hop = SimulatedHop(verifier, LinkShape(rtt_s=0.1))
        await hop.describe()
        times = [now_s()]
        async with hop.stream() as stream:
            await stream.send(HELLO)
            await stream.receive()
            times += [*verifier.heard_s, now_s()]
        await hop.close()
        return times

    assert run_virtual(main()) == pytest.approx([0.1, 0.15, 0.2], abs=1e-6)


def test_what_is_sent_before_the_first_answer_flows_at_once() -> None:
    """Opening a stream takes no round trip of its own, and traffic is counted."""
    verifier = Echo()

    async def what(stream: Stream) -> tuple[float, int, int]:
        for _ in range(3):
            await stream.send(HELLO)
        for _ in range(3):
            assert isinstance(await stream.receive(), Draining)
        return now_s(), stream.traffic.bytes_up, stream.traffic.bytes_down

    at_s, bytes_up, bytes_down = talk(LinkShape(rtt_s=1.0), what, verifier)
    assert at_s == pytest.approx(1.0, abs=1e-6)
    assert verifier.heard_s == pytest.approx([0.5] * 3, abs=1e-6)
    assert bytes_up > 0
    assert bytes_down > 0


def test_a_stall_delays_what_is_on_its_way_and_loses_nothing() -> None:
    """Also what was sent before the cut was made."""

    async def main() -> tuple[float, float]:
        verifier = Echo()
        hop = SimulatedHop(verifier, LinkShape(rtt_s=2.0))
        async with hop.stream() as stream:
            await stream.send(HELLO)
            await asyncio.sleep(0.5)
            hop.cut(5.0)
            await stream.send(Close())
            await stream.receive()
            await stream.receive()
            at_s = now_s()
        await hop.close()
        return verifier.heard_s[0], at_s

    assert run_virtual(main()) == pytest.approx((5.5, 6.5), abs=1e-6)


@pytest.mark.parametrize("planned", [False, True], ids=["by hand", "in the shape"])
def test_a_reset_ends_the_stream_at_both_ends_and_refuses_new_ones(planned: bool) -> None:
    """The edge is told at once, the verifier sees the end of the messages, and afterwards the link works again."""

    async def main() -> float | None:
        verifier = Echo()
        hop = SimulatedHop(verifier, LinkShape(2.0, cuts=(Cut(1.5, 3.0, "reset"),) if planned else ()))
        if not planned:
            asyncio.get_running_loop().call_later(1.5, hop.cut, 3.0, "reset")
        async with hop.stream() as stream:
            await stream.send(HELLO)
            with pytest.raises(Unreachable):
                await stream.receive()
            assert now_s() == pytest.approx(1.5, abs=1e-6)
            await stream.send(HELLO)  # into the void
            with pytest.raises(Unreachable):
                await stream.receive()
        with pytest.raises(Unreachable):
            await hop.describe()
        with pytest.raises(Unreachable):
            async with hop.stream():
                pass
        await asyncio.sleep(3.1)
        await hop.describe()
        await hop.close()
        return verifier.ended_s

    assert run_virtual(main()) == pytest.approx(1.5, abs=1e-6)


def test_leaving_a_stream_takes_no_time_and_the_verifier_hears_of_it() -> None:
    """As cancelling a call does; closing the hop waits until it is known."""

    async def main() -> tuple[float, float | None]:
        verifier = Echo()
        hop = SimulatedHop(verifier, LinkShape(rtt_s=4.0))
        async with hop.stream():
            pass
        left_s = now_s()
        await hop.close()
        return left_s, verifier.ended_s

    assert run_virtual(main()) == (pytest.approx(0.0, abs=1e-6), pytest.approx(2.0, abs=1e-6))


def test_a_verifier_that_fails_is_no_quiet_end() -> None:
    """Its error comes out where the answer is awaited."""

    async def what(stream: Stream) -> None:
        await stream.send(HELLO)
        with pytest.raises(InternalError):
            await stream.receive()

    talk(LinkShape(rtt_s=0.1), what, Echo(fails=True))


def test_the_round_trip_can_change_in_the_middle() -> None:
    """What is sent afterwards is faster, but overtakes nothing."""

    async def main() -> list[float]:
        verifier = Echo()
        hop = SimulatedHop(verifier, LinkShape(rtt_s=2.0))
        async with hop.stream() as stream:
            await stream.send(HELLO)
            hop.set_shape(LinkShape(rtt_s=0.2))
            await stream.send(HELLO)
            await asyncio.sleep(3)
            await stream.send(HELLO)
            await asyncio.sleep(3)
        await hop.close()
        return verifier.heard_s

    assert run_virtual(main()) == pytest.approx([1.0, 1.0, 3.1], abs=1e-6)


def test_a_link_can_be_cut_one_way() -> None:
    """What goes up arrives in time, the answer late."""

    async def main() -> tuple[float, float]:
        verifier = Echo()
        hop = SimulatedHop(verifier, LinkShape(rtt_s=1.0))
        hop.cut(5.0, ways=("down",))
        async with hop.stream() as stream:
            await stream.send(HELLO)
            await stream.receive()
            at_s = now_s()
        await hop.close()
        return verifier.heard_s[0], at_s

    assert run_virtual(main()) == pytest.approx((0.5, 5.0), abs=1e-6)


def test_a_verifier_may_take_a_stream_for_live_that_its_edge_has_lost() -> None:
    """What was on its way still reaches it, nothing later does, and it notices when it is told to."""

    async def main() -> tuple[list[float], float | None, int]:
        verifier = Echo()
        hop = SimulatedHop(verifier, LinkShape(rtt_s=1.0))
        async with hop.stream() as stream:
            await stream.send(HELLO)
            hop.half_open("verifier", 3.0)
            await stream.send(HELLO)
            with pytest.raises(Unreachable):
                await stream.receive()
            assert now_s() == pytest.approx(0.0, abs=1e-6)
        await hop.close()
        return verifier.heard_s, verifier.ended_s, hop.num_broken

    assert run_virtual(main()) == (
        [pytest.approx(0.5, abs=1e-6)],
        pytest.approx(3.0, abs=1e-6),
        1,
    )


def test_an_edge_may_take_a_stream_for_live_that_its_verifier_has_lost() -> None:
    """The verifier sees the end, the edge hears nothing until it notices."""

    async def main() -> tuple[float | None, float]:
        verifier = Echo()
        hop = SimulatedHop(verifier, LinkShape(rtt_s=1.0))
        async with hop.stream() as stream:
            hop.half_open("edge", 3.0)
            await stream.send(HELLO)
            with pytest.raises(Unreachable):
                await stream.receive()
            lost_s = now_s()
        await hop.close()
        return verifier.ended_s, lost_s

    assert run_virtual(main()) == pytest.approx((0.0, 3.0), abs=1e-6)


def test_a_link_can_break_between_two_messages() -> None:
    """Even if both are here already."""

    async def main() -> None:
        hop = SimulatedHop(Echo(), LinkShape(rtt_s=1.0))
        hop.cut_after(1, 1.0)
        async with hop.stream() as stream:
            await stream.send(HELLO)
            await stream.send(HELLO)
            await asyncio.sleep(2)
            assert isinstance(await stream.receive(), Draining)
            with pytest.raises(Unreachable):
                await stream.receive()
        await hop.close()

    run_virtual(main())


def test_what_was_sent_can_arrive_a_second_time() -> None:
    """As a stream of its own, whose answers the edge never sees."""

    async def main() -> tuple[int, int]:
        verifier = Echo()
        hop = SimulatedHop(verifier, LinkShape(rtt_s=1.0))
        async with hop.stream() as stream:
            await stream.send(HELLO)
            hop.repeat(5.0)
            answers = [await stream.receive()]
            await asyncio.sleep(2)
            await stream.send(HELLO)
            answers.append(await stream.receive())
        await hop.close()
        return len(verifier.heard_s), len(answers)

    assert run_virtual(main()) == (3, 2)


def test_one_stream_may_overtake_another() -> None:
    """Each has a lag of its own; within one all stays in order."""

    async def main() -> list[list[float]]:
        arrivals = []
        verifier = Echo()
        hop = SimulatedHop(verifier, LinkShape(rtt_s=1.0, seed=3), lag_s=2.0)
        for _ in range(4):
            verifier.heard_s, began_s = [], now_s()
            async with hop.stream() as stream:
                for _ in range(3):
                    await stream.send(HELLO)
                for _ in range(3):
                    await stream.receive()
            arrivals.append([round(at_s - began_s, 6) for at_s in verifier.heard_s])
        await hop.close()
        return arrivals

    arrivals = run_virtual(main())
    assert all(len(set(one)) == 1 and 0.5 <= one[0] <= 2.5 for one in arrivals)
    assert len({one[0] for one in arrivals}) == 4
