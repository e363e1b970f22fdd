"""The simulation: time that is virtual, links to order, and the real client, controller and verifier on both."""

import asyncio
import time

import pytest

from paceline.common.errors import InvalidRequest
from paceline.common.speed.costs import Costs
from paceline.common.speed.formulas import best_sync_length, predict_cloud, predict_sync
from paceline.edge.request import GenerationRequest, Report
from paceline.simulation.clock import run_virtual
from paceline.simulation.link import Cut, Direction, LinkShape
from paceline.simulation.pair import simulated


def test_an_hour_is_free_and_timers_keep_their_order() -> None:
    """Sleeping moves the clock, not the world."""
    order: list[int] = []

    async def sleeper(number: int, seconds: float) -> None:
        await asyncio.sleep(seconds)
        order.append(number)

    async def main() -> float:
        await asyncio.gather(sleeper(1, 3600), sleeper(2, 60), sleeper(3, 0.001))
        return asyncio.get_running_loop().time()

    began_s = time.perf_counter()
    assert run_virtual(main()) == pytest.approx(3600)
    assert order == [3, 2, 1]
    assert time.perf_counter() - began_s < 60


def test_a_deadlock_is_an_error() -> None:
    """When nothing can happen any more the loop says so instead of hanging."""
    with pytest.raises(RuntimeError, match="nothing can happen"):
        run_virtual(asyncio.Event().wait())


def test_a_link_delays_and_never_reorders() -> None:
    """Half the round trip each way, jitter on top, in order; the same seed gives the same delays."""
    shape = LinkShape(rtt_s=0.1, jitter_s=0.01, stall_every_s=0.5, stall_s=0.2, seed=3)
    arrivals = [
        [way.arrival(0.01 * n, 100) for n in range(500)] for way in (Direction(shape, "up", 0.0),) * 1
    ]
    again = Direction(shape, "up", 0.0)
    assert arrivals[0] == [again.arrival(0.01 * n, 100) for n in range(500)]
    assert arrivals[0] == sorted(arrivals[0])
    assert all(arrival >= 0.01 * n + 0.05 for n, arrival in enumerate(arrivals[0]))


def test_bandwidth_and_cuts_delay() -> None:
    """Bytes take their time; what is sent into a cut arrives at its end; a reset refuses meanwhile."""
    way = Direction(LinkShape(bytes_per_s=1000.0, cuts=(Cut(5.0, 2.0), Cut(10.0, 1.0, "reset"))), "up", 0.0)
    assert way.arrival(0.0, 500) == pytest.approx(0.5)
    assert way.arrival(0.0, 500) == pytest.approx(1.0)
    assert way.arrival(5.5, 0) == pytest.approx(7.0)
    assert way.is_reset(10.5)
    assert not way.is_reset(11.0)


@pytest.mark.parametrize("text", ["rtt=fast", "rtt=5", "speed=3ms", "stall=5ms", "bandwidth=5ms"])
def test_malformed_shapes_are_refused(text: str) -> None:
    """The part and the cure are named."""
    with pytest.raises(InvalidRequest) as caught:
        LinkShape.parse(text)
    assert caught.value.cure


async def texts(costs: Costs, mode: str, count: int = 2) -> tuple[float, float, list[Report]]:
    """Tokens per second after the first one, passes per token, and the reports."""
    async with simulated(costs) as (client, _):
        reports = [
            await client.complete(GenerationRequest((1, 2, 3, index), 300, ignore_eos=True), mode)
            for index in range(count)
        ]
    num_tokens = sum(len(report.token_ids) for report in reports)
    seconds = sum(report.total_s - report.ttft_s for report in reports)
    return num_tokens / seconds, sum(report.num_passes for report in reports) / num_tokens, reports


@pytest.mark.parametrize("round_trip_s", [0.0, 0.03, 0.1, 0.3])
def test_auto_is_never_slower_than_the_cloud(round_trip_s: float) -> None:
    """In virtual time, with the costs of a phone and a large target; and every mode writes the same text."""
    costs = Costs(0.01, 0.03, 0.0002, round_trip_s, 0.8)
    results = {mode: run_virtual(texts(costs, mode)) for mode in ("cloud", "sync", "stream", "auto")}
    rate = {mode: result[0] for mode, result in results.items()}
    assert rate["auto"] >= 0.94 * rate["cloud"]
    assert rate["auto"] >= 0.94 * max(rate.values())
    for _, _, reports in results.values():
        assert [one.token_ids for one in reports] == [one.token_ids for one in results["cloud"][2]]


def test_simulated_cloud_and_rounds_are_what_the_formulas_say() -> None:
    """The virtual clock, the coin drafter and the closed forms agree."""
    costs = Costs(0.01, 0.03, 0.0002, 0.0, 0.8)
    assert run_virtual(texts(costs, "cloud"))[0] == pytest.approx(predict_cloud(costs).tokens_per_s, rel=0.02)
    sync = predict_sync(costs, best_sync_length(costs)).tokens_per_s
    assert run_virtual(texts(costs, "sync"))[0] == pytest.approx(sync, rel=0.1)


@pytest.mark.parametrize("mode", ["auto", "stream", "sync", "cloud"])
@pytest.mark.parametrize("kind", ["stall", "reset"])
def test_a_cut_of_five_seconds_changes_no_token(mode: str, kind: str) -> None:
    """The text is the one an unbroken link gives."""
    costs = Costs(0.01, 0.03, 0.0002, 0.06, 0.85)

    async def one(shape: LinkShape) -> list[int]:
        async with simulated(costs, shape) as (client, hop):
            task = asyncio.create_task(
                client.complete(GenerationRequest((1, 2, 3), 200, ignore_eos=True), mode)
            )
            if shape.jitter_s:
                await asyncio.sleep(2)
                hop.cut(5.0, kind)  # type: ignore[arg-type]
            report = await task
            return report.token_ids

    whole = run_virtual(one(LinkShape(0.06)))
    assert run_virtual(one(LinkShape(0.06, jitter_s=0.02, seed=5))) == whole


def test_the_controller_follows_a_step_of_the_round_trip() -> None:
    """10 ms to 150 ms and back: the estimate is right within 20 verdicts, and the way of working follows."""
    costs = Costs(0.01, 0.03, 0.0002, 0.01, 0.8)

    async def main() -> tuple[list[float], Report]:
        seen: list[float] = []
        async with simulated(costs) as (client, hop):
            generation = client.generate(GenerationRequest((1, 2, 3), 900, ignore_eos=True), "auto")
            verdicts = 0
            async for _ in generation:
                verdicts += 1
                if verdicts == 100:
                    hop.set_shape(LinkShape(0.15))
                if verdicts == 300:
                    hop.set_shape(LinkShape(0.01))
                seen.append(client.estimates.round_trip.typical_s)
            return seen, generation.report

    seen, report = run_virtual(main())
    assert seen[90] == pytest.approx(0.01, abs=0.01)
    assert seen[200] == pytest.approx(0.15, abs=0.03)
    assert seen[-1] == pytest.approx(0.01, abs=0.01)
    assert len(report.decisions) >= 1
