"""The book of page runs: sessions never share a page, moves keep contents, and capacity is exact."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.cloud.engine.extents import Extents, Move
from paceline.common.errors import Busy, InternalError


def carry_out(pages: list[int | None], moves: list[Move]) -> None:
    """Apply moves, all at once, to a model of the store: one label per page."""
    copied = [(m.target, pages[m.source : m.source + m.pages]) for m in moves]
    for target, labels in copied:
        pages[target : target + len(labels)] = labels


@settings(max_examples=150, deadline=None)
@given(st.integers(4, 40), st.integers(0, 2**32))
def test_contents_survive_any_history(num_pages: int, seed: int) -> None:
    """Whatever grows, shrinks and goes, every session finds its own pages, and a fit is refused only if none
    is."""
    dice = random.Random(seed)
    extents, pages = Extents(num_pages), [None] * num_pages
    for _ in range(40):
        key, used = dice.randrange(5), dice.randint(1, num_pages // 2)
        if dice.random() < 0.2:
            extents.release(key)
            continue
        others = sum(run.used for k, run in extents.runs.items() if k != key)
        if others + used > num_pages:
            with pytest.raises(Busy):
                extents.check_fits({key: used})
            continue
        extents.check_fits({key: used})
        before = extents.runs[key].used if key in extents.runs else 0
        carry_out(pages, extents.resize(key, used))
        extents.check_integrity()
        run = extents.runs[key]
        kept = min(before, used)
        assert pages[run.start : run.start + kept] == [(key, i) for i in range(kept)]
        for i in range(kept, used):
            pages[run.start + i] = (key, i)
        for other, r in extents.runs.items():
            assert pages[r.start : r.start + r.used] == [(other, i) for i in range(r.used)]
    assert extents.used_pages() == sum(run.used for run in extents.runs.values())


def test_growth_takes_the_room_behind_first() -> None:
    """A session with free pages behind it grows without moving."""
    extents = Extents(32)
    extents.resize(1, 4)

    assert extents.resize(1, 20) == []
    assert extents.runs[1].start == 0


def test_a_broken_promise_is_our_bug() -> None:
    """Resizing beyond what was checked is an internal error, not a silent overlap."""
    extents = Extents(4)
    extents.resize(1, 3)
    with pytest.raises(InternalError):
        extents.resize(2, 2)
