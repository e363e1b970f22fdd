"""Verifiers killed at every point of a step: the text is the same, with the same one back or another in its place."""

import asyncio
import itertools
import random
import signal
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from tests.reliability.fleet import MODES, Fates, Fleet, Writer

from paceline.simulation.processes import POINTS, Serving, table_request

NUM_KILLS = 480
NUM_BOTH = 60
NUM_STEPS = 15


def fates(killed: Counter[tuple[str, int]], steps: Sequence[int]) -> Fates:
    """Every point of every step, in turn; counts what was handed out."""
    for step, point in itertools.cycle(itertools.product(steps, POINTS)):
        killed[point, step] += 1
        yield point, step


async def write_until(fleet: Fleet, num_kills: int) -> Writer:
    """Texts of every mode, one after another, until so many verifiers have died."""
    writer = Writer(fleet.client)
    for seed in itertools.count(1):  # the first is sampled, whose text depends on everything
        if len(fleet.died_s) >= num_kills:
            return writer
        await writer.write(table_request(seed), MODES[seed % len(MODES)])
    raise AssertionError("there are enough seeds")


def recoveries_s(fleet: Fleet, writer: Writer) -> list[float]:
    """From each death that a text felt to its next token."""
    found = [(at_s, [one for one in fleet.died_s if one < at_s]) for at_s in writer.written.found_s]
    return sorted(at_s - max(before) for at_s, before in found if before)


def check(fleet: Fleet, writer: Writer, record_property: Any, what: str) -> None:
    """What P2 promises; says what was done."""
    written, seconds = writer.written, recoveries_s(fleet, writer)
    tally = (
        f"{len(fleet.died_s)} kills, {written.num_texts} texts, {written.num_changed} changed, "
        f"{written.num_reconnects} reconnects, recovery p50 {statistics.median(seconds):.2f} s, "
        f"p99 {seconds[int(0.99 * (len(seconds) - 1))]:.2f} s, longest {seconds[-1]:.2f} s"
    )
    record_property(what, tally)
    assert written.num_changed == 0
    assert written.num_reconnects > 0, "texts are under way when verifiers die"


@pytest.mark.parametrize("count", [1, 2], ids=["the same one back", "another takes over"])
async def test_a_killed_verifier_changes_nothing(count: int, record_property: Any) -> None:
    """Each of the four points, in early steps."""
    async with Fleet(count, fates(Counter(), [4])) as fleet:
        async with asyncio.timeout(60):
            writer = await write_until(fleet, len(POINTS))
        check(fleet, writer, record_property, "few")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [1, 2], ids=["the same one back", "another takes over"])
async def test_many_killed_verifiers_change_nothing(count: int, record_property: Any) -> None:
    """Every point of the first fifteen steps, several times."""
    killed: Counter[tuple[str, int]] = Counter()
    async with Fleet(count, fates(killed, range(1, NUM_STEPS + 1))) as fleet:
        writer = await write_until(fleet, NUM_KILLS // 2)
        check(fleet, writer, record_property, f"{count} at a time")
    assert min(killed.values()) > 1
    assert len(killed) == len(POINTS) * NUM_STEPS


async def kill_both(count: int) -> tuple[Fleet, Writer]:
    """Both verifiers at one moment of a text, so often."""
    dice = random.Random(1)
    async with Fleet(2, itertools.repeat(None), Serving(step_s=0.005)) as fleet:
        writer = Writer(fleet.client)
        for number in range(count):
            writing = asyncio.create_task(writer.write(table_request(number, 96), MODES[number % len(MODES)]))
            await writer.has_begun.wait()
            await asyncio.sleep(dice.uniform(0.0, 0.05))
            for process in list(fleet.processes):
                process.send_signal(signal.SIGKILL)
            await writing
        return fleet, writer


async def test_both_verifiers_killed_at_once_change_nothing(record_property: Any) -> None:
    """Nobody is left who knows of the text but its client."""
    async with asyncio.timeout(60):
        check(*await kill_both(2), record_property, "both")


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_both_verifiers_killed_at_once_many_times_change_nothing(record_property: Any) -> None:
    """The same many times."""
    check(*await kill_both(NUM_BOTH), record_property, "both, often")
