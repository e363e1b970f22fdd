"""One stream's connection to the desk."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from paceline.cloud.fill import Patience
from paceline.cloud.own_drafts import OwnDrafts
from paceline.common.logs import Fields, about, current, set_about
from paceline.common.messages import ClientMessage, Open
from paceline.common.metrics import TextPace
from paceline.common.session import Answer, Steer, Steered, VerifierSession
from paceline.common.tokens import FinishReason
from paceline.common.tracing import NO_SPAN, Span

log = logging.getLogger(__name__)

Request = ClientMessage | Steered | Steer
"""What a session is told; the last two only by a relay in this process."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What one step did for a session."""

    base: int
    """Committed length before it."""
    num_accepted: int
    num_committed: int
    step_s: float
    queue_s: float


@dataclass(slots=True, eq=False)
class Port:
    """One stream's connection to the desk."""

    key: int
    loop: asyncio.AbstractEventLoop
    outbox: asyncio.Queue[Answer | None] = field(default_factory=asyncio.Queue)
    session: VerifierSession | None = None
    patience: Patience = field(default_factory=Patience)
    own_drafts: OwnDrafts | None = None
    draft_arrived_s: float = 0.0
    num_arrived: int = 0
    num_handled: int = 0
    num_replies: int = 0
    num_read: int = 0
    is_clogged: bool = False
    """Not served because too many replies are unread; reading them wakes it."""
    has_ended: bool = False
    pace: TextPace | None = None
    """When its tokens came."""
    span: Span = NO_SPAN
    outcome: str = ""
    """How the text ended."""
    about: Fields = field(default_factory=current)
    """What lines of the log about it say; at first, whatever the task that serves it says."""

    @property
    def num_unread(self) -> int:
        """Replies the client has yet to take."""
        return self.num_replies - self.num_read

    def know(self, opening: Open | Steered, hop: str) -> None:
        """What the text is called, and where it is."""
        request = opening.request if isinstance(opening, Steered) else opening
        set_about(request_id=request.request_id, session=self.key, hop=hop)
        self.about = current()

    def judged(self, done: "Judged", num_drafted: int, now_s: float) -> None:
        """A verdict was given."""
        if self.pace is not None:
            self.pace.tokens(done.num_committed, now_s)
        self.span.record(
            "step",
            done.step_s,
            base=done.base,
            num_drafted=num_drafted,
            num_accepted=done.num_accepted if num_drafted else 0,
            num_committed=done.num_committed,
            queue_s=done.queue_s,
        )

    def finished(self, reason: FinishReason) -> None:
        """The text is complete."""
        self.outcome = reason
        if self.pace is not None:
            self.pace.finished(reason)

    def over(self, now_s: float) -> None:
        """The session is gone."""
        if self.pace is not None:
            self.pace.ended(now_s)
        with about(self.about):
            log.info("session closed: %s", self.outcome or "the client left")


def post(port: Port, messages: Sequence[Answer], *, ends: bool) -> None:
    """Hand answers to the port's event loop, all in one wake-up."""
    try:
        port.loop.call_soon_threadsafe(_deliver, port, messages, ends)
    except RuntimeError:
        log.debug("the event loop of session %d is closed", port.key)


def _deliver(port: Port, messages: Sequence[Answer], ends: bool) -> None:
    for message in messages:
        port.outbox.put_nowait(message)
    if ends:
        port.outbox.put_nowait(None)
