"""`paceline bench concurrency`: many sessions at once on one verifier."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from paceline.benchmarks.machine import Machine, machine
from paceline.benchmarks.overhead import Percentiles, percentiles
from paceline.benchmarks.pair import Pair
from paceline.benchmarks.recorded import RecordedDrafts
from paceline.cli.verifier_process import verifier_process
from paceline.common.drafter import Drafter
from paceline.common.hops.grpc import GrpcHop
from paceline.common.tokens import SamplingParams
from paceline.edge.client import Client
from paceline.edge.request import GenerationRequest, Report

CLOUD, LIVE, RECORDED = "cloud", "drafting here", "recorded drafts"


@dataclass(frozen=True, slots=True)
class ConcurrencySettings:
    """What is measured."""

    sessions: tuple[int, ...] = (1, 4, 16, 32)
    texts_per_level: int = 32
    """Texts written at every level, so that short and long queues see the same work."""
    max_new_tokens: int = 96
    num_speculative_tokens: int = 5
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ConcurrencyRow:
    """One way of generating at one number of sessions."""

    drafts: str
    """`cloud`: none, the target alone; `drafting here`: all sessions share this process's drafter; `recorded drafts`:
    the same blocks at no cost, as if every session had a device of its own."""
    sessions: int
    tokens_per_s: float
    """All sessions together."""
    round_s: Percentiles | None
    """From handing a block over until its verdict is here; None where nothing is drafted."""
    verify_s: Percentiles | None
    acceptance_rate: float | None
    mismatches: int
    """Texts that differ from the same text written alone."""
    texts: int


@dataclass(frozen=True, slots=True)
class ConcurrencyResult:
    """Everything `paceline bench concurrency` measures."""

    machine: Machine
    settings: ConcurrencySettings
    target: str
    draft_model: str
    drafter: str
    rows: list[ConcurrencyRow]


def concurrency(
    pair: Pair, texts: list[str], settings: ConcurrencySettings, progress: Callable[[str], None]
) -> ConcurrencyResult:
    """Run everything."""
    before = machine()
    edge = pair.edge()
    assert edge.drafter is not None, "the pair drafts"
    requests = [_request(edge.tokenizer.encode(text), settings) for text in texts]
    progress("starting a verifier")
    with verifier_process(pair.target, ["--max-sessions", str(max(settings.sessions))]) as verifier:
        bench = _Bench(verifier.address, edge.drafter, requests, settings, progress)
        rows = asyncio.run(bench.run())
    return ConcurrencyResult(before, settings, pair.target.name, pair.draft_model.name, pair.drafter, rows)


def _request(prompt_token_ids: tuple[int, ...], settings: ConcurrencySettings) -> GenerationRequest:
    return GenerationRequest(
        prompt_token_ids,
        settings.max_new_tokens,
        SamplingParams(temperature=settings.temperature),
        seed=settings.seed,
        ignore_eos=True,
        num_speculative_tokens=settings.num_speculative_tokens,
    )


@dataclass(frozen=True, slots=True)
class _Bench:
    address: str
    drafter: Drafter
    requests: list[GenerationRequest]
    settings: ConcurrencySettings
    progress: Callable[[str], None]

    async def run(self) -> list[ConcurrencyRow]:
        """Every level; the recording is the reference for texts, and is not measured."""
        drafts = RecordedDrafts()
        self.progress(f"writing {len(self.requests)} texts alone, to compare with")
        async with self._client(drafts.record(self.drafter)) as client:
            alone = [(await client.complete(request, "sync")).token_ids for request in self.requests]
        ways = (
            (CLOUD, "cloud", self.drafter),
            (LIVE, "sync", self.drafter),
            (RECORDED, "sync", drafts.replay()),
        )
        rows = []
        for sessions in self.settings.sessions:
            for name, mode, drafter in ways:
                self.progress(f"{sessions} sessions, {name}")
                async with self._client(drafter) as client:
                    reports, seconds = await self._write_all(client, mode, sessions)
                mismatches = sum(
                    report.token_ids != alone[index % len(alone)] for index, report in enumerate(reports)
                )
                rows.append(_row(name, sessions, reports, seconds, mismatches))
        return rows

    async def _write_all(self, client: Client, mode: str, sessions: int) -> tuple[list[Report], float]:
        """Every text once at least, `sessions` at a time: whoever has finished takes the next one."""
        count = max(self.settings.texts_per_level, sessions)
        todo = iter(list(enumerate(itertools.islice(itertools.cycle(self.requests), count))))
        done: dict[int, Report] = {}

        async def session() -> None:
            for index, request in todo:
                done[index] = await client.complete(request, mode)

        began_s = time.perf_counter()
        await asyncio.gather(*(session() for _ in range(sessions)))
        return [done[index] for index in range(count)], time.perf_counter() - began_s

    @asynccontextmanager
    async def _client(self, drafter: Drafter) -> AsyncIterator[Client]:
        async with Client(GrpcHop(self.address), drafter) as client:
            yield client


def _row(
    drafts: str, sessions: int, reports: Sequence[Report], seconds: float, mismatches: int
) -> ConcurrencyRow:
    rounds = [one for report in reports for one in report.rounds[1:]]
    drafted = sum(report.drafted_tokens for report in reports)
    return ConcurrencyRow(
        drafts=drafts,
        sessions=sessions,
        tokens_per_s=sum(len(report.token_ids) for report in reports) / seconds,
        round_s=percentiles([one.round_s for one in rounds]) if rounds else None,
        verify_s=percentiles([one.verify_s for one in rounds]) if rounds else None,
        acceptance_rate=sum(report.accepted_tokens for report in reports) / drafted if drafted else None,
        mismatches=mismatches,
        texts=len(reports),
    )
