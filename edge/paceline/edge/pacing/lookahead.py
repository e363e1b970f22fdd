"""How far ahead of the committed text to draft.

A drafted token is worth the time it saves if it stands: the chance that everything before it and it itself stand, times
the seconds a committed token takes. It costs its row in the verifier's step, and its drafting where nothing hides that.
Drafting goes on while a further token is worth more than it costs: Dinkelbach's rule, as in `draft_length`.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from paceline.common.calibration import Calibration
from paceline.common.drafter import Drafter, is_even
from paceline.common.errors import InvalidRequest
from paceline.common.messages import FillPolicy
from paceline.common.tokens import Rule
from paceline.edge.draft_length import MAX_ADAPTIVE_TOKENS, Plan
from paceline.edge.pacing.base import Situation
from paceline.edge.pacing.estimates import Estimates
from paceline.edge.request import GenerationRequest

LEAST_STANDING = 0.02
"""Drafting for a fiftieth chance is left alone even where it is free: it warms the device."""
_BLOCKS_PER_PASS = 4
"""Blocks are short beside a target pass, so that none waits long for its last token, and long beside a message."""
_MAX_BLOCK = 16
_FIRST_BLOCK = 4
"""Until something is known."""


def is_immune(request: GenerationRequest, fill: FillPolicy) -> bool:
    """Whether block lengths may follow the confidence of drafted tokens.

    Under rejection a filled position is a fresh draw, a drafted one is not; which of the two happens depends on when a
    block arrives. So with fill its length must not depend on its tokens (methods E11). Other rules commit the target's
    own pick either way.
    """
    return request.effective_rule is not Rule.REJECTION or fill is FillPolicy.OFF


def without_race(request: GenerationRequest, drafter: Drafter | None) -> GenerationRequest:
    """The request with fill off where filling would race with blocks whose pace depends on what was drawn.

    Raises:
        InvalidRequest: such a race was asked for.
    """
    if request.effective_rule is not Rule.REJECTION or drafter is None or is_even(drafter):
        return request
    if request.fill not in (None, FillPolicy.OFF):
        raise InvalidRequest(
            f"{request.fill} would bias rejection sampling with the drafter {drafter.name}",
            field="fill",
            cure="leave it to the mode, or use the rule coupled",
        )
    return replace(request, fill=FillPolicy.OFF)


class Lookahead:
    """Plans the next block of a stream.

    Args:
        estimates: what is known.
        immune: see `is_immune`.
        waits: the verifier waits for drafts instead of decoding on.
        thrift: 0 saves time, 1 saves target passes: blocks are as long as can be of use, whatever their rows cost.
    """

    def __init__(self, estimates: Estimates, *, immune: bool, waits: bool, thrift: float = 0.0) -> None:
        self._thrift = thrift
        self._estimates = estimates
        self._immune = immune
        self._waits = waits

    @property
    def block(self) -> int:
        """Tokens per block."""
        estimates = self._estimates
        if not estimates.draft_token_s or not estimates.decode_s:
            return _FIRST_BLOCK
        return min(
            max(round(estimates.decode_s / (_BLOCKS_PER_PASS * estimates.draft_token_s)), 1), _MAX_BLOCK
        )

    def plan(self, situation: Situation) -> Plan | None:
        """The next block; None if a further token is not worth it yet."""
        least = self._least_standing(situation)
        if not self._immune:
            most = self._length_at(least)
            room = most - len(situation.ahead_probs)
            return Plan(min(self.block, most)) if room > 0 else None
        confidence = self._estimates.confidence
        standing = _standing(confidence, situation.ahead_probs)
        if standing <= least:
            return None

        def keep_going(prob: float) -> bool:
            nonlocal standing
            standing *= confidence.chance(prob)
            return standing > least

        return Plan(MAX_ADAPTIVE_TOKENS if self._is_awaited(situation) else self.block, keep_going)

    @property
    def typical_length(self) -> int:
        """Tokens ahead of the committed text, as a rule."""
        return self._length_at(self._least_at_cost(self._estimates.verify.per_token_s))

    def _length_at(self, least: float) -> int:
        """Tokens until the chance that all stand has fallen to `least`."""
        return max(int(math.log(least) / math.log(min(self._estimates.confidence.mean, 0.98))), 1)

    def _is_awaited(self, situation: Situation) -> bool:
        """Whether the verifier stands still until the next block: then it had better be whole."""
        near = self._estimates.round_trip.typical_s < self._estimates.decode_s / 2
        return situation.is_idle and (self._waits or near)

    def _least_standing(self, situation: Situation) -> float:
        """Chance of standing at which one more token is worth exactly what it costs."""
        estimates = self._estimates
        cost_s = estimates.verify.per_token_s
        if self._is_awaited(situation):
            cost_s += estimates.draft_token_s
        return self._least_at_cost(cost_s)

    def _least_at_cost(self, cost_s: float) -> float:
        estimates = self._estimates
        worth_s = estimates.pace.s_per_token * estimates.confidence.mean
        least = min(max(cost_s / worth_s, LEAST_STANDING), 0.95) if worth_s else LEAST_STANDING
        return self._thrift * LEAST_STANDING + (1 - self._thrift) * least


def _standing(confidence: Calibration, probs: Sequence[float]) -> float:
    """Chance that all of them stand."""
    return math.prod(confidence.chance(prob) for prob in probs)
