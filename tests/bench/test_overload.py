"""`paceline bench overload`: a verifier process with ten clients for each place, and the promises about it."""

from typing import Any

import pytest

from paceline.benchmarks.overload import OverloadSettings, overload, overload_table

MARGIN = 3.0
"""Promised is 50 ms to refuse and 1.2 times the verify time; other programs share this machine's cores."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.timed
def test_overload_is_not_noticed_by_whoever_has_a_place(record_property: Any) -> None:
    """Five minutes: refusals are quick, verify times stay, nobody admitted is late, memory does not grow."""
    result = overload(OverloadSettings(), print)
    overload_table(result)
    _, crowded, _ = result.phases
    assert crowded.refusal_s is not None
    assert crowded.health_s is not None
    record_property("refused", crowded.refusal_s.count)
    record_property("refusal p99", f"{1e3 * crowded.refusal_s.p99:.1f} ms")
    record_property("verify p99", f"{result.verify_ratio:.2f} times that without the excess")
    record_property("health p99", f"{1e3 * crowded.health_s.p99:.1f} ms")
    record_property("memory MiB", str([round(size / 2**20, 1) for size in crowded.memory_bytes[1::20]]))
    assert crowded.refusal_s.count > 100
    assert crowded.refusal_s.p99 < 0.050 * MARGIN
    assert result.verify_ratio < 1.2 * MARGIN
    assert crowded.health_s.p99 < 0.1 * MARGIN
    assert not crowded.failed
    assert crowded.num_unhealthy == crowded.hurried == 0
    assert crowded.memory_bytes[-1] - crowded.memory_bytes[1] < 16 << 20
