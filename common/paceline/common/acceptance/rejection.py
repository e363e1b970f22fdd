"""Leviathan/Chen rejection sampling (methods R1): the highest acceptance per token, for a law on the wire."""

from dataclasses import dataclass

import numpy as np

from paceline.common.acceptance.base import Dice, Judgement, follow
from paceline.common.sampling.law import Law, one_hot
from paceline.common.sampling.rows import TargetRows
from paceline.common.tokens import Draft, How, Origin, Rule
from paceline.common.trees import ROOT, siblings

_NO_RESIDUAL = 1e-14
"""A residual that weighs less is rounding noise of two equal laws."""


def acceptance_probability(target_prob: float, draft_prob: float) -> float:
    """Chance that a token of these probabilities is accepted. `draft_prob` is above 0: it was drafted."""
    return min(1.0, target_prob / draft_prob)


def recovery_law(target: Law, draft: Law) -> Law:
    """normalise(max(target - draft, 0)): what the recovered token is drawn from.

    Equal laws leave nothing; a rejection then has probability 0 and can only come from rounding, so the
    target's own law is returned (methods E1).
    """
    residual = target.probs.copy()
    places = target.token_ids.searchsorted(draft.token_ids)
    places[places == len(residual)] = 0  # an id beyond the last one; the comparison below drops it
    common = target.token_ids[places] == draft.token_ids
    residual[places[common]] -= draft.probs[common]
    np.maximum(residual, 0.0, out=residual)
    total = float(residual.sum())
    if total <= _NO_RESIDUAL:
        return target
    kept = residual.nonzero()[0]
    return Law(target.token_ids[kept], residual[kept] / total)


def rejection(draft: Draft, rows: TargetRows, dice: Dice) -> Judgement:
    """Accept a prefix of the draft so that the output law is exactly the target's.

    The token ``x`` at row ``i`` is accepted when ``coin * draft_probs[i][x] < target_probs[i][x]`` (strict:
    a token of target probability 0 is never accepted). At the first rejection the *recovered* token is drawn
    from ``normalise(max(target - draft, 0))``; if none is rejected, the *bonus* is drawn from the last row,
    except that a block after which more follows gets none, for the drafter's next token already stands
    there.

    A deterministic draft is a law with all its mass on one token. The draft's probabilities are read from
    the laws that travelled, never from `draft.draft_probs`.

    Lossless: yes, if every drafted token was drawn from its law and whether it was sent did not depend on
    its value (methods E11). Proved by enumeration in tests/acceptance/test_exactness.py.
    References: Leviathan et al., arXiv:2211.17192, algorithm 1; Chen et al., arXiv:2302.01318.
    """
    for index, token_id in enumerate(draft.token_ids):
        position = draft.base + index
        target = rows.law(index)
        draft_prob = draft.laws[index].prob(token_id) if draft.laws else 1.0
        if not dice.accepts(target.prob(token_id), draft_prob, position):
            draft_law = draft.laws[index].as_law() if draft.laws else one_hot(token_id)
            recovered = dice.draw(recovery_law(target, draft_law), position)
            return Judgement(index, recovered, Origin.RECOVERED)
    length = len(draft)
    if length and draft.more_follows:
        return Judgement(length, None, None)
    return Judgement(length, dice.draw(rows.law(length), draft.base + length), follow(draft))


def rejection_tree(draft: Draft, rows: TargetRows, dice: Dice) -> Judgement:
    """Walk down a tree; at each node offer its children one after another (methods R4).

    The first child is judged against the target's row, the next against what the refusal of the first left of it:
    ``target`` becomes ``normalise(max(target - draft, 0))``, with the law of the child refused. Every child has a coin
    of its own. If all are refused the *recovered* token is drawn from what is left; at a leaf the *bonus* from its row.

    Lossless: yes, if every child was drawn from its law independently of its siblings, and the order of siblings, which
    is that of the block, does not depend on their values or on who was there first (methods E11).
    Proved by enumeration in tests/acceptance/test_trees.py.
    Reference: SpecInfer, arXiv:2305.09781, algorithm 2, with laws that may differ from sibling to sibling.
    """
    children = siblings(draft.parents)
    node, depth = ROOT, 0
    while True:
        target, position = rows.law(node + 1), draft.base + depth
        offered = children.get(node, [])
        chosen = None
        for place, child in enumerate(offered):
            token_id = draft.token_ids[child]
            law = draft.laws[child].as_law() if draft.laws else one_hot(token_id)
            if dice.accepts(target.prob(token_id), law.prob(token_id), position, place):
                chosen = child
                break
            target = recovery_law(target, law)
        if chosen is None:
            origin = Origin.RECOVERED if offered else Origin.BONUS
            return Judgement(depth, dice.draw(target, position), origin, None if node == ROOT else node)
        node, depth = chosen, depth + 1


@dataclass(frozen=True, slots=True)
class Rejection:
    """Rejection sampling. Shared noise is refused: the draft and the coin would not be independent."""

    name: Rule = Rule.REJECTION
    accepts: frozenset[How] = frozenset({How.SAMPLED, How.ONE_HOT})
    judges_trees: bool = True
    lossless: bool = True

    def judge(self, draft: Draft, rows: TargetRows, dice: Dice) -> Judgement:
        """See `rejection` and `rejection_tree`."""
        return rejection_tree(draft, rows, dice) if draft.parents else rejection(draft, rows, dice)
