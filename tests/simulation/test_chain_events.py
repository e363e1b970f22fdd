"""The simulated chain where arithmetic says what must come out."""

import pytest

from paceline.common.speed.chain import Chain, ChainHop
from paceline.simulation.chain_events import simulate_chain


def hop(name: str, round_trip_s: float, pass_s: float, acceptance: float, below: str) -> ChainHop:
    """A hop whose pass takes the same whatever it checks."""
    return ChainHop(name, round_trip_s, pass_s, 0.0, {below: acceptance})


def test_without_contradictions_a_chain_keeps_the_device_s_pace() -> None:
    """Every token stands everywhere: links and passes delay the first token and no other."""
    chain = Chain("a", 0.01, (hop("m", 0.1, 0.004, 1.0, "a"), hop("z", 0.2, 0.006, 1.0, "m")))
    outcome = simulate_chain(chain, 1_000)

    assert outcome.contradictions == {"m": 0.0, "z": 0.0}
    assert outcome.seconds_per_token == pytest.approx(0.01 + (0.15 + 0.01) / 1_000)


def test_where_nothing_stands_every_token_is_a_whole_journey() -> None:
    """One token drafted, up through both hops, contradicted by the last, and back."""
    chain = Chain("a", 0.01, (hop("m", 0.1, 0.004, 1.0, "a"), hop("z", 0.2, 0.006, 0.0, "m")))
    outcome = simulate_chain(chain, 200)

    assert outcome.contradictions["z"] == 1.0
    assert outcome.passes_per_token == 1.0
    assert outcome.seconds_per_token == pytest.approx(0.01 + 0.1 + 0.2 + 0.004 + 0.006, rel=0.005)


def test_a_middle_hop_that_contradicts_everything_costs_its_own_journey_only() -> None:
    """The last hop takes what the middle one put in place; it is never waited for."""
    chain = Chain("a", 0.01, (hop("m", 0.02, 0.004, 0.0, "a"), hop("z", 0.2, 0.006, 1.0, "m")))
    outcome = simulate_chain(chain, 1_000)

    assert outcome.contradictions["m"] == pytest.approx(1.0, abs=0.02)
    assert outcome.seconds_per_token == pytest.approx(0.01 + 0.02 + 0.004, rel=0.01)


def test_a_seed_names_a_text() -> None:
    """The same seed gives the same text, another one another."""
    chain = Chain("a", 0.01, (hop("z", 0.2, 0.006, 0.5, "a"),))

    assert simulate_chain(chain, 100, seed=1) == simulate_chain(chain, 100, seed=1)
    assert simulate_chain(chain, 100, seed=1) != simulate_chain(chain, 100, seed=2)
