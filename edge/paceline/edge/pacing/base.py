"""The seam between the loop that generates a text and whatever decides what to draft and when to send it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from paceline.common.messages import FillPolicy, Opened
from paceline.common.tokens import Verdict
from paceline.edge.draft_length import Plan
from paceline.edge.request import Round


@dataclass(frozen=True, slots=True)
class Situation:
    """Where a generation stands on this side when somebody has to decide."""

    known: int
    """Length of the text as the next hop has it."""
    ahead_probs: Sequence[float]
    """Draft probabilities of the tokens written beyond it, in order."""
    num_unsent: int
    """How many of those the verifier has not been sent yet."""
    blocks_in_flight: int
    now_s: float

    @property
    def is_idle(self) -> bool:
        """Nothing drafted, nothing on its way."""
        return not self.ahead_probs and not self.blocks_in_flight


@dataclass(frozen=True, slots=True)
class Learned:
    """What a message of the verifier taught."""

    verdict: Verdict
    now_s: float
    since_s: float
    """Seconds since the verdict before it that added to the text; 0 for the first of a connection, which the prompt
    delays."""
    num_added: int
    """Tokens it added to the text as the next hop has it."""
    known: int
    """Length of that text after it."""
    judged: tuple[tuple[float, bool], ...] = ()
    """Draft probability of each drafted token that was spoken about, and whether it stands."""
    contradicted: bool = False
    round: Round | None = None
    """The blocks it settled."""
    round_trip_s: float | None = None
    """Measured on the newest block it answers, the verifier's own time taken off."""


class Pacing(Protocol):
    """Decides how a text is generated: what is drafted, how far ahead, and who fills."""

    @property
    def fill(self) -> FillPolicy:
        """What the verifier is asked to do while no draft is there."""

    @property
    def drafts(self) -> bool:
        """Whether a drafter is needed at all."""

    @property
    def streams(self) -> bool:
        """Whether a block is followed by further ones before its verdict."""

    @property
    def max_blocks_in_flight(self) -> int:
        """The window; 0 sends nothing."""

    def plan(self, situation: Situation) -> Plan | None:
        """The next block; None: draft nothing until something has happened."""

    def wants_echo(self, situation: Situation) -> bool:
        """Whether to send an empty block that is stale already: its answer costs the verifier nothing and measures the
        round trip while nothing else does."""

    def on_opened(self, opened: Opened, round_trip_s: float) -> None:
        """The verifier took the session; `round_trip_s` may contain a wait for a step under way."""

    def on_drafted(self, num_tokens: int, draft_s: float) -> None:
        """What a block took to write."""

    def learn(self, learned: Learned) -> None:
        """What the verifier said."""
