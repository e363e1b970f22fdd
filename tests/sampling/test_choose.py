"""What the drafter proposes under each rule."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from paceline.common.errors import TargetNumerics
from paceline.common.sampling.choose import Chooser
from paceline.common.sampling.history import History
from paceline.common.sampling.law import target_law
from paceline.common.sampling.noise import gumbel_pick
from paceline.common.sampling.quantised import quantise
from paceline.common.tokens import How, Rule, SamplingParams

WARM = SamplingParams(temperature=0.8, top_p=0.9)
EMPTY = History()


def logits_of(seed: int, vocab_size: int = 30) -> NDArray[np.float32]:
    """A random row."""
    return np.random.default_rng(seed).standard_normal(vocab_size).astype(np.float32)


@pytest.mark.parametrize(
    ("rule", "how"),
    [
        (Rule.GREEDY, How.ONE_HOT),
        (Rule.ONE_HOT, How.ONE_HOT),
        (Rule.COUPLED, How.SHARED_NOISE),
        (Rule.REJECTION, How.SAMPLED),
    ],
)
def test_each_rule_has_its_way_of_choosing(rule: Rule, how: How) -> None:
    """The word written on the draft follows from the rule, at any temperature."""
    assert Chooser(rule, WARM, 0, 30).how is how
    assert Chooser(rule, SamplingParams(), 0, 30).how is how


@pytest.mark.parametrize("rule", [Rule.GREEDY, Rule.ONE_HOT])
def test_deterministic_drafts_are_the_likeliest_token(rule: Rule) -> None:
    """Greedy and one-hot propose the argmax, with its probability under the law asked for."""
    logits = logits_of(1)
    choice = Chooser(rule, WARM, 0, 30).choose(logits, 5, EMPTY)
    assert choice.token_id == logits.argmax()
    assert choice.prob == target_law(logits, WARM, EMPTY).prob(choice.token_id)
    assert choice.law is None


@pytest.mark.parametrize("rule", [Rule.GREEDY, Rule.ONE_HOT, Rule.COUPLED])
def test_at_temperature_0_confidence_is_the_plain_softmax(rule: Rule) -> None:
    """A probability of 1 for every greedy token would tell a controller nothing."""
    logits = logits_of(2)
    choice = Chooser(rule, SamplingParams(), 0, 30).choose(logits, 5, EMPTY)
    softmax = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum()
    assert choice.token_id == logits.argmax()
    assert choice.prob == pytest.approx(softmax.max(), rel=1e-5)


def test_coupled_drafts_use_the_noise_the_verifier_uses() -> None:
    """Given equal rows, drafter and verifier pick the same token at every position."""
    logits = logits_of(3)
    law = target_law(logits, WARM, EMPTY)
    chooser = Chooser(Rule.COUPLED, WARM, 42, 30)
    choices = [chooser.choose(logits, position, EMPTY) for position in range(200)]
    assert [choice.token_id for choice in choices] == [
        gumbel_pick(law, 42, position) for position in range(200)
    ]
    assert len({choice.token_id for choice in choices}) > 3
    assert all(choice.prob == law.prob(choice.token_id) for choice in choices)


def test_sampled_drafts_come_from_the_law_that_travels() -> None:
    """Over positions, tokens have the quantised law, which is the one on the choice."""
    logits = logits_of(4)
    law = quantise(target_law(logits, WARM, EMPTY))
    chooser = Chooser(Rule.REJECTION, WARM, 42, 30)
    choices = [chooser.choose(logits, position, EMPTY) for position in range(5_000)]
    assert all(choice.law == law and choice.prob == law.prob(choice.token_id) > 0 for choice in choices)
    drawn = [choice.token_id for choice in choices]
    counts = [drawn.count(token_id) for token_id in law.token_ids]
    assert stats.chisquare(counts, [5_000 * law.prob(token_id) for token_id in law.token_ids]).pvalue > 1e-4


def test_rejection_at_temperature_0_sends_a_one_hot_law() -> None:
    """The law of a greedy drafter has one token."""
    choice = Chooser(Rule.REJECTION, SamplingParams(), 0, 30).choose(logits_of(5), 0, EMPTY)
    assert choice.law is not None
    assert choice.law.token_ids == (choice.token_id,)
    assert choice.prob == 1.0


@pytest.mark.parametrize("rule", Rule)
@pytest.mark.parametrize("params", [SamplingParams(), WARM])
def test_rows_beyond_the_targets_vocabulary_are_never_chosen(rule: Rule, params: SamplingParams) -> None:
    """A draft model with a padded vocabulary proposes only ids the target knows."""
    logits = logits_of(6)
    logits[20:] = 50.0
    chooser = Chooser(rule, params, 0, 20)
    assert all(chooser.choose(logits, position, EMPTY).token_id < 20 for position in range(50))


@pytest.mark.parametrize("rule", Rule)
@pytest.mark.parametrize("params", [SamplingParams(), WARM])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_draft_model_is_named(rule: Rule, params: SamplingParams, bad: float) -> None:
    """The error says that the draft model failed, where, and that the generation can go on."""
    logits = logits_of(7)
    logits[3] = bad
    with pytest.raises(TargetNumerics, match=r"draft model failed at position 17.*go on without drafts"):
        Chooser(rule, params, 0, 30).choose(logits, 17, EMPTY)


def test_a_choice_is_a_function_of_row_position_and_seed() -> None:
    """A drafter rolled back and run again proposes the same token; another seed need not."""
    logits = logits_of(8)
    for rule in Rule:
        once, again = Chooser(rule, WARM, 1, 30), Chooser(rule, WARM, 1, 30)
        for position in (9, 3, 9):
            assert once.choose(logits, position, EMPTY) == again.choose(logits, position, EMPTY)


def test_penalties_reach_the_drafter() -> None:
    """A penalised token is no longer proposed."""
    logits = np.array([1.0, 0.9], dtype=np.float32)
    history = History()
    history.push(0)
    params = SamplingParams(frequency_penalty=1.0)
    choice = Chooser(Rule.GREEDY, params, 0, 2).choose(logits, 1, history)
    assert choice.token_id == 1
    assert choice.prob == pytest.approx(1 / (1 + math.exp(0.0 - 0.9)), rel=1e-5)
