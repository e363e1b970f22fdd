"""What our protocol adds to a bare exchange of the same bytes."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from paceline.benchmarks.statistics import percentile


@dataclass(slots=True)
class EchoRecord:
    """Bare exchanges measured during a run, seconds each."""

    bytes_up: int
    bytes_down: int
    back_to_back_s: list[float] = field(default_factory=list)
    in_rhythm_s: list[float] = field(default_factory=list)
    """With the pauses of the rounds at both ends, each in a second thread: whoever has been idle wakes up later."""


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of seconds."""

    p50: float
    p95: float
    count: int


@dataclass(frozen=True, slots=True)
class Overhead:
    """Our rounds beside bare exchanges. `network` is a round less the verifier's step and queue."""

    network_s: Percentiles
    echo_s: Percentiles
    rhythm_echo_s: Percentiles
    ratio: float
    """p50 of ours over p50 of back-to-back echoes."""
    rhythm_ratio: float
    """p50 of ours over p50 of echoes in the rounds' rhythm: what our own code adds."""
    bytes_up: int
    """Median payload of a draft block."""
    bytes_down: int
    """Median payload of a verdict."""


def percentiles(values: Sequence[float]) -> Percentiles:
    """Median and 95th percentile."""
    return Percentiles(percentile(values, 0.5), percentile(values, 0.95), len(values))


def overhead(network_s: Sequence[float], echoes: EchoRecord) -> Overhead:
    """Put both side by side.

    Args:
        network_s: of every measured round.
        echoes: of the same run.
    """
    ours, echo, rhythm = map(percentiles, (network_s, echoes.back_to_back_s, echoes.in_rhythm_s))
    return Overhead(
        network_s=ours,
        echo_s=echo,
        rhythm_echo_s=rhythm,
        ratio=ours.p50 / echo.p50,
        rhythm_ratio=ours.p50 / rhythm.p50,
        bytes_up=echoes.bytes_up,
        bytes_down=echoes.bytes_down,
    )
