"""How the learning rate and the window length run over a training: warm up, hold, decay.

The plateau does not know how long the run will be. So a run may be lengthened, or told to begin its decay,
from a checkpoint, and still equals the run that was given that number of steps at the start.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Warm-up, plateau and decay, in steps."""

    steps: int
    """Optimiser steps in all."""
    warmup_steps: int
    decay_fraction: float = 0.3
    """Last part of the run over which the learning rate falls to zero, in [0, 1]."""
    long_fraction: float = 0.12
    """Last part of the run that trains on long windows, in [0, 1]."""

    def learning_rate_factor(self, step: int) -> float:
        """Multiplier of the peak learning rate at ``step`` (0-based), in (0, 1]."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        decay_steps = max(1, round(self.steps * self.decay_fraction))
        remaining = (self.steps - step) / decay_steps
        return min(warm, 1.0, max(0.0, remaining))

    def first_long_step(self) -> int:
        """First step that trains on long windows."""
        return self.steps - round(self.steps * self.long_fraction)
