"""Acceptance rates and round lengths against their formulas, by enumeration where that is possible."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from paceline.common.acceptance import RULES, judge
from paceline.common.acceptance.testing import (
    Branches,
    BranchingDice,
    Propose,
    TableModel,
    Text,
    block,
    explore,
    history_of,
    propose_likeliest,
    propose_sampled,
)
from paceline.common.sampling.law import Law
from paceline.common.sampling.noise import gumbel_pick
from paceline.common.sampling.quantised import quantise
from paceline.common.sampling.rows import TargetRows
from paceline.common.tokens import How, Rule, SamplingParams

WARM = SamplingParams(temperature=1.0)


class ConstantModel(TableModel):
    """Says the same after every text, so that acceptance is independent and identical at every place."""

    def logits(self, text: Text) -> NDArray[np.float32]:
        """The row of the empty text."""
        return super().logits(())


def accepted_law(rule: Rule, propose: Propose, target: TableModel, length: int) -> NDArray[np.float64]:
    """Exact law of the number of accepted tokens of one block. float64 [length + 1]."""

    def run(branches: Branches) -> int:
        proposal = propose(branches, (), length)
        draft = proposal.draft
        rows = TargetRows(target.rows((), draft.token_ids), WARM, history_of(()), draft.token_ids)
        return RULES[rule].judge(draft, rows, BranchingDice(branches, proposal)).num_accepted

    law = np.zeros(length + 1)
    for num_accepted, weight in explore(run):
        law[num_accepted] += weight
    return law


def overlap(first: Law, second: Law, vocab_size: int) -> float:
    """sum_x min(first, second) = 1 - total variation."""
    return float(np.minimum(first.dense(vocab_size), second.dense(vocab_size)).sum())


def match_probability(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """sum_x 1 / sum_y max(first_y / first_x, second_y / second_x): equal picks under shared noise (R6)."""
    both = [x for x in range(len(first)) if first[x] > 0 and second[x] > 0]
    return sum(1.0 / float(np.maximum(first / first[x], second / second[x]).sum()) for x in both)


@pytest.mark.parametrize("seed", range(5))
def test_rejection_accepts_with_the_overlap_of_the_laws(seed: int) -> None:
    """R1: P(accept) = sum_x min(target, draft), for the quantised law that was sampled."""
    target, drafter = TableModel(5, seed), TableModel(5, 50 + seed)
    rejected, accepted = accepted_law(Rule.REJECTION, propose_sampled(drafter, WARM), target, 1)
    expected = overlap(target.law((), WARM), quantise(drafter.law((), WARM)).as_law(), 5)
    assert accepted == pytest.approx(expected, abs=1e-12)
    assert rejected == pytest.approx(1.0 - expected, abs=1e-12)


@pytest.mark.parametrize("rule", Rule)
@pytest.mark.parametrize("seed", range(3))
def test_a_deterministic_draft_is_accepted_with_its_target_probability(rule: Rule, seed: int) -> None:
    """R2: P(accept) = target(x) for one candidate, whether by matching or by rejection."""
    target, drafter = TableModel(5, seed), TableModel(5, 50 + seed)
    accepted = accepted_law(rule, propose_likeliest(drafter, WARM), target, 1)[1]
    likeliest = int(drafter.logits(()).argmax())
    assert accepted == pytest.approx(target.law((), WARM).prob(likeliest), abs=1e-12)


def test_independent_sampling_matches_with_the_product_sum() -> None:
    """Matching a token drawn with private noise succeeds with sum_x target(x) draft(x): why noise is shared."""
    target, drafter = TableModel(5, 1), TableModel(5, 2)
    accepted = accepted_law(Rule.COUPLED, propose_sampled(drafter, WARM), target, 1)[1]
    draft_probs = quantise(drafter.law((), WARM)).as_law().dense(5)
    assert accepted == pytest.approx(float((target.law((), WARM).dense(5) * draft_probs).sum()), abs=1e-12)


def test_shared_noise_is_accepted_as_often_as_the_formula_says() -> None:
    """R6: judged over many seeds, within four standard errors of the closed form."""
    target, drafter = TableModel(6, 4), TableModel(6, 5)
    rows = TargetRows(target.rows((), (0,)), WARM, history_of(()), (0,))
    draft_law, target_law = drafter.law((), WARM), target.law((), WARM)
    num_seeds, accepted = 8_000, 0
    for seed in range(num_seeds):
        draft = block((), (gumbel_pick(draft_law, seed, 0),), How.SHARED_NOISE)
        accepted += judge(Rule.COUPLED, draft, rows, seed).num_accepted
    expected = match_probability(target_law.dense(6), draft_law.dense(6))
    assert abs(accepted / num_seeds - expected) < 4 * math.sqrt(expected * (1 - expected) / num_seeds)


Weights = st.lists(st.integers(0, 50), min_size=5, max_size=5).filter(any)


@settings(deadline=None)
@given(Weights, Weights)
def test_shared_noise_lies_between_its_bound_and_the_best_possible(
    first: list[int], second: list[int]
) -> None:
    """(1 - TV) / (1 + TV) <= P(match) <= 1 - TV for any two laws."""
    a, b = np.array(first) / sum(first), np.array(second) / sum(second)
    total_variation = 0.5 * float(np.abs(a - b).sum())
    matched = match_probability(a, b)
    assert (1 - total_variation) / (1 + total_variation) - 1e-12 <= matched <= 1 - total_variation + 1e-12


@pytest.mark.parametrize("length", [1, 2, 3, 4])
@pytest.mark.parametrize("rule", [Rule.REJECTION, Rule.ONE_HOT])
def test_the_mean_round_length_follows_the_formula(rule: Rule, length: int) -> None:
    """T5: with independent acceptance at rate a, a round of n drafts emits (1 - a^(n+1)) / (1 - a) on average."""
    target, drafter = ConstantModel(3, 7), ConstantModel(3, 8)
    propose = propose_sampled(drafter, WARM) if rule is Rule.REJECTION else propose_likeliest(drafter, WARM)
    law = accepted_law(rule, propose, target, length)
    rate = accepted_law(rule, propose, target, 1)[1]
    emitted = float((law * (np.arange(length + 1) + 1)).sum())
    assert emitted == pytest.approx((1 - rate ** (length + 1)) / (1 - rate), abs=1e-12)
    # accepted / drafted is not the rate but a (1 - a^n) / (n (1 - a)); accepted / evaluated is.
    assert (emitted - 1) / length == pytest.approx(
        rate * (1 - rate**length) / (length * (1 - rate)), abs=1e-12
    )
    evaluated = float((law[:-1] * (np.arange(length) + 1)).sum()) + law[-1] * length
    assert (emitted - 1) / evaluated == pytest.approx(rate, abs=1e-12)
