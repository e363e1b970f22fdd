"""`judge` itself: origins, refusals, edge cases, and its agreement with the enumeration."""

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy import stats

import paceline.common.acceptance.base as base
from paceline.common.acceptance import RULES, check_draft, judge
from paceline.common.acceptance.base import Judgement
from paceline.common.acceptance.rejection import recovery_law
from paceline.common.acceptance.testing import (
    Branches,
    BranchingDice,
    Proposal,
    TableModel,
    Text,
    block,
    explore,
    history_of,
)
from paceline.common.errors import BadDraft, TargetNumerics
from paceline.common.sampling.law import Law, one_hot
from paceline.common.sampling.quantised import LATTICE, QuantisedLaw, quantise
from paceline.common.sampling.rows import NumpyLogitRows, TargetRows
from paceline.common.tokens import Draft, How, Origin, Rule, SamplingParams

GREEDY, WARM = SamplingParams(), SamplingParams(temperature=1.0)
TARGET, DRAFTER = TableModel(4, 11), TableModel(4, 12)
HOW = {
    Rule.GREEDY: How.ONE_HOT,
    Rule.ONE_HOT: How.ONE_HOT,
    Rule.COUPLED: How.SHARED_NOISE,
    Rule.REJECTION: How.SAMPLED,
}


def sure(*token_ids: int) -> tuple[QuantisedLaw, ...]:
    """Laws that hold nothing but the drafted tokens."""
    return tuple(QuantisedLaw((token_id,), (LATTICE,)) for token_id in token_ids)


def drafted(rule: Rule, *token_ids: int, text: Text = (), **rest: Any) -> Draft:
    """A well-formed draft for a rule."""
    laws = sure(*token_ids) if rule is Rule.REJECTION else ()
    return block(text, token_ids, HOW[rule], **({"laws": laws} | rest))


def rows_for(draft: Draft, params: SamplingParams, text: Text = ()) -> TargetRows:
    """The table target's rows for a draft."""
    return TargetRows(TARGET.rows(text, draft.token_ids), params, history_of(text), draft.token_ids)


def greedy_text(length: int) -> Text:
    """The target's greedy text."""
    text: Text = ()
    for _ in range(length):
        text = (*text, int(TARGET.logits(text).argmax()))
    return text


@pytest.mark.parametrize("rule", Rule)
def test_at_temperature_0_the_greedy_prefix_is_accepted(rule: Rule) -> None:
    """Under every rule: right tokens stand, the first wrong one is replaced, a full block earns a bonus."""
    right = greedy_text(4)
    wrong = (right[1] + 1) % 4
    for tokens, expected in (
        ((), Judgement(0, right[0], Origin.FILLED)),
        (right[:3], Judgement(3, right[3], Origin.BONUS)),
        ((right[0], wrong, right[2]), Judgement(1, right[1], Origin.RECOVERED)),
    ):
        draft = drafted(rule, *tokens)
        assert judge(rule, draft, rows_for(draft, GREEDY), 5) == expected


@pytest.mark.parametrize("rule", Rule)
@pytest.mark.parametrize("params", [GREEDY, WARM])
def test_more_follows_withholds_the_bonus_under_rejection_alone(rule: Rule, params: SamplingParams) -> None:
    """Only rejection leaves the place after a fully accepted block to the drafter's next token."""
    right = greedy_text(2)
    logits = TARGET.rows((), right)
    certain = NumpyLogitRows(
        np.stack([logits.row(i) + 1e6 * np.eye(4)[t] for i, t in enumerate((*right, 0))])
    )
    draft = drafted(rule, *right, more_follows=True)
    judgement = judge(rule, draft, TargetRows(certain, params, history_of(()), right), 5)
    expected = (None, None) if rule is Rule.REJECTION else (0, Origin.BONUS)
    assert judgement == Judgement(2, *expected)


def test_an_empty_rejection_block_is_filled_even_if_more_follows() -> None:
    """With nothing drafted there is nothing to wait for."""
    draft = drafted(Rule.REJECTION, more_follows=True)
    assert judge(Rule.REJECTION, draft, rows_for(draft, WARM), 5).next_origin is Origin.FILLED


def test_position_0_token_0_is_a_token_like_any_other() -> None:
    """Token id 0 is neither padding nor an absent token."""
    logits = NumpyLogitRows(np.array([[9.0, 0.0], [9.0, 0.0]], dtype=np.float32))
    for rule in Rule:
        draft = drafted(rule, 0)
        assert judge(rule, draft, TargetRows(logits, GREEDY, history_of(()), (0,)), 0) == Judgement(
            1, 0, Origin.BONUS
        )


