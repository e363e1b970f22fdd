"""Known ways to get it wrong. Each must fail a check that the real code passes (methods T6)."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy import stats

import paceline.common.acceptance.base as base
from paceline.common.acceptance import RULES, check_draft
from paceline.common.acceptance.base import Dice, Judgement, SeededDice, follow
from paceline.common.acceptance.rejection import recovery_law
from paceline.common.acceptance.testing import (
    Branches,
    Judge,
    Pair,
    Proposal,
    Propose,
    TableModel,
    Text,
    block,
    exactness_error,
    options,
    propose_sampled,
    propose_shared_noise,
    speculate,
    target_joint,
)
from paceline.common.errors import BadDraft
from paceline.common.sampling.history import History
from paceline.common.sampling.law import Law, one_hot, target_law
from paceline.common.sampling.noise import Purpose, inverse_cdf, uniform
from paceline.common.sampling.quantised import quantise
from paceline.common.sampling.rows import TargetRows
from paceline.common.tokens import Draft, How, Origin, Rule, SamplingParams

WARM = SamplingParams(temperature=1.0)
TRUNCATED = SamplingParams(temperature=0.7, top_p=0.85)
REJECTION, COUPLED = RULES[Rule.REJECTION].judge, RULES[Rule.COUPLED].judge
EXACT = 1e-12
BIASED = 1e-4
"""Every mutant is at least this far off, so none is caught by rounding."""


# --- checks: the same for real code and mutants -------------------------------------------------------------------


def law_error(
    judge: Judge, make_propose: Callable[[TableModel], Propose], params: SamplingParams = WARM
) -> float:
    """Worst exactness error over a few pairs of table models."""
    return max(
        exactness_error(judge, make_propose(TableModel(4, 60 + seed)), TableModel(4, seed), params, 2)
        for seed in range(3)
    )


def loop_p_value(judge: Judge, rule: Rule, dice_for: Callable[[int], Dice], num_texts: int = 1_500) -> float:
    """Chi-square of the joint law of the first three tokens of whole generations, over seeds."""
    pair = Pair(TableModel(3, 71), TableModel(3, 70, sharpness=0.7), WARM)
    expected = target_joint(pair.target, WARM, 3) * num_texts
    seen = np.zeros_like(expected)
    for seed in range(num_texts):
        text = speculate(
            judge, pair.chooser(rule, seed), dice_for(seed), pair, num_tokens=3, block_lengths=(1,)
        )
        seen[text] += 1
    return float(stats.chisquare(seen.ravel(), expected.ravel()).pvalue)


def sampled(model: TableModel) -> Propose:
    """The honest drafter of most checks."""
    return propose_sampled(model, WARM)


# --- mutants of the rule ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Knobs:
    """Rejection sampling with its steps replaceable; with none replaced it is the real rule, which a test checks."""

    accepts: Callable[[Dice, float, float, int], bool] = lambda dice, target, draft, at: dice.accepts(
        target, draft, at
    )
    residual: Callable[[Law, Law], Law] = recovery_law
    bonus_row: Callable[[int], int] = lambda length: length
    read: Callable[[TargetRows, int], Law] = lambda rows, index: rows.law(index)
    read_for_residual: Callable[[TargetRows, int], Law] | None = None

    def judge(self, draft: Draft, rows: TargetRows, dice: Dice) -> Judgement:
        """See `rejection`."""
        for index, token_id in enumerate(draft.token_ids):
            target, position = self.read(rows, index), draft.base + index
            law = draft.laws[index].as_law() if draft.laws else one_hot(token_id)
            if not self.accepts(dice, target.prob(token_id), law.prob(token_id), position):
                base_law = (self.read_for_residual or self.read)(rows, index)
                return Judgement(index, dice.draw(self.residual(base_law, law), position), Origin.RECOVERED)
        length = len(draft)
        if length and draft.more_follows:
            return Judgement(length, None, None)
        bonus = dice.draw(self.read(rows, self.bonus_row(length)), draft.base + length)
        return Judgement(length, bonus, follow(draft))


def unclamped(target: Law, draft: Law) -> Law:
    """|target - draft| instead of its positive part."""
    size = int(max(target.token_ids[-1], draft.token_ids[-1])) + 1
    difference = np.abs(target.dense(size) - draft.dense(size))
    kept = difference.nonzero()[0]
    return Law(kept, difference[kept] / difference.sum()) if len(kept) else target


def unnormalised(target: Law, draft: Law) -> Law:
    """The positive part as it is; what is missing to 1 falls to the last token, as a running sum leaves it."""
    residual = np.maximum(target.dense(5) - draft.dense(5), 0.0)
    residual[int(target.token_ids[-1])] += 1.0 - residual.sum()
    kept = residual.nonzero()[0]
    return Law(kept, residual[kept])


def top_2(rows: TargetRows, index: int) -> Law:
    """A target that is truncated although nobody asked for it."""
    law = rows.law(index)
    kept = np.sort(np.argsort(-law.probs)[:2])
    return Law(law.token_ids[kept], law.probs[kept] / law.probs[kept].sum())


def raw(rows: TargetRows, index: int) -> Law:
    """The target's law before temperature and top-p."""
    return target_law(rows._logits.row(index), WARM, History())


