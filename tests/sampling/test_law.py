"""From logits to the law that is asked for, against a slow and obvious version."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from paceline.common.errors import InvalidRequest, TargetNumerics
from paceline.common.sampling.history import History
from paceline.common.sampling.law import greedy_token, largest, target_law
from paceline.common.tokens import SamplingParams

EMPTY = History()


def obvious_law(logits: NDArray[np.float32], params: SamplingParams, history: History) -> NDArray[np.float64]:
    """The law written token by token in the documented order, as a dense row."""
    row = [float(x) for x in logits]
    for token_id, bias in params.logit_bias.items():
        row[token_id] += bias
    token_ids, counts = history.seen()
    for token_id, count in zip(token_ids.tolist(), counts.tolist(), strict=True):
        if row[token_id] > 0:
            row[token_id] /= params.repetition_penalty
        else:
            row[token_id] *= params.repetition_penalty
        row[token_id] -= params.presence_penalty * (count > 0) + params.frequency_penalty * count
    order = sorted(range(len(row)), key=lambda token_id: (-row[token_id], token_id))
    order = order[: params.top_k] if params.top_k else order
    weights = {token_id: math.exp((row[token_id] - row[order[0]]) / params.temperature) for token_id in order}
    total, reached, kept = sum(weights.values()), 0.0, []
    for token_id in order:
        if reached >= params.top_p * total and params.top_p < 1.0:
            break
        reached += weights[token_id]
        if weights[token_id] >= params.min_p:
            kept.append(token_id)
    dense = np.zeros(len(row))
    dense[kept] = [weights[token_id] for token_id in kept]
    return dense / dense.sum()


@st.composite
def any_params(draw: st.DrawFn) -> SamplingParams:
    """Sampling parameters in and around the ranges people use."""
    return SamplingParams(
        temperature=draw(st.sampled_from([0.3, 0.7, 1.0, 1.8])),
        top_k=draw(st.sampled_from([0, 0, 1, 3, 40, 10_000])),
        top_p=draw(st.sampled_from([1.0, 0.999, 0.95, 0.5, 1e-6])),
        min_p=draw(st.sampled_from([0.0, 0.0, 1e-4, 0.1, 1.0])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.3, 0.8])),
        presence_penalty=draw(st.sampled_from([0.0, 0.7, -1.0])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.4, -0.2])),
        logit_bias=draw(st.sampled_from([{}, {0: 2.5, 3: -100.0}])),
    )


@settings(deadline=None, max_examples=150)
@given(any_params(), st.integers(0, 2**32), st.sampled_from([5, 60, 700]), st.sampled_from([0.5, 3.0]))
def test_the_law_equals_the_obvious_one(
    params: SamplingParams, seed: int, vocab_size: int, scale: float
) -> None:
    """Whatever is asked for, support and probabilities are those of the slow version."""
    generator = np.random.default_rng(seed)
    logits = (scale * generator.standard_normal(vocab_size)).astype(np.float32)
    history = History(generator.integers(vocab_size, size=4).tolist())
    for token_id in generator.integers(vocab_size, size=6).tolist():
        history.push(token_id)
    law = target_law(logits, params, history)
    expected = obvious_law(logits, params, history)
    assert np.abs(law.dense(vocab_size) - expected).max() < 3e-6
    assert abs(law.probs.sum() - 1.0) < 1e-9
    assert (law.probs > 0).all()
    assert (np.diff(law.token_ids) > 0).all()


@pytest.mark.parametrize("vocab_size", [2_048, 2_049, 32_000, 152_000])
@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.95, 0.9999])
def test_the_nucleus_of_a_large_vocabulary_is_the_sorted_one(
    vocab_size: int, scale: float, top_p: float
) -> None:
    """Narrowing by a sample finds exactly the tokens a full sort finds."""
    logits = (scale * np.random.default_rng(vocab_size).standard_normal(vocab_size)).astype(np.float32)
    law = target_law(logits, SamplingParams(temperature=0.8, top_p=top_p), EMPTY)
    order = np.argsort(-logits, kind="stable")
    weights = np.exp((logits[order].astype(np.float64) - logits.max()) / 0.8)
    reached = weights.cumsum() / weights.sum()
    surely = set(order[: int(reached.searchsorted(top_p - 2e-6))].tolist())
    possibly = set(order[: int(reached.searchsorted(top_p + 2e-6)) + 1].tolist())
    found = set(law.token_ids.tolist())
    assert surely <= found <= possibly
    assert found == set(order[: len(found)].tolist())


@pytest.mark.parametrize("pattern", ["constant", "sawtooth", "two levels", "one peak", "sorted"])
@pytest.mark.parametrize("top_p", [0.3, 0.95, 1.0])
@pytest.mark.parametrize("top_k", [0, 7, 5_000])
def test_awkward_rows_get_the_smallest_nucleus_with_the_lowest_ids(
    pattern: str, top_p: float, top_k: int
) -> None:
    """Ties and rows in step with the sample neither widen the nucleus nor change who is in it."""
    steps = np.arange(20_000)
    rows = {
        "constant": np.zeros(20_000),
        "sawtooth": (steps % 29) / 10.0,
        "two levels": (steps % 29 == 0) * 3.0,
        "one peak": (steps == 777) * 30.0,
        "sorted": -steps / 5000.0,
    }
    logits = rows[pattern].astype(np.float32)
    law = target_law(logits, SamplingParams(temperature=1.0, top_p=top_p, top_k=top_k), EMPTY)
    order = np.argsort(-logits, kind="stable")[: top_k or None]
    weights = np.exp(logits[order].astype(np.float64) - logits.max())
    size = len(order) if top_p == 1.0 else int((weights.cumsum() / weights.sum()).searchsorted(top_p)) + 1
    assert abs(len(law.token_ids) - size) <= 1
    assert np.array_equal(law.token_ids, np.sort(order[: len(law.token_ids)]))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from([1, 2, 10, 500, 4_999, 5_000]), st.integers(1, 6))
def test_the_largest_are_those_a_stable_sort_puts_first(seed: int, k: int, num_levels: int) -> None:
    """With many ties, the lowest indices are kept, and exactly `k` of them."""
    values = np.random.default_rng(seed).integers(10**num_levels, size=5_000).astype(np.float32)
    assert np.array_equal(largest(values, k), np.sort(np.argsort(-values, kind="stable")[:k]))


def test_top_k_keeps_exactly_k_of_equal_tokens() -> None:
    """Ties at the k-th place go to the lowest token ids."""
    law = target_law(np.zeros(9, dtype=np.float32), SamplingParams(temperature=1.0, top_k=4), EMPTY)
    assert law.token_ids.tolist() == [0, 1, 2, 3]
    assert law.probs.tolist() == [0.25] * 4


def test_temperature_0_is_the_lowest_argmax() -> None:
    """At temperature 0 the law is one-hot at the first of the tied maxima, token id 0 included."""
    params = SamplingParams()
    for row, winner in ([2.0, 2.0, 1.0], 0), ([1.0, 3.0, 3.0], 1):
        logits = np.array(row, dtype=np.float32)
        law = target_law(logits, params, EMPTY)
        assert (law.token_ids.tolist(), law.probs.tolist()) == ([winner], [1.0])
        assert greedy_token(logits, params, EMPTY) == winner


def test_penalties_move_the_greedy_token() -> None:
    """The argmax is taken after bias and penalties."""
    logits = np.array([1.0, 0.9, 0.0], dtype=np.float32)
    history = History()
    history.push(0)
    assert greedy_token(logits, SamplingParams(), history) == 0
    assert greedy_token(logits, SamplingParams(repetition_penalty=1.5), history) == 1
    assert greedy_token(logits, SamplingParams(presence_penalty=0.5), history) == 1
    assert greedy_token(logits, SamplingParams(frequency_penalty=0.5), history) == 1
    assert greedy_token(logits, SamplingParams(logit_bias={2: 5.0}), history) == 2


def test_presence_and_frequency_spare_the_prompt() -> None:
    """Only the repetition penalty looks at the prompt."""
    logits = np.array([1.0, 0.9], dtype=np.float32)
    prompted = History([0])
    assert greedy_token(logits, SamplingParams(presence_penalty=2.0), prompted) == 0
    assert greedy_token(logits, SamplingParams(frequency_penalty=2.0), prompted) == 0
    assert greedy_token(logits, SamplingParams(repetition_penalty=2.0), prompted) == 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [[1.0, math.nan], [math.nan, 1.0], [1.0, math.inf], [-math.inf, -math.inf]])
@pytest.mark.parametrize("penalty", [1.0, 1.2])
def test_broken_rows_are_refused(temperature: float, bad: list[float], penalty: float) -> None:
    """NaN, +inf and a row that forbids everything raise TargetNumerics, at any temperature."""
    params = SamplingParams(temperature=temperature, repetition_penalty=penalty)
    history = History([0])
    with pytest.raises(TargetNumerics):
        target_law(np.array(bad, dtype=np.float32), params, history)
    if temperature == 0.0:
        with pytest.raises(TargetNumerics):
            greedy_token(np.array(bad, dtype=np.float32), params, history)


def test_forbidden_tokens_have_no_mass() -> None:
    """-inf, the lowest float and mass that underflows all leave the support, without a warning."""
    lowest = np.finfo(np.float32).min
    logits = np.array([-math.inf, 5.0, lowest, 4.0, -1e9], dtype=np.float32)
    for params in (
        SamplingParams(temperature=0.01, top_p=0.9999999),
        SamplingParams(temperature=0.01),
        SamplingParams(temperature=1.0, top_k=4, top_p=0.99999999),
        SamplingParams(temperature=1.0, top_k=4),
        SamplingParams(temperature=1.0, logit_bias={1: 3.0}),
    ):
        law = target_law(logits, params, EMPTY)
        assert set(law.token_ids.tolist()) <= {1, 3}
        assert law.prob(0) == law.prob(2) == law.prob(4) == law.prob(99) == 0.0


def test_the_input_row_is_left_alone() -> None:
    """Rows may be views of shared or read-only memory."""
    logits = np.linspace(0, 1, 50, dtype=np.float32)
    logits.flags.writeable = False
    history = History([3])
    law = target_law(logits, SamplingParams(0.5, 10, 0.9, 0.01, 1.1, 0.2, 0.2, {1: 1.0}), history)
    assert law.prob(49) > 0


def test_a_bias_outside_the_vocabulary_is_named() -> None:
    """A bias for a token that does not exist is the caller's mistake, not an index error."""
    with pytest.raises(InvalidRequest, match=r"logit_bias: token id 7 is not in 0\.\.4"):
        target_law(np.zeros(5, dtype=np.float32), SamplingParams(temperature=1.0, logit_bias={7: 1.0}), EMPTY)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=5e-324, top_p=0.9),
        SamplingParams(temperature=1e-300),
        SamplingParams(temperature=1.0, repetition_penalty=5e-324, top_p=0.9),
        SamplingParams(temperature=1.0, logit_bias={1: 1e300, 2: -1e300}, top_p=0.9),
        SamplingParams(temperature=5e-324, repetition_penalty=5e-324, logit_bias={1: 1e300}),
    ],
    ids=str,
)
def test_the_most_extreme_parameters_still_name_a_law(params: SamplingParams) -> None:
    """What passes the range check never makes NaN or a warning out of a healthy row."""
    history = History([1])
    law = target_law(np.array([1.0, 3.0, 2.0], dtype=np.float32), params, history)
    assert law.token_ids.tolist() == [1]
    assert law.probs.tolist() == [1.0]


@pytest.mark.parametrize(
    "params", [SamplingParams(temperature=1e-300), SamplingParams(temperature=1e-300, top_p=0.5)]
)
def test_a_vanishing_temperature_keeps_ties(params: SamplingParams) -> None:
    """Above temperature 0, equal logits stay equally likely; top-p may then prefer the lowest."""
    law = target_law(np.array([3.0, 1.0, 3.0], dtype=np.float32), params, EMPTY)
    assert law.token_ids.tolist() == ([0, 2] if params.top_p == 1.0 else [0])
