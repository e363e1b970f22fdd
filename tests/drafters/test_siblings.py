"""Several drafters for one text: what they propose together, and how they follow it."""

from itertools import permutations

import pytest

from paceline.common.acceptance import check_draft
from paceline.common.drafter import Proposal, is_even
from paceline.common.errors import InvalidRequest
from paceline.common.sampling.choose import Chooser
from paceline.common.sampling.quantised import LATTICE, QuantisedLaw
from paceline.common.tokens import Draft, How, Rule, SamplingParams
from paceline.common.trees import chain, path_to
from paceline.edge.drafters import conformance, drafter_from_section
from paceline.edge.drafters.conformance import SETTINGS, check_drafter
from paceline.edge.drafters.ngram import NgramDrafter
from paceline.edge.drafters.siblings import SiblingsDrafter, UnionDrafter, in_order, union
from paceline.edge.drafters.table import TableDrafter

REJECTION = [setting for setting in SETTINGS if setting[0] is Rule.REJECTION]
MATCHING = [setting for setting in SETTINGS if setting[0] is not Rule.REJECTION]
TABLES = [TableDrafter(own_seed=seed, agreement=0.6) for seed in (1, 2)]
PROMPT = (3, 1, 4, 1, 5, 9, 2, 6, 3, 1, 4)


def chosen(*pairs: tuple[int, float], how: How = How.ONE_HOT) -> Proposal:
    """A proposal of tokens with their probabilities."""
    token_ids, probs = zip(*pairs, strict=True)
    return Proposal(5, token_ids, probs, how)


def paths(proposal: Proposal) -> set[tuple[int, ...]]:
    """Every path of a proposal's tree, as tokens."""
    parents = (*chain(len(proposal)), *proposal.branches.parents)
    token_ids = proposal.token_ids + proposal.branches.token_ids
    return {tuple(token_ids[one] for one in path_to(parents, node)) for node in range(len(parents))}


def as_draft(proposal: Proposal) -> Draft:
    """The block a client sends of it."""
    branches = proposal.branches
    return Draft(
        proposal.base,
        0,
        proposal.token_ids + branches.token_ids,
        (),
        proposal.how,
        proposal.laws + branches.laws,
        (*chain(len(proposal)), *branches.parents),
    )


def test_a_union_is_the_trie_of_its_proposals_in_any_order() -> None:
    """Equal beginnings are merged, nothing is lost or added, the likeliest path comes first, ties by token id."""
    proposals = [
        chosen((7, 0.5), (8, 0.9), (1, 0.2)),
        chosen((7, 0.6), (9, 0.3)),
        chosen((2, 0.4), (8, 0.9)),
        chosen((6, 0.4)),
        chosen((7, 0.1), (8, 0.1)),
    ]
    for order in permutations(proposals):
        tree = union(order)
        assert (tree.base, tree.token_ids, tree.probs, tree.how) == (
            5,
            (7, 8, 1),
            (0.6, 0.9, 0.2),
            How.ONE_HOT,
        )
        assert tree.branches.token_ids == (9, 2, 8, 6)
        assert tree.branches.parents == (0, -1, 4, -1)
        assert tree.branches.probs == (0.3, 0.4, 0.9, 0.4)
        assert paths(tree) == {one.token_ids[:count] for one in proposals for count in range(1, len(one) + 1)}
        check_draft(Rule.GREEDY, as_draft(tree), 10)


def test_a_union_says_how_its_tokens_were_chosen() -> None:
    """With one drafter that shares the noise it is no function of the past alone; sampled tokens are not merged."""
    both = [chosen((1, 0.5)), chosen((2, 0.5), how=How.SHARED_NOISE)]
    assert union(both).how is How.SHARED_NOISE
    assert union(both[:1]) == both[0]
    with pytest.raises(ValueError, match="sampled tokens cannot be merged"):
        union([*both, chosen((2, 0.5), how=How.SAMPLED)])


def test_siblings_stand_in_the_order_of_their_drafters() -> None:
    """Chains stay whole, equal or not; a token that was not drawn has a law that holds nothing else."""
    law = QuantisedLaw((1, 2), (512, 512))
    sampled = Proposal(5, (1, 2), (0.5, 0.5), How.SAMPLED, (law, law))
    copied = chosen((1, 0.9), (3, 0.9))
    certain = tuple(QuantisedLaw((token_id,), (LATTICE,)) for token_id in (1, 3))
    tree = in_order([sampled, copied, sampled])
    assert (tree.token_ids, tree.laws, tree.how) == ((1, 2), (law, law), How.SAMPLED)
    assert tree.branches.token_ids == (1, 3, 1, 2)
    assert tree.branches.parents == (-1, 2, -1, 4)
    assert tree.branches.laws == (*certain, law, law)
    assert in_order([copied, sampled]).laws == certain
    check_draft(Rule.REJECTION, as_draft(tree), 10)
    assert in_order([copied, copied]).branches.laws == certain