RULE_MUTANTS = {
    "acceptance ratio inverted": Knobs(accepts=lambda dice, t, d, at: dice.accepts(d, max(t, 1e-300), at)),
    "accept only if the ratio exceeds 1": Knobs(accepts=lambda dice, t, d, at: t > d),
    "residual not clamped": Knobs(residual=unclamped),
    "residual not normalised": Knobs(residual=unnormalised),
    "recovered from the target itself": Knobs(residual=lambda target, draft: target),
    "target truncated unasked": Knobs(read=top_2),
    "bonus from the row before": Knobs(bonus_row=lambda length: max(length - 1, 0)),
    "bonus from the first row": Knobs(bonus_row=lambda length: 0),
}


def test_with_no_knob_turned_it_is_the_real_rule() -> None:
    """The mutants differ from the real rule in their defect alone."""
    for params in WARM, TRUNCATED:
        for judge in REJECTION, Knobs().judge:
            assert (
                law_error(judge, lambda model, params=params: propose_sampled(model, params), params) <= EXACT
            )


@pytest.mark.parametrize("name", RULE_MUTANTS)
def test_mutants_of_the_rule_are_caught_by_enumeration(name: str) -> None:
    """The emitted law of every mutant differs visibly from the target's."""
    assert law_error(RULE_MUTANTS[name].judge, sampled) > BIASED


def test_a_residual_from_raw_logits_is_caught() -> None:
    """Where temperature and top-p change the law, the residual must be that of the changed law."""
    mutant = Knobs(read_for_residual=raw)
    assert law_error(mutant.judge, lambda model: propose_sampled(model, TRUNCATED), TRUNCATED) > BIASED


def test_a_coin_compared_with_less_or_equal_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coin of exactly 0 must not let a token of target probability 0 through; `<=` would."""
    monkeypatch.setattr(base, "uniform", lambda *_: 0.0)

    def lax(dice: Dice, target_prob: float, draft_prob: float, position: int) -> bool:
        return base.uniform(0, position, Purpose.ACCEPT) * draft_prob <= target_prob

    def lets_through(accepts: Callable[[Dice, float, float, int], bool]) -> bool:
        return accepts(SeededDice(0), 0.0, 0.5, 0)

    assert not lets_through(Knobs().accepts)
    assert lets_through(lax)


def match_with_bonus_before(draft: Draft, rows: TargetRows, dice: Dice) -> Judgement:
    """Matching, with the bonus picked from the row before the last drafted token."""
    judgement = COUPLED(draft, rows, dice)
    if judgement.next_origin is not Origin.BONUS:
        return judgement
    length = len(draft)
    return replace(judgement, next_token_id=dice.pick(rows.law(length - 1), draft.base + length))


def match_with_redrawn_recovery(draft: Draft, rows: TargetRows, dice: Dice) -> Judgement:
    """Matching, with the differing pick thrown away and drawn again from the law."""
    judgement = COUPLED(draft, rows, dice)
    if judgement.next_origin is not Origin.RECOVERED:
        return judgement
    at = judgement.num_accepted
    return replace(judgement, next_token_id=dice.draw(rows.law(at), draft.base + at))


@pytest.mark.parametrize("mutant", [match_with_bonus_before, match_with_redrawn_recovery])
def test_mutants_of_matching_are_caught_by_enumeration(mutant: Judge) -> None:
    """The verifier's own pick must be emitted, and from the right row."""

    def propose(model: TableModel) -> Propose:
        return propose_shared_noise(model, WARM)

    assert law_error(COUPLED, propose) <= EXACT
    assert law_error(mutant, propose) > BIASED


