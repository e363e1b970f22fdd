"""How often drafted tokens stand, by the probability their drafter gave them."""

from bisect import bisect_right
from itertools import pairwise


class Calibration:
    """How often tokens of a given draft probability stand, learnt from a prior that takes the draft at its
    word."""

    _EDGES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
    _PRIOR_WEIGHT = 4.0

    def __init__(self) -> None:
        bounds = (0.0, *self._EDGES, 1.0)
        self._judged = [self._PRIOR_WEIGHT] * (len(bounds) - 1)
        self._stood = [self._PRIOR_WEIGHT * (low + high) / 2 for low, high in pairwise(bounds)]
        self.mean = 0.7
        """Running share of judged tokens that stood."""

    def chance(self, prob: float) -> float:
        """Estimated probability that a token drafted with this probability stands."""
        bucket = bisect_right(self._EDGES, prob)
        return self._stood[bucket] / self._judged[bucket]

    def observe(self, prob: float, stood: bool) -> None:
        """Count one judged token."""
        bucket = bisect_right(self._EDGES, prob)
        self._judged[bucket] += 1
        self._stood[bucket] += stood
        self.mean += 0.02 * (stood - self.mean)
