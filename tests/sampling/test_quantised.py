"""Laws small enough to travel."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from paceline.common.errors import BadDraft
from paceline.common.sampling.law import Law, one_hot
from paceline.common.sampling.noise import Purpose, uniform
from paceline.common.sampling.quantised import LATTICE, QuantisedLaw, check_quantised, quantise, sample


@st.composite
def laws(draw: st.DrawFn) -> Law:
    """Laws from one token to many, from flat to extremely peaked."""
    size = draw(st.sampled_from([1, 2, 3, 9, 10, 11, 300, 5_000]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    weights = np.exp(draw(st.sampled_from([0.0, 1.0, 5.0, 30.0])) * generator.standard_normal(size)) + 1e-300
    return Law(np.sort(generator.choice(3 * size, size, replace=False)), weights / weights.sum())


@settings(deadline=None)
@given(laws(), st.integers(1, 12))
def test_quantising_gives_a_valid_law_of_the_likeliest(law: Law, max_tokens: int) -> None:
    """Whatever the law, the result passes the verifier's check and keeps a likeliest token."""
    quantised = quantise(law, max_tokens)
    check_quantised(quantised, int(law.token_ids[-1]) + 1)
    assert len(quantised.token_ids) <= max_tokens
    assert list(quantised.token_ids) == sorted(quantised.token_ids)
    assert int(law.token_ids[law.probs.argmax()]) in quantised.token_ids
    kept = [law.prob(token_id) for token_id in quantised.token_ids]
    dropped = set(law.token_ids.tolist()) - set(quantised.token_ids)
    if dropped and len(kept) == max_tokens:
        assert min(kept) >= max(law.prob(token_id) for token_id in dropped)


@settings(deadline=None)
@given(laws())
def test_rounding_moves_no_probability_by_a_whole_step(law: Law) -> None:
    """Largest remainder keeps every weight within one of its share."""
    quantised = quantise(law, 10)
    kept = np.sort(law.probs)[::-1][:10].sum()
    for token_id, weight in zip(quantised.token_ids, quantised.weights, strict=True):
        assert abs(weight - LATTICE * law.prob(token_id) / kept) < 1.0


def test_ties_are_rounded_towards_the_lowest_ids() -> None:
    """Three equal tokens share 1024 as 342, 341, 341."""
    assert quantise(Law(np.array([4, 5, 9]), np.full(3, 1 / 3))) == QuantisedLaw((4, 5, 9), (342, 341, 341))


def test_a_negligible_token_drops_out() -> None:
    """A share that rounds to 0 leaves the law instead of staying with weight 0."""
    law = quantise(Law(np.array([1, 2]), np.array([1 - 1e-6, 1e-6])))
    assert law == QuantisedLaw((1,), (LATTICE,))
    assert law.prob(1) == 1.0
    assert law.prob(2) == 0.0


def test_probabilities_are_exact_floats_that_sum_to_exactly_1() -> None:
    """The lattice is a power of two, so nothing is lost on the wire or in sums."""
    law = quantise(Law(np.arange(7), np.array([0.4, 0.3, 0.1, 0.1, 0.05, 0.03, 0.02])))
    assert sum(law.prob(token_id) for token_id in range(7)) == 1.0
    assert law.as_law().probs.sum() == 1.0
    assert law.as_law().dense(8).tolist() == [law.prob(token_id) for token_id in range(8)]


def test_a_law_in_any_order_becomes_an_ascending_one() -> None:
    """A peer may list tokens in another order; nothing downstream notices."""
    law = QuantisedLaw((9, 2), (1000, 24)).as_law()
    assert law.token_ids.tolist() == [2, 9]
    assert law.prob(9) == 1000 / LATTICE


def test_samples_have_the_quantised_law() -> None:
    """Over positions, samples are distributed as the weights say."""
    law = QuantisedLaw((3, 7, 8, 20), (600, 300, 100, 24))
    drawn = [sample(law, uniform(5, position, Purpose.DRAFT)) for position in range(20_000)]
    counts = [drawn.count(token_id) for token_id in law.token_ids]
    assert stats.chisquare(counts, [20_000 * weight / LATTICE for weight in law.weights]).pvalue > 1e-4


def test_every_lattice_step_belongs_to_exactly_its_token() -> None:
    """Counting all 1024 steps gives back the weights."""
    law = QuantisedLaw((3, 7, 8), (1, 1000, 23))
    drawn = [sample(law, step / LATTICE) for step in range(LATTICE)]
    assert [drawn.count(token_id) for token_id in law.token_ids] == list(law.weights)
    assert sample(law, math.nextafter(1.0, 0.0)) == 8


def test_a_law_of_ten_large_ids_fits_the_wire_budget() -> None:
    """Ten ids of three varint bytes, ten weights of two, the token and its probability: at most 64 bytes."""
    law = quantise(Law(np.arange(151_000, 151_030), np.full(30, 1 / 30)))
    assert len(law.token_ids) == 10
    varint_bytes = [(max(number.bit_length(), 1) + 6) // 7 for number in (*law.token_ids, *law.weights)]
    assert sum(varint_bytes) + 3 + 4 <= 64


@pytest.mark.parametrize(
    ("token_ids", "weights", "complaint"),
    [
        ((1, 2), (LATTICE,), "2 token ids but 1 weights"),
        ((), (), "empty"),
        ((1, 2), (LATTICE + 1, -1), "weight -1 of token 2 is not a positive"),
        ((1, 2), (LATTICE, 0), "weight 0 of token 2 is not a positive"),
        ((1, 2), (1000.0, 24), "weight 1000.0 of token 1 is not a positive whole"),
        ((1, 2), (math.nan, 24), "weight nan of token 1"),
        ((1,), (math.inf,), "weight inf of token 1"),
        ((1, 50), (1000, 24), r"token id 50 of a law is not a whole number in 0\.\.49"),
        ((-1,), (LATTICE,), r"token id -1 of a law"),
        ((1.5,), (LATTICE,), r"token id 1.5 of a law"),
        ((3, 3), (1000, 24), "names a token twice"),
        ((1, 2), (1000, 25), "sum to 1025, not to 1024"),
        ((1,), (1,), "sum to 1, not to 1024"),
    ],
)
def test_what_is_no_law_is_refused_by_name(token_ids: Any, weights: Any, complaint: str) -> None:
    """An untrusted law is refused with what is wrong about it."""
    with pytest.raises(BadDraft, match=complaint):
        check_quantised(QuantisedLaw(token_ids, weights), 50)


def test_without_a_vocabulary_ids_are_only_bounded_by_32_bits() -> None:
    """The range check is optional, the rest is not."""
    check_quantised(QuantisedLaw((2**32 - 1,), (LATTICE,)))
    with pytest.raises(BadDraft, match="token id 4294967296"):
        check_quantised(QuantisedLaw((2**32,), (LATTICE,)))


def test_a_one_hot_law_stays_one_hot() -> None:
    """Temperature 0 travels as one token with all the weight."""
    assert quantise(one_hot(77)) == QuantisedLaw((77,), (LATTICE,))