@pytest.mark.parametrize("rule", [Rule.GREEDY, Rule.ONE_HOT, Rule.COUPLED])
@pytest.mark.parametrize("params", [GREEDY, WARM])
def test_matching_rules_emit_the_same_whatever_is_drafted(rule: Rule, params: SamplingParams) -> None:
    """For every possible draft of two tokens, what is emitted is a prefix of one and the same text."""
    texts = set()
    for tokens in itertools.product(range(4), repeat=2):
        draft = drafted(rule, *tokens)
        judgement = judge(rule, draft, rows_for(draft, params), 21)
        assert judgement.next_token_id is not None
        texts.add((*tokens[: judgement.num_accepted], judgement.next_token_id))
    longest = max(texts, key=len)
    assert len(longest) == 3
    assert all(text == longest[: len(text)] for text in texts)


@pytest.mark.parametrize("rule", [Rule.COUPLED, Rule.REJECTION])
def test_judge_has_the_law_the_enumeration_proves(rule: Rule) -> None:
    """Over seeds, the judgements of one fixed draft are distributed as their enumerated probabilities."""
    params = WARM
    laws = tuple(quantise(DRAFTER.law(text, params)) for text in ((), (2,)))
    tokens = tuple(law.token_ids[1] for law in laws)
    laws = (laws[0], quantise(DRAFTER.law(tokens[:1], params)))
    draft = block(
        (), (tokens[0], laws[1].token_ids[1]), HOW[rule], laws=laws if rule is Rule.REJECTION else ()
    )

    def run(branches: Branches) -> Judgement:
        return RULES[rule].judge(draft, rows_for(draft, params), BranchingDice(branches, Proposal(draft)))

    expected: Counter[Judgement] = Counter()
    for judgement, weight in explore(run):
        expected[judgement] += weight  # type: ignore[assignment]
    rows = rows_for(draft, params)
    seen = Counter(judge(rule, draft, rows, seed) for seed in range(6_000))
    assert set(seen) <= set(expected)
    assert len(expected) > 6
    counts = [seen[judgement] for judgement in expected]
    assert stats.chisquare(counts, [6_000 * weight for weight in expected.values()]).pvalue > 1e-4


@pytest.mark.parametrize("rule", Rule)
def test_a_verdict_depends_on_position_and_seed_alone(rule: Rule) -> None:
    """Judged twice, a block gets the same verdict; with other seeds, others."""
    draft = drafted(rule, 1, 2)
    assert judge(rule, draft, rows_for(draft, WARM), 9) == judge(rule, draft, rows_for(draft, WARM), 9)
    verdicts = {judge(rule, draft, rows_for(draft, WARM), seed) for seed in range(50)}
    assert len(verdicts) > 1


def test_a_token_of_target_probability_0_is_never_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even by a coin of exactly 0."""
    monkeypatch.setattr(base, "uniform", lambda *_: 0.0)
    logits = NumpyLogitRows(np.array([[-math.inf, 0.0]] * 2, dtype=np.float32))
    draft = drafted(Rule.REJECTION, 0)
    judgement = judge(Rule.REJECTION, draft, TargetRows(logits, WARM, history_of(()), (0,)), 0)
    assert judgement == Judgement(0, 1, Origin.RECOVERED)


def test_a_token_at_least_as_likely_for_the_target_is_always_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not even the largest coin refuses it."""
    monkeypatch.setattr(base, "uniform", lambda *_: math.nextafter(1.0, 0.0))
    logits = NumpyLogitRows(np.array([[0.0, 0.0]] * 2, dtype=np.float32))
    draft = block((), (0,), How.SAMPLED, laws=(QuantisedLaw((0, 1), (512, 512)),))
    assert judge(Rule.REJECTION, draft, TargetRows(logits, WARM, history_of(()), (0,)), 0).num_accepted == 1


def test_the_recovery_law_of_equal_laws_is_the_target() -> None:
    """A normaliser of 0, or of rounding noise, is never divided by (methods E1)."""
    law = Law(np.array([1, 4, 6]), np.array([0.2, 0.3, 0.5]))
    assert recovery_law(law, law) is law
    noisy = Law(law.token_ids, law.probs - np.array([1e-17, 0.0, 6e-17]))
    assert recovery_law(law, noisy) is law


