"""Trees: both rules proved by enumeration over families of shapes, and the ways to get siblings wrong."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy import stats

from paceline.common import trees
from paceline.common.acceptance import RULES, check_draft, judge
from paceline.common.acceptance.base import Dice, Judgement, SeededDice
from paceline.common.acceptance.rejection import recovery_law, rejection
from paceline.common.acceptance.testing import (
    PARAMS,
    Branches,
    Judge,
    Proposal,
    Propose,
    TableModel,
    Text,
    block,
    emitted,
    exactness_error,
    history_of,
    options,
    propose_tree,
    target_joint,
    target_rows,
    tree_shapes,
)
from paceline.common.errors import BadDraft
from paceline.common.sampling.choose import Chooser
from paceline.common.sampling.law import one_hot
from paceline.common.sampling.noise import Purpose, key, uniform
from paceline.common.sampling.quantised import QuantisedLaw, quantise
from paceline.common.sampling.rows import TargetRows
from paceline.common.tokens import Draft, How, Origin, Rule, SamplingParams

WARM, GREEDY = SamplingParams(temperature=1.0), SamplingParams()
REJECTION, COUPLED = RULES[Rule.REJECTION].judge, RULES[Rule.COUPLED].judge
TARGET, MODELS = TableModel(3, 1), (TableModel(3, 2), TableModel(3, 5))
EXACT, BIASED = 1e-12, 1e-4
PAIR = (-1, -1)
"""Two siblings, one token each."""


def depth(parents: Sequence[int]) -> int:
    """Longest path of a tree."""
    return max(trees.depths(parents)) + 1


# --- proofs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_nodes", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("rule", "how"),
    [
        (Rule.REJECTION, How.SAMPLED),
        (Rule.REJECTION, How.ONE_HOT),
        (Rule.COUPLED, How.SHARED_NOISE),
        (Rule.ONE_HOT, How.ONE_HOT),
    ],
)
def test_every_tree_of_up_to_four_tokens_is_exact(rule: Rule, how: How, num_nodes: int) -> None:
    """Whatever the shape, the emitted joint law is the target's, with siblings of two disagreeing models."""
    shapes = [shape for shape in tree_shapes(num_nodes) if depth(shape) <= 3 and shape != PAIR * 2]
    for parents in shapes:
        propose = propose_tree(MODELS, WARM, parents, how)
        assert exactness_error(RULES[rule].judge, propose, TARGET, WARM, depth(parents)) <= EXACT, parents


@pytest.mark.parametrize("params", PARAMS, ids=str)
@pytest.mark.parametrize(
    ("rule", "how"), [(Rule.REJECTION, How.SAMPLED), (Rule.ONE_HOT, How.ONE_HOT)], ids=str
)
def test_trees_of_depth_three_keep_every_law(rule: Rule, how: How, params: SamplingParams) -> None:
    """Greedy, plain, truncated, and penalised laws: a node's row counts the tokens of its own path and no others."""
    parents = (-1, 0, 1, 0, -1)
    propose = propose_tree(MODELS, params, parents, how)
    assert exactness_error(RULES[rule].judge, propose, TARGET, params, 3) <= EXACT


def test_trees_over_five_tokens_are_exact() -> None:
    """Three siblings of three models over five tokens, one with a child."""
    models = [TableModel(5, seed) for seed in (4, 6, 8)]
    for how, rule in ((How.SAMPLED, Rule.REJECTION), (How.SHARED_NOISE, Rule.COUPLED)):
        propose = propose_tree(models, WARM, (-1, 0, -1, -1), how)
        assert exactness_error(RULES[rule].judge, propose, TableModel(5, 3), WARM, 2) <= EXACT


def test_a_chain_written_as_a_tree_gets_the_verdict_of_the_chain() -> None:
    """The same tokens, coins and rows: only the wire form differs."""
    for rule, how in ((Rule.COUPLED, How.SHARED_NOISE), (Rule.REJECTION, How.SAMPLED)):
        for seed in range(40):
            chain = drafted((0, 2, 1), how, ())
            tree = replace(chain, parents=trees.chain(3))
            expected = judge(rule, chain, target_rows(TARGET, chain, WARM), seed)
            got = judge(rule, tree, target_rows(TARGET, tree, WARM), seed)
            last = expected.num_accepted - 1 if expected.num_accepted else None
            assert got == replace(expected, accepted_node=last)


