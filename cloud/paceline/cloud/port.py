"""One stream's connection to the desk."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from paceline.cloud.fill import Patience
from paceline.cloud.own_drafts import OwnDrafts
from paceline.cloud.quotas import UNLIMITED, Quota
from paceline.common.messages import ClientMessage
from paceline.common.session import Answer, Steer, Steered, VerifierPhase, VerifierSession

log = logging.getLogger(__name__)

Request = ClientMessage | Steered | Steer
"""What a session is told; the last two only by a relay in this process."""


@dataclass(slots=True, eq=False)
class Port:
    """One stream's connection to the desk."""

    key: int
    loop: asyncio.AbstractEventLoop
    tenant: str = ""
    quota: Quota = UNLIMITED
    outbox: asyncio.Queue[Answer | None] = field(default_factory=asyncio.Queue)
    session: VerifierSession | None = None
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
    def is_live(self) -> bool:
        """Whether its text goes on."""
        return self.session is not None and self.session.phase is VerifierPhase.LIVE

    @property
    def num_unread(self) -> int:
        """Replies the client has yet to take."""
        return self.num_replies - self.num_read


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
