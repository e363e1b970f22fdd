"""The statistics agree with what can be worked out by hand."""

import numpy as np
import pytest

from paceline.benchmarks.overhead import EchoRecord, overhead
from paceline.benchmarks.statistics import Spread, median, paired_difference, paired_ratio, percentile, spread


def test_percentile_interpolates_between_neighbours() -> None:
    """A quarter of the way through 0, 10, 20 lies 5."""
    assert percentile([20.0, 0.0, 10.0], 0.25) == 5.0


def test_percentile_of_one_value_is_that_value() -> None:
    """One measurement is its own every percentile."""
    assert [percentile([7.0], share) for share in (0.0, 0.5, 0.95, 1.0)] == [7.0] * 4


def test_no_values_have_no_percentile() -> None:
    """An empty measurement is an error, not a zero."""
    with pytest.raises(ValueError, match="no values"):
        median([])


def test_spread_is_median_and_quartiles() -> None:
    """Of 0 to 4 they are 2, 1 and 3."""
    assert spread([4.0, 0.0, 3.0, 1.0, 2.0]) == Spread(median=2.0, low=1.0, high=3.0, count=5)


def test_ratio_is_the_median_of_ratios_not_the_ratio_of_medians() -> None:
    """Pairs stay pairs: 1/1, 20/10 and 300/100 have the median ratio 2."""
    assert paired_ratio([1.0, 20.0, 300.0], [1.0, 10.0, 100.0]).median == 2.0


def test_equal_ratios_have_an_interval_of_no_width() -> None:
    """Where every pair says the same there is no doubt."""
    ratio = paired_ratio([3.0, 6.0, 9.0], [2.0, 4.0, 6.0])
    assert (ratio.low, ratio.median, ratio.high, ratio.pairs) == (1.5, 1.5, 1.5, 3)


def test_interval_is_a_function_of_the_seed() -> None:
    """The same seed resamples the same pairs."""
    generator = np.random.default_rng(5)
    numerators, denominators = generator.uniform(1, 2, (2, 30)).tolist()
    assert paired_ratio(numerators, denominators, seed=3) == paired_ratio(numerators, denominators, seed=3)


def test_interval_covers_the_true_median_about_95_times_in_100() -> None:
    """Of 80 samples from a law with median 1, at least 70 intervals hold 1, and not all of them."""
    generator = np.random.default_rng(0)
    intervals = [
        paired_ratio(np.exp(generator.normal(0, 0.2, 25)).tolist(), [1.0] * 25, seed=index)
        for index in range(80)
    ]
    assert 70 <= sum(one.low <= 1.0 <= one.high for one in intervals) < 80


def test_unpaired_measurements_are_refused() -> None:
    """A missing measurement would shift every pair after it."""
    with pytest.raises(ValueError, match="2 numerators but 1"):
        paired_ratio([1.0, 2.0], [1.0])


def test_difference_is_the_median_of_differences() -> None:
    """Pairs stay pairs here too: 1 - 0, 20 - 18 and 300 - 200 have the median 2; one without its pair is refused."""
    difference = paired_difference([1.0, 20.0, 300.0], [0.0, 18.0, 200.0])
    assert (difference.median, difference.pairs) == (2.0, 3)
    assert difference.low <= 2.0 <= difference.high
    with pytest.raises(ValueError, match="2 of the one but 1"):
        paired_difference([1.0, 2.0], [1.0])


def test_overhead_is_ours_over_the_echo() -> None:
    """Rounds of 3 ms beside echoes of 2 ms, or of 4 ms in their rhythm, cost 1.5 and 0.75 times as much."""
    record = EchoRecord(40, 20, back_to_back_s=[0.002] * 5, in_rhythm_s=[0.004] * 5)
    found = overhead([0.003] * 7, record)
    assert (found.ratio, found.rhythm_ratio, found.network_s.count) == (1.5, 0.75, 7)
