"""One stream's connection to the desk."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from paceline.cloud.fill import Patience
from paceline.cloud.own_drafts import OwnDrafts
from paceline.cloud.parking import Name
from paceline.cloud.quotas import UNLIMITED, Quota
from paceline.cloud.receipts import Ledger
from paceline.common.messages import ClientMessage
from paceline.common.session import Answer, Steer, Steered, VerifierPhase, VerifierSession, Work

log = logging.getLogger(__name__)

_HASTE = 1.5
"""A text counts as late while it would need more than its time if it took so much longer than until now."""

Request = ClientMessage | Steered | Steer
"""What a session is told; the last two only by a relay in this process."""


@dataclass(slots=True, eq=False)
class Port:
    """One stream's connection to the desk."""

    key: int
    loop: asyncio.AbstractEventLoop
    tenant: str = ""
    """Whose it is; empty where nobody is asked."""
    quota: Quota = UNLIMITED
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

    @property
    def name(self) -> Name | None:
        """What its session is known by when another stream goes on with it; None if it is not to be."""
        session_id = self.session.request.session_id if self.session is not None else b""
        return (self.tenant, session_id) if session_id else None

    @property
    def is_live(self) -> bool:
        """Whether its text goes on."""
        return self.session is not None and self.session.phase is VerifierPhase.LIVE

    @property
    def num_unread(self) -> int:
        """Replies the client has yet to take."""
        return self.num_replies - self.num_read

    def on_verdict(self, work: Work, num_accepted: int, num_committed: int, now_s: float) -> None:
        """Learn from a verdict how long to wait for drafts, and how far to write alone."""
        num_drafted = len(work.draft) if work.draft is not None else 0
        if work.is_own and self.own_drafts is not None:
            self.own_drafts.judged(num_accepted)
        self.patience.on_commit(
            now_s,
            num_committed,
            judged=not work.is_own,
            num_accepted=num_accepted,
            refuted=not work.is_own and num_accepted < num_drafted,
        )

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
