"""`paceline bench overload`: a verifier process with ten clients for each place, and the promises about it."""

import pytest

from paceline.benchmarks.overload import OverloadSettings, overload, overload_table

MARGIN = 3.0
"""Promised is 50 ms to refuse and 1.2 times the verify time; other programs share this machine's cores."""


@pytest.mark.slow
def test_overload_is_not_noticed_by_whoever_has_a_place() -> None:
    """Refusals are quick, verify times stay, nobody admitted is late, memory does not grow."""
    result = overload(OverloadSettings(seconds=30.0), print)
    overload_table(result)
    _, crowded, _ = result.phases
    assert crowded.refusal_s is not None
    assert crowded.refusal_s.count > 100
    assert crowded.refusal_s.p99 < 0.050 * MARGIN
    assert result.verify_ratio < 1.2 * MARGIN
    assert crowded.health_s is not None
    assert crowded.health_s.p99 < 0.1 * MARGIN
    assert not crowded.failed
    assert crowded.num_unhealthy == crowded.hurried == 0
    assert crowded.memory_bytes[-1] - crowded.memory_bytes[1] < 16 << 20
