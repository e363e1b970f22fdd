"""Rolling drains of verifier processes under streams: no text fails or changes, nobody new gets in."""

import asyncio
import itertools
import signal
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from tests.reliability.fleet import MODES, Writer, Written

from paceline.common.errors import PacelineError
from paceline.common.hops.grpc import GrpcHop
from paceline.edge.client import Client
from paceline.simulation.processes import Serving, TableProcess, hop_to, table_drafter, table_request

GRACE_S = 1.0
SLACK_S = 2.0
STEP_S = 0.01


class Rolling:
    """Two verifier processes, and texts that never cease."""

    def __init__(self) -> None:
        self.processes = [TableProcess(serving()) for _ in range(2)]
        self.num_opened_while_draining = 0
        self.exits_s: list[float] = []
        self.num_live: list[int] = []
        """How many texts each verifier had when it was told to end."""

    async def drain(self, index: int) -> None:
        """End one of them once it has texts, wait until it has ended, and start it again."""
        process = self.processes[index]
        self.num_live.append(await _until_busy(process))
        async with Client(GrpcHop(process.address)) as stranger:
            process.send_signal(signal.SIGTERM)
            began_s = time.monotonic()
            knocking = asyncio.create_task(_knock(stranger))
            assert await asyncio.to_thread(process.wait) == 0
            knocking.cancel()
            await asyncio.gather(knocking, return_exceptions=True)
        self.exits_s.append(time.monotonic() - began_s)
        self.num_opened_while_draining += process.last().num_opened_while_draining
        process.close()
        self.processes[index] = await asyncio.to_thread(TableProcess, serving(process.address))

    def close(self) -> None:
        """Kill both."""
        for process in self.processes:
            process.close()


def serving(listen: str = "127.0.0.1:0") -> Serving:
    """Every verifier's part."""
    return Serving(listen, STEP_S, drain_s=GRACE_S)


async def _knock(stranger: Client) -> None:
    """Ask for texts all the while, which whoever knows of the drain would not."""
    while True:
        with suppress(PacelineError):
            await stranger.complete(replace(table_request(0, 2), reconnect_s=0.0), "cloud")
        await asyncio.sleep(0.01)


async def _until_busy(process: TableProcess) -> int:
    hop = GrpcHop(process.address)
    async with asyncio.timeout(60):
        while not (count := (await hop.describe()).active_sessions):
            await asyncio.sleep(0.05)
    await hop.close()
    return count


async def roll(num_drains: int, num_streams: int, num_tokens: int) -> tuple[Rolling, Written]:
    """Drain one after the other, so often, under so many streams, half of which prefer either; every text is
    completed."""
    rolling, is_over = await asyncio.to_thread(Rolling), False
    addresses = [one.address for one in rolling.processes]
    clients = [Client(hop_to(order), table_drafter()) for order in (addresses, addresses[::-1])]
    written, seeds = Written(), itertools.count()

    async def write(client: Client) -> None:
        writer = Writer(client, written)
        while not is_over:
            seed = next(seeds)
            await writer.write(table_request(seed, num_tokens), MODES[seed % len(MODES)])

    try:
        for client in clients:
            await client.connect()
        async with asyncio.TaskGroup() as group:
            for number in range(num_streams):
                group.create_task(write(clients[number % 2]))
            for number in range(num_drains):
                await rolling.drain(number % 2)
            is_over = True
    finally:
        for client in clients:
            await client.close()
        rolling.close()
    return rolling, written


def check(rolling: Rolling, written: Written, record_property: Any) -> None:
    """What P8 promises; says what was done. A text that failed has ended the test before."""
    tally = (
        f"{len(rolling.exits_s)} drains with {sum(rolling.num_live)} live texts, {written.num_texts} texts, "
        f"{written.num_changed} changed, {written.num_reconnects} moved on, "
        f"{rolling.num_opened_while_draining} taken while draining, "
        f"longest exit {max(rolling.exits_s):.2f} s at {GRACE_S:g} s of grace"
    )
    record_property("tally", tally)
    assert written.num_changed == 0
    assert rolling.num_opened_while_draining == 0


async def test_rolling_drains_change_nothing(record_property: Any) -> None:
    """Each of two verifiers once, under eight streams."""
    async with asyncio.timeout(60):
        check(*await roll(2, 8, 60), record_property)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_many_rolling_drains_change_nothing(record_property: Any) -> None:
    """Fifty drains under sixty-four streams; every process ends within its grace."""
    rolling, written = await roll(50, 64, 100)
    check(rolling, written, record_property)
    assert written.num_reconnects > 50, "texts outlast the grace"
    assert max(rolling.exits_s) < GRACE_S + SLACK_S
