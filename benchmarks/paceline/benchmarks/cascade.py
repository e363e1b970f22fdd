"""`paceline bench cascade`: a chain of three hops beside the same device and target without the hop between.

Real processes, with a proxy process on each link. At every pair of links, device to relay and relay to target, both
chains write the same texts in turn; the chain without a relay has one link as long as the two together. What the plan
would have said (`paceline.common.speed.chain`) stands beside what was measured, from costs measured in the same run.
"""

import asyncio
import statistics
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from rich.box import SIMPLE
from rich.table import Table

from paceline.benchmarks.machine import Machine, machine
from paceline.benchmarks.pair import Pair
from paceline.benchmarks.statistics import Ratio, paired_ratio
from paceline.cli.verifier_process import relay_process, verifier_process
from paceline.common.drafter import Drafter
from paceline.common.errors import Unreachable
from paceline.common.hops.grpc import GrpcHop
from paceline.common.speed.chain import Chain, ChainHop
from paceline.common.speed.ways import best_stream
from paceline.common.tokens import SamplingParams
from paceline.edge.assemble import assemble
from paceline.edge.client import Client
from paceline.edge.request import GenerationRequest, Report
from paceline.simulation.proxy import ShapedLink, shaped_link

Progress = Callable[[str], None]
_PROMPT_TOKENS = 200
_DEVICE, _RELAY, _TARGET = "device", "relay", "target"


