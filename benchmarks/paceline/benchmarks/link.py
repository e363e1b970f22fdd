"""`paceline bench link`: every mode at every round trip, in turn, beside what one would use instead.

Real: two processes and a proxy process that shapes the link. Virtual: the real client, controller and verifier on a
virtual clock, with given costs. A real run may be checked against a virtual one with the costs it measured and the
drafts it saw stand: what differs then is what the virtual clock leaves out.
"""

import asyncio
import statistics
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise

from paceline.benchmarks.machine import Machine, machine
from paceline.benchmarks.pair import Pair
from paceline.benchmarks.statistics import paired_ratio, percentile
from paceline.cli.verifier_process import verifier_process
from paceline.common.drafter import Drafter
from paceline.common.hops.grpc import GrpcHop
from paceline.common.messages import FillPolicy
from paceline.common.speed.costs import Costs
from paceline.common.speed.formulas import stream_bound
from paceline.common.tokens import SamplingParams
from paceline.edge.client import Client
from paceline.edge.pacing.estimates import Estimates
from paceline.edge.request import GenerationRequest, Report, TokensEvent
from paceline.simulation.clock import run_virtual
from paceline.simulation.pair import VOCAB_SIZE, Agreement, simulated
from paceline.simulation.proxy import ShapedLink, shaped_link

Progress = Callable[[str], None]
CONTESTANTS = ("local", "cloud", "co-located", "sync", "one-ahead", "stream", "auto")
"""`co-located` is the cloud with a drafter beside the verifier; `one-ahead` a stream of two blocks without fill."""
_VIRTUAL = tuple(mode for mode in CONTESTANTS if mode != "co-located")
"""What the virtual clock can run: its verifier has no drafter of its own."""
_ANY_VOCAB = 1 << 31
_ONE_AHEAD_BLOCK = 8
_PROMPT_TOKENS = 200


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """What to run."""

    round_trips_ms: tuple[float, ...]
    temperatures: tuple[float, ...]
    num_prompts: int
    max_new_tokens: int
    verify_floor_ms: float
    seed: int = 0
    is_checked: bool = False
    """Whether every cell is run once more on a virtual clock, with the costs measured there."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What the stream's client measured at one round trip and temperature."""

    costs: Costs
    draft_block_s: float
    """Seconds a block costs the drafter on top of its tokens."""
    bound_tokens_per_s: float
    """`1 / (t_d + (1 - acceptance)(R + t_v))`."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One mode at one round trip and temperature."""

    mode: str
    round_trip_ms: float
    temperature: float
    tokens_per_s: float
    """Median over texts, their first token included."""
    cloud_tokens_per_s: float
    """Cloud streaming at the same round trip and temperature."""
    versus_cloud: float
    """Median of the ratios per text."""
    inter_token_p50_ms: float
    inter_token_p95_ms: float
    passes_per_token: float
    bytes_per_token: float
    wasted_drafts_per_token: float
    measured: Measured | None
    """The same for all modes at this round trip and temperature; None if nothing was."""
    virtual_tokens_per_s: float | None = None
    """What the virtual clock gives with `measured`; None where it was not asked, or cannot run the mode."""
    decisions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BreakEven:
    """Where a mode stops paying."""

    mode: str
    temperature: float
    round_trip_ms: float | None
    """From there on it is slower than the cloud; interpolated. None: nowhere in the grid."""


@dataclass(frozen=True, slots=True)
class LinkResult:
    """The grid."""

    machine: Machine
    settings: LinkSettings
    is_virtual: bool
    cells: list[Cell]
    break_evens: list[BreakEven]
    num_different_texts: int
    """Texts that differ between modes where they must not (greedy and coupled); the drafter alone is no such mode."""


@dataclass(frozen=True, slots=True)
class _Text:
    report: Report
    gaps_s: list[float]
    measured: Measured | None


def link(pair: Pair, prompts: Sequence[str], settings: LinkSettings, progress: Progress) -> LinkResult:
    """Run the grid on real processes."""
    model = pair.edge()
    requests = [
        GenerationRequest(
            model.tokenizer.encode(text)[-_PROMPT_TOKENS:],
            settings.max_new_tokens,
            ignore_eos=True,
            seed=settings.seed,
        )
        for text in prompts
    ]
    floor = ["--verify-floor-ms", str(settings.verify_floor_ms)]
    beside = ["--fill-drafter", pair.drafter, "--fill-draft-model", str(pair.draft_model)]
    with _served(pair, floor) as alone, _served(pair, [*floor, *beside]) as drafting:

        def open_client(mode: str) -> Client:
            address = drafting.address if mode == "co-located" else alone.address
            return Client(GrpcHop(address), model.drafter, tokenizer_fingerprint=model.tokenizer.fingerprint)

        async def grid() -> tuple[list[Cell], int]:
            cells: list[Cell] = []
            differing = 0
            for temperature in settings.temperatures:
                for round_trip_ms in settings.round_trips_ms:
                    for one in (alone, drafting):
                        one.set_shape(f"rtt={round_trip_ms:g}ms")
                    progress(f"temperature {temperature:g}, round trip {round_trip_ms:g} ms")
                    asked = _asked(requests, temperature)
                    texts = await _cell(open_client, asked)
                    point = list(_summaries(texts, round_trip_ms, temperature))
                    if settings.is_checked and model.drafter is not None:
                        record = _recorded(model.drafter, asked, texts["cloud"])
                        point = await asyncio.to_thread(checked, point, asked, record)
                    cells += point
                    differing += _differing(texts)
            return cells, differing

        cells, differing = asyncio.run(grid())
    return LinkResult(machine(), settings, False, cells, _break_evens(cells), differing)


