"""Closed forms against search and against the tables they were derived for."""

import pytest
from hypothesis import given
from hypothesis.strategies import builds, floats, just

from paceline.common.errors import InvalidRequest
from paceline.common.speed.costs import Costs
from paceline.common.speed.formulas import (
    best_one_ahead_length,
    best_sync_length,
    best_sync_length_closed,
    break_even_bound_s,
    break_even_sync_s,
    predict_colocated,
    predict_one_ahead,
    predict_sync,
    stream_bound,
)
from paceline.common.speed.objective import Objective


def phone(acceptance: float, round_trip_s: float) -> Costs:
    """10 ms a draft token, a target pass of 30 ms and 0.2 ms a token."""
    return Costs(0.01, 0.03, 0.0002, round_trip_s, acceptance)


@pytest.mark.parametrize(
    ("acceptance", "round_trip_ms", "sync", "one_ahead", "bound"),
    [
        (0.7, 10, 36, 36, 45),
        (0.7, 100, 16, 16, 20),
        (0.8, 30, 33, 36, 45),
        (0.8, 300, 11, 11, 13),
        (0.9, 60, 36, 42, 53),
        (0.95, 100, 40, 50, 61),
    ],
)
def test_the_published_table(
    acceptance: float, round_trip_ms: int, sync: float, one_ahead: float, bound: float
) -> None:
    """Tokens per second at the best block lengths, as tabulated from the same formulas elsewhere."""
    costs = phone(acceptance, round_trip_ms / 1000)
    assert predict_sync(costs, best_sync_length(costs)).tokens_per_s == pytest.approx(sync, abs=1)
    assert predict_one_ahead(costs, best_one_ahead_length(costs)).tokens_per_s == pytest.approx(
        one_ahead, abs=1
    )
    assert stream_bound(costs) == pytest.approx(bound, abs=1)


@pytest.mark.parametrize("acceptance", [0.6, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("round_trip_s", [0.0, 0.03, 0.1, 0.3])
def test_the_closed_form_is_the_search(acceptance: float, round_trip_s: float) -> None:
    """The best block length by Lambert's function lies within one token of the best by trying."""
    costs = phone(acceptance, round_trip_s)
    assert abs(best_sync_length_closed(costs) - best_sync_length(costs)) <= 1


@given(
    costs=builds(
        Costs,
        draft_s=floats(0, 1),
        verify_fixed_s=floats(1e-6, 1),
        verify_per_token_s=floats(0, 0.1),
        round_trip_s=floats(0, 10),
        acceptance=floats(0, 0.9999) | just(1.0),
    )
)
def test_no_other_length_of_rounds_is_better(costs: Costs) -> None:
    """The search stops at the first peak, and there is no other but by rounding."""
    rates = [predict_sync(costs, length).tokens_per_s for length in range(257)]
    assert rates[best_sync_length(costs)] == pytest.approx(max(rates), rel=1e-9)


def test_break_even() -> None:
    """At the break-even round trip both sides are as fast; "Speculation at a Distance" has 108 ms at alpha 0.85."""
    costs = Costs(0.01, 0.05, 0.0, 0.0, 0.85)
    assert break_even_sync_s(costs, 5) == pytest.approx(0.108, abs=0.001)
    at = Costs(0.01, 0.05, 0.0, break_even_bound_s(costs), 0.85)
    assert stream_bound(at) == pytest.approx(1 / at.decode_s)


def test_a_drafter_beside_the_target_beats_one_far_away() -> None:
    """With the same drafter, no link is better than a link."""
    costs = phone(0.8, 0.1)
    near = predict_colocated(costs, costs.draft_s).tokens_per_s
    assert near > predict_sync(costs, best_sync_length(costs)).tokens_per_s


def test_objectives() -> None:
    """Words and weights; anything else is refused with the cure."""
    assert Objective.parse("latency").score(30.0, 0.5) == 30.0
    assert Objective.parse("throughput").score(30.0, 0.5) == 2.0
    assert Objective.parse("0.5").weight == 0.5
    for wrong in ("speed", "2", "-1", "nan", ""):
        with pytest.raises(InvalidRequest, match="objective"):
            Objective.parse(wrong)


@pytest.mark.parametrize("change", [{"acceptance": 1.2}, {"draft_s": -1.0}, {"verify_fixed_s": -0.1}])
def test_impossible_costs_are_refused(change: dict[str, float]) -> None:
    """The field is named."""
    fields = {
        "draft_s": 0.01, "verify_fixed_s": 0.03, "verify_per_token_s": 0.0, "round_trip_s": 0.1, "acceptance": 0.8
    }  # fmt: skip
    with pytest.raises(InvalidRequest) as caught:
        Costs(**{**fields, **change})
    assert caught.value.field == next(iter(change))
