"""Leviathan/Chen rejection sampling (methods R1): the highest acceptance per token, for a law on the wire."""

from dataclasses import dataclass

import numpy as np

from paceline.common.acceptance.base import Dice, Judgement, follow
from paceline.common.sampling.law import Law, one_hot
from paceline.common.sampling.rows import TargetRows
from paceline.common.tokens import Draft, How, Origin, Rule

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


@dataclass(frozen=True, slots=True)
class Rejection:
    """Rejection sampling. Shared noise is refused: the draft and the coin would not be independent."""

    name: Rule = Rule.REJECTION
    accepts: frozenset[How] = frozenset({How.SAMPLED, How.ONE_HOT})
    lossless: bool = True

    def judge(self, draft: Draft, rows: TargetRows, dice: Dice) -> Judgement:
        """See `rejection`."""
        return rejection(draft, rows, dice)