# --- mutants of the drafter (methods E2, E11) ---------------------------------------------------------------------


def quantise_after_sampling(model: TableModel) -> Propose:
    """Draws from the full law and then sends the quantised one (of a drafter so flat that no weight is 0)."""
    flat = TableModel(model.vocab_size, 60, sharpness=0.3)

    def propose(branches: Branches, text: Text, length: int) -> Proposal:
        tokens, laws = (), ()
        for _ in range(length):
            law = flat.law(text + tokens, WARM)
            tokens, laws = (*tokens, branches.choose(options(law))), (*laws, quantise(law))
        return Proposal(block(text, tokens, How.SAMPLED, laws=laws))

    return propose


def drop_unlikely_tokens(model: TableModel) -> Propose:
    """Ends the block *before* a sampled token because that token is unlikely."""

    def propose(branches: Branches, text: Text, length: int) -> Proposal:
        draft = propose_sampled(model, WARM)(branches, text, length).draft
        unlikely = [law.prob(t) < 0.2 for t, law in zip(draft.token_ids, draft.laws, strict=True)]
        end = (*unlikely, True).index(True)
        return Proposal(block(text, draft.token_ids[:end], How.SAMPLED, laws=draft.laws[:end]))

    return propose


def keep_the_likelier_of_two(model: TableModel) -> Propose:
    """Samples twice and sends the likelier token with the law of a single sample."""

    def propose(branches: Branches, text: Text, length: int) -> Proposal:
        tokens, laws = (), ()
        for _ in range(length):
            law = quantise(model.law(text + tokens, WARM))
            pair = [branches.choose(options(law.as_law())) for _ in range(2)]
            tokens, laws = (*tokens, max(pair, key=law.prob)), (*laws, law)
        return Proposal(block(text, tokens, How.SAMPLED, laws=laws))

    return propose


def follow_the_more_confident(model: TableModel) -> Propose:
    """Two drafters sample; the one whose own token looks likelier to itself is sent."""
    other = TableModel(4, 99)

    def propose(branches: Branches, text: Text, length: int) -> Proposal:
        drafts = [propose_sampled(each, WARM)(branches, text, 1).draft for each in (model, other)]
        return Proposal(max(drafts, key=lambda draft: draft.laws[0].prob(draft.token_ids[0])))

    return propose


def greedy_with_softmax_ratio(model: TableModel) -> Propose:
    """Sends the argmax and calls it a sample from the softmax."""

    def propose(branches: Branches, text: Text, length: int) -> Proposal:
        tokens, laws = (), ()
        for _ in range(length):
            law = quantise(model.law(text + tokens, WARM))
            tokens, laws = (*tokens, max(law.token_ids, key=law.prob)), (*laws, law)
        return Proposal(block(text, tokens, How.SAMPLED, laws=laws))

    return propose


def copies_with_a_models_law(model: TableModel) -> Propose:
    """Sends a copied token with the law of the model that did not write it (methods 4.1)."""

    def propose(branches: Branches, text: Text, length: int) -> Proposal:
        tokens, laws = (), ()
        for _ in range(length):
            law = quantise(model.law(text + tokens, WARM))
            copied = law.token_ids[sum(text + tokens) % len(law.token_ids)]
            tokens, laws = (*tokens, copied), (*laws, law)
        return Proposal(block(text, tokens, How.SAMPLED, laws=laws))

    return propose


def lenient_with_the_models_law(model: TableModel) -> Propose:
    """Keeps a guess that the model finds half as likely as the guesser did, and sends the model's law."""
    inner = TableModel(4, 99)

    def propose(branches: Branches, text: Text, length: int) -> Proposal:
        tokens, laws = (), ()
        for _ in range(length):
            law, guess_law = (quantise(each.law(text + tokens, WARM)) for each in (model, inner))
            guess = branches.choose(options(guess_law.as_law()))
            is_kept = law.prob(guess) > guess_law.prob(guess) / 2
            token_id = guess if is_kept else branches.choose(options(law.as_law()))
            tokens, laws = (*tokens, token_id), (*laws, law)
        return Proposal(block(text, tokens, How.SAMPLED, laws=laws))

    return propose


