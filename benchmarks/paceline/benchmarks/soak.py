"""`paceline bench soak`: streams for minutes or days, half of them left in the middle; what grows meanwhile.

A table target, so that what grows is ours and gRPC's; in a process of its own, as the edge is in this one.
"""

import asyncio
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table

from paceline.benchmarks.machine import Machine, machine
from paceline.benchmarks.plot import Line, line_plot, page
from paceline.common.errors import InvalidRequest
from paceline.common.hops.grpc import GrpcHop
from paceline.edge.client import Client
from paceline.simulation.faults import reference
from paceline.simulation.processes import (
    Serving,
    TableProcess,
    table_drafter,
    table_request,
    table_target,
)

MODES = ("sync", "stream", "auto", "cloud")
_NUM_TEXTS = 16
_WARM_UP = 1 / 3
"""Share of a run that is not counted: allocators and caches fill up."""
_SETTLE_S = 3.0
_MB = 1e6


@dataclass(frozen=True, slots=True)
class SoakSettings:
    """What to run."""

    minutes: float = 30.0
    at_once: int = 16
    """Streams at a time."""
    max_new_tokens: int = 48
    left_share: float = 0.5
    """Streams whose client leaves in the middle."""
    samples: int = 30
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Process:
    """What a process holds."""

    rss_bytes: int
    fds: int
    threads: int
    tasks: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A look at both."""

    at_s: float
    num_streams: int
    """Begun and ended so far."""
    sessions: int
    """Live at the verifier."""
    verifier: Process
    edge: Process


@dataclass(frozen=True, slots=True)
class SoakResult:
    """Everything `paceline bench soak` measures."""

    machine: Machine
    settings: SoakSettings
    samples: list[Sample]
    """The first before any stream but some that warm up, the last after all of them; both with nothing under way."""
    num_left: int
    num_changed: int
    """Texts that are not the target's own."""
    verifier_slope: float
    """Bytes of resident memory per stream, after the warm-up."""
    edge_slope: float


def soak(settings: SoakSettings, progress: Callable[[str], None]) -> SoakResult:
    """Run it."""
    if not Path("/proc/self/status").exists():
        raise InvalidRequest("is read from /proc, which is not there", field="memory", cure="run it on Linux")
    before = machine()
    verifier = TableProcess(Serving(max_sessions=2 * settings.at_once))
    try:
        return asyncio.run(_Soak(settings, verifier, progress).run(before))
    finally:
        verifier.close()


