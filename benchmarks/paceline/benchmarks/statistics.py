"""Pure statistics of repeated measurements. Randomness comes from a seed; nothing here looks at a clock."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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


@dataclass(frozen=True, slots=True)
class Difference:
    """Median of the differences of paired measurements, with its 95 % bootstrap interval."""

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
    return Ratio(*_median_and_interval(ratios, seed), len(ratios))


def paired_difference(ones: Sequence[float], others: Sequence[float], *, seed: int = 0) -> Difference:
    """One less the other per pair, then as `paired_ratio`.

    Raises:
        ValueError: lengths differ, or there are no pairs.
    """
    if len(ones) != len(others):
        raise ValueError(f"{len(ones)} of the one but {len(others)} of the other")
    differences = np.asarray(ones, dtype=np.float64) - np.asarray(others, dtype=np.float64)
    return Difference(*_median_and_interval(differences, seed), len(differences))


def _median_and_interval(values: NDArray[np.float64], seed: int) -> tuple[float, float, float]:
    middle = percentile(values.tolist(), 0.5)
    indices = np.random.default_rng(seed).integers(len(values), size=(_RESAMPLES, len(values)))
    low, high = np.quantile(np.median(values[indices], axis=1), (0.025, 0.975))
    return middle, float(low), float(high)
