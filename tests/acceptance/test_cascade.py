"""Chains of hops under rejection: exact by enumeration, and the tempting errors are not (methods 4.1)."""

from collections.abc import Callable

import pytest
from scipy.stats import chisquare

from paceline.common.acceptance import RULES
from paceline.common.acceptance.base import SeededDice
from paceline.common.acceptance.testing import (
    PARAMS,
    Branches,
    BranchingDice,
    Proposal,
    Propose,
    TableModel,
    Text,
    block,
    emitted,
    exactness_error,
    history_of,
    propose_likeliest,
    propose_relayed,
    propose_sampled,
)
from paceline.common.sampling.noise import Purpose, key, uniform
from paceline.common.sampling.opinion import QuantisedOpinionRows
from paceline.common.sampling.quantised import quantise, sample
from paceline.common.sampling.rows import TargetRows
from paceline.common.tokens import How, Rule, SamplingParams

REJECTION = RULES[Rule.REJECTION].judge
TARGET, RELAY, SECOND, DRAFTER = (TableModel(3, seed) for seed in (1, 2, 3, 4))
EXACT, BIASED = 1e-12, 1e-3


@pytest.mark.parametrize("params", PARAMS, ids=str)
def test_one_relay_keeps_the_targets_law(params: SamplingParams) -> None:
    """Device, relay, target: sampled and deterministic drafts, with and without more to follow."""
    for below in (
        propose_sampled(DRAFTER, params),
        propose_sampled(DRAFTER, params, more_follows=True),
        propose_likeliest(DRAFTER, params),
    ):
        relayed = propose_relayed(REJECTION, below, RELAY, params)
        assert exactness_error(REJECTION, relayed, TARGET, params, 2) <= EXACT


def test_two_relays_keep_the_targets_law() -> None:
    """Device, two relays, target."""
    params = SamplingParams(temperature=1.0)
    first = propose_relayed(REJECTION, propose_sampled(DRAFTER, params), SECOND, params)
    second = propose_relayed(REJECTION, first, RELAY, params)
    assert exactness_error(REJECTION, second, TARGET, params, 3) <= EXACT


# --- mutants ----------------------------------------------------------------------------------------------------------

WARM = SamplingParams(temperature=1.0)


def truncating(branches: Branches, text: Text, length: int) -> Proposal:
    """The relay drops what it rejects instead of correcting it, and names its own law."""
    below = propose_sampled(DRAFTER, WARM)(branches, text, length)
    draft = below.draft
    with TargetRows(RELAY.rows(text, draft.token_ids), WARM, history_of(text), draft.token_ids) as rows:
        kept = draft.token_ids[: REJECTION(draft, rows, BranchingDice(branches, below)).num_accepted]
    laws = tuple(quantise(RELAY.law(text + kept[:index], WARM)) for index in range(len(kept)))
    return Proposal(block(text, kept, How.SAMPLED, laws=laws))


def naming_the_drafters_law(branches: Branches, text: Text, length: int) -> Proposal:
    """The relay corrects, but passes on the laws of the hop below."""
    relayed = propose_relayed(REJECTION, propose_sampled(DRAFTER, WARM), RELAY, WARM)(branches, text, length)
    tokens = relayed.draft.token_ids
    laws = tuple(quantise(DRAFTER.law(text + tokens[:index], WARM)) for index in range(len(tokens)))
    return Proposal(block(text, tokens, How.SAMPLED, laws=laws))


def quantising_afterwards(branches: Branches, text: Text, length: int) -> Proposal:
    """The relay judges with its full law and makes it sparse for the wire."""
    below = propose_sampled(DRAFTER, WARM, max_tokens=2)(branches, text, length - 1)
    draft = below.draft
    with TargetRows(RELAY.rows(text, draft.token_ids), WARM, history_of(text), draft.token_ids) as rows:
        tokens = emitted(draft, REJECTION(draft, rows, BranchingDice(branches, below)))
    laws = tuple(quantise(RELAY.law(text + tokens[:index], WARM)) for index in range(len(tokens)))
    return Proposal(block(text, tokens, How.SAMPLED, laws=laws))


@pytest.mark.parametrize(
    ("mutant", "least"),
    [(truncating, BIASED), (naming_the_drafters_law, BIASED), (quantising_afterwards, 1e-5)],
)
def test_tempting_errors_are_biased(mutant: Propose, least: float) -> None:
    """Each changes the law, so the proof above would notice it."""
    assert exactness_error(REJECTION, mutant, TARGET, WARM, 2) > least


def first_tokens(relay_seed: Callable[[int], int], num_texts: int = 4_000) -> list[int]:
    """How often each token comes first in texts of a seeded chain of three."""
    counts = [0] * TARGET.vocab_size
    for seed in range(num_texts):
        law = quantise(DRAFTER.law((), WARM))
        drafted = sample(law, uniform(seed, 0, Purpose.DRAFT))
        draft = block((), (drafted,), How.SAMPLED, laws=(law,))
        with QuantisedOpinionRows(RELAY.rows((), (drafted,)), WARM, history_of(()), (drafted,)) as rows:
            tokens = emitted(draft, REJECTION(draft, rows, SeededDice(relay_seed(seed))))
            laws = tuple(law for at, token_id in enumerate(tokens) if (law := rows.said(at, token_id)[1]))
        relayed = block((), tokens, How.SAMPLED, laws=laws)
        with TargetRows(TARGET.rows((), tokens), WARM, history_of(()), tokens) as target:
            counts[emitted(relayed, REJECTION(relayed, target, SeededDice(seed)))[0]] += 1
    return counts


def test_a_relay_that_corrects_with_the_targets_dice_is_biased() -> None:
    """A drafted token and the coin that judges it must be independent; a relay's dice have a seed of their own."""
    law = TARGET.law((), WARM).dense(TARGET.vocab_size)

    def p_value(relay_seed: Callable[[int], int]) -> float:
        counts = first_tokens(relay_seed)
        return float(chisquare(counts, law * sum(counts)).pvalue)

    assert p_value(lambda seed: key(seed, 0, Purpose.RELAY)) > 1e-3
    assert p_value(lambda seed: seed) < 1e-9
