"""`paceline bench overload`: a full verifier with many times as many clients as places.

The verifier is a process, and so are the clients it has places for and those it has not: none shares an interpreter
with another. The target is a table that sleeps, so that what is measured is the verifier and not the model's share of
the processor. Clients with a place draft; those without one come and go, and stream where a place falls to them.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import RenderableType
from rich.table import Table

from paceline.benchmarks.line_process import LineProcess, memory_bytes
from paceline.benchmarks.machine import Machine, machine
from paceline.benchmarks.overload_clients import VOCAB_SIZE
from paceline.benchmarks.statistics import percentile
from paceline.cli.verifier_process import VerifierProcess, verifier_process

_LOOK_S = 0.1
_HEALTH_TIMEOUT_S = 5.0
_FILE = """\
version: 1
hops:
  - {{name: device, drafter: {{kind: table, vocab_size: {vocab}}}}}
  - name: cloud
    listen: 127.0.0.1:7443
    target: {{kind: table, vocab_size: {vocab}, seed: 0, step_ms: {step_ms}, max_sessions: {places}}}
"""


@dataclass(frozen=True, slots=True)
class OverloadSettings:
    """What is measured."""

    places: int = 8
    excess: int = 10
    """Clients per place."""
    seconds: float = 300.0
    """Of the overload; the same verifier without it is measured for a fifth of that before, and after."""
    step_ms: float = 20.0
    """What a step of the target sleeps."""
    max_new_tokens: int = 200
    excess_tokens: int = 16
    """Of a text of those without a place."""


@dataclass(frozen=True, slots=True)
class Tail:
    """Of seconds."""

    p50: float
    p99: float
    most: float
    count: int


@dataclass(slots=True)
class Phase:
    """With or without the excess."""

    name: str
    verify_s: Tail | None = None
    """Of clients with a place: from a draft's arrival to its verdict."""
    round_s: Tail | None = None
    """The same as they see it."""
    refusal_s: Tail | None = None
    told_s: Tail | None = None
    """Time to come back, as told."""
    health_s: Tail | None = None
    num_unhealthy: int = 0
    """Checks without an answer, or with another than SERVING."""
    texts: int = 0
    excess_texts: int = 0
    hurried: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    """Texts with a place that ended with an error, by status."""
    memory_bytes: list[int] = field(default_factory=list)
    """The verifier's, resident, at ten moments from the beginning to the end."""


@dataclass(frozen=True, slots=True)
class OverloadResult:
    """Everything `paceline bench overload` measures."""

    machine: Machine
    settings: OverloadSettings
    phases: list[Phase]
    verify_ratio: float
    """p99 of the verify time under overload over that of the worse of the phases without."""


def overload(settings: OverloadSettings, progress: Callable[[str], None]) -> OverloadResult:
    """Without, with, and again without."""
    before = machine()
    with _processes(settings) as bench:
        alone_s = max(settings.seconds / 5, 1.0)
        phases = [
            bench.phase("alone", alone_s, progress),
            bench.phase("overload", settings.seconds, progress),
            bench.phase("alone again", alone_s, progress),
        ]
    tails = [phase.verify_s.p99 if phase.verify_s is not None else 0.0 for phase in phases]
    ratio = tails[1] / max(tails[0], tails[2], 1e-9)
    return OverloadResult(before, settings, phases, ratio)


@contextmanager
def _processes(settings: OverloadSettings) -> Iterator["_Bench"]:
    with ExitStack() as stack:
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "table.yaml"
        file.write_text(
            _FILE.format(vocab=VOCAB_SIZE, step_ms=settings.step_ms, places=settings.places), encoding="utf-8"
        )
        options = ["--topology", str(file), "--hop", "cloud"]
        verifier = stack.enter_context(verifier_process("", options))
        kinds = (
            (settings.places, settings.max_new_tokens, "sync"),
            (settings.places * (settings.excess - 1), settings.excess_tokens, "cloud"),
        )
        clients = [
            stack.enter_context(
                LineProcess(
                    "paceline.benchmarks.overload_clients",
                    verifier.address, str(count), str(num_tokens), str(seed), mode,
                )
            )
            for seed, (count, num_tokens, mode) in enumerate(kinds)
        ]  # fmt: skip
        for one in clients:
            one.answer()
        channel = stack.enter_context(grpc.insecure_channel(verifier.address))
        pool = stack.enter_context(ThreadPoolExecutor(2))
        yield _Bench(verifier, clients, health_pb2_grpc.HealthStub(channel), pool)


