"""Ways of working, and how each did beside what was predicted of it."""

from dataclasses import dataclass
from enum import StrEnum

_FORGET = 0.98
"""Per look: a way of working that disappointed is given another chance after a while."""


class Way(StrEnum):
    """Ways of working."""

    CLOUD = "cloud"
    """Nothing is sent; the verifier streams alone."""
    STREAM = "stream"
    """Many blocks in flight, the verifier fills."""
    ROUNDS = "rounds"
    """One block in flight, the next one written meanwhile: few rows are checked in vain."""


@dataclass(slots=True)
class Record:
    """How a way of working did beside what was predicted of it, lately."""

    ratio: float = 1.0
    tokens: float = 0.0
    predicted: float = 0.0
    """Tokens that were predicted for the same stretches, each by the figures of its time: a change of the link is none
    of the way's doing."""

    def observe(self, tokens: int, seconds: float, predicted_per_s: float) -> None:
        """Tokens that took so long; trusted little while few."""
        if not predicted_per_s:
            return
        self.tokens = 0.97 * self.tokens + tokens
        self.predicted = 0.97 * self.predicted + predicted_per_s * seconds
        if self.tokens > 16:
            measured = self.tokens / self.predicted
            self.ratio += 0.05 * (min(max(measured, 0.5), 2.0) - self.ratio)

    def forget(self) -> None:
        """Drift back to the prediction."""
        self.ratio = 1 + _FORGET * (self.ratio - 1)
