"""How long to wait before a stream is opened once more."""

import random

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
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
