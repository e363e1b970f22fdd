"""The simulation: time that is virtual, links to order, and the real client, controller and verifier on both."""

import asyncio
import time

import pytest

from paceline.benchmarks.step import StepSettings, step
from paceline.common.errors import InvalidRequest
from paceline.common.messages import FillPolicy
from paceline.common.speed.costs import Costs
from paceline.common.speed.formulas import best_sync_length, predict_cloud, predict_sync
from paceline.common.speed.objective import Objective
from paceline.edge.pacing.ways import Record, Way
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


@pytest.mark.parametrize("acceptance", [0.6, 0.65])
def test_the_controller_follows_a_step_of_the_round_trip(acceptance: float) -> None:
    """10 ms to 150 ms and back: within 20 rounds the estimate is right, and so is the way of working."""
    settings = StepSettings(Costs(0.01, 0.03, 0.0002, 0.01, acceptance))
    up, down = step(settings).changes
    assert (up.wanted_way, down.wanted_way) == (Way.CLOUD, Way.STREAM)
    for change in (up, down):
        assert change.rounds_until_estimate is not None
        assert change.rounds_until_way is not None
        assert max(change.rounds_until_estimate, change.rounds_until_way) <= 20


def test_records_are_not_blamed_for_the_link() -> None:
    """A way that does what is predicted of it keeps its record when the prediction changes."""
    record = Record()
    for rate in (60.0, 20.0):
        for _ in range(50):
            record.observe(3, 3 / rate, rate)
            assert record.ratio == pytest.approx(1.0)
    for _ in range(200):
        record.observe(1, 0.1, 20.0)
    assert record.ratio == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("fill", FillPolicy)
@pytest.mark.parametrize("round_trip_s", [0.0, 0.15])
def test_auto_gets_on_under_every_fill_policy(fill: FillPolicy, round_trip_s: float) -> None:
    """With a drafter that is hardly of use nothing stands still, not in later texts either."""
    costs = Costs(0.01, 0.03, 0.0002, round_trip_s, 0.3)

    async def main() -> list[Report]:
        async with simulated(costs) as (client, _):
            requests = [GenerationRequest((1, index), 150, ignore_eos=True, fill=fill) for index in range(3)]
            return [await client.complete(request, "auto") for request in requests]

    assert [len(report.token_ids) for report in run_virtual(main())] == [150] * 3


def test_the_throughput_objective_keeps_its_passes_busy() -> None:
    """Tokens per target pass are at least nine tenths of textbook rounds' at the same block length."""
    costs = Costs(0.01, 0.03, 0.0002, 0.1, 0.8)

    async def tokens_per_pass(mode: str, block: int) -> float:
        request = GenerationRequest(
            (1, 2, 3), 400, ignore_eos=True, num_speculative_tokens=block, objective=Objective(1.0)
        )
        async with simulated(costs) as (client, _):
            report = await client.complete(request, mode)
            return len(report.token_ids) / report.num_passes

    for block in (2, 4, 8, 16):
        thrifty, textbook = (run_virtual(tokens_per_pass(mode, block)) for mode in ("auto", "sync"))
        assert thrifty >= 0.9 * textbook
