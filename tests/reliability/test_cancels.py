"""Clients that leave in the middle of a text: every hop of the chain lets go of it."""

import asyncio
import random
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from tests.reliability.cuts import REQUEST, Links, Rig

from paceline.edge.client import Client

MODES = ("sync", "stream", "auto", "cloud")
NUM_SLOW = 1_000
LONG = replace(REQUEST, max_new_tokens=400)


async def leave(client: Client, mode: str, after_events: int, after_s: float) -> tuple[bool, float]:
    """Cancel a text after so many events and so long; whether it had begun by then, and when that was."""
    generation, reached = client.generate(LONG, mode), asyncio.Event()

    async def write() -> None:
        left = after_events
        async for _ in generation:
            left -= 1
            if left <= 0:
                reached.set()

    writing = asyncio.create_task(write())
    if after_events:
        await reached.wait()
    await asyncio.sleep(after_s)
    left_s = asyncio.get_running_loop().time()
    writing.cancel()
    with suppress(asyncio.CancelledError):
        await writing
    return bool(generation.report.token_ids), left_s


async def leave_often(count: int) -> tuple[int, list[float]]:
    """Texts through two relays, each left at a moment of its own; how many had begun, and seconds until every hop had
    let go of each."""
    dice, loop = random.Random(1), asyncio.get_running_loop()
    num_begun, seconds = 0, []
    async with Rig(Links()) as rig, rig.chain(2) as (address, relays), rig.links.client(address) as client:
        for index in range(count):
            mode, after_events = MODES[index % len(MODES)], dice.randrange(12)
            has_begun, left_s = await leave(client, mode, after_events, dice.expovariate(100.0))
            num_begun += has_begun
            await rig.until_empty(relays)
            seconds.append(loop.time() - left_s)
        assert (await client.complete(REQUEST)).token_ids == rig.expected, "the chain is as good as before"
    return num_begun, sorted(seconds)


async def test_every_hop_lets_go_of_a_text_that_is_left() -> None:
    """A dozen texts."""
    num_begun, _ = await leave_often(12)
    assert num_begun


@pytest.mark.slow
@pytest.mark.timed
@pytest.mark.timeout(900)
async def test_every_hop_lets_go_of_a_thousand_texts_that_are_left(record_property: Any) -> None:
    """At once, nearly always."""
    num_begun, seconds = await leave_often(NUM_SLOW)
    tally = (
        f"{len(seconds)} left, {num_begun} after their first token; all hops free of them after p50 "
        f"{seconds[len(seconds) // 2]:.3f} s, p99.9 {seconds[int(0.999 * len(seconds)) - 1]:.3f} s, at most "
        f"{seconds[-1]:.3f} s"
    )
    record_property("tally", tally)
    assert num_begun > 0.3 * len(seconds)
    assert seconds[-1] < 5.0