@dataclass(frozen=True, slots=True)
class _Bench:
    verifier: VerifierProcess
    clients: list[LineProcess]
    health: Any
    pool: ThreadPoolExecutor

    def phase(self, name: str, seconds: float, progress: Callable[[str], None]) -> Phase:
        """Let clients at it, and ask for the verifier's health all the while."""
        progress(f"{name}, {seconds:.0f} s")
        asked = self.clients if name == "overload" else self.clients[:1]
        running = [self.pool.submit(one.ask, seconds) for one in asked]
        phase = Phase(name)
        health_s = self._watch(running, phase, seconds)
        admitted, *others = [one.result() for one in running]
        phase.health_s = _tail(health_s)
        phase.verify_s, phase.round_s = _tail(admitted["verify_s"]), _tail(admitted["round_s"])
        phase.texts = admitted["texts"]
        everybody = (admitted, *others)
        phase.refusal_s = _tail([one for seen in everybody for one in seen["refusal_s"]])
        phase.told_s = _tail([one for seen in everybody for one in seen["told_s"]])
        phase.excess_texts = sum(seen["texts"] for seen in others)
        phase.hurried = sum(seen["hurried"] for seen in everybody)
        for seen in everybody:
            for status, count in seen["failed"].items():
                phase.failed[status] = phase.failed.get(status, 0) + count
        return phase

    def _watch(self, running: list[Future[Any]], phase: Phase, seconds: float) -> list[float]:
        """Seconds of each check, until the clients are done."""
        health_s, began_s = [], time.perf_counter()
        while not all(one.done() for one in running):
            asked_s = time.perf_counter()
            try:
                reply = self.health.Check(health_pb2.HealthCheckRequest(), timeout=_HEALTH_TIMEOUT_S)
                phase.num_unhealthy += reply.status != health_pb2.HealthCheckResponse.SERVING
            except grpc.RpcError:
                phase.num_unhealthy += 1
            now_s = time.perf_counter()
            health_s.append(now_s - asked_s)
            if now_s - began_s >= len(phase.memory_bytes) * seconds / 10:
                phase.memory_bytes.append(memory_bytes(self.verifier.pid) or 0)
            time.sleep(_LOOK_S)
        return health_s


def _tail(seconds: list[float]) -> Tail | None:
    if not seconds:
        return None
    return Tail(percentile(seconds, 0.5), percentile(seconds, 0.99), max(seconds), len(seconds))


def overload_table(result: OverloadResult) -> RenderableType:
    """One column a phase."""
    settings = result.settings
    table = Table(
        title=f"{settings.places} places, {settings.excess} clients for each; steps of {settings.step_ms:g} ms",
        title_justify="left",
        show_edge=False,
    )
    table.add_column("p50 / p99 / most, ms")
    for phase in result.phases:
        table.add_column(phase.name, justify="right")
    for what, key in (
        ("verify", "verify_s"),
        ("round, at the client", "round_s"),
        ("refusal", "refusal_s"),
        ("told to wait", "told_s"),
        ("health check", "health_s"),
    ):
        table.add_row(what, *(_shown(getattr(phase, key)) for phase in result.phases))
    table.add_row("checks failed", *(str(phase.num_unhealthy) for phase in result.phases))
    table.add_row(
        "texts; of those without a place", *(f"{one.texts}; {one.excess_texts}" for one in result.phases)
    )
    table.add_row("came back too soon", *(str(phase.hurried) for phase in result.phases))
    table.add_row("texts failed", *(str(phase.failed or 0) for phase in result.phases))
    table.add_row("resident, MiB", *(_memory(phase.memory_bytes) for phase in result.phases))
    table.caption = f"verify p99 under overload is {result.verify_ratio:.2f} times that without"
    return table


def _shown(tail: Tail | None) -> str:
    if tail is None:
        return "–"
    return f"{1e3 * tail.p50:.1f} / {1e3 * tail.p99:.1f} / {1e3 * tail.most:.1f} (of {tail.count})"


def _memory(sizes: list[int]) -> str:
    return (
        f"{min(sizes) / 2**20:.1f} to {max(sizes) / 2**20:.1f}, last {sizes[-1] / 2**20:.1f}"
        if sizes
        else "–"
    )