@pytest.mark.parametrize("others", [TABLES[1:], [NgramDrafter(min_ngram=1)]], ids=["tables", "ngram"])
def test_siblings_conform_under_rejection(others: list) -> None:
    """Every promise of a drafter, whatever happens to the text; every sampled token is kept."""
    check_drafter(lambda: SiblingsDrafter([TABLES[0], *others]), settings=REJECTION)


@pytest.mark.parametrize("kind", [SiblingsDrafter, UnionDrafter])
def test_merged_drafters_conform_under_rules_that_match(kind: type[SiblingsDrafter]) -> None:
    """The same, but for what merging changes: equal choices are one, and the first path may change hands."""
    without = (
        conformance.check_every_choice_is_kept,
        conformance.check_keep_going_stops_after_keeping,
        conformance.check_block_boundaries_do_not_matter,
    )
    check_drafter(lambda: kind([*TABLES, NgramDrafter(min_ngram=1)]), settings=MATCHING, without=without)


def test_drafters_of_one_text_draw_with_numbers_of_their_own() -> None:
    """Twice the same model gives two independent samples under rejection, and one path under shared noise."""
    twins = SiblingsDrafter([TABLES[0], TABLES[0]])
    for rule, are_equal in ((Rule.REJECTION, False), (Rule.COUPLED, True)):
        session = twins.start(PROMPT, Chooser(rule, SamplingParams(1.0), 3, 64))
        proposal = session.propose(6)
        session.close()
        assert (not proposal.branches.token_ids) == are_equal
        lone = TABLES[0].start(PROMPT, Chooser(rule, SamplingParams(1.0), 3, 64))
        assert lone.propose(6).token_ids == proposal.token_ids
        lone.close()


def test_the_text_goes_on_from_a_branch_the_verifier_took() -> None:
    """Whichever path is committed, all drafters go on as fresh ones, even where it ends inside a branch."""
    drafter = SiblingsDrafter(TABLES)
    for rule, params in SETTINGS:
        chooser = Chooser(rule, params, 3, 64)
        for length in range(1, 5):
            session = drafter.start(PROMPT, chooser)
            tree = session.propose(4)
            path = max(paths(tree) - {tree.token_ids[:count] for count in range(5)}, key=len)[:length]
            if path == tree.token_ids[:length]:
                continue
            session.observe(len(PROMPT), path)
            fresh = drafter.start(PROMPT, chooser)
            fresh.observe(len(PROMPT), path)
            assert session.length == len(PROMPT) + length
            assert session.propose(4) == fresh.propose(4)
            session.close()
            fresh.close()


def test_a_drafter_with_nothing_to_say_is_left_out() -> None:
    """A copying drafter without a match leaves the text to the others; if none has anything, nothing is proposed."""
    chooser = Chooser(Rule.GREEDY, SamplingParams(), 0, 64)
    session = UnionDrafter([NgramDrafter(), TABLES[0]]).start((1, 2, 3), chooser)
    lone = TABLES[0].start((1, 2, 3), chooser)
    assert session.propose(4) == lone.propose(4)
    silent = UnionDrafter([NgramDrafter(), NgramDrafter()]).start((1, 2, 3), chooser)
    assert len(silent.propose(4)) == 0


def test_they_are_made_from_a_section() -> None:
    """A topology names each drafter with its kind and options."""
    parts = [{"kind": "ngram", "min_ngram": 1}, {"kind": "table", "vocab_size": 9}]
    drafter = drafter_from_section({"kind": "union", "drafters": parts})
    assert drafter.name == "union(ngram,table)"
    assert drafter.vocab_size == 9
    assert not is_even(drafter)
    assert SiblingsDrafter([NgramDrafter(), NgramDrafter()]).vocab_size is None


@pytest.mark.parametrize("drafters", [[], [NgramDrafter()]])
def test_one_drafter_alone_is_refused(drafters: list) -> None:
    """There is nothing to combine."""
    with pytest.raises(InvalidRequest, match=r"drafter\.drafters"):
        UnionDrafter(drafters)


def test_drafters_made_of_drafters_never_share_private_numbers() -> None:
    """Places are told apart on every level, so no two drafters of a text draw with the same numbers."""
    chooser = Chooser(Rule.REJECTION, SamplingParams(1.0), 0, 64)
    top = [chooser.for_sibling(place) for place in range(3)]
    below = [one.for_sibling(place) for one in top for place in range(3)]
    lowest = [one.for_sibling(place) for one in below for place in range(3)]
    numbers = [one._sibling for one in (*top, *below, *lowest)]
    assert len(set(numbers)) == len(numbers)


def test_a_union_refuses_rejection() -> None:
    """Merging equal samples would bias it; the cure is named."""
    with pytest.raises(InvalidRequest, match="bias rejection") as caught:
        UnionDrafter(TABLES).start(PROMPT, Chooser(Rule.REJECTION, SamplingParams(1.0), 0, 64))
    assert "siblings" in caught.value.cure
