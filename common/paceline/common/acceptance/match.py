"""Keep drafted tokens while they equal the verifier's own pick (methods 2.2, R2, R6)."""

from dataclasses import dataclass

from paceline.common.acceptance.base import Dice, Judgement, follow
from paceline.common.sampling.rows import TargetRows
from paceline.common.tokens import Draft, How, Origin, Rule
from paceline.common.trees import ROOT, siblings


def match(draft: Draft, rows: TargetRows, dice: Dice) -> Judgement:
    """Accept the longest prefix of the draft that the verifier would have written itself.

    At every row the verifier makes its own pick: the argmax at temperature 0, otherwise the argmax of log
    law plus the noise keyed by seed and position. The first pick that differs from the draft is the
    *recovered* token; if none does, the pick of the row after the last drafted token is the *bonus*
    (*filled*, if nothing was drafted).

    Every emitted token is the verifier's own pick, so the text depends on target, prompt and seed alone; a
    draft, however it was made, only decides how early it is known.

    Lossless: yes, for any draft. Proved by enumeration in tests/acceptance/test_exactness.py.
    References: Daliri, Musco and Suresh, arXiv:2408.07978; a deterministic draft makes it rule R2.
    """
    for index, token_id in enumerate(draft.token_ids):
        picked = _own_pick(rows, index, draft.base + index, dice)
        if picked != token_id:
            return Judgement(index, picked, Origin.RECOVERED)
    length = len(draft)
    return Judgement(length, _own_pick(rows, length, draft.base + length, dice), follow(draft))


def match_tree(draft: Draft, rows: TargetRows, dice: Dice) -> Judgement:
    """Walk down a tree as long as the verifier's own pick is one of the children; see `match`.

    One pick per position and no coin: which children there are decides only how far the walk goes. On each path this is
    `match`, so it is lossless for any tree (methods R2: draw once, accept iff it was proposed).
    """
    children = siblings(draft.parents)
    node, depth = ROOT, 0
    while True:
        picked = _own_pick(rows, node + 1, draft.base + depth, dice)
        offered = children.get(node, [])
        chosen = next((child for child in offered if draft.token_ids[child] == picked), None)
        if chosen is None:
            origin = Origin.RECOVERED if offered else Origin.BONUS
            return Judgement(depth, picked, origin, None if node == ROOT else node)
        node, depth = chosen, depth + 1


def _own_pick(rows: TargetRows, index: int, position: int, dice: Dice) -> int:
    if rows.params.is_greedy:
        return rows.greedy(index)
    return dice.pick(rows.law(index), position)


@dataclass(frozen=True, slots=True)
class Match:
    """Greedy, coupled and one-hot acceptance: one algorithm, told apart by what the drafter does.

    Safe against a lying drafter: no draft can bend the law.
    """

    name: Rule
    accepts: frozenset[How] = frozenset(How)
    judges_trees: bool = True
    lossless: bool = True

    def judge(self, draft: Draft, rows: TargetRows, dice: Dice) -> Judgement:
        """See `match` and `match_tree`."""
        return match_tree(draft, rows, dice) if draft.parents else match(draft, rows, dice)
