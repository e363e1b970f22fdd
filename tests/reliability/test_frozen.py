"""Peers that freeze and links that swallow: noticed by whoever waits for them, on both sides; no text is changed."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from tests.reliability.cuts import proxied
from tests.reliability.fleet import Writer

from paceline.common.errors import PacelineError
from paceline.common.hops.grpc import PEER_TIMEOUT_S, GrpcHop
from paceline.edge.client import Client
from paceline.simulation.faults import reference
from paceline.simulation.processes import (
    Serving,
    TableProcess,
    WriterProcess,
    hop_to,
    table_drafter,
    table_request,
    table_target,
)
from paceline.simulation.proxy import BreakKind

SOON_S = 2.0
SLACK_S = 2.0
SWALLOWING: tuple[BreakKind, ...] = ("swallow", "swallow up", "swallow down")
NUM_SLOW = 5
NUM_STREAMS, NUM_PAUSES = 50, 20
STEP_S = 0.05
"""A text lasts for seconds, so that there is one when something freezes."""


@dataclass
class Chain:
    """Processes, and a client that knows the first of them."""

    stack: AsyncExitStack
    timeout_s: float

    @property
    def num_tokens(self) -> int:
        """Of a text that is not over when what has frozen is noticed."""
        return round((self.timeout_s + SLACK_S) / STEP_S)

    async def start(self, *upstream: TableProcess, step_s: float = STEP_S) -> TableProcess:
        """A verifier, or a relay."""
        serving = Serving(
            step_s=step_s, peer_timeout_s=self.timeout_s, upstream=tuple(one.address for one in upstream)
        )
        process = await asyncio.to_thread(TableProcess, serving)
        self.stack.callback(process.close)
        return process

    async def client(self, *addresses: str) -> Client:
        """Of the first that answers; the relays among them are asked until they know their upstream."""
        client = Client(hop_to(addresses, self.timeout_s), table_drafter())
        self.stack.push_async_callback(client.close)
        async with asyncio.timeout(60):
            while client.verifier is None:
                try:
                    await client.connect()
                except PacelineError:
                    await asyncio.sleep(0.02)
        return client


async def sessions_of(process: TableProcess) -> int:
    """Live ones."""
    hop = GrpcHop(process.address)
    try:
        return (await hop.describe()).active_sessions
    finally:
        await hop.close()


async def until(is_so: Callable[[], Awaitable[bool]]) -> float:
    """Seconds until it is."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    async with asyncio.timeout(90):
        while not await is_so():
            await asyncio.sleep(0.02)
    return loop.time() - began_s


async def freeze_a_verifier(timeout_s: float, how: int = signal.SIGSTOP) -> float:
    """Seconds until its client notices; the text goes on at the other verifier."""
    async with AsyncExitStack() as stack:
        chain = Chain(stack, timeout_s)
        first, second = await chain.start(), await chain.start(step_s=0)
        client = await chain.client(first.address, second.address)
        return await _freeze(first, client, chain.num_tokens, how)


async def _freeze(process: TableProcess, client: Client, num_tokens: int, how: int = signal.SIGSTOP) -> float:
    loop, writer = asyncio.get_running_loop(), Writer(client)
    writing = asyncio.create_task(writer.write(table_request(1, num_tokens), "cloud"))
    await asyncio.sleep(0.3)
    process.send_signal(how)
    frozen_s = loop.time()
    await writing
    assert (writer.written.num_changed, writer.written.num_reconnects) == (0, 1)
    return writer.written.lost_s[0] - frozen_s


async def freeze_a_relay(timeout_s: float) -> tuple[float, float]:
    """Seconds until the hop below notices, and until the hop above has let go of the session."""
    async with AsyncExitStack() as stack:
        chain = Chain(stack, timeout_s)
        verifier, other = await chain.start(), await chain.start(step_s=0)
        first, second = await chain.start(verifier), await chain.start(other, step_s=0)
        client = await chain.client(first.address, second.address)
        freezing = asyncio.create_task(_freeze(first, client, chain.num_tokens))
        await until(lambda: _is(verifier, 1))
        await asyncio.sleep(0.3)
        let_go_s = await until(lambda: _is(verifier, 0))
        return await freezing, let_go_s


async def _is(process: TableProcess, count: int) -> bool:
    return await sessions_of(process) == count


