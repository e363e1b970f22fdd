"""The verifier's cost line, fitted as it works: seconds of a step = fixed + per_token * tokens."""

from dataclasses import dataclass

_DECAY = 0.98
_RIDGE = 2.0
"""Variance of step sizes (tokens squared) at which measurement and prior weigh alike: while all steps are of one size,
nothing can be learnt about the price of a further token."""


@dataclass(slots=True)
class CostLine:
    """Exponentially weighted least squares of step time on step size. Both coefficients are at least 0."""

    prior_per_token_s: float = 0.0
    """What a further token is believed to cost before steps of different sizes were seen."""
    fixed_s: float = 0.0
    per_token_s: float = 0.0
    _weight: float = 0.0
    _size: float = 0.0
    _time: float = 0.0
    _size_size: float = 0.0
    _size_time: float = 0.0

    def observe(self, num_tokens: int, seconds: float) -> None:
        """Take one measured step into account."""
        self._weight = _DECAY * self._weight + 1
        self._size = _DECAY * self._size + num_tokens
        self._time = _DECAY * self._time + seconds
        self._size_size = _DECAY * self._size_size + num_tokens * num_tokens
        self._size_time = _DECAY * self._size_time + num_tokens * seconds
        self._fit()

    def _fit(self) -> None:
        spread = (
            self._weight * self._size_size - self._size * self._size + _RIDGE * self._weight * self._weight
        )
        covariance = self._weight * self._size_time - self._size * self._time
        slope = (covariance + _RIDGE * self._weight * self._weight * self.prior_per_token_s) / spread
        self.per_token_s = min(max(slope, 0.0), self._time / max(self._size, 1.0))
        self.fixed_s = max((self._time - self.per_token_s * self._size) / self._weight, 0.0)
