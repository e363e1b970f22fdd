"""Verifier processes at fixed addresses, each replaced when it dies; and a client that knows them all."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Self

from paceline.common.hops.grpc import GrpcHop
from paceline.edge.client import Client
from paceline.edge.request import GenerationRequest, LinkEvent, Report, TokensEvent
from paceline.simulation.faults import reference
from paceline.simulation.processes import (
    Point,
    Serving,
    TableProcess,
    hop_to,
    table_drafter,
    table_target,
)

MODES = ("sync", "stream", "cloud", "auto")
Fates = Iterator[tuple[Point, int] | None]
Expected = Callable[[GenerationRequest], list[int]]


async def sessions_of(address: str) -> int:
    """Live ones."""
    hop = GrpcHop(address)
    try:
        return (await hop.describe()).active_sessions
    finally:
        await hop.close()


@dataclass
class Written:
    """Texts, and what became of them."""

    num_texts: int = 0
    num_changed: int = 0
    num_reconnects: int = 0
    found_s: list[float] = field(default_factory=list)
    """When a link that had been lost brought its first tokens, by the event loop's (the monotonic) clock."""
    lost_s: list[float] = field(default_factory=list)
    """When links were noticed to be lost."""


class Writer:
    """Writes texts over one client.

    Args:
        client: of a fleet.
        written: to go on with.
        expected: what the target writes alone; None: the table model's.
    """

    def __init__(
        self, client: Client, written: Written | None = None, expected: Expected | None = None
    ) -> None:
        self.written = written or Written()
        self.has_begun = asyncio.Event()
        """The text under way has its first token."""
        self._client = client
        self._expected = expected or partial(reference, table_target())

    async def write(self, asked: GenerationRequest, mode: str) -> Report:
        """One text, compared with what the target writes alone."""
        loop, written, is_found = asyncio.get_running_loop(), self.written, False
        generation = self._client.generate(asked, mode)
        self.has_begun.clear()
        async with aclosing(aiter(generation)) as events:
            async for event in events:
                if isinstance(event, TokensEvent):
                    self.has_begun.set()
                match event:
                    case LinkEvent(is_up=False):
                        written.lost_s.append(loop.time())
                    case LinkEvent(is_up=True):
                        is_found = True
                    case TokensEvent() if is_found:
                        is_found = False
                        written.found_s.append(loop.time())
        written.num_texts += 1
        written.num_reconnects += generation.report.num_reconnects
        written.num_changed += generation.report.token_ids != self._expected(asked)
        return generation.report


class Fleet:
    """See above.

    Args:
        count: of verifiers.
        fates: what each process that is started is to die of, in turn; None: nothing of its own.
        serving: what they have in common.
    """

    def __init__(self, count: int, fates: Fates, serving: Serving | None = None) -> None:
        self.processes: list[TableProcess] = []
        self.died_s: list[float] = []
        self.died_at: set[tuple[Point, int]] = set()
        """Fates that have come true."""
        self._fates = fates
        self._serving = serving or Serving()
        self._count = count
        self._is_closing = False
        self._keepers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self.processes = [await self._start() for _ in range(self._count)]
        self._keepers = [asyncio.create_task(self._keep(index)) for index in range(self._count)]
        self.client = Client(hop_to(self.addresses), table_drafter())
        await self.client.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_closing = True
        await self.client.close()
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
        await asyncio.gather(*self._keepers)

    @property
    def addresses(self) -> list[str]:
        """The best first."""
        return [one.address for one in self.processes]

    async def _start(self, listen: str = "127.0.0.1:0") -> TableProcess:
        serving = replace(self._serving, listen=listen, dies_at=next(self._fates))
        return await asyncio.to_thread(TableProcess, serving)

    async def _keep(self, index: int) -> None:
        while True:
            process = self.processes[index]
            while await asyncio.to_thread(process.wait) is None:
                pass
            died_s = process.last().died_s
            if died_s and process.serving.dies_at:
                self.died_at.add(process.serving.dies_at)
            process.close()
            if self._is_closing:
                return
            self.died_s.append(died_s or asyncio.get_running_loop().time())
            self.processes[index] = await self._start(process.address)
            if self._is_closing:
                self.processes[index].send_signal(signal.SIGKILL)