async def freeze_a_client(timeout_s: float) -> float:
    """Seconds until the verifier has let go of its session; thawed, the client takes its text up again."""
    async with AsyncExitStack() as stack:
        chain = Chain(stack, timeout_s)
        verifier, asked = await chain.start(), table_request(1, chain.num_tokens)
        writer = await asyncio.to_thread(WriterProcess, verifier.address, 1, chain.num_tokens, timeout_s)
        stack.callback(writer.close)
        await asyncio.to_thread(writer.await_token)
        writer.send_signal(signal.SIGSTOP)
        noticed_s = await until(lambda: _is(verifier, 0))
        writer.send_signal(signal.SIGCONT)
        assert await asyncio.to_thread(writer.text) == reference(table_target(), asked)
        return noticed_s


async def swallow(timeout_s: float, how: BreakKind) -> tuple[float, float]:
    """Seconds until the client notices that the link swallows, and until the verifier has let go of its session."""
    async with AsyncExitStack() as stack:
        chain = Chain(stack, timeout_s)
        first, second = await chain.start(), await chain.start(step_s=0)
        proxy, address = await stack.enter_async_context(proxied(first.address))
        loop, writer = asyncio.get_running_loop(), Writer(await chain.client(address, second.address))
        writing = asyncio.create_task(writer.write(table_request(1, chain.num_tokens), "sync"))
        await until(lambda: _is(first, 1))
        await asyncio.sleep(0.2)
        proxy.break_after(1, how)
        swallowed_s = loop.time()
        let_go_s = await until(lambda: _is(first, 0))
        await writing
        assert (writer.written.num_changed, writer.written.num_reconnects) == (0, 1)
        return writer.written.lost_s[0] - swallowed_s, let_go_s


async def everything(timeout_s: float) -> dict[str, float]:
    """Who noticed what, and after how many seconds; all at once, for most of it is waiting."""
    async with asyncio.TaskGroup() as group:
        verifier = group.create_task(freeze_a_verifier(timeout_s))
        hung = group.create_task(freeze_a_verifier(timeout_s, signal.SIGUSR2))
        relay = group.create_task(freeze_a_relay(timeout_s))
        client = group.create_task(freeze_a_client(timeout_s))
        links = {how: group.create_task(swallow(timeout_s, how)) for how in SWALLOWING}
    noticed = {
        "frozen verifier, by the client": verifier.result(),
        "verifier whose event loop hangs, by the client": hung.result(),
        "frozen relay, by the client": relay.result()[0],
        "frozen relay, by the verifier": relay.result()[1],
        "frozen client, by the verifier": client.result(),
    }
    for how, link in links.items():
        noticed[f"link, {how}, by the client"], noticed[f"link, {how}, by the verifier"] = link.result()
    return noticed


async def test_what_freezes_is_noticed_and_left() -> None:
    """Frozen processes and swallowing links, with a short time to notice."""
    noticed = await everything(SOON_S)
    print({what: round(seconds, 1) for what, seconds in noticed.items()})
    assert len(noticed) == 11


@pytest.mark.slow
@pytest.mark.timed
@pytest.mark.timeout(600)
async def test_what_freezes_is_noticed_in_time(record_property: Any) -> None:
    """With the time that is the default, several times: never later than two seconds after it."""
    for _ in range(NUM_SLOW):
        for what, seconds in (await everything(PEER_TIMEOUT_S)).items():
            record_property(what, f"{seconds:.1f} s")
            assert seconds <= PEER_TIMEOUT_S + SLACK_S, what


@pytest.mark.slow
@pytest.mark.timed
@pytest.mark.timeout(600)
async def test_a_pause_of_three_seconds_is_no_death() -> None:
    """Verifiers that stand still for three seconds under many streams: not one of them takes it for the end."""
    async with AsyncExitStack() as stack:
        chain = Chain(stack, PEER_TIMEOUT_S)
        verifier = await chain.start()
        client = await chain.client(verifier.address)
        writer = Writer(client)
        writing = [
            asyncio.create_task(writer.write(table_request(index, 1500), "cloud"))
            for index in range(NUM_STREAMS)
        ]
        for _ in range(NUM_PAUSES):
            await asyncio.sleep(1.0)
            verifier.send_signal(signal.SIGSTOP)
            await asyncio.sleep(3.0)
            verifier.send_signal(signal.SIGCONT)
        assert not any(task.done() for task in writing), "the texts go on all the while"
        assert writer.written.lost_s == []
        for task in writing:
            task.cancel()
        await asyncio.gather(*writing, return_exceptions=True)
