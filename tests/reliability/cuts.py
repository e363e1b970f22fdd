"""Texts over hops of which one breaks at an ordered byte: real gRPC, real sockets, one process."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from paceline.cli.authority import Authority, write_pair
from paceline.cloud.config import ServerConfig, VerifierConfig
from paceline.cloud.engine.table import TableEngine
from paceline.cloud.server import Server
from paceline.cloud.verifier import TargetInfo, Verifier
from paceline.common.errors import Unreachable
from paceline.common.hops.grpc import GrpcHop
from paceline.common.hops.security import Calling, TlsFiles
from paceline.common.tokens import SamplingParams
from paceline.edge.client import Client
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.request import GenerationRequest, Report
from paceline.relay.relay import Relay
from paceline.simulation.faults import reference
from paceline.simulation.link import LinkShape
from paceline.simulation.pair import VirtualRunner, VirtualWorker
from paceline.simulation.proxy import BreakKind, Proxy

VOCAB = 64
STEP_S, DRAFT_S = 0.002, 0.0005
PATIENCE_S = 60.0
REQUEST = GenerationRequest((1, 2, 3, 1, 2), 24, SamplingParams(0.8), seed=3, num_speculative_tokens=8)
HOPS = ("edge to verifier", "edge to relay", "relay to verifier")
Breaks = tuple[tuple[int, BreakKind], ...]
"""Each so many bytes after the one before it, or after the connection's first."""


@dataclass(frozen=True)
class Outcome:
    """One text."""

    is_same: bool
    num_breaks: int
    num_reconnects: int
    num_bytes: int
    """That crossed the hop."""


@dataclass
class Tally:
    """Many texts."""

    num_texts: int = 0
    num_changed: int = 0
    num_breaks: int = 0
    num_reconnects: int = 0

    def add(self, one: Outcome) -> None:
        """Count one."""
        self.num_texts += 1
        self.num_changed += not one.is_same
        self.num_breaks += one.num_breaks
        self.num_reconnects += one.num_reconnects


@dataclass(frozen=True)
class Links:
    """How ends find and trust each other."""

    tls: TlsFiles = field(default_factory=TlsFiles)
    calling: Calling | None = None
    peer_timeout_s: float = 10.0

    def server(self, verifier: Verifier | Relay) -> Server:
        """A server on a free port."""
        return Server(verifier, ServerConfig("127.0.0.1:0", tls=self.tls, peer_timeout_s=self.peer_timeout_s))

    def client(self, address: str) -> Client:
        """A client of that address."""
        drafter = TableDrafter(VOCAB, agreement=0.8, scale=2.0)
        return Client(self.hop(address), drafter, worker=VirtualWorker(DRAFT_S))

    def hop(self, address: str) -> GrpcHop:
        """The way to an address."""
        return GrpcHop(address, calling=self.calling, peer_timeout_s=self.peer_timeout_s)


def encrypted(folder: Path, peer_timeout_s: float = 10.0) -> Links:
    """Links with certificates at both ends."""
    authority = Authority.create()
    authority.save(folder)
    write_pair(folder, "hop", *authority.issue("hop", hosts=["127.0.0.1"], tenant="relay"))
    files = folder / "hop.pem", folder / "hop-key.pem"
    return Links(TlsFiles(*files, folder / "ca.pem"), Calling(folder / "ca.pem", *files), peer_timeout_s)


def _verifier(engine: TableEngine) -> Verifier:
    """On the event loop, as the drafters are: threads would cost most of the time."""
    config = VerifierConfig(park_s=0.0, max_sessions=512)  # so that nothing may be held afterwards
    return Verifier(engine, TargetInfo("table", "test"), config, runner=VirtualRunner(lambda _: STEP_S))