@pytest.mark.parametrize(
    "mutant",
    [
        copies_with_a_models_law,
        lenient_with_the_models_law,
        drop_unlikely_tokens,
        keep_the_likelier_of_two,
        follow_the_more_confident,
        greedy_with_softmax_ratio,
    ],
)
def test_mutants_of_the_drafter_are_caught_by_enumeration(mutant: Callable[[TableModel], Propose]) -> None:
    """A choice that looks at the sampled value biases rejection, and shows."""
    assert law_error(REJECTION, sampled) <= EXACT
    assert law_error(REJECTION, mutant) > BIASED


def test_quantising_after_sampling_is_caught() -> None:
    """The bias of a fine lattice is small, and still far above the proof's tolerance."""
    assert law_error(REJECTION, quantise_after_sampling) > 1e-6


def test_quantising_a_sharp_law_after_sampling_is_refused() -> None:
    """A token that rounding removed from its law shows at once: its probability is 0 (methods E2)."""
    law = Law(np.array([0, 1]), np.array([0.9999, 0.0001]))
    with pytest.raises(BadDraft, match=r"token 1 has probability 0 .*quantise the law first"):
        check_draft(Rule.REJECTION, block((), (1,), How.SAMPLED, laws=(quantise(law),)))


@pytest.mark.parametrize(
    "mutant", [drop_unlikely_tokens, keep_the_likelier_of_two, greedy_with_softmax_ratio]
)
def test_matching_is_immune_to_the_same_drafters(mutant: Callable[[TableModel], Propose]) -> None:
    """What is emitted is the target's own pick, so no drafter can bias it (methods E11)."""
    assert law_error(COUPLED, mutant) <= EXACT


# --- mutants of the randomness ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CoinOfTheDraft(SeededDice):
    """Tosses the acceptance coin with the number the drafter sampled with."""

    def accepts(self, target_prob: float, draft_prob: float, position: int) -> bool:
        """As the real dice, but with the drafter's purpose."""
        return uniform(self.seed, position, Purpose.DRAFT) * draft_prob < target_prob


@dataclass(frozen=True)
class RecoverWithTheCoin(SeededDice):
    """Draws the recovered token with the number of the coin that refused the draft."""

    def draw(self, law: Law, position: int) -> int:
        """As the real dice, but with the coin's purpose."""
        return inverse_cdf(law, uniform(self.seed, position, Purpose.ACCEPT))


def test_one_number_for_draft_and_coin_is_caught() -> None:
    """A coin that is not independent of the draft accepts the wrong tokens."""
    assert loop_p_value(REJECTION, Rule.REJECTION, SeededDice) > 1e-4
    assert loop_p_value(REJECTION, Rule.REJECTION, CoinOfTheDraft) < 1e-9


def test_one_number_for_coin_and_recovery_is_caught() -> None:
    """A refused coin is large, so a recovery drawn with it leans to the last tokens."""
    assert loop_p_value(REJECTION, Rule.REJECTION, RecoverWithTheCoin) < 1e-9


@pytest.mark.parametrize(("rule", "judge"), [(Rule.COUPLED, COUPLED), (Rule.REJECTION, REJECTION)])
def test_seeding_again_in_every_round_is_caught(rule: Rule, judge: Judge) -> None:
    """Numbers that repeat from round to round tie tokens together that the target does not."""
    assert loop_p_value(judge, rule, SeededDice) > 1e-4

    def mutant(draft: Draft, rows: TargetRows, dice: Dice) -> Judgement:
        return judge(replace(draft, base=0), rows, dice)

    assert loop_p_value(mutant, rule, SeededDice) < 1e-9


def test_noise_that_ignores_the_token_is_caught() -> None:
    """Gumbel noise equal for all tokens always picks the likeliest."""

    @dataclass(frozen=True)
    class SameNoise(SeededDice):
        def pick(self, law: Law, position: int) -> int:
            return int(law.token_ids[law.probs.argmax()])

    assert loop_p_value(COUPLED, Rule.COUPLED, SameNoise, 500) < 1e-9
