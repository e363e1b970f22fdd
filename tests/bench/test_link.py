"""The grid over links: real and virtual runs, their check against each other, and the page."""

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.bench.test_smoke import bench, models

from paceline.benchmarks.link import (
    CONTESTANTS,
    Cell,
    LinkSettings,
    Measured,
    agreement,
    break_even_ms,
    checked,
    virtual_link,
)
from paceline.benchmarks.link_report import link_html
from paceline.benchmarks.plot import Line, line_plot
from paceline.benchmarks.step import StepSettings, step, step_html
from paceline.common.speed.costs import Costs
from paceline.edge.request import GenerationRequest
from paceline.simulation.clock import run_virtual
from paceline.simulation.pair import CoinDrafter, coins, hashed, simulated

if TYPE_CHECKING:
    from tests.bench.conftest import TinyPair

COSTS = Costs(0.01, 0.03, 0.0002, 0.05, 0.8)
SETTINGS = LinkSettings((0.0, 100.0), (0.0,), num_prompts=2, max_new_tokens=40, verify_floor_ms=0.0)


def test_link_measures_every_mode_and_checks_itself(pair: "TinyPair") -> None:
    """Real processes, two round trips: no text differs, and every cell says what the virtual clock makes of it."""
    found = bench("link", *models(pair), "--check-virtual", "--verify-floor-ms", "10")
    cells = {(one["mode"], one["round_trip_ms"]): one for one in found["cells"]}
    assert cells.keys() == {(mode, trip) for mode in CONTESTANTS for trip in (0, 10)}
    assert found["num_different_texts"] == 0
    assert {one["mode"] for one in found["break_evens"]} == set(CONTESTANTS) - {"local", "cloud"}
    for (mode, trip), cell in cells.items():
        assert (cell["virtual_tokens_per_s"] is None) == (mode == "co-located")
        assert cell["cloud_tokens_per_s"] == cells["cloud", trip]["tokens_per_s"]
        assert cell["measured"]["bound_tokens_per_s"] > 0


def cell(**changes: object) -> Cell:
    """A cell of a stream."""
    plain = Cell("stream", 50.0, 0.0, 40.0, 30.0, 1.3, 10.0, 20.0, 0.5, 20.0, 0.3, Measured(COSTS, 0.0, 44.0))
    return replace(plain, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["cloud", "sync", "stream", "auto"])
def test_a_check_repeats_a_run_whose_costs_it_knows(mode: str) -> None:
    """Drafts recorded from a virtual run, run virtually once more, give the same speed to a thousandth."""
    requests = [
        GenerationRequest(tuple(range(20)), 60, ignore_eos=True, seed=seed, num_speculative_tokens=3)
        for seed in range(3)
    ]

    async def written() -> list[tuple[list[int], float]]:
        async with simulated(COSTS) as (client, _):
            reports = [await client.complete(request, mode) for request in requests]
            return [(report.token_ids, report.tokens_per_s) for report in reports]

    texts = run_virtual(written())
    drafter = CoinDrafter(hashed(0), coins(0, COSTS.acceptance))
    record = dict(
        entry
        for request, (token_ids, _) in zip(requests, texts, strict=True)
        for entry in agreement(drafter, request, token_ids)
    )
    stood = [stands for _, stands in record.values()]
    assert len(stood) == 180
    assert 0.6 < sum(stood) / 180 < 0.95

    (found,) = checked([cell(mode=mode)], requests, lambda seed, position: record[seed, position])
    assert found.virtual_tokens_per_s == pytest.approx(sorted(rate for _, rate in texts[1:])[0], rel=0.02)


def test_break_even_lies_between_the_cells_around_it() -> None:
    """Interpolated; None where a mode never falls behind, 0 where it always is."""
    cells = [
        cell(round_trip_ms=trip, versus_cloud=ratio) for trip, ratio in ((0, 1.5), (100, 0.5), (200, 0.2))
    ]
    assert break_even_ms(cells) == 50
    assert break_even_ms(cells[:1]) is None
    assert break_even_ms(cells[1:]) == 0


def test_pages_are_self_contained_and_say_what_they_show() -> None:
    """No script, nothing loaded from elsewhere; units on the axes; cloud, bound and break-even beside the figures."""
    link_page = link_html(virtual_link(COSTS, SETTINGS, lambda _: None))
    step_page = step_html(step(StepSettings(replace(COSTS, round_trip_s=0.01, acceptance=0.7))))
    for page in (link_page, step_page):
        assert not re.search(r"<script|<link|\bsrc=|href=|url\(|https?:", page)
        assert "prefers-color-scheme:dark" in page
    assert "round trip (ms)</text>" in link_page
    assert "tokens per second</text>" in link_page
    assert {"cloud tokens/s", "stream bound tokens/s", "break-even round trip"} <= set(
        re.findall("<th>(.*?)</th>", link_page)
    )
    assert "round (verdicts)</text>" in step_page


def test_plots_begin_at_nothing_and_end_at_a_round_number() -> None:
    """The highest point is inside, at its share of the axis."""
    plot = line_plot([Line("a", [(0, 0), (10, 40)], 1)], "x (s)", "y (s)")
    (points,) = re.findall('polyline points="(.*?)"', plot)
    (_, low), (_, high) = (map(float, point.split(",")) for point in points.split())
    assert low > high >= 0
    assert re.findall(r'text-anchor="end">(\d+)<', plot) == ["0", "10", "20", "30", "40"]