@dataclass
class _Soak:
    settings: SoakSettings
    verifier: TableProcess
    progress: Callable[[str], None]
    samples: list[Sample] = field(default_factory=list)
    num_streams: int = 0
    num_left: int = 0
    num_changed: int = 0

    async def run(self, before: Machine) -> SoakResult:
        """Warm up, look, run, look again and again, stop, look."""
        settings, target = self.settings, table_target()
        self._requests = [table_request(seed, settings.max_new_tokens) for seed in range(_NUM_TEXTS)]
        self._expected = [reference(target, one) for one in self._requests]
        self._dice = random.Random(settings.seed)
        self._began_s = time.monotonic()
        self._hop = GrpcHop(self.verifier.address)
        async with Client(self._hop, table_drafter()) as client:
            await self._streams(client, self._began_s + min(_SETTLE_S, 6 * settings.minutes))
            await self._look_idle()
            until_s = time.monotonic() + 60 * settings.minutes
            looking = asyncio.create_task(self._look_often(60 * settings.minutes / settings.samples))
            await self._streams(client, until_s)
            looking.cancel()
            await self._look_idle()
        slopes = (slope(self.samples, "verifier"), slope(self.samples, "edge"))
        return SoakResult(before, settings, self.samples, self.num_left, self.num_changed, *slopes)

    async def _streams(self, client: Client, until_s: float) -> None:
        async def work() -> None:
            while time.monotonic() < until_s:
                await self._stream(client)

        async with asyncio.TaskGroup() as group:
            for _ in range(self.settings.at_once):
                group.create_task(work())

    async def _stream(self, client: Client) -> None:
        index, dice = self.num_streams % _NUM_TEXTS, self._dice
        self.num_streams += 1
        stays = dice.random() >= self.settings.left_share
        events_left = self.settings.max_new_tokens if stays else dice.randrange(1, 8)
        generation = client.generate(self._requests[index], dice.choice(MODES))
        async with aclosing(aiter(generation)) as events:
            async for _ in events:
                events_left -= 1
                if not (stays or events_left):
                    break
        token_ids = generation.report.token_ids
        is_left = generation.report.finish_reason is None
        self.num_left += is_left
        expected = self._expected[index]
        self.num_changed += token_ids != (expected[: len(token_ids)] if is_left else expected)

    async def _look_idle(self) -> None:
        await asyncio.sleep(_SETTLE_S)
        await self._look()

    async def _look_often(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            await self._look()

    async def _look(self) -> None:
        num_tasks = await asyncio.to_thread(self.verifier.num_tasks)
        sample = Sample(
            time.monotonic() - self._began_s,
            self.num_streams,
            (await self._hop.describe()).active_sessions,
            _process(self.verifier.pid, num_tasks),
            _process(os.getpid(), len(asyncio.all_tasks())),
        )
        self.samples.append(sample)
        self.progress(
            f"{sample.at_s / 60:.1f} of {self.settings.minutes:g} min, {sample.num_streams} streams; verifier "
            f"{sample.verifier.rss_bytes / _MB:.1f} MB, edge {sample.edge.rss_bytes / _MB:.1f} MB"
        )


def _process(pid: int, num_tasks: int) -> Process:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    status = {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
    fds = len(os.listdir(f"/proc/{pid}/fd"))
    return Process(1024 * int(status["VmRSS"][0]), fds, int(status["Threads"][0]), num_tasks)


def slope(samples: Sequence[Sample], end: str) -> float:
    """Bytes of memory per stream by least squares, the warm-up left out; 0 where there is too little to tell."""
    points = [(one.num_streams, getattr(one, end).rss_bytes) for one in samples]
    first, last = (points[0][0], points[-1][0]) if points else (0, 0)
    kept = [(x, y) for x, y in points if x >= first + _WARM_UP * (last - first)]
    if len({x for x, _ in kept}) < 2:
        return 0.0
    return statistics.linear_regression(*zip(*kept, strict=True)).slope


def soak_table(result: SoakResult) -> RenderableType:
    """Over time, and what it comes to."""
    table = Table(title="Soak")
    for name in ("min", "streams", "sessions"):
        table.add_column(name, justify="right")
    for end in ("verifier", "edge"):
        for name in ("MB", "fds", "threads", "tasks"):
            table.add_column(f"{end}\n{name}", justify="right")
    for one in result.samples:
        ends = [
            cell
            for process in (one.verifier, one.edge)
            for cell in (
                f"{process.rss_bytes / _MB:.1f}",
                str(process.fds),
                str(process.threads),
                str(process.tasks),
            )
        ]
        table.add_row(f"{one.at_s / 60:.1f}", str(one.num_streams), str(one.sessions), *ends)
    return Group(
        table,
        f"{result.samples[-1].num_streams} streams, {result.num_left} left in the middle, {result.num_changed} "
        f"changed; memory per stream, without the first third: verifier {result.verifier_slope:.0f} bytes, edge "
        f"{result.edge_slope:.0f} bytes. First and last line: nothing under way.",
    )


def soak_html(result: SoakResult) -> str:
    """Memory by streams, and counts by time."""

    def line(name: str, colour: int, value: Callable[[Sample], float], *, by_time: bool = False) -> Line:
        points = [(one.at_s / 60 if by_time else one.num_streams, value(one)) for one in result.samples]
        return Line(name, points, colour)

    memory = [
        line("verifier", 1, lambda one: one.verifier.rss_bytes / _MB),
        line("edge", 3, lambda one: one.edge.rss_bytes / _MB),
    ]
    counts = [
        line("verifier: files", 1, lambda one: one.verifier.fds, by_time=True),
        line("verifier: tasks", 2, lambda one: one.verifier.tasks, by_time=True),
        line("edge: files", 3, lambda one: one.edge.fds, by_time=True),
        line("edge: tasks", 4, lambda one: one.edge.tasks, by_time=True),
        line("sessions", 5, lambda one: one.sessions, by_time=True),
    ]
    note = f"{result.machine.date}, {result.settings.minutes:g} minutes, {result.settings.at_once} streams at once"
    body = line_plot(memory, "streams", "resident memory, MB") + line_plot(counts, "minutes", "held")
    return page("Soak", note, body)
