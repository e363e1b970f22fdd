"""Proofs by enumeration: the law of what is emitted equals the product of the target's conditionals, to 1e-12."""

import numpy as np
import pytest

import paceline.common.acceptance.base as base
from paceline.common.acceptance import RULES, AcceptanceRule
from paceline.common.acceptance.base import SeededDice
from paceline.common.acceptance.rejection import acceptance_probability
from paceline.common.acceptance.testing import (
    PARAMS,
    Branches,
    BranchingDice,
    Judge,
    Proposal,
    Propose,
    TableModel,
    Text,
    block,
    check_acceptance_rule,
    emitted,
    exactness_error,
    explore,
    history_of,
    options,
    propose_likeliest,
    propose_sampled,
    propose_shared_noise,
    target_joint,
)
from paceline.common.sampling.law import Law
from paceline.common.sampling.quantised import LATTICE, QuantisedLaw, quantise
from paceline.common.sampling.rows import TargetRows
from paceline.common.tokens import How, Rule, SamplingParams

WARM = SamplingParams(temperature=1.0)
TARGET, DRAFTER = TableModel(3, 1), TableModel(3, 2)
REJECTION, COUPLED = RULES[Rule.REJECTION], RULES[Rule.COUPLED]


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.name)
def test_every_rule_in_the_table_is_exact(rule: AcceptanceRule) -> None:
    """Every rule keeps every law for every way of drafting it accepts; a rule added to the table is proved too."""
    assert rule.lossless
    check_acceptance_rule(rule)


@pytest.mark.parametrize("params", PARAMS[1:], ids=str)
def test_blocks_of_three_over_five_tokens(params: SamplingParams) -> None:
    """Depth 3, five tokens, the two stochastic rules with the drafts they are made for."""
    target, drafter = TableModel(5, 3), TableModel(5, 4)
    assert exactness_error(REJECTION.judge, propose_sampled(drafter, params), target, params, 3) <= 1e-12
    assert exactness_error(COUPLED.judge, propose_shared_noise(drafter, params), target, params, 3) <= 1e-12


def cut_to(propose: Propose, length: int) -> Propose:
    """A drafter that was interrupted."""
    return lambda branches, text, _: propose(branches, text, length)


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.name)
@pytest.mark.parametrize("length", [0, 1, 2])
def test_truncated_and_empty_blocks_are_exact(rule: AcceptanceRule, length: int) -> None:
    """A block may end early, or hold nothing, which is plain decoding."""
    propose = cut_to(propose_likeliest(DRAFTER, WARM), length)
    assert exactness_error(rule.judge, propose, TARGET, WARM, 2) <= 1e-12


def generated_joint(judge: Judge, propose: Propose, params: SamplingParams, num_tokens: int) -> np.ndarray:
    """Law of a whole generation of several rounds, all randomness enumerated."""

    def run(branches: Branches) -> Text:
        text: Text = ()
        while len(text) < num_tokens:
            proposal = propose(branches, text, 2)
            draft = proposal.draft
            rows = TargetRows(TARGET.rows(text, draft.token_ids), params, history_of(text), draft.token_ids)
            text += emitted(draft, judge(draft, rows, BranchingDice(branches, proposal)))
        return text[:num_tokens]

    joint = np.zeros((TARGET.vocab_size,) * num_tokens)
    for text, weight in explore(run):
        joint[text] += weight
    return joint


@pytest.mark.parametrize("more_follows", [False, True])
def test_generations_of_several_rounds_are_exact_under_rejection(more_follows: bool) -> None:
    """Round after round, with a bonus or with blocks that follow each other without one."""
    propose = propose_sampled(DRAFTER, WARM, more_follows=more_follows)
    joint = generated_joint(REJECTION.judge, propose, WARM, 3)
    assert np.abs(joint - target_joint(TARGET, WARM, 3)).max() <= 1e-12


def test_generations_of_several_rounds_are_exact_under_coupling() -> None:
    """Round after round, the verifier's picks make the text."""
    joint = generated_joint(COUPLED.judge, propose_shared_noise(DRAFTER, WARM), WARM, 3)
    assert np.abs(joint - target_joint(TARGET, WARM, 3)).max() <= 1e-12


def stop_by_law(branches: Branches, text: Text, length: int) -> Proposal:
    """Stops before drawing when the law is too flat: legal, for the law is known before the token."""
    tokens, laws = (), ()
    while len(tokens) < length:
        law = quantise(DRAFTER.law(text + tokens, WARM))
        if max(law.weights) < 600:
            break
        tokens, laws = (*tokens, branches.choose(options(law.as_law()))), (*laws, law)
    return Proposal(block(text, tokens, How.SAMPLED, laws=laws))


