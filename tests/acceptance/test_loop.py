"""Whole generations with the real drafter, the real dice and the real rules: equality, and chi-square."""

import itertools

import numpy as np
import pytest
from scipy import stats

from paceline.common.acceptance import RULES
from paceline.common.acceptance.base import SeededDice
from paceline.common.acceptance.testing import Pair, TableModel, Text, speculate, target_joint
from paceline.common.tokens import Rule, SamplingParams

ALPHA = 1e-4
WARM = SamplingParams(temperature=1.0)
PENALISED = SamplingParams(temperature=0.9, top_p=0.95, presence_penalty=0.8, repetition_penalty=1.2)
TARGET = TableModel(3, 31)


def generate(
    rule: Rule, pair: Pair, seed: int, num_tokens: int = 3, block_lengths: tuple[int, ...] = (2, 1)
) -> Text:
    """One generation."""
    return speculate(
        RULES[rule].judge,
        pair.chooser(rule, seed),
        SeededDice(seed),
        pair,
        num_tokens=num_tokens,
        block_lengths=block_lengths,
    )


def loop_p_value(rule: Rule, pair: Pair, num_texts: int) -> float:
    """Chi-square of the joint law of the first three tokens, over seeds."""
    expected = target_joint(pair.target, pair.params, 3) * num_texts
    seen = np.zeros_like(expected)
    for seed in range(num_texts):
        seen[generate(rule, pair, seed)] += 1
    assert not seen[expected == 0].any()
    likely = expected >= 5
    observed = np.append(seen[likely], seen[~likely].sum())
    wanted = np.append(expected[likely], expected[~likely].sum())
    kept = wanted > 0
    return float(stats.chisquare(observed[kept], wanted[kept]).pvalue)


@pytest.mark.parametrize("rule", Rule)
@pytest.mark.parametrize("params", [WARM, PENALISED], ids=["plain", "penalised"])
def test_the_loop_has_the_targets_law(rule: Rule, params: SamplingParams) -> None:
    """Two thousand texts of three tokens, drafted by a model that disagrees, are the target's."""
    assert loop_p_value(rule, Pair(TableModel(3, 32), TARGET, params), 2_000) > ALPHA


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("rule", [Rule.COUPLED, Rule.REJECTION])
@pytest.mark.parametrize("params", [WARM, PENALISED], ids=["plain", "penalised"])
def test_the_loop_has_the_targets_law_over_many_texts(rule: Rule, params: SamplingParams) -> None:
    """The same with a hundred thousand texts."""
    assert loop_p_value(rule, Pair(TableModel(3, 33), TARGET, params), 100_000) > ALPHA


@pytest.mark.parametrize("rule", [Rule.COUPLED, Rule.ONE_HOT, Rule.GREEDY])
@pytest.mark.parametrize("params", [SamplingParams(), WARM, PENALISED], ids=["greedy", "plain", "penalised"])
def test_matching_rules_write_one_text_per_seed(rule: Rule, params: SamplingParams) -> None:
    """The text does not depend on the drafter, the block lengths or which matching rule it is."""
    target = TableModel(20, 1)
    for seed in range(3):
        plain = generate(Rule.COUPLED, Pair(target, target, params), seed, 25, (0,))
        for drafter_seed, blocks in itertools.product((1, 2, 3), ((1,), (4,), (3, 0, 7))):
            pair = Pair(TableModel(20, drafter_seed), target, params)
            assert generate(rule, pair, seed, 25, blocks) == plain


@pytest.mark.parametrize("rule", Rule)
def test_at_temperature_0_every_rule_decodes_greedily(rule: Rule) -> None:
    """Any drafter, any block lengths, any rule: the target's greedy text."""
    target = TableModel(20, 2)
    text: Text = ()
    for _ in range(25):
        text = (*text, int(target.logits(text).argmax()))
    for drafter_seed in (2, 3):
        assert (
            generate(rule, Pair(TableModel(20, drafter_seed), target, SamplingParams()), 5, 25, (4, 1))
            == text
        )


@pytest.mark.parametrize("rule", [Rule.COUPLED, Rule.REJECTION])
def test_a_drafter_equal_to_the_target_is_nearly_always_right(rule: Rule) -> None:
    """With the target as its own drafter, coupling accepts everything; rejection all but the rounding."""
    target = TableModel(8, 3)
    pair = Pair(target, target, WARM)
    calls = []

    def counting(draft, rows, dice):  # type: ignore[no-untyped-def]
        judgement = RULES[rule].judge(draft, rows, dice)
        calls.append(judgement.num_accepted / len(draft))
        return judgement

    for seed in range(20):
        speculate(
            counting, pair.chooser(rule, seed), SeededDice(seed), pair, num_tokens=20, block_lengths=(4,)
        )
    assert np.mean(calls) == 1.0 if rule is Rule.COUPLED else np.mean(calls) > 0.98
