"""Peers that freeze and links that swallow: noticed by whoever waits for them, on both sides; no text is changed."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from tests.reliability.fleet import Writer, sessions_of

from paceline.common.errors import PacelineError
from paceline.common.hops.first_reachable import FIRST_PAUSE_S
from paceline.common.hops.grpc import PEER_TIMEOUT_S
from paceline.edge.client import Client
from paceline.simulation.faults import reference
from paceline.simulation.link import LinkShape
from paceline.simulation.processes import (
    Serving,
    TableProcess,
    WriterProcess,
    hop_to,
    table_drafter,
    table_request,
    table_target,
)
from paceline.simulation.proxy import BreakKind, Proxy

SOON_S = 2.0
SLACK_S = 2.0
NUM_TIMES, NUM_AT_ONCE = 20, 2
NUM_STREAMS, NUM_PAUSES = 50, 20
STEP_S = 0.2
"""A text lasts for seconds, so that there is one when something freezes."""
DEAD, FROZEN, HUNG = signal.SIGKILL, signal.SIGSTOP, signal.SIGUSR2
HOWS = {"killed": DEAD, "frozen": FROZEN, "hung": HUNG}
SWALLOWING: tuple[BreakKind, ...] = ("swallow", "swallow up", "swallow down")
"""A black hole, and half-open connections: whoever waits hears nothing, and is told nothing."""
Noticed = dict[str, float]
"""Who noticed, and after how many seconds."""


@dataclass
class Chain:
    """Processes, and a client that knows the first of them."""

    stack: AsyncExitStack
    timeout_s: float

    @property
    def num_tokens(self) -> int:
        """Of a text that is not over when what has frozen is noticed."""
        return round((self.timeout_s + SLACK_S) / STEP_S)

    async def start(self, *upstream: str, step_s: float = STEP_S) -> TableProcess:
        """A verifier, or a relay that has found its upstream."""
        serving = Serving(step_s=step_s, peer_timeout_s=self.timeout_s, upstream=upstream)
        process = await asyncio.to_thread(TableProcess, serving)
        self.stack.callback(process.close)
        if upstream:
            await self.client(process.address)
        return process

    async def link(self, target: str) -> tuple[str, Callable[[BreakKind], None]]:
        """The address of a way to a target, and what makes it swallow; new connections are refused from then on."""
        proxy = Proxy(target, LinkShape())
        server, address = await proxy.listen()

        def swallow(how: BreakKind) -> None:
            server.close()
            proxy.break_after(1, how)

        def end() -> None:
            server.close()
            for one in list(proxy.ends):
                one.reset()

        self.stack.callback(end)
        return address, swallow

    async def client(self, *addresses: str) -> Client:
        """Of the first that answers; a relay is asked until it knows its upstream."""
        client = Client(hop_to(addresses, self.timeout_s), table_drafter())
        self.stack.push_async_callback(client.close)
        async with asyncio.timeout(60):
            while client.verifier is None:
                try:
                    await client.connect()
                except PacelineError:
                    await asyncio.sleep(0.02)
        return client


async def until(is_so: Callable[[], Awaitable[bool]]) -> float:
    """Seconds until it is."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    async with asyncio.timeout(90):
        while not await is_so():
            await asyncio.sleep(0.2)  # to ask costs a connection
    return loop.time() - began_s


async def _has_sessions(process: TableProcess, count: int) -> float:
    """Seconds until it has so many."""

    async def is_so() -> bool:
        return await sessions_of(process.address) == count

    return await until(is_so)


async def _begun(chain: Chain, writer: Writer, at: TableProcess, mode: str) -> asyncio.Task[Any]:
    """A text that is written there. On a busy machine a process may take so long to answer that another is asked."""
    while True:
        writing = asyncio.create_task(writer.write(table_request(1, chain.num_tokens), mode))
        await writer.has_begun.wait()
        if await sessions_of(at.address):
            return writing
        await writing
        await asyncio.sleep(FIRST_PAUSE_S)


