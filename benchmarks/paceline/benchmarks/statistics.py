"""Pure statistics of repeated measurements. Randomness comes from a seed; nothing here looks at a clock."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 4000


@dataclass(frozen=True, slots=True)
class Spread:
    """Middle and middle half of some measurements."""

    median: float
    low: float
    """First quartile."""
    high: float
    """Third quartile."""
    count: int


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median of the ratios of paired measurements, with its 95 % bootstrap interval."""

    median: float
    low: float
    high: float
    pairs: int


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie, interpolated linearly.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values, no percentile")
    return float(np.quantile(np.asarray(values, dtype=np.float64), share))


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return percentile(values, 0.5)


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles."""
    return Spread(median(values), percentile(values, 0.25), percentile(values, 0.75), len(values))


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float], *, seed: int = 0) -> Ratio:
    """Ratio per pair, then the median; pairs are resampled with replacement for the interval.

    Args:
        numerators: one measurement per pair.
        denominators: the other of the same pair, positive.
        seed: of the resampling.
    Raises:
        ValueError: lengths differ, or there are no pairs.
    """
    if len(numerators) != len(denominators):
        raise ValueError(f"{len(numerators)} numerators but {len(denominators)} denominators")
    ratios = np.asarray(numerators, dtype=np.float64) / np.asarray(denominators, dtype=np.float64)
    middle = percentile(ratios.tolist(), 0.5)
    indices = np.random.default_rng(seed).integers(len(ratios), size=(_RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[indices], axis=1), (0.025, 0.975))
    return Ratio(middle, float(low), float(high), len(ratios))