def virtual_link(costs: Costs, settings: LinkSettings, progress: Progress) -> LinkResult:
    """Run the grid on a virtual clock; temperatures play no part, acceptance is given."""
    cells: list[Cell] = []
    differing = 0
    for round_trip_ms in settings.round_trips_ms:
        progress(f"round trip {round_trip_ms:g} ms")
        at = replace(costs, round_trip_s=round_trip_ms / 1000)
        requests = [
            GenerationRequest((1, 2, 3, index), settings.max_new_tokens, ignore_eos=True)
            for index in range(settings.num_prompts + 1)
        ]
        texts = {mode: run_virtual(_virtual_texts(at, mode, requests)) for mode in _VIRTUAL}
        cells += _summaries(texts, round_trip_ms, 0.0)
        differing += _differing(texts)
    return LinkResult(machine(), settings, True, cells, _break_evens(cells), differing)


async def _virtual_texts(
    costs: Costs,
    mode: str,
    requests: Sequence[GenerationRequest],
    agreement: Agreement | None = None,
    draft_block_s: float = 0.0,
) -> list[_Text]:
    """Each text in turn; the first one warms up."""
    async with simulated(costs, agreement=agreement, draft_block_s=draft_block_s) as (client, _):
        return [await _write(client, mode, request) for request in requests][1:]


# --- a real run beside a virtual one ----------------------------------------------------------------------------------


def _recorded(drafter: Drafter, requests: Sequence[GenerationRequest], texts: Sequence[_Text]) -> Agreement:
    """Where this drafter agrees with these texts: real drafts do not stand independently of each other."""
    record: dict[tuple[int, int], tuple[float, bool]] = {}
    written = [text.report.token_ids for text in texts]
    for request, token_ids in zip(requests, [written[0], *written], strict=True):
        record |= agreement(drafter, request, token_ids)
    return lambda seed, position: record.get((seed, position), (0.5, False))


def agreement(
    drafter: Drafter, request: GenerationRequest, token_ids: Sequence[int]
) -> Iterator[tuple[tuple[int, int], tuple[float, bool]]]:
    """Per position: the draft's probability for its choice after the text before it, and whether the text has it."""
    session = drafter.start(request.prompt_token_ids, request.chooser(drafter.vocab_size or _ANY_VOCAB))
    try:
        for position, token_id in enumerate(token_ids, len(request.prompt_token_ids)):
            proposal = session.propose(1)
            session.observe(position, (token_id,))
            if len(proposal):
                yield (request.seed, position), (proposal.probs[0], proposal.token_ids[0] == token_id)
    finally:
        session.close()


def checked(cells: Sequence[Cell], requests: Sequence[GenerationRequest], agreement: Agreement) -> list[Cell]:
    """The same cells with what the virtual clock makes of them."""
    greedy = [
        replace(
            request,
            prompt_token_ids=tuple(token_id % VOCAB_SIZE for token_id in request.prompt_token_ids),
            sampling=SamplingParams(),
        )
        for request in requests
    ]

    def virtual(cell: Cell) -> float | None:
        if cell.measured is None or cell.mode not in _VIRTUAL:
            return None
        measured = cell.measured
        texts = _virtual_texts(measured.costs, cell.mode, greedy, agreement, measured.draft_block_s)
        return statistics.median(text.report.tokens_per_s for text in run_virtual(texts))

    return [replace(cell, virtual_tokens_per_s=virtual(cell)) for cell in cells]


# --- writing ----------------------------------------------------------------------------------------------------------


@contextmanager
def _served(pair: Pair, options: list[str]) -> Iterator[ShapedLink]:
    with verifier_process(pair.target, options) as process, shaped_link(process.address) as shaped:
        yield shaped


@asynccontextmanager
async def _clients(open_client: Callable[[str], Client]) -> AsyncIterator[dict[str, Client]]:
    clients = {mode: open_client(mode) for mode in CONTESTANTS}
    try:
        for client in clients.values():
            await client.connect()
        yield clients
    finally:
        for client in clients.values():
            await client.close()