async def _lost(
    chain: Chain,
    client: Client,
    at: TableProcess,
    strike: Callable[[], None],
    num_lost: int = 1,
    mode: str = "cloud",
) -> Writer:
    """Write a text there, and strike in the middle of it; its times are counted from then on."""
    loop, writer = asyncio.get_running_loop(), Writer(client)
    writing = await _begun(chain, writer, at, mode)
    strike()
    struck_s = loop.time()
    await writing
    assert writer.written.num_changed == 0
    # Whoever goes back to a dead one first, before the next, loses it twice.
    assert min(len(writer.written.lost_s), 1) == num_lost
    writer.written.lost_s = [at_s - struck_s for at_s in writer.written.lost_s]
    return writer


async def strike_a_verifier(timeout_s: float, how: int, other: str) -> Noticed:
    """The text goes on at the other verifier."""
    async with AsyncExitStack() as stack:
        chain = Chain(stack, timeout_s)
        first = await chain.start()
        client = await chain.client(first.address, other)
        writer = await _lost(chain, client, first, lambda: first.send_signal(how))
        return {"by the client": writer.written.lost_s[0]}


async def strike_above_a_relay(timeout_s: float, how: int | BreakKind) -> Noticed:
    """The verifier above it, or the link between them: the relay is at the other verifier then, the client not told."""
    async with AsyncExitStack() as stack:
        chain = Chain(stack, timeout_s)
        first, second = await chain.start(), await chain.start()
        address, swallow = await chain.link(first.address)
        relay = await chain.start(address, second.address)
        client = await chain.client(relay.address)
        seconds: list[asyncio.Task[float]] = []

        def strike() -> None:
            seconds.append(asyncio.create_task(_has_sessions(second, 1)))
            if isinstance(how, int):
                first.send_signal(how)
            else:
                swallow(how)
                seconds.append(asyncio.create_task(_has_sessions(first, 0)))

        await _lost(chain, client, first, strike, 0, "sync")
        return dict(zip(("by the relay", "by the verifier"), [await one for one in seconds], strict=False))


async def strike_a_relay(timeout_s: float, how: int, other: str) -> Noticed:
    """The text goes on at the other verifier; the one above the relay lets go of the session, unless the relay hangs:
    gRPC's own threads answer pings, and who says nothing may be thinking."""
    async with AsyncExitStack() as stack:
        chain = Chain(stack, timeout_s)
        verifier = await chain.start()
        relay = await chain.start(verifier.address)
        client = await chain.client(relay.address, other)
        let_go: list[asyncio.Task[float]] = []

        def strike() -> None:
            relay.send_signal(how)
            if how != HUNG:
                let_go.append(asyncio.create_task(_has_sessions(verifier, 0)))

        writer = await _lost(chain, client, relay, strike)
        return dict(
            zip(
                ("by the client", "by the verifier"),
                [writer.written.lost_s[0], *[await one for one in let_go]],
                strict=False,
            )
        )


async def strike_a_client(timeout_s: float, how: int) -> Noticed:
    """The relay it writes to lets go of its session, and so does the verifier above, and one without a relay; thawed,
    the client takes its text up again."""
    async with AsyncExitStack() as stack:
        chain = Chain(stack, timeout_s)
        verifier, alone = await chain.start(), await chain.start()
        relay = await chain.start(verifier.address)
        writers = [
            await asyncio.to_thread(WriterProcess, one.address, 1, chain.num_tokens, timeout_s)
            for one in (relay, alone)
        ]
        for writer in writers:
            stack.callback(writer.close)
            await asyncio.to_thread(writer.await_token)
            writer.send_signal(how)
        seconds = await asyncio.gather(*(_has_sessions(one, 0) for one in (relay, verifier, alone)))
        if how == FROZEN:
            for writer in writers:
                writer.send_signal(signal.SIGCONT)
                text = await asyncio.to_thread(writer.text)
                assert text == reference(table_target(), table_request(1, chain.num_tokens))
        return dict(
            zip(("by the relay", "by the verifier above it", "by the verifier"), seconds, strict=True)
        )


