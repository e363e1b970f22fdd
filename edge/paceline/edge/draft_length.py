"""How many tokens to draft before asking. One seam, two policies.

Decisions look at the past and at the probability of tokens that are *kept*: a token once drafted is always
sent, so every rule stays exact (methods E11).
"""

from dataclasses import dataclass
from typing import Protocol

from paceline.common.calibration import Calibration
from paceline.common.cost import CostLine
from paceline.common.drafter import KeepGoing, always
from paceline.edge.request import Round

MAX_ADAPTIVE_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Plan:
    """One block to come."""

    limit: int
    """At most this many tokens."""
    keep_going: KeepGoing = always
    """Asked after each token, with its draft probability."""


class DraftLength(Protocol):
    """Chooses block lengths and learns from the outcome."""

    def plan(self) -> Plan:
        """The next block."""

    def observe(self, outcome: Round, draft_probs: tuple[float, ...]) -> None:
        """What became of it."""

    def believe(self, verify_per_token_s: float) -> None:
        """What the verifier says a further token costs it, seconds."""


class FixedLength:
    """Always the same number."""

    def __init__(self, num_speculative_tokens: int) -> None:
        self._plan = Plan(num_speculative_tokens)

    def plan(self) -> Plan:
        """The next block."""
        return self._plan

    def observe(self, outcome: Round, draft_probs: tuple[float, ...]) -> None:
        """Nothing to learn."""

    def believe(self, verify_per_token_s: float) -> None:
        """Nothing to learn."""


class AdaptiveLength:
    """Draft on while the next token is expected to earn more time than it costs.

    With ``s`` seconds per committed token (measured), the chance ``c`` that everything drafted so far stands,
    and the mean chance ``a`` that one more does, another token earns ``c * a * s`` and costs its drafting and
    its row in the verifier's step. Drafting stops when that is a loss: the stopping rule that maximises
    tokens per second when ``s`` is its own result (Dinkelbach's fixed point). Chances come from the draft's
    own confidence, calibrated on line.
    """

    def __init__(self) -> None:
        self._confidence = Calibration()
        self._round_trip = CostLine()
        self._tokens = 1.0
        self._seconds = 0.0
        self._drafting = CostLine()
        self._num_rounds = 0

    def plan(self) -> Plan:
        """The next block."""
        if not self._seconds:
            return Plan(4)
        token_cost_s = self._drafting.per_token_s + self._round_trip.per_token_s
        earning_s = self._seconds / self._tokens * self._confidence.mean
        standing = 1.0

        def keep_going(prob: float) -> bool:
            nonlocal standing
            standing *= self._confidence.chance(prob)
            return standing * earning_s > token_cost_s

        return Plan(MAX_ADAPTIVE_TOKENS, keep_going)

    def observe(self, outcome: Round, draft_probs: tuple[float, ...]) -> None:
        """What became of it. Only tokens up to the first disagreement were judged."""
        for index, prob in enumerate(draft_probs[: outcome.num_accepted + 1]):
            self._confidence.observe(prob, index < outcome.num_accepted)
        self._num_rounds += 1
        if self._num_rounds == 1:
            return  # both ends were still reading the prompt; its times say nothing about rounds
        self._round_trip.observe(outcome.num_drafted, outcome.round_s)
        self._tokens = 0.95 * self._tokens + outcome.num_accepted + 1
        self._seconds = 0.95 * self._seconds + outcome.draft_s + outcome.round_s
        if outcome.num_drafted:
            self._observe_drafting(outcome.num_drafted, outcome.draft_s)

    def _observe_drafting(self, num_drafted: int, draft_s: float) -> None:
        """A block has a price of its own besides its tokens'; laid on the single token of a short block it would keep
        blocks short. Until lengths differ, the best seconds per token seen so far is what a token is taken to cost."""
        drafting, per_token_s = self._drafting, draft_s / num_drafted
        drafting.prior_per_token_s = min(drafting.prior_per_token_s or per_token_s, per_token_s)
        drafting.observe(num_drafted, draft_s)

    def believe(self, verify_per_token_s: float) -> None:
        """Start from the verifier's own figure: it sees steps of many sizes, this side may see one."""
        self._round_trip.prior_per_token_s = verify_per_token_s


def draft_length(num_speculative_tokens: int | None) -> DraftLength:
    """The policy for a configured number; None adapts."""
    return AdaptiveLength() if num_speculative_tokens is None else FixedLength(num_speculative_tokens)
