"""A link's shape as a pure function: what is sent when, and when it arrives."""

import statistics
from itertools import pairwise

import pytest

from paceline.common.errors import InvalidRequest
from paceline.simulation.link import Cut, Direction, LinkShape


def arrivals(shape: LinkShape, count: int = 2000, every_s: float = 0.01, name: str = "up") -> list[float]:
    """When messages of 100 bytes arrive that are sent at a steady pace."""
    way = Direction(shape, name, 0.0)
    return [way.arrival(index * every_s, 100) for index in range(count)]


def test_without_a_shape_nothing_is_delayed() -> None:
    """The default link is no link at all."""
    assert arrivals(LinkShape(), 10) == [index * 0.01 for index in range(10)]


def test_a_direction_takes_half_the_round_trip() -> None:
    """The same both ways."""
    delays = [at_s - index * 0.01 for index, at_s in enumerate(arrivals(LinkShape(rtt_s=0.1)))]

    assert delays == pytest.approx([0.05] * 2000)


def test_jitter_is_exponential_with_the_mean_asked_for() -> None:
    """Never below the delay without it; apart enough not to queue, its mean and deviation are what was asked."""
    extra = [at_s - index - 0.05 for index, at_s in enumerate(arrivals(LinkShape(0.1, 0.02), every_s=1.0))]

    assert min(extra) >= -1e-9
    assert statistics.mean(extra) == pytest.approx(0.02, rel=0.1)
    assert statistics.stdev(extra) == pytest.approx(0.02, rel=0.1)


def test_nothing_is_overtaken() -> None:
    """Whatever the jitter and the stalls, the order stays: a late one makes the later ones late."""
    found = arrivals(LinkShape(0.05, 0.1, 1e5, 0.3, 0.1), every_s=0.001)

    assert found == sorted(found)


def test_the_dice_are_the_seed_s_and_the_direction_s() -> None:
    """Same seed, same delays; another seed or the other direction, others."""
    shape = LinkShape(0.05, 0.01, stall_every_s=0.5, stall_s=0.1, seed=7)

    assert arrivals(shape) == arrivals(shape)
    assert arrivals(shape) != arrivals(shape, name="down")
    assert arrivals(shape) != arrivals(LinkShape(0.05, 0.01, stall_every_s=0.5, stall_s=0.1, seed=8))


def test_stalls_pause_as_often_and_as_long_as_asked() -> None:
    """One in `stall_every_s` on average; what falls into one arrives at its end, together."""
    found = arrivals(LinkShape(stall_every_s=2.0, stall_s=0.2), count=100_000)
    late = [at_s - index * 0.01 for index, at_s in enumerate(found)]
    stalls = sum(1 for before, after in pairwise(late) if before < 1e-9 < after)

    assert max(late) <= 0.2 + 1e-9
    # Ended stalls and the gaps between them take 2.2 s together.
    assert stalls == pytest.approx(1000 / 2.2, rel=0.15)


def test_bytes_share_the_bandwidth() -> None:
    """A full link queues; an idle one does not save up."""
    way = Direction(LinkShape(rtt_s=0.2, bytes_per_s=1000.0), "up", 0.0)

    assert [way.arrival(0.0, 500), way.arrival(0.0, 500)] == pytest.approx([0.6, 1.1])
    assert way.arrival(10.0, 100) == pytest.approx(10.2)


def test_a_cut_holds_what_is_already_on_its_way() -> None:
    """Nothing passes while it lasts, and two that overlap last until the later end."""
    way = Direction(LinkShape(rtt_s=1.0), "up", 0.0)
    due_s = way.arrival(0.0, 1)
    way.cut(0.4, 1.0)
    way.cut(0.2, 0.5)

    assert due_s == pytest.approx(0.5)
    assert way.held_until(due_s) == pytest.approx(1.4)
    assert way.held_until(1.4) == pytest.approx(1.4)


def test_a_change_of_shape_counts_from_then_and_ends_no_cut() -> None:
    """Planned cuts keep their times; a new shape's begin when it does; nothing sent earlier is overtaken."""
    way = Direction(LinkShape(rtt_s=2.0, cuts=(Cut(5.0, 2.0),)), "up", 100.0)
    slow_s = way.arrival(100.0, 1)
    way.change(LinkShape(cuts=(Cut(8.0, 1.0, "reset"),)), 100.1)

    assert way.arrival(100.2, 1) == slow_s
    assert way.arrival(105.5, 1) == pytest.approx(107.0)
    assert [way.is_reset(at_s) for at_s in (108.0, 108.2, 109.2)] == [False, True, False]


def test_every_part_of_a_shape_can_be_written() -> None:
    """The text form says all the constructor can say."""
    text = "rtt=100ms, jitter=10ms, bandwidth=10mbit, stall=200ms/2s, cut=5s@3s, reset=1.5s@10s, seed=4"

    assert LinkShape.parse(text) == LinkShape(
        rtt_s=0.1,
        jitter_s=0.01,
        bytes_per_s=1_250_000.0,
        stall_every_s=2.0,
        stall_s=0.2,
        cuts=(Cut(3.0, 5.0, "stall"), Cut(10.0, 1.5, "reset")),
        seed=4,
    )
    assert LinkShape.parse("") == LinkShape()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("rtt=2h", "shape"),
        ("rtt=-5ms", "shape"),
        ("jitter", "shape"),
        ("bandwidth=fast", "shape"),
        ("seed=x", "shape"),
        ("rtt=9999s", "rtt_s"),
        ("bandwidth=0mbit", "bytes_per_s"),
        ("cut=9999s", "cuts.duration_s"),
    ],
)
def test_a_shape_that_cannot_be_names_the_field_and_the_cure(text: str, field: str) -> None:
    """A misspelt option is an error, never a silent default."""
    with pytest.raises(InvalidRequest) as caught:
        LinkShape.parse(text)
    assert caught.value.field == field
    assert caught.value.cure


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_what_is_no_number_is_no_shape(value: float) -> None:
    """Neither a time nor a speed."""
    for name in ("rtt_s", "jitter_s", "stall_s", "stall_every_s", "bytes_per_s"):
        with pytest.raises(InvalidRequest, match=name):
            LinkShape(**{name: value})
