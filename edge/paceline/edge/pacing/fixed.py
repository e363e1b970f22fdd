"""Pacings that were decided beforehand: nothing drafted, one block at a time, a steady stream."""

from paceline.common.messages import FillPolicy, Opened
from paceline.edge.draft_length import DraftLength, Plan, draft_length
from paceline.edge.pacing.base import Learned, Situation
from paceline.edge.pacing.estimates import Estimates
from paceline.edge.pacing.lookahead import Lookahead, is_immune
from paceline.edge.request import GenerationRequest

MAX_BLOCKS_IN_FLIGHT = 16


class Alone:
    """Nothing is drafted: the verifier decodes on and streams."""

    fill = FillPolicy.UNLIMITED
    drafts = False
    streams = False
    max_blocks_in_flight = 0

    def plan(self, situation: Situation) -> Plan | None:
        """Never."""
        return None

    def wants_echo(self, situation: Situation) -> bool:
        """Never."""
        return False

    def on_opened(self, opened: Opened, round_trip_s: float) -> None:
        """Nothing to learn."""

    def on_drafted(self, num_tokens: int, draft_s: float) -> None:
        """Nothing to learn."""

    def learn(self, learned: Learned) -> None:
        """Nothing to learn."""


class OneBlock:
    """Draft a block, send it, wait for the verdict: textbook speculative decoding over a link.

    Args:
        length: tokens per block.
    """

    fill = FillPolicy.OFF
    drafts = True
    streams = False
    max_blocks_in_flight = 1

    def __init__(self, length: DraftLength) -> None:
        self._length = length

    def plan(self, situation: Situation) -> Plan | None:
        """A block, if nothing is under way."""
        return self._length.plan() if situation.is_idle else None

    def wants_echo(self, situation: Situation) -> bool:
        """Never: every round measures."""
        return False

    def on_opened(self, opened: Opened, round_trip_s: float) -> None:
        """Start from the verifier's own cost of a further token."""
        self._length.believe(opened.verify_per_token_s)

    def on_drafted(self, num_tokens: int, draft_s: float) -> None:
        """The round says it all."""

    def learn(self, learned: Learned) -> None:
        """A round is over."""
        if learned.round is not None:
            self._length.observe(learned.round, tuple(prob for prob, _ in learned.judged))


class Steady:
    """Drafts on as long as a further token is likely to be of use; several blocks in flight.

    Args:
        request: its block length, window and fill, where given.
        estimates: what is known; shared by the texts of a client.
    """

    drafts = True
    streams = True

    def __init__(self, request: GenerationRequest, estimates: Estimates) -> None:
        self.fill = request.fill or FillPolicy.AUTO
        self.max_blocks_in_flight = request.max_blocks_in_flight or MAX_BLOCKS_IN_FLIGHT
        self._block = request.num_speculative_tokens
        self._estimates = estimates
        waits = self.fill is FillPolicy.OFF
        self._lookahead = Lookahead(estimates, immune=is_immune(request, self.fill), waits=waits)

    def plan(self, situation: Situation) -> Plan | None:
        """A block, while the window has room."""
        if situation.blocks_in_flight >= self.max_blocks_in_flight:
            return None
        return Plan(self._block) if self._block else self._lookahead.plan(situation)

    def wants_echo(self, situation: Situation) -> bool:
        """Never: blocks measure."""
        return False

    def on_opened(self, opened: Opened, round_trip_s: float) -> None:
        """Start from the verifier's own figures."""
        self._estimates.on_opened(opened, round_trip_s)

    def on_drafted(self, num_tokens: int, draft_s: float) -> None:
        """Fit the drafter's cost."""
        self._estimates.on_drafted(num_tokens, draft_s)

    def learn(self, learned: Learned) -> None:
        """Fit the rest."""
        self._estimates.learn(learned)


def one_block(request: GenerationRequest) -> OneBlock:
    """Textbook rounds of the request's block length."""
    return OneBlock(draft_length(request.num_speculative_tokens))