def _asked(requests: Sequence[GenerationRequest], temperature: float) -> list[GenerationRequest]:
    """One to warm up, then all of them, each with a seed of its own."""
    return [
        replace(request, sampling=SamplingParams(temperature), seed=request.seed + index)
        for index, request in enumerate([requests[0], *requests])
    ]


async def _cell(
    open_client: Callable[[str], Client], requests: Sequence[GenerationRequest]
) -> dict[str, list[_Text]]:
    """Each text from every mode in turn; who begins rotates. The first one warms up."""
    texts: dict[str, list[_Text]] = {mode: [] for mode in CONTESTANTS}
    async with _clients(open_client) as clients:
        for index, request in enumerate(requests):
            for mode in _rotated(CONTESTANTS, index):
                text = await _write(clients[mode], mode, request)
                if index:
                    texts[mode].append(text)
    return texts


def _rotated(items: Sequence[str], by: int) -> list[str]:
    by %= len(items)
    return [*items[by:], *items[:by]]


async def _write(client: Client, mode: str, request: GenerationRequest) -> _Text:
    name = {"co-located": "cloud", "one-ahead": "stream"}.get(mode, mode)
    if mode == "one-ahead":
        request = replace(
            request, fill=FillPolicy.OFF, max_blocks_in_flight=2, num_speculative_tokens=_ONE_AHEAD_BLOCK
        )
    loop = asyncio.get_running_loop()
    generation, gaps_s, last_s = client.generate(request, name), [], loop.time()
    async for event in generation:
        if isinstance(event, TokensEvent):
            now_s = loop.time()
            gaps_s += [now_s - last_s] + [0.0] * (len(event.token_ids) - 1)
            last_s = now_s
    return _Text(generation.report, gaps_s[1:], _measured(client.estimates))


def _measured(estimates: Estimates) -> Measured | None:
    costs = estimates.costs()
    return Measured(costs, estimates.drafting.fixed_s, stream_bound(costs)) if costs else None


def _differing(texts: dict[str, list[_Text]]) -> int:
    wanted = [text.report.token_ids for text in texts["cloud"]]
    return sum(
        text.report.token_ids != token_ids
        for mode, written in texts.items()
        if mode != "local"
        for text, token_ids in zip(written, wanted, strict=True)
    )


def _summaries(texts: dict[str, list[_Text]], round_trip_ms: float, temperature: float) -> Iterator[Cell]:
    cloud = [text.report.tokens_per_s for text in texts["cloud"]]
    measured = texts["stream"][-1].measured
    for mode, written in texts.items():
        reports = [text.report for text in written]
        rates = [report.tokens_per_s for report in reports]
        gaps_ms = [1000 * gap for text in written for gap in text.gaps_s]
        num_tokens = sum(len(report.token_ids) for report in reports)
        drafted = sum(report.drafted_tokens for report in reports)
        accepted = sum(report.accepted_tokens for report in reports)
        yield Cell(
            mode=mode,
            round_trip_ms=round_trip_ms,
            temperature=temperature,
            tokens_per_s=statistics.median(rates),
            cloud_tokens_per_s=statistics.median(cloud),
            versus_cloud=paired_ratio(rates, cloud).median,
            inter_token_p50_ms=percentile(gaps_ms, 0.5),
            inter_token_p95_ms=percentile(gaps_ms, 0.95),
            passes_per_token=sum(report.num_passes for report in reports) / num_tokens,
            bytes_per_token=sum(r.traffic.bytes_up + r.traffic.bytes_down for r in reports) / num_tokens,
            wasted_drafts_per_token=(drafted - accepted) / num_tokens,
            measured=measured,
            decisions=tuple(f"{one.position}: {one.action} ({one.why})" for one in reports[-1].decisions),
        )


def _break_evens(cells: Sequence[Cell]) -> list[BreakEven]:
    rows = dict.fromkeys((one.mode, one.temperature) for one in cells if one.mode not in ("cloud", "local"))
    return [
        BreakEven(
            mode,
            temperature,
            break_even_ms([one for one in cells if (one.mode, one.temperature) == (mode, temperature)]),
        )
        for mode, temperature in rows
    ]


def break_even_ms(cells: Sequence[Cell]) -> float | None:
    """Round trip from which on these cells of one mode are slower than the cloud; see `BreakEven`."""
    cells = sorted(cells, key=lambda one: one.round_trip_ms)
    for before, after in pairwise(cells):
        if before.versus_cloud >= 1 > after.versus_cloud:
            share = (before.versus_cloud - 1) / (before.versus_cloud - after.versus_cloud)
            return before.round_trip_ms + share * (after.round_trip_ms - before.round_trip_ms)
    return 0.0 if cells and cells[0].versus_cloud < 1 else None
