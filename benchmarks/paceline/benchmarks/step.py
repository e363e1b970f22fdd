"""`paceline bench step`: how soon mode `auto` follows a link whose round trip steps up and back, on a virtual clock."""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, replace

from rich.console import RenderableType
from rich.table import Table

from paceline.benchmarks.machine import Machine, machine
from paceline.benchmarks.plot import Line, line_plot, page
from paceline.benchmarks.plot import table as html_table
from paceline.common.speed.costs import Costs
from paceline.edge.pacing.ways import Way
from paceline.edge.request import GenerationRequest, Report, TokensEvent
from paceline.simulation.clock import run_virtual
from paceline.simulation.link import LinkShape
from paceline.simulation.pair import simulated

_NEAR = 0.1
"""Share by which an estimate may be off and still counts as right."""
_FRESH_TOKENS = 400
_LONGEST_ROUND = 8
"""Tokens; a text that ends before its rounds do is an error of the settings."""


@dataclass(frozen=True, slots=True)
class StepSettings:
    """What to run; `costs.round_trip_s` is the round trip before the step and after the step back."""

    costs: Costs
    high_round_trip_s: float = 0.15
    up_at_round: int = 150
    down_at_round: int = 400
    num_rounds: int = 600


@dataclass(frozen=True, slots=True)
class Moment:
    """What the controller believed and did when a verdict came."""

    at_s: float
    round_trip_s: float
    """Of the link."""
    estimate_s: float
    way: Way


@dataclass(frozen=True, slots=True)
class Change:
    """How a step was followed."""

    from_s: float
    to_s: float
    wanted_way: Way
    """What a controller chooses that never knew another round trip."""
    rounds_until_estimate: int | None
    """Verdicts until the estimate of the round trip is within a tenth, and stays there; None: never."""
    rounds_until_way: int | None
    """Verdicts until it works the wanted way, and stays with it; None: never."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """Both steps, and all that was seen."""

    machine: Machine
    settings: StepSettings
    changes: list[Change]
    moments: list[Moment]


def step(settings: StepSettings) -> StepResult:
    """Run it."""
    low, high = settings.costs.round_trip_s, settings.high_round_trip_s
    moments = run_virtual(_moments(settings))
    up, down = settings.up_at_round, settings.down_at_round
    changes = [_change(low, high, moments[up:down], settings), _change(high, low, moments[down:], settings)]
    return StepResult(machine(), settings, changes, moments)


async def _moments(settings: StepSettings) -> list[Moment]:
    low, high = settings.costs.round_trip_s, settings.high_round_trip_s
    round_trips_s = {0: low, settings.up_at_round: high, settings.down_at_round: low}
    moments: list[Moment] = []
    loop, round_trip_s = asyncio.get_running_loop(), low
    async with simulated(settings.costs) as (client, hop):
        request = GenerationRequest((1, 2, 3), settings.num_rounds * _LONGEST_ROUND, ignore_eos=True)
        generation = client.generate(request, "auto")
        async with aclosing(aiter(generation)) as events:
            async for event in events:
                if not isinstance(event, TokensEvent):
                    continue
                if len(moments) in round_trips_s:
                    round_trip_s = round_trips_s[len(moments)]
                    hop.set_shape(LinkShape(round_trip_s))
                estimate_s = client.estimates.round_trip.typical_s
                moments.append(Moment(loop.time(), round_trip_s, estimate_s, _way(generation.report)))
                if len(moments) == settings.num_rounds:
                    break
    return moments


def _way(report: Report) -> Way:
    """The one decided last."""
    return Way(report.decisions[-1].action.partition(",")[0])


def _change(from_s: float, to_s: float, moments: list[Moment], settings: StepSettings) -> Change:
    wanted = run_virtual(_fresh_way(replace(settings.costs, round_trip_s=to_s)))
    near = [abs(one.estimate_s - to_s) <= _NEAR * to_s for one in moments]
    return Change(
        from_s, to_s, wanted, _rounds_until(near), _rounds_until([one.way is wanted for one in moments])
    )


async def _fresh_way(costs: Costs) -> Way:
    """How a client works that never knew another round trip: its second text begins with what the first taught."""
    async with simulated(costs) as (client, _):
        for index in range(2):
            request = GenerationRequest((1, 2, index), _FRESH_TOKENS, ignore_eos=True)
            report = await client.complete(request, "auto")
    return _way(report)


def _rounds_until(holds: list[bool]) -> int | None:
    """Index from which on it holds to the end."""
    if not holds[-1]:
        return None
    return next((len(holds) - back for back, one in enumerate(reversed(holds)) if not one), 0)


def step_table(result: StepResult) -> RenderableType:
    """Both steps."""
    table = Table(title="a step of the round trip, virtual clock", title_justify="left")
    for name in _HEAD:
        table.add_column(name, justify="right")
    for row in _rows(result):
        table.add_row(*row)
    return table


def step_html(result: StepResult) -> str:
    """One page without external assets."""
    moments = result.moments
    by_round = list(enumerate(moments))
    trips = [
        Line("link", [(index, 1000 * one.round_trip_s) for index, one in by_round], 0),
        Line("estimate", [(index, 1000 * one.estimate_s) for index, one in by_round], 1),
    ]
    ways = [
        Line(way, [(index, float(one.way is way)) for index, one in by_round], 2 + number)
        for number, way in enumerate(Way)
        if any(one.way is way for one in moments)
    ]
    costs, where = result.settings.costs, result.machine
    note = (
        f"{where.date}, commit {where.commit}, virtual clock: {1000 * costs.draft_s:g} ms a drafted token, a pass "
        f"{1000 * costs.verify_fixed_s:g} + {1000 * costs.verify_per_token_s:g} n ms, acceptance {costs.acceptance:g}. "
        "Wanted is the way a controller chooses that never knew another round trip."
    )
    body = (
        f"<h2>Round trip</h2>{line_plot(trips, 'round (verdicts)', 'round trip (ms)', steps=True)}"
        f"<h2>Way of working</h2>{line_plot(ways, 'round (verdicts)', 'works this way (1) or not (0)', steps=True)}"
        f"<h2>Figures</h2>{html_table(_HEAD, _rows(result))}"
    )
    return page("Mode auto after a step of the round trip", note, body)


_HEAD = ("step", "wanted way", "rounds until the estimate is within 10 %", "rounds until that way")


def _rows(result: StepResult) -> list[list[str]]:
    return [
        [
            f"{1000 * one.from_s:g} -> {1000 * one.to_s:g} ms",
            one.wanted_way,
            _count(one.rounds_until_estimate),
            _count(one.rounds_until_way),
        ]
        for one in result.changes
    ]


def _count(rounds: int | None) -> str:
    return "never" if rounds is None else str(rounds)
