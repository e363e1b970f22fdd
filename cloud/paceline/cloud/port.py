"""One stream's connection to the desk."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from paceline.cloud.fill import Patience
from paceline.cloud.own_drafts import OwnDrafts
from paceline.cloud.parking import Name
from paceline.cloud.quotas import UNLIMITED, Quota
from paceline.cloud.receipts import Ledger
from paceline.common.logs import Fields, about, current, set_about
from paceline.common.messages import ClientMessage, Finished, Open
from paceline.common.metrics import TextPace
from paceline.common.session import Answer, Steer, Steered, VerifierPhase, VerifierSession, Work
from paceline.common.tokens import FinishReason
from paceline.common.tracing import NO_SPAN, Span

log = logging.getLogger(__name__)

_HASTE = 1.5
"""A text counts as late while it would need more than its time if it took so much longer than until now."""

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
    tenant: str = ""
    """Whose it is; empty where nobody is asked."""
    quota: Quota = UNLIMITED
    hop_name: str = ""
    """What reports call this hop."""
    outbox: asyncio.Queue[Answer | None] = field(default_factory=asyncio.Queue)
    session: VerifierSession | None = None
    cache_key: int = 0
    """The session's in the engine's books: that of the stream that opened it first."""
    ledger: Ledger | None = None
    """Makes the receipts, where some are wanted."""
    patience: Patience = field(default_factory=Patience)
    own_drafts: OwnDrafts | None = None
    opened_s: float = 0.0
    draft_arrived_s: float = 0.0
    num_arrived: int = 0
    num_handled: int = 0
    num_replies: int = 0
    num_read: int = 0
    is_clogged: bool = False
    """Not served because too many replies are unread; reading them wakes it."""
    is_leaving: bool = False
    """Its stream is over, as the desk will hear after the step under way."""
    has_ended: bool = False
    pace: TextPace | None = None
    """When its tokens came."""
    span: Span = NO_SPAN
    outcome: str = ""
    """How the text ended."""
    about: Fields = field(default_factory=current)
    """What lines of the log about it say; at first, whatever the task that serves it says."""

    @property
    def name(self) -> Name | None:
        """What its session is known by when another stream goes on with it; None if it is not to be."""
        session_id = self.session.request.session_id if self.session is not None else b""
        return (self.tenant, session_id) if session_id else None

    @property
    def attempt(self) -> tuple[int, ...]:
        """Which of its session's streams this is; see `Open.attempt`."""
        return self.session.request.attempt if self.session is not None else ()

    @property
    def is_live(self) -> bool:
        """Whether its text goes on."""
        return self.session is not None and self.session.phase is VerifierPhase.LIVE

    @property
    def num_unread(self) -> int:
        """Replies the client has yet to take."""
        return self.num_replies - self.num_read

    def know(self, opening: Open | Steered, hop: str) -> None:
        """What the text is called, and where it is."""
        request = opening.request if isinstance(opening, Steered) else opening
        set_about(request_id=request.request_id, session=self.key, hop=hop)
        self.about = current()

    def on_verdict(self, work: Work, done: Judged, now_s: float) -> None:
        """A verdict was given: count it, and learn how long to wait for drafts and how far to write alone."""
        num_drafted = len(work.draft) if work.draft is not None else 0
        num_judged = 0 if work.is_own else num_drafted
        if work.is_own and self.own_drafts is not None:
            self.own_drafts.judged(done.num_accepted)
        self.patience.on_commit(
            now_s,
            done.num_committed,
            judged=not work.is_own,
            num_accepted=done.num_accepted,
            refuted=not work.is_own and done.num_accepted < num_drafted,
        )
        if self.pace is not None:
            self.pace.tokens(done.num_committed, now_s)
        self.span.record(
            "step",
            done.step_s,
            base=done.base,
            num_drafted=num_judged,
            num_accepted=done.num_accepted if num_judged else 0,
            num_committed=done.num_committed,
            queue_s=done.queue_s,
        )

    def answer(self, answers: Sequence[Answer]) -> None:
        """Tell the client; what is finished says what was done for it."""
        if answers:
            self.num_replies += len(answers)
            told = [self._signed(one) if isinstance(one, Finished) else one for one in answers]
            post(self, told, ends=any(isinstance(one, Finished) for one in answers))

    def _signed(self, finished: Finished) -> Finished:
        assert self.session is not None, "only a session finishes"
        self._finished(finished.reason)
        return replace(finished, hops=(replace(self.session.report, name=self.hop_name),))

    def _finished(self, reason: FinishReason) -> None:
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

    def is_late(self, now_s: float, ends_s: float, step_s: float) -> bool:
        """Whether a text of full length would take longer than its client gives it, at the pace it has had.

        Args:
            step_s: a token's pace before there was any.
        """
        session = self.session
        if session is None:
            return False
        num_added = session.num_generated - len(session.request.committed_token_ids)
        pace_s = (now_s - self.opened_s) / num_added if num_added > 0 else step_s
        return now_s + _HASTE * (session.end - len(session.text)) * pace_s > ends_s


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