class Rig:
    """A verifier, and the ways to it that can be broken; see `HOPS`."""

    def __init__(self, links: Links, at_a_time: int = 8) -> None:
        self.engine = TableEngine(VOCAB, spread=2.0, max_context=512)
        self.links = links
        self._at_a_time = at_a_time
        self._verifier = _verifier(self.engine)
        self._stack = AsyncExitStack()
        self.expected = reference(self.engine, REQUEST)

    async def __aenter__(self) -> "Rig":
        self._server = await self._serve(self._stack, self._verifier)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _serve(self, stack: AsyncExitStack, verifier: Verifier | Relay) -> Server:
        server = self.links.server(verifier)
        await server.start()
        stack.push_async_callback(server.stop, 0)
        return server

    @asynccontextmanager
    async def chain(self, num_relays: int) -> AsyncIterator[tuple[str, list[Relay]]]:
        """Relays before the verifier; the address of the first one, and all of them, the last one first."""
        async with AsyncExitStack() as stack:
            address, relays = self._server.address, []
            for _ in range(num_relays):
                server = await self._relay(stack, address)
                address = server.address
                relays.append(cast("Relay", server.verifier))
            yield address, relays

    async def _relay(self, stack: AsyncExitStack, above: str) -> Server:
        engine = TableEngine(VOCAB, 7, spread=2.0, max_context=512, resembles=0, agreement=0.9)
        relay = Relay(_verifier(engine), self.links.hop(above), name=f"before {above}")
        server = await self._serve(stack, relay)
        await relay.connected()
        return server

    @asynccontextmanager
    async def way(self, hop: str, breaks: Breaks = ()) -> AsyncIterator["Way"]:
        """A connection over `hop` made afresh, which may break while it is made."""
        async with AsyncExitStack() as stack:
            target = self._server.address
            if hop == "edge to relay":
                target = (await self._relay(stack, target)).address
            proxy, address = await stack.enter_async_context(proxied(target, breaks))
            if hop == "relay to verifier":
                address = (await self._relay(stack, address)).address
            client = self.links.client(address)
            stack.push_async_callback(client.close)
            await _connect(client)
            yield Way(proxy, client, self.expected)

    async def texts(self, hop: str, plans: Iterable[Breaks], modes: Sequence[str] = ("sync",)) -> Tally:
        """Texts over connections that stand when they begin; the verifier holds nothing afterwards."""
        tally, numbered = Tally(), enumerate(plans)

        async def work() -> None:
            async with self.way(hop) as way:
                for index, breaks in numbered:
                    tally.add(await way.text(breaks, modes[index % len(modes)]))

        await self._side_by_side(work)
        return tally

    async def connections(self, hop: str, plans: Iterable[Breaks]) -> Tally:
        """Texts over connections of their own, which may break before there is a text."""
        tally, remaining = Tally(), iter(plans)

        async def work() -> None:
            for breaks in remaining:
                async with self.way(hop, breaks) as way:
                    tally.add(await way.text())

        await self._side_by_side(work)
        return tally

    async def _side_by_side(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._at_a_time):
                group.create_task(work())
        await self.until_empty()

    async def until_empty(self, relays: Sequence[Relay] = ()) -> None:
        """Wait until nobody holds a stream, a session or a cached token."""
        verifiers = [self._verifier, *(relay.verifier for relay in relays)]
        async with asyncio.timeout(PATIENCE_S):
            while any(_held(one) for one in verifiers) or any(relay.num_streams for relay in relays):
                await asyncio.sleep(0.005)


def _held(verifier: Verifier) -> int:
    return verifier.num_streams + verifier.num_sessions + verifier._desk.engine.cached_tokens()


class Way:
    """A client, and what breaks its link or one above it."""

    def __init__(self, proxy: Proxy, client: Client, expected: list[int]) -> None:
        self.num_bytes_before = proxy.stats.bytes_up + proxy.stats.bytes_down
        """That the connection took to be made."""
        self._proxy = proxy
        self._client = client
        self._expected = expected

    async def text(self, breaks: Breaks = (), mode: str = "sync") -> Outcome:
        """One text, broken on the way; breaks that it did not live to see are forgotten."""
        proxy = self._proxy
        num_breaks, num_bytes = proxy.num_breaks, proxy.stats.bytes_up + proxy.stats.bytes_down
        for break_ in breaks:
            proxy.break_after(*break_)
        report = await self._client.complete(REQUEST, mode)
        proxy.break_no_more()
        return Outcome(
            report.token_ids == self._expected,
            proxy.num_breaks - num_breaks if breaks else proxy.num_breaks,
            _num_reconnects(report),
            proxy.stats.bytes_up + proxy.stats.bytes_down - num_bytes,
        )


@asynccontextmanager
async def proxied(target: str, breaks: Breaks = ()) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy in this process, and its address."""
    proxy = Proxy(target, LinkShape())
    for num_bytes, how in breaks:
        proxy.break_after(num_bytes, how)
    server, address = await proxy.listen()
    try:
        yield proxy, address
    finally:
        server.close()
        for end in list(proxy.ends):
            end.reset()


async def _connect(client: Client) -> None:
    """Also if that is when the link breaks: whoever asks what is served asks again."""
    async with asyncio.timeout(PATIENCE_S):
        while client.verifier is None:
            with suppress(Unreachable):
                await client.connect()


def _num_reconnects(report: Report) -> int:
    """Of every hop."""
    return report.num_reconnects + sum(hop.num_reconnects for hop in report.hops)