@pytest.mark.parametrize("rule", [Rule.GREEDY, Rule.ONE_HOT, Rule.COUPLED])
def test_matching_rules_emit_the_same_whatever_tree_is_drafted(rule: Rule) -> None:
    """Every tree's text is a prefix of one and the same text, and a wider tree reaches as far."""
    params = GREEDY if rule is Rule.GREEDY else WARM
    text: Text = ()
    for _ in range(4):
        empty = drafted((), How.ONE_HOT, (), text=text)
        text += emitted(empty, judge(rule, empty, target_rows(TARGET, empty, params, text), 7))
    right, wrong = text[0], (text[0] + 1) % 3
    for tokens, parents, path in (
        ((wrong, right, text[1]), (-1, -1, 1), 2),
        ((wrong, 0, right), (-1, 0, -1), 1),
        ((right, text[1], wrong), (-1, 0, -1), 2),
        ((wrong, (right + 2) % 3), PAIR, 0) if wrong != (right + 2) % 3 else ((wrong,), (-1,), 0),
    ):
        draft = drafted(tokens, How.ONE_HOT, parents)
        judgement = judge(rule, draft, target_rows(TARGET, draft, params), 7)
        assert emitted(draft, judgement) == text[: path + 1]
        assert judgement.num_accepted == path


def drafted(tokens: Text, how: How, parents: tuple[int, ...], text: Text = (), even: bool = True) -> Draft:
    """A draft of given tokens; sampled ones come from an even law over three tokens."""
    law = quantise(TableModel(3, 0, sharpness=0.0).law((), WARM))
    laws = (law,) * len(tokens) if how is How.SAMPLED else ()
    return block(text, tokens, how, laws=laws, parents=parents)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "rest", "field", "complaint"),
    [
        ((1, 2), {"parents": (-1,)}, "parents", "2 tokens came with 1 parents"),
        ((1, 2), {"parents": (-1, 1)}, "parents", "parent of token 1 is 1"),
        ((1, 2), {"parents": (1, -1)}, "parents", "parent of token 0 is 1"),
        ((1, 2), {"parents": (-1, -2)}, "parents", "parent of token 1 is -2"),
        ((1, 2, 0), {"parents": (-1, -1, 0)}, "parents", "token 2 continues the first path, which ended"),
        ((1, 1), {"parents": PAIR}, "token_ids", "token 1 is proposed twice after token -1"),
        ((1, 2, 2), {"parents": (-1, 0, 0)}, "token_ids", "token 2 is proposed twice after token 0"),
        ((1, 2), {"parents": PAIR, "more_follows": True}, "more_follows", "nothing continues a tree"),
    ],
)
@pytest.mark.parametrize("rule", [Rule.COUPLED, Rule.REJECTION])
def test_malformed_trees_are_refused(
    rule: Rule, tokens: Text, rest: dict[str, object], field: str, complaint: str
) -> None:
    """Cycles, forward references, paths out of order and equal siblings name their field; the stream goes on."""
    with pytest.raises(BadDraft, match=complaint) as caught:
        check_draft(rule, block((), tokens, How.ONE_HOT, **rest), 4)
    assert caught.value.field == field
    assert caught.value.cure
    assert not caught.value.fatal


def test_equal_samples_of_two_drafters_are_siblings() -> None:
    """Merged, they would be one chance instead of two; each keeps its law."""
    check_draft(Rule.REJECTION, drafted((1, 1), How.SAMPLED, PAIR), 3)


