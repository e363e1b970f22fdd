"""Randomness as a pure function: reproducible by anyone, uniform, independent where it must be."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from paceline.common.sampling.law import Law
from paceline.common.sampling.noise import (
    Purpose,
    gumbel_pick,
    inverse_cdf,
    key,
    mix64,
    token_uniforms,
    uniform,
)

MASK = 2**64 - 1
ALPHA = 1e-4
"""Seeds are fixed, so a test that passes once passes for ever; this is the strictness of the first time."""


def splitmix64(state: int, index: int) -> int:
    """The index-th output of SplitMix64, written from its publication."""
    z = (state + (index + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def exponential(seed: int, position: int, token_id: int) -> float:
    """A token's noise, written from the module's description in plain integers."""
    place = splitmix64(splitmix64(splitmix64(seed & MASK, 0), position), Purpose.NOISE)
    return -math.log1p(-((splitmix64(place, token_id) >> 12) + 0.5) * 2.0**-52)


def law_of(*probs: float) -> Law:
    """A law over the first tokens."""
    return Law(np.arange(len(probs)), np.array(probs) / sum(probs))


def test_the_reference_is_splitmix64() -> None:
    """The first outputs for seed 1234567 are the ones everybody publishes."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [splitmix64(1234567, index) for index in range(4)] == published
    assert mix64((1234567 + 0x9E3779B97F4A7C15) & MASK) == published[0]


@pytest.mark.parametrize(
    ("seed", "position", "purpose", "expected"),
    [
        (0, 0, Purpose.NOISE, 0x238275BC38FCBE91),
        (0, 0, Purpose.ACCEPT, 0xF89A2566B5822C54),
        (7, 1_000_000, Purpose.RECOVER, 0xFF2CFE1FE0B385E4),
        (2**64 - 1, 3, Purpose.DRAFT, 0x240B472AC1271667),
    ],
)
def test_pinned_keys(seed: int, position: int, purpose: Purpose, expected: int) -> None:
    """The format never changes silently: a resumed session on a newer release must see the same numbers."""
    assert key(seed, position, purpose) == expected
    assert splitmix64(splitmix64(splitmix64(seed, 0), position), purpose) == expected
    assert uniform(seed, position, purpose) == (expected >> 11) / 2**53


def test_pinned_token_uniforms() -> None:
    """Token noise of one position, to the last bit."""
    assert token_uniforms(7, 42, np.array([0, 1, 151_999])).tolist() == [
        0.1044032195527752,
        0.5597985991598825,
        0.2068330176659986,
    ]


def test_seeds_are_taken_modulo_2_to_the_64() -> None:
    """A negative or huge seed is folded rather than refused."""
    assert key(-1, 5, Purpose.NOISE) == key(2**64 - 1, 5, Purpose.NOISE) == key(2**65 - 1, 5, Purpose.NOISE)


@settings(deadline=None)
@given(
    st.integers(0, MASK), st.integers(0, 2**32), st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40)
)
def test_the_arrays_equal_plain_integers(seed: int, position: int, token_ids: list[int]) -> None:
    """The vectorised hash is the documented one, for any token id of 32 bits."""
    values = token_uniforms(seed, position, np.array(token_ids, dtype=np.int64))
    assert ((values > 0.0) & (values < 1.0)).all()
    for value, token_id in zip(values.tolist(), token_ids, strict=True):
        assert -math.log1p(-value) == exponential(seed, position, token_id)


def test_blocks_do_not_show() -> None:
    """A token's noise does not depend on which other tokens are asked for."""
    whole = token_uniforms(3, 9, np.arange(40_000))
    assert np.array_equal(token_uniforms(3, 9, np.arange(0, 40_000, 7)), whole[::7])


@pytest.mark.parametrize("purpose", Purpose)
def test_uniforms_are_uniform(purpose: Purpose) -> None:
    """Over positions and over seeds, Kolmogorov and Smirnov see nothing."""
    over_positions = [uniform(11, position, purpose) for position in range(20_000)]
    over_seeds = [uniform(seed, 5, purpose) for seed in range(20_000)]
    for numbers in over_positions, over_seeds:
        assert 0.0 <= min(numbers) < max(numbers) < 1.0
        assert stats.kstest(numbers, "uniform").pvalue > ALPHA


def test_token_noise_is_uniform_over_tokens_positions_and_seeds() -> None:
    """Along each of its three axes the shared noise is uniform."""
    tokens = np.arange(152_000)
    one = np.array([5])
    for values in (
        token_uniforms(1, 2, tokens),
        np.array([token_uniforms(1, position, one)[0] for position in range(10_000)]),
        np.array([token_uniforms(seed, 2, one)[0] for seed in range(10_000)]),
    ):
        assert stats.kstest(values, "uniform").pvalue > ALPHA


def independence(first: list[float], second: list[float]) -> float:
    """p-value of a chi-square test of independence on a 10 by 10 grid."""
    grid, _, _ = np.histogram2d(first, second, bins=10, range=[[0, 1], [0, 1]])
    return float(stats.chi2_contingency(grid).pvalue)


def test_purposes_are_independent_of_each_other() -> None:
    """At one position, the numbers of any two purposes know nothing of each other."""
    numbers = {purpose: [uniform(3, position, purpose) for position in range(20_000)] for purpose in Purpose}
    for first in Purpose:
        for second in Purpose:
            if first < second:
                assert independence(numbers[first], numbers[second]) > ALPHA