def stop_after(branches: Branches, text: Text, length: int) -> Proposal:
    """Keeps an unlikely token and stops behind it: legal, for nothing drawn is dropped."""
    tokens, laws = (), ()
    while len(tokens) < length:
        law = quantise(DRAFTER.law(text + tokens, WARM))
        tokens, laws = (*tokens, branches.choose(options(law.as_law()))), (*laws, law)
        if law.prob(tokens[-1]) < 0.2:
            break
    return Proposal(block(text, tokens, How.SAMPLED, laws=laws))


def copied_after_sampled(order: str, *, more_follows: bool = False) -> Propose:
    """A block whose tokens are sampled (s) or copied (c); a copied token travels as a law of one token."""

    def propose(branches: Branches, text: Text, length: int) -> Proposal:
        tokens, laws = (), ()
        for kind in order[:length]:
            law = quantise(DRAFTER.law(text + tokens, WARM))
            if kind == "c":
                law = QuantisedLaw((sum(text + tokens) % DRAFTER.vocab_size,), (LATTICE,))
            tokens, laws = (*tokens, branches.choose(options(law.as_law()))), (*laws, law)
        return Proposal(block(text, tokens, How.SAMPLED, laws=laws, more_follows=more_follows))

    return propose


@pytest.mark.parametrize("more_follows", [False, True])
@pytest.mark.parametrize("order", ["sc", "cs", "cc", "scs", "csc"])
def test_copied_tokens_among_sampled_ones_are_exact_under_rejection(order: str, more_follows: bool) -> None:
    """A drafter may copy some tokens of a block and sample the others, if each travels with the law it has."""
    for seed in range(3):
        propose = copied_after_sampled(order, more_follows=more_follows)
        assert exactness_error(REJECTION.judge, propose, TableModel(3, seed), WARM, len(order)) <= 1e-12


@pytest.mark.parametrize("propose", [stop_by_law, stop_after])
def test_legal_ways_to_choose_the_length_are_exact(propose: Propose) -> None:
    """A drafter may stop by the law before it draws, or behind an unlikely token it keeps (methods E11)."""
    lengths = {len(outcome.draft) for outcome, _ in explore(lambda branches: propose(branches, (), 2))}
    assert lengths == {1, 2}
    for seed in range(5):
        assert exactness_error(REJECTION.judge, propose, TableModel(3, seed), WARM, 2) <= 1e-12


@pytest.mark.parametrize("target_prob", [0.0, 0.05, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("draft_prob", [0.05, 0.3, 1.0])
def test_seeded_coins_fall_as_often_as_the_enumeration_says(
    monkeypatch: pytest.MonkeyPatch, target_prob: float, draft_prob: float
) -> None:
    """Integrating the coin over a fine grid gives the acceptance probability used in the proofs."""
    steps = 4_000
    dice, accepted = SeededDice(0), 0
    for step in range(steps):
        monkeypatch.setattr(base, "uniform", lambda *_, u=step / steps: u)
        accepted += dice.accepts(target_prob, draft_prob, 0)
    assert abs(accepted / steps - acceptance_probability(target_prob, draft_prob)) <= 1 / steps


def test_seeded_draws_fall_as_often_as_the_enumeration_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Integrating the draw over a fine grid gives the law used in the proofs."""
    law, steps = Law(np.array([2, 5, 6]), np.array([0.5, 0.2, 0.3])), 4_000
    drawn = []
    for step in range(steps):
        monkeypatch.setattr(base, "uniform", lambda *_, u=step / steps: u)
        drawn.append(SeededDice(0).draw(law, 0))
    for token_id, prob in options(law):
        assert abs(drawn.count(token_id) / steps - prob) <= 2 / steps


def test_exploring_visits_every_outcome_with_its_probability() -> None:
    """The enumerator itself: weights sum to 1 and are those of the decisions, impossible ones left out."""

    def run(branches: Branches) -> tuple[str, ...]:
        first = branches.choose([("a", 0.25), ("b", 0.75), ("never", 0.0)])
        return (first, branches.choose([("c", 0.5), ("d", 0.5)])) if first == "a" else (first,)

    assert dict(explore(run)) == {("a", "c"): 0.125, ("a", "d"): 0.125, ("b",): 0.75}


def test_the_kit_refuses_rules_that_do_not_claim_exactness_and_fails_false_claims() -> None:
    """`check_acceptance_rule` raises for a rule that is not lossless, and for one that only says it is."""

    class Optimist:
        name, accepts, lossless = Rule.COUPLED, frozenset(How), True

        def judge(self, draft, rows, dice):  # type: ignore[no-untyped-def]
            judgement = COUPLED.judge(draft, rows, dice)
            return base.Judgement(len(draft), judgement.next_token_id, judgement.next_origin)

    optimist = Optimist()
    with pytest.raises(AssertionError, match=r"rule coupled, drafts by .*: off by"):
        check_acceptance_rule(optimist)
    optimist.lossless = False
    with pytest.raises(AssertionError, match="not lossless"):
        check_acceptance_rule(optimist)