def test_a_rule_that_judges_chains_alone_refuses_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes a rule says whether it knows trees."""

    class Chains:
        name, accepts, judges_trees, lossless = Rule.COUPLED, frozenset(How), False, True

    monkeypatch.setattr("paceline.common.acceptance.RULES", {Rule.COUPLED: Chains()})
    with pytest.raises(BadDraft, match="judges chains, not trees"):
        check_draft(Rule.COUPLED, block((), (1, 2), How.ONE_HOT, parents=PAIR))


def test_rejection_refuses_trees_it_would_be_biased_by() -> None:
    """Siblings picked with noise the verifier shares have no independent coins."""
    with pytest.raises(BadDraft, match="biased by drafts chosen by shared-noise"):
        check_draft(Rule.REJECTION, block((), (1, 2), How.SHARED_NOISE, parents=PAIR))


# --- mutants of the rule ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Knobs:
    """The tree rule with its steps replaceable; with none replaced it is the real rule, which a test checks."""

    updates_residual: bool = True
    recovers_from_target: bool = False
    coin_of: Callable[[int], int] = lambda place: place
    row_of: Callable[[int, int], int] = lambda node, depth: node + 1

    def judge(self, draft: Draft, rows: TargetRows, dice: Dice) -> Judgement:
        """See `rejection_tree`."""
        children = trees.siblings(draft.parents)
        node, at = trees.ROOT, 0
        while True:
            row = rows.law(self.row_of(node, at))
            left, chosen = row, None
            for place, child in enumerate(children.get(node, [])):
                law = draft.laws[child].as_law() if draft.laws else one_hot(draft.token_ids[child])
                token_id = draft.token_ids[child]
                judged_by = left if self.updates_residual else row
                coin = self.coin_of(place)
                if dice.accepts(judged_by.prob(token_id), law.prob(token_id), draft.base + at, coin):
                    chosen = child
                    break
                left = recovery_law(left, law)
            if chosen is None:
                origin = Origin.RECOVERED if node in children else Origin.BONUS
                emitted_by = row if self.recovers_from_target else left
                token_id = dice.draw(emitted_by, draft.base + at)
                return Judgement(at, token_id, origin, None if node == trees.ROOT else node)
            node, at = chosen, at + 1


def longest_of_independent_paths(draft: Draft, rows: TargetRows, dice: Dice) -> Judgement:
    """Judges every path from the prefix to a leaf as a chain of its own and keeps the longest that stands."""
    leaves = [node for node in range(len(draft)) if node not in draft.parents]
    best: Judgement | None = None
    for leaf in leaves:
        path = trees.path_to(draft.parents, leaf)
        as_chain = replace(
            draft,
            token_ids=tuple(draft.token_ids[node] for node in path),
            draft_probs=(1.0,) * len(path),
            laws=tuple(draft.laws[node] for node in path),
            parents=(),
        )
        judgement = rejection(as_chain, _RowsOfPath(rows, path), dice)  # type: ignore[arg-type]
        if best is None or judgement.num_accepted > best.num_accepted:
            last = path[judgement.num_accepted - 1] if judgement.num_accepted else None
            best = replace(judgement, accepted_node=last)
    assert best is not None
    return best


class _RowsOfPath:
    def __init__(self, rows: TargetRows, path: Sequence[int]) -> None:
        self._rows, self._path = rows, (trees.ROOT, *path)

    def law(self, index: int):  # type: ignore[no-untyped-def]
        return self._rows.law(self._path[index] + 1)


RULE_MUTANTS: dict[str, Judge] = {
    "residual not updated for the next sibling": Knobs(updates_residual=False).judge,
    "recovered from the target itself": Knobs(recovers_from_target=True).judge,
    "row by depth, not by node": Knobs(row_of=lambda node, at: at).judge,
    "independent paths, the longest kept": longest_of_independent_paths,
}
SHAPES = (PAIR, (-1, 0, -1, 2))


def law_error(judge: Judge, propose_shape: Callable[[Sequence[int], int], Propose]) -> float:
    """Worst exactness error over two shapes and a few models."""
    return max(
        exactness_error(judge, propose_shape(shape, seed), TableModel(3, seed), WARM, depth(shape))
        for shape in SHAPES
        for seed in range(3)
    )


def honest(parents: Sequence[int], seed: int) -> Propose:
    """Siblings in a fixed order, each from its own model."""
    return propose_tree(models_for(seed), WARM, parents, How.SAMPLED)


def models_for(seed: int) -> list[TableModel]:
    """Two models that disagree with each other and the target."""
    return [TableModel(3, 60 + seed), TableModel(3, 80 + seed)]


def test_with_no_knob_turned_it_is_the_real_rule() -> None:
    """The mutants differ from the real rule in their defect alone."""
    assert law_error(REJECTION, honest) <= EXACT
    assert law_error(Knobs().judge, honest) <= EXACT


@pytest.mark.parametrize("name", RULE_MUTANTS)
def test_mutants_of_the_rule_are_caught_by_enumeration(name: str) -> None:
    """The emitted law of every mutant differs visibly from the target's."""
    assert law_error(RULE_MUTANTS[name], honest) > BIASED


# --- mutants of the drafters (methods E11) ----------------------------------------------------------------------------


def arranged(arrange: Callable[[list[tuple[int, QuantisedLaw]]], list[tuple[int, QuantisedLaw]]]):  # type: ignore[no-untyped-def]
    """Two drafters sample a token each; something that looks at the tokens arranges or thins them."""

    def propose_shape(parents: Sequence[int], seed: int) -> Propose:
        def propose(branches: Branches, text: Text, length: int) -> Proposal:
            laws = [quantise(model.law(text, WARM)) for model in models_for(seed)]
            offered = arrange([(branches.choose(options(law.as_law())), law) for law in laws])
            tokens, kept = zip(*offered, strict=True)
            return Proposal(block(text, tokens, How.SAMPLED, laws=kept, parents=PAIR[: len(tokens)]))

        return propose

    return propose_shape


DRAFTER_MUTANTS = {
    "order by the probability of the sampled token": lambda pair: sorted(
        pair, key=lambda one: -one[1].prob(one[0])
    ),
    "order of arrival, where arrival depends on the token": lambda pair: sorted(pair, key=lambda one: one[0]),
    "the drafter whose own token is more confident": lambda pair: [
        max(pair, key=lambda one: one[1].prob(one[0]))
    ],
    "equal samples merged, the first law kept": lambda pair: list(dict(reversed(pair)).items())[::-1],
}