def test_positions_seeds_and_tokens_are_independent_of_their_neighbours() -> None:
    """Neighbours along any axis are independent, for coins and for token noise."""
    coins = [uniform(3, position, Purpose.ACCEPT) for position in range(20_001)]
    assert independence(coins[:-1], coins[1:]) > ALPHA
    seeds = [uniform(seed, 8, Purpose.ACCEPT) for seed in range(20_001)]
    assert independence(seeds[:-1], seeds[1:]) > ALPHA
    tokens = np.arange(100_001)
    here, next_position = token_uniforms(3, 4, tokens), token_uniforms(3, 5, tokens)
    assert independence(here[:-1].tolist(), here[1:].tolist()) > ALPHA
    assert independence(here.tolist(), next_position.tolist()) > ALPHA
    assert independence(here.tolist(), token_uniforms(4, 4, tokens).tolist()) > ALPHA


@pytest.mark.parametrize("support", [2, 3, 40, 63, 64, 65, 1_000, 152_000])
@pytest.mark.parametrize("peaked", [True, False])
def test_the_lazy_pick_is_the_brute_force_one(support: int, peaked: bool) -> None:
    """Bounding ratios instead of taking every logarithm never changes the pick."""
    generator = np.random.default_rng(support)
    for position in range(40 if support < 10_000 else 4):
        weights = np.exp((4.0 if peaked else 0.3) * generator.standard_normal(support))
        law = Law(np.sort(generator.choice(2 * support, support, replace=False)), weights / weights.sum())
        gumbels = -np.log(-np.log1p(-token_uniforms(17, position, law.token_ids)))
        brute = law.token_ids[(np.log(law.probs) + gumbels).argmax()]
        assert gumbel_pick(law, 17, position) == brute


@pytest.mark.parametrize("support", [3, 100])
@pytest.mark.parametrize("prob", [5e-324, 0.0])
def test_probabilities_that_are_next_to_nothing_do_no_harm(support: int, prob: float) -> None:
    """At low temperatures a ratio may overflow; that token is then simply not picked, and nobody is warned. The
    smallest float, divided by the sum of all, is none at all."""
    probs = np.full(support, prob)
    probs[1] = 1.0
    law = Law(np.arange(support), probs)
    assert {gumbel_pick(law, 7, position) for position in range(50)} == {1}


def test_a_law_of_one_token_needs_no_noise() -> None:
    """A certain token is picked whatever the noise."""
    assert gumbel_pick(Law(np.array([123]), np.array([1.0])), 1, 2) == 123


def test_the_pick_has_the_law() -> None:
    """Over positions, picks are distributed as the law says."""
    law = law_of(50, 20, 10, 8, 6, 3, 2, 1)
    picks = np.bincount([gumbel_pick(law, 99, position) for position in range(30_000)], minlength=8)
    assert stats.chisquare(picks, 30_000 * law.probs).pvalue > ALPHA


def test_the_pick_has_the_law_for_a_vocabulary_of_152000() -> None:
    """Grouped into ten bands of token ids, picks from a huge support are distributed as the law says."""
    weights = np.exp(np.random.default_rng(1).standard_normal(152_000))
    weights[::1_000] *= 200.0
    law = Law(np.arange(152_000), weights / weights.sum())
    bands = np.bincount([gumbel_pick(law, 5, position) // 15_200 for position in range(1_000)], minlength=10)
    expected = np.add.reduceat(law.probs, np.arange(0, 152_000, 15_200))
    assert stats.chisquare(bands, 1_000 * expected).pvalue > ALPHA


def test_two_laws_share_a_pick_as_often_as_the_formula_says() -> None:
    """P(same pick) = sum_x 1 / sum_y max(a_y / a_x, b_y / b_x), within four standard errors."""
    first, second = law_of(5, 3, 1, 1), law_of(2, 5, 2, 1)
    same = sum(
        gumbel_pick(first, 1, position) == gumbel_pick(second, 1, position) for position in range(20_000)
    )
    expected = sum(
        1 / sum(max(first.probs[y] / first.probs[x], second.probs[y] / second.probs[x]) for y in range(4))
        for x in range(4)
    )
    assert abs(same / 20_000 - expected) < 4 * math.sqrt(expected * (1 - expected) / 20_000)


@settings(deadline=None)
@given(st.lists(st.integers(1, 100), min_size=1, max_size=20), st.floats(0, 1, exclude_max=True))
def test_inverse_cdf_returns_the_stretch_that_holds_u(weights: list[int], u: float) -> None:
    """Each token owns a half-open stretch of [0, 1) as long as its probability."""
    law = law_of(*weights)
    token_id = inverse_cdf(law, u)
    before = float(law.probs[:token_id].sum())
    assert before - 1e-12 <= u <= before + law.probs[token_id] + 1e-12


def test_inverse_cdf_stays_inside_at_both_ends() -> None:
    """0 gives the first token, the largest float below 1 the last."""
    law = law_of(1, 1, 1)
    assert inverse_cdf(law, 0.0) == 0
    assert inverse_cdf(law, math.nextafter(1.0, 0.0)) == 2
