"""Verifiers killed at every point of a step: the text is the same, with the same one back or another in its place."""

import asyncio
import itertools
import random
import signal
import statistics
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.reliability.fleet import MODES, Fates, Fleet, Writer, Written, sessions_of

from paceline.common.tokenizer import Tokenizer
from paceline.common.tokens import SamplingParams
from paceline.edge.client import Client
from paceline.edge.drafters.ngram import NgramDrafter
from paceline.edge.request import GenerationRequest
from paceline.simulation.model_process import ModelProcess
from paceline.simulation.processes import POINTS, Point, Serving, hop_to, table_request

NUM_TOKENS, NUM_DEATHS = 200, 8
"""Of a text in the slow tests; so many of its steps are the last of a verifier."""
NUM_BOTH = 100
NUM_MODEL = 50
RECOVERY_S = 3.0
"""P2 says a second more than it takes to notice, to reconnect and to read the text; on a busy machine."""


def few() -> Fates:
    """The step that decides the fourth token, at every point in turn."""
    return itertools.cycle((point, 4) for point in POINTS)


def every_step(point: Point) -> Fates:
    """All steps of a text, for ever: dealt out at random to texts, so that each has some, early ones first."""
    steps = random.Random(point).sample(range(1, NUM_TOKENS + 1), NUM_TOKENS)
    dealt = [sorted(steps[first : first + NUM_DEATHS]) for first in range(0, NUM_TOKENS, NUM_DEATHS)]
    return itertools.cycle((point, step) for text in dealt for step in text)


async def write_until(fleet: Fleet, fates: Sequence[tuple[Point, int]], num_tokens: int = 48) -> Writer:
    """Texts of every mode, one after another, until verifiers have died of all these."""
    writer = Writer(fleet.client)
    for seed in itertools.count(1):  # the first is sampled, whose text depends on everything
        if fleet.died_at >= set(fates):
            return writer
        await writer.write(table_request(seed, num_tokens), MODES[seed % len(MODES)])
    raise AssertionError("there are enough seeds")


def recoveries_s(died_s: Sequence[float], written: Written) -> list[float]:
    """From each death that a text felt to its next token."""
    found = [(at_s, [one for one in died_s if one < at_s]) for at_s in written.found_s]
    return sorted(at_s - max(before) for at_s, before in found if before)


def check(died_s: Sequence[float], written: Written, record_property: Any, what: str) -> float:
    """What P2 promises; says what was done. Seconds in which 99 of 100 texts went on."""
    seconds = recoveries_s(died_s, written)
    p99_s = seconds[int(0.99 * (len(seconds) - 1))]
    tally = (
        f"{len(died_s)} kills, {written.num_texts} texts, {written.num_changed} changed, "
        f"{written.num_reconnects} reconnects, recovery p50 {statistics.median(seconds):.2f} s, "
        f"p99 {p99_s:.2f} s, longest {seconds[-1]:.2f} s"
    )
    record_property(what, tally)
    assert written.num_changed == 0
    assert written.num_reconnects > 0, "texts are under way when verifiers die"
    return p99_s


@pytest.mark.parametrize("count", [1, 2], ids=["the same one back", "another takes over"])
async def test_a_killed_verifier_changes_nothing(count: int, record_property: Any) -> None:
    """Each of the four points, in an early step."""
    async with Fleet(count, few()) as fleet:
        async with asyncio.timeout(60):
            writer = await write_until(fleet, [(point, 4) for point in POINTS])
        check(fleet.died_s, writer.written, record_property, "few")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("count", [1, 2], ids=["the same one back", "another takes over"])
async def test_many_killed_verifiers_change_nothing(count: int, point: Point, record_property: Any) -> None:
    """One point of every step of a text of 200 tokens."""
    all_steps = [(point, step) for step in range(1, NUM_TOKENS + 1)]
    async with Fleet(count, every_step(point)) as fleet:
        writer = await write_until(fleet, all_steps, NUM_TOKENS)
        assert check(fleet.died_s, writer.written, record_property, f"{point}, {count}") <= RECOVERY_S
    assert fleet.died_at == set(all_steps)
    assert writer.written.num_reconnects > 0.5 * len(all_steps), (
        "the last step's death, and two in one, are none"
    )


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
        fleet, writer = await kill_both(2)
        check(fleet.died_s, writer.written, record_property, "both")


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_both_verifiers_killed_at_once_many_times_change_nothing(record_property: Any) -> None:
    """The same many times."""
    fleet, writer = await kill_both(NUM_BOTH)
    assert check(fleet.died_s, writer.written, record_property, "both, often") <= RECOVERY_S
    assert writer.written.num_reconnects > 0.5 * NUM_BOTH


async def kill_models(models: Path, count: int, num_kills: int) -> tuple[list[float], Written]:
    """So often the verifier that has the text, at random moments of it; the target is the shipped one."""
    dice, loop, died_s = random.Random(count), asyncio.get_running_loop(), list[float]()
    prompt = Tokenizer(models / "base").encode("def add(first, second):\n    return first")
    requests = [
        GenerationRequest(
            prompt, 48, SamplingParams(temperature), seed=seed, ignore_eos=True, provisional=True
        )
        for seed, temperature in enumerate((0.0, 0.8, 1.0))
    ]
    async with AsyncExitStack() as stack:
        verifiers = [await asyncio.to_thread(ModelProcess, models / "base") for _ in range(count)]
        for verifier in verifiers:
            stack.callback(verifier.close)
        client = Client(hop_to([one.address for one in verifiers]), NgramDrafter())
        await stack.enter_async_context(client)
        began_s = loop.time()
        whole = [(await client.complete(request, "cloud")).token_ids for request in requests]
        text_s = (loop.time() - began_s) / len(requests)
        writer = Writer(client, expected=lambda asked: whole[asked.seed])
        for number in range(num_kills):
            writing = asyncio.create_task(
                writer.write(requests[number % len(requests)], MODES[number % len(MODES)])
            )
            await asyncio.sleep(dice.uniform(0.0, 0.8 * text_s))
            busy = [one for one in verifiers if await sessions_of(one.address)] or verifiers[:1]
            busy[0].kill()
            died_s.append(loop.time())
            await asyncio.gather(writing, asyncio.to_thread(busy[0].await_life))
        return died_s, writer.written


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", [1, 2], ids=["the same one back", "another takes over"])
async def test_many_killed_verifiers_of_a_real_model_change_nothing(
    count: int, models: Path, record_property: Any
) -> None:
    """At random moments, with the shipped target."""
    died_s, written = await kill_models(models, count, NUM_MODEL)
    assert check(died_s, written, record_property, f"shipped target, {count}") <= RECOVERY_S
    assert written.num_reconnects > 0.3 * NUM_MODEL