def test_the_recovery_law_is_the_normalised_positive_part() -> None:
    """Supports may differ in any way; tokens without residual leave the support."""
    target = Law(np.array([1, 4, 6]), np.array([0.2, 0.3, 0.5]))
    residual = recovery_law(target, Law(np.array([0, 4, 6, 9]), np.array([0.1, 0.5, 0.1, 0.3])))
    assert residual.token_ids.tolist() == [1, 6]
    assert residual.probs == pytest.approx([0.2 / 0.6, 0.4 / 0.6], abs=1e-15)
    assert recovery_law(target, one_hot(6)).dense(7) == pytest.approx(
        [0.0, 0.4, 0.0, 0.0, 0.6, 0.0, 0.0], abs=1e-15
    )
    assert recovery_law(target, one_hot(99)).probs == pytest.approx(target.probs, abs=1e-15)


def test_rejection_refuses_shared_noise_and_names_the_cure() -> None:
    """The coin would not be independent of the draft."""
    draft = block((), (1,), How.SHARED_NOISE)
    with pytest.raises(
        BadDraft, match="rule rejection would be biased by drafts chosen by shared-noise"
    ) as e:
        judge(Rule.REJECTION, draft, rows_for(draft, WARM), 0)
    assert e.value.field == "how"
    assert e.value.cure == "choose drafts by one-hot or sampled, or open with rule coupled"


def test_matching_rules_take_any_draft() -> None:
    """What is emitted is the target's own pick, so no way of drafting can bias it."""
    for rule, how in itertools.product([Rule.GREEDY, Rule.ONE_HOT, Rule.COUPLED], How):
        draft = block((), (1,), how, laws=sure(1) if how is How.SAMPLED else ())
        check_draft(rule, draft, 4)
        judge(rule, draft, rows_for(draft, WARM), 0)


@pytest.mark.parametrize(
    ("draft", "complaint"),
    [
        (block((), (1, 2), How.SAMPLED, laws=sure(1)), "2 sampled tokens came with 1 laws"),
        (block((), (1,), How.SAMPLED), "1 sampled tokens came with 0 laws"),
        (block((), (1,), How.ONE_HOT, laws=sure(1)), "drafts chosen by one-hot carry no laws"),
        (block((), (1,), How.SAMPLED, laws=sure(2)), "token 1 has probability 0 under the law"),
        (block((), (1,), How.SAMPLED, laws=(QuantisedLaw((1,), (9,)),)), "sum to 9, not to 1024"),
        (block((), (1,), How.SAMPLED, laws=(QuantisedLaw((1, 9), (1000, 24)),)), "token id 9 of a law"),
        (block((), (1, 4), How.ONE_HOT), r"token id 4 is not in 0\.\.3"),
        (block((), (-1,), How.ONE_HOT), r"token id -1 is not in 0\.\.3"),
    ],
)
def test_malformed_drafts_are_refused_before_any_work(draft: Draft, complaint: str) -> None:
    """What is wrong is named, and the stream may go on."""
    with pytest.raises(BadDraft, match=complaint) as caught:
        check_draft(Rule.REJECTION, draft, 4)
    assert not caught.value.fatal


def test_a_broken_row_is_only_met_when_it_is_reached() -> None:
    """NaN after the first rejection harms nobody; NaN in a needed row is the target's failure."""
    logits = np.zeros((2, 3), dtype=np.float32)
    logits[0, 2] = 1e6
    logits[1, 0] = math.nan
    for token_id, reached in (0, False), (2, True):
        draft = block((), (token_id,), How.ONE_HOT)
        for rule in Rule.ONE_HOT, Rule.REJECTION:
            rows = TargetRows(NumpyLogitRows(logits), WARM, history_of(()), draft.token_ids)
            if reached:
                with pytest.raises(TargetNumerics):
                    judge(rule, draft, rows, 0)
            else:
                assert judge(rule, draft, rows, 0).num_accepted == 0


def test_the_draft_probabilities_on_the_draft_decide_nothing() -> None:
    """Rejection reads the laws; a peer cannot buy acceptance with small probabilities."""
    honest = block((), (1, 2), How.SAMPLED, laws=sure(1, 2))
    boastful = Draft(0, 0, (1, 2), (1e-9, 1e-9), How.SAMPLED, laws=sure(1, 2))
    for seed in range(50):
        rows = rows_for(honest, WARM)
        assert judge(Rule.REJECTION, honest, rows, seed) == judge(Rule.REJECTION, boastful, rows, seed)