@dataclass(frozen=True, slots=True)
class CascadeSettings:
    """What to run. Milliseconds."""

    links_ms: tuple[tuple[float, float], ...]
    """Round trips from the device to the relay, and from there to the target."""
    temperatures: tuple[float, ...]
    num_prompts: int
    max_new_tokens: int
    relay_floor_ms: float
    target_floor_ms: float
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two chains at one pair of links."""

    tokens_per_s: float
    """Median over texts, their first token included."""
    passes_per_token: float
    """Of the target."""
    predicted_tokens_per_s: float
    predicted_passes_per_token: float


@dataclass(frozen=True, slots=True)
class CascadeCell:
    """Both chains at one pair of links and one temperature."""

    near_ms: float
    far_ms: float
    temperature: float
    relayed: Side
    straight: Side
    speed_up: Ratio
    """With the relay over without, per text."""

    @property
    def plan_was_right(self) -> bool:
        """Whether the predicted winner won."""
        predicted = self.relayed.predicted_tokens_per_s > self.straight.predicted_tokens_per_s
        return predicted == (self.speed_up.median > 1)


@dataclass(frozen=True, slots=True)
class CascadeResult:
    """All of it."""

    machine: Machine
    settings: CascadeSettings
    cells: list[CascadeCell]
    num_different_texts: int
    """Texts that differ between the two chains."""
    num_plans_right: int


@dataclass(frozen=True, slots=True)
class _World:
    """The processes."""

    near: ShapedLink
    far: ShapedLink
    whole: ShapedLink
    """From the device to the target without a relay."""


def cascade(
    pair: Pair, middle: Path, prompts: Sequence[str], settings: CascadeSettings, progress: Progress
) -> CascadeResult:
    """Run every cell."""
    model = pair.edge()
    requests = [
        GenerationRequest(
            model.tokenizer.encode(text)[-_PROMPT_TOKENS:],
            settings.max_new_tokens,
            ignore_eos=True,
            seed=settings.seed + index,
        )
        for index, text in enumerate(prompts)
    ]
    middle_drafter = assemble(middle, kind="torch").drafter
    assert model.drafter is not None, "a pair drafts"
    assert middle_drafter is not None, "it was asked for"

    async def run(world: _World) -> tuple[list[CascadeCell], int]:
        cells, differing = [], 0
        for temperature in settings.temperatures:
            progress(f"temperature {temperature:g}: what each hop costs and accepts")
            asked = [replace(one, sampling=SamplingParams(temperature)) for one in requests]
            costs = await _measure(world, model.drafter, middle_drafter, asked)  # type: ignore[arg-type]
            for near_ms, far_ms in settings.links_ms:
                progress(f"temperature {temperature:g}, links of {near_ms:g} and {far_ms:g} ms")
                relayed, straight = await _write(world, model.drafter, asked, near_ms, far_ms)  # type: ignore[arg-type]
                cells.append(_cell(costs, temperature, near_ms, far_ms, relayed, straight))
                differing += sum(
                    one.token_ids != other.token_ids for one, other in zip(relayed, straight, strict=True)
                )
        return cells, differing

    with _served(pair, middle, settings) as world:
        cells, differing = asyncio.run(run(world))
    num_right = sum(cell.plan_was_right for cell in cells)
    return CascadeResult(machine(), settings, cells, differing, num_right)


@contextmanager
def _served(pair: Pair, middle: Path, settings: CascadeSettings) -> Iterator[_World]:
    floors = [["--verify-floor-ms", str(ms)] for ms in (settings.target_floor_ms, settings.relay_floor_ms)]
    with (
        verifier_process(pair.target, floors[0]) as target,
        shaped_link(target.address) as far,
        shaped_link(target.address) as whole,
        relay_process(middle, far.address, _RELAY, floors[1]) as relay,
        shaped_link(relay.address) as near,
    ):
        yield _World(near, far, whole)


@asynccontextmanager
async def _client(link: ShapedLink, drafter: Drafter) -> AsyncIterator[Client]:
    client = Client(GrpcHop(link.address), drafter)
    try:
        async with asyncio.timeout(60):
            while client.verifier is None:
                try:
                    await client.connect()
                except Unreachable:
                    await asyncio.sleep(0.05)
        yield client
    finally:
        await client.close()


async def _measure(
    world: _World, drafter: Drafter, middle: Drafter, requests: Sequence[GenerationRequest]
) -> Chain:
    """What the plan starts from: each hop's pass, the device's token, and whose tokens stand under whom."""
    for link in (world.near, world.far, world.whole):
        link.set_shape("rtt=0ms")
    fitted = {}
    ways = {
        "relayed": (world.near, drafter),
        "straight": (world.whole, drafter),
        "middle": (world.whole, middle),
    }
    for name, (link, writer) in ways.items():
        async with _client(link, writer) as client:
            for request in requests:
                await client.complete(request, "stream")
            fitted[name] = client.estimates
    near, whole = fitted["relayed"], fitted["straight"]
    acceptance = {_RELAY: fitted["middle"].confidence.mean, _DEVICE: whole.confidence.mean}
    relay = ChainHop(
        _RELAY, 0.0, near.verify.fixed_s, near.verify.per_token_s, {_DEVICE: near.confidence.mean}
    )
    target = ChainHop(_TARGET, 0.0, whole.verify.fixed_s, whole.verify.per_token_s, acceptance)
    return Chain(_DEVICE, whole.draft_token_s, (relay, target))


async def _write(
    world: _World, drafter: Drafter, requests: Sequence[GenerationRequest], near_ms: float, far_ms: float
) -> tuple[list[Report], list[Report]]:
    """Each text by both chains in turn; who begins alternates. The first text warms up."""
    world.near.set_shape(f"rtt={near_ms:g}ms")
    world.far.set_shape(f"rtt={far_ms:g}ms")
    world.whole.set_shape(f"rtt={near_ms + far_ms:g}ms")
    written: dict[str, list[Report]] = {"relayed": [], "straight": []}
    async with _client(world.near, drafter) as relayed, _client(world.whole, drafter) as straight:
        for index, request in enumerate([requests[0], *requests]):
            turns = [("relayed", relayed), ("straight", straight)]
            for name, client in turns if index % 2 else reversed(turns):
                report = await client.complete(request, "auto")
                written[name] += [report] if index else []
    return written["relayed"], written["straight"]


def _cell(
    costs: Chain,
    temperature: float,
    near_ms: float,
    far_ms: float,
    relayed: list[Report],
    straight: list[Report],
) -> CascadeCell:
    relay, target = costs.hops
    hops = (replace(relay, round_trip_s=near_ms / 1e3), replace(target, round_trip_s=far_ms / 1e3))
    chain = replace(costs, hops=hops)
    rates = [[report.tokens_per_s for report in side] for side in (relayed, straight)]
    return CascadeCell(
        near_ms,
        far_ms,
        temperature,
        _side(relayed, rates[0], chain),
        _side(straight, rates[1], chain.without(0)),
        paired_ratio(*rates),
    )


def _side(reports: list[Report], rates: list[float], chain: Chain) -> Side:
    _, predicted = best_stream(chain.as_costs, fill=True)
    num_passes = sum(report.hops[-1].num_passes for report in reports)
    return Side(
        statistics.median(rates),
        num_passes / sum(len(report.token_ids) for report in reports),
        predicted.tokens_per_s,
        predicted.passes_per_token,
    )


def cascade_table(result: CascadeResult) -> Table:
    """A line a cell."""
    settings = result.settings
    table = Table(
        title=f"a relay or none, {settings.num_prompts} texts of {settings.max_new_tokens} tokens; a pass lasts at "
        f"least {settings.relay_floor_ms:g} ms at the relay, {settings.target_floor_ms:g} ms at the target",
        title_justify="left",
        box=SIMPLE,
        pad_edge=False,
        caption=f"the plan named the winner in {result.num_plans_right} of {len(result.cells)}; "
        f"{result.num_different_texts} texts differ",
    )
    for name in (
        "T",
        "links, ms",
        "tokens/s",
        "without",
        "ratio",
        "planned",
        "passes/token",
        "without",
        "plan",
    ):
        table.add_column(name, justify="right")
    for cell in result.cells:
        relayed, straight = cell.relayed, cell.straight
        table.add_row(
            f"{cell.temperature:g}",
            f"{cell.near_ms:g} + {cell.far_ms:g}",
            f"{relayed.tokens_per_s:.1f}",
            f"{straight.tokens_per_s:.1f}",
            f"{cell.speed_up.median:.2f} [{cell.speed_up.low:.2f}-{cell.speed_up.high:.2f}]",
            f"{relayed.predicted_tokens_per_s / straight.predicted_tokens_per_s:.2f}",
            f"{relayed.passes_per_token:.2f}",
            f"{straight.passes_per_token:.2f}",
            "right" if cell.plan_was_right else "wrong",
        )
    return table


def all_links(near_ms: Sequence[float], far_ms: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """Every near link with every far one."""
    return tuple(product(near_ms, far_ms))
