"""Whether a stream is opened once more, and how long to wait before that."""

import random

from paceline.common.errors import PacelineError
from paceline.edge.request import GenerationRequest

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
OPENING_S = 5.0
"""How long a text that no verifier has taken yet is tried again: it was there, but somebody waits for a first token."""
JITTER = 0.25
"""Up to this share more than a verifier asked for: it told others the same."""


class Attempts:
    """Pauses that double from attempt to attempt, and are never shorter than what a verifier asked for.

    Args:
        name: of the text; the same name has the same jitter. Empty: any.
    """

    def __init__(self, name: str) -> None:
        self._dice = random.Random(name or None)
        self._pause_s = FIRST_PAUSE_S

    def begin_anew(self) -> None:
        """The last attempt brought the text on."""
        self._pause_s = FIRST_PAUSE_S

    def pause_s(self, retry_after_s: float) -> float:
        """Seconds until the next one."""
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, LONGEST_PAUSE_S)
        return max(pause_s, retry_after_s * (1 + JITTER * self._dice.random()))


class Outage:
    """How long a text has been without a verifier, and when that is too long.

    Args:
        request: how patient its caller is.
        now_s: when the text began.
    """

    def __init__(self, request: GenerationRequest, now_s: float) -> None:
        self.was_taken = False
        """A verifier took the text once."""
        self.since_s: float | None = None
        """When the link broke first since the text last grew."""
        self._request = request
        self._waits_until_s = now_s + request.wait_s

    def is_in_queue(self, error: PacelineError, now_s: float) -> bool:
        """Whether a verifier is full, and the caller waits at least as long as that verifier asks for."""
        return error.is_full and now_s + error.retry_after_s <= self._waits_until_s

    def is_too_long(self, until_s: float) -> bool:
        """Whether nothing would be tried any more at that time."""
        request = self._request
        longest_s = request.reconnect_s if self.was_taken or request.offline else OPENING_S
        return self.since_s is not None and until_s - self.since_s >= min(request.reconnect_s, longest_s)