@pytest.mark.parametrize("name", DRAFTER_MUTANTS)
def test_mutants_of_the_drafters_are_caught_by_enumeration(name: str) -> None:
    """Whatever looks at sampled values to order, choose or merge siblings biases rejection, and shows."""
    assert law_error(REJECTION, arranged(lambda pair: pair)) <= EXACT
    error = law_error(REJECTION, arranged(DRAFTER_MUTANTS[name]))
    assert error > BIASED


@pytest.mark.parametrize("name", DRAFTER_MUTANTS)
def test_matching_is_immune_to_the_same_drafters(name: str) -> None:
    """What is emitted is the target's own pick, so neither order nor choice of siblings can bias it."""
    assert law_error(COUPLED, arranged(DRAFTER_MUTANTS[name])) <= EXACT


# --- mutants of the randomness ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OneCoin(SeededDice):
    """Tosses one coin for all siblings of a position."""

    def accepts(self, target_prob: float, draft_prob: float, position: int, sibling: int = 0) -> bool:
        """As the real dice for the first sibling."""
        return super().accepts(target_prob, draft_prob, position)


def tree_p_value(
    dice_for: Callable[[int], Dice],
    for_sibling: Callable[[Chooser, int], Chooser] = Chooser.for_sibling,
    seeds: tuple[int, int] = (71, 72),
    num_texts: int = 3_000,
) -> float:
    """Chi-square of the first two tokens of whole generations with real choosers: two siblings, then one below each."""
    target, drafters = TableModel(5, 70, sharpness=0.7), [TableModel(5, one) for one in seeds]
    expected = target_joint(target, WARM, 2) * num_texts
    seen = np.zeros_like(expected)
    for seed in range(num_texts):
        choosers = [for_sibling(Chooser(Rule.REJECTION, WARM, seed, 5), place) for place in range(2)]
        text: Text = ()
        while len(text) < 2:
            draft = two_chains(text, choosers, drafters)
            rows = target_rows(target, draft, WARM, text)
            text += emitted(draft, REJECTION(draft, rows, dice_for(seed)))
        seen[text[:2]] += 1
    return float(stats.chisquare(seen.ravel(), expected.ravel()).pvalue)


def two_chains(text: Text, choosers: Sequence[Chooser], models: Sequence[TableModel]) -> Draft:
    """A chain of two tokens of each drafter, in the order of the drafters."""
    tokens: Text = ()
    laws: tuple[QuantisedLaw | None, ...] = ()
    for chooser, model in zip(choosers, models, strict=True):
        own: Text = ()
        for _ in range(2):
            before = text + own
            choice = chooser.choose(model.logits(before), len(before), history_of(before))
            own, laws = (*own, choice.token_id), (*laws, choice.law)
        tokens += own
    return block(text, tokens, How.SAMPLED, laws=laws, parents=(-1, 0, -1, 2))


def test_a_coin_shared_between_siblings_is_caught() -> None:
    """A sibling judged by the coin that refused the one before it is accepted too rarely."""
    assert tree_p_value(SeededDice) > 1e-4
    assert tree_p_value(OneCoin) < 1e-9


def test_one_private_number_for_all_drafters_is_caught() -> None:
    """Siblings must be drawn independently: with one number the second repeats what was refused."""
    assert tree_p_value(SeededDice, seeds=(73, 73)) > 1e-4
    assert tree_p_value(SeededDice, lambda chooser, _: chooser, (73, 73), 6_000) < 1e-9


def test_numbers_of_siblings_never_coincide() -> None:
    """Every pair of purpose and sibling has its own key, and sibling 0 has the key of a chain."""
    keys = {key(3, 9, purpose + 256 * sibling) for purpose in range(256) for sibling in range(64)}
    assert len(keys) == 256 * 64
    for purpose in Purpose:
        assert uniform(3, 9, purpose, 0) == uniform(3, 9, purpose)
        assert uniform(3, 9, purpose, 5) == (key(3, 9, purpose + 256 * 5) >> 11) * 2.0**-53


# --- shapes -----------------------------------------------------------------------------------------------------------


def test_shapes_are_read_as_they_are_meant() -> None:
    """Paths, depths, sibling groups and the principal chain of one tree, by hand."""
    parents = (-1, 0, 0, 2, -1)
    assert [trees.path_to(parents, node) for node in range(-1, 5)] == [
        (),
        (0,),
        (0, 1),
        (0, 2),
        (0, 2, 3),
        (4,),
    ]
    assert trees.depths(parents) == [0, 1, 1, 2, 0]
    assert trees.siblings(parents) == {-1: [0, 4], 0: [1, 2], 2: [3]}
    assert (trees.principal_length(parents), trees.principal_length(trees.chain(3))) == (2, 3)
    assert [trees.problem(parents[:count], count) for count in range(6)] == [""] * 6