async def strike_a_link(timeout_s: float, how: BreakKind, num_relays: int, other: str) -> Noticed:
    """The link between a client and a verifier, or a relay: both ends leave it. (In mode `cloud`, a text
    needs no more of what goes up.)"""
    async with AsyncExitStack() as stack:
        chain = Chain(stack, timeout_s)
        first = await chain.start()
        if num_relays:
            first = await chain.start(first.address)
        address, swallow = await chain.link(first.address)
        client = await chain.client(address, other)
        let_go: list[asyncio.Task[float]] = []

        def strike() -> None:
            swallow(how)
            let_go.append(asyncio.create_task(_has_sessions(first, 0)))

        writer = await _lost(chain, client, first, strike, mode="sync")
        above = "by the relay" if num_relays else "by the verifier"
        return {"by the client": writer.written.lost_s[0], above: await let_go[0]}


async def _named(what: str, striking: Coroutine[Any, Any, Noticed]) -> Noticed:
    try:
        return await striking
    except AssertionError as error:
        error.add_note(what)
        raise


async def everything(timeout_s: float) -> Noticed:
    """Who noticed what, and after how many seconds; all at once, for most of it is waiting."""
    tasks: dict[str, asyncio.Task[Noticed]] = {}
    async with AsyncExitStack() as stack:
        other = (await Chain(stack, timeout_s).start(step_s=0)).address
        group = await stack.enter_async_context(asyncio.TaskGroup())

        def begin(what: str, striking: Coroutine[Any, Any, Noticed]) -> None:
            tasks[what] = group.create_task(_named(what, striking))

        for what, how in HOWS.items():
            begin(f"{what} verifier", strike_a_verifier(timeout_s, how, other))
            begin(f"{what} verifier above a relay", strike_above_a_relay(timeout_s, how))
            begin(f"{what} relay", strike_a_relay(timeout_s, how, other))
            if how != HUNG:  # one that hangs is not told from one that thinks
                begin(f"{what} client", strike_a_client(timeout_s, how))
        for broken in SWALLOWING:
            begin(f"link to a verifier, {broken}", strike_a_link(timeout_s, broken, 0, other))
            begin(f"link to a relay, {broken}", strike_a_link(timeout_s, broken, 1, other))
            begin(f"link above a relay, {broken}", strike_above_a_relay(timeout_s, broken))
    return {f"{what}, {who}": at_s for what, task in tasks.items() for who, at_s in task.result().items()}


async def test_what_freezes_is_noticed_and_left() -> None:
    """Frozen processes and swallowing links, with a short time to notice."""
    noticed = await everything(SOON_S)
    print({what: round(seconds, 1) for what, seconds in noticed.items()})
    assert len(noticed) == 35


@pytest.mark.slow
@pytest.mark.timed
@pytest.mark.timeout(600)
async def test_what_freezes_is_noticed_in_time(record_property: Any) -> None:
    """With the time that is the default, twenty times, some at once: never later than two seconds after it."""
    longest: Noticed = {}
    for _ in range(NUM_TIMES // NUM_AT_ONCE):
        for noticed in await asyncio.gather(*(everything(PEER_TIMEOUT_S) for _ in range(NUM_AT_ONCE))):
            for what, seconds in noticed.items():
                longest[what] = max(seconds, longest.get(what, 0.0))
    for what, seconds in longest.items():
        record_property(what, f"at most {seconds:.1f} s")
    assert {what: seconds for what, seconds in longest.items() if seconds > PEER_TIMEOUT_S + SLACK_S} == {}


@pytest.mark.slow
@pytest.mark.timed
@pytest.mark.timeout(600)
async def test_a_pause_of_three_seconds_is_no_death() -> None:
    """Verifiers that stand still for three seconds under many streams: not one of them takes it for the end."""
    async with AsyncExitStack() as stack:
        chain = Chain(stack, PEER_TIMEOUT_S)
        verifier = await chain.start(step_s=0.05)
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
