"""Batches."""

import numpy as np
import pytest

from paceline.training.errors import CorpusError
from paceline.training.packing import RowSampler, WindowSampler, evaluation_windows

STREAM = np.arange(1000, dtype=np.uint16)


def test_windows_are_contiguous_text() -> None:
    """Every window is a run of consecutive tokens, one longer than its length."""
    batch = WindowSampler(STREAM, length=32, batch_size=8, seed=0).batch(3)

    assert tuple(batch.shape) == (8, 33)
    assert (batch.diff() == 1).all()


def test_an_epoch_visits_every_window_once() -> None:
    """The windows of one epoch start at different places."""
    sampler = WindowSampler(STREAM, length=10, batch_size=1, seed=0)
    starts = [int(sampler.batch(index)[0, 0]) for index in range(sampler.windows_per_epoch)]

    assert len(starts) == len(set(starts))


def test_batches_depend_on_the_step_alone() -> None:
    """Two samplers give the same batch at the same step, and other batches at other steps or seeds."""
    first, second = (WindowSampler(STREAM, 32, 8, seed) for seed in (0, 1))

    assert first.batch(5).equal(WindowSampler(STREAM, 32, 8, 0).batch(5))
    assert not first.batch(5).equal(first.batch(6))
    assert not first.batch(5).equal(second.batch(5))


def test_rows_are_drawn_once_per_epoch() -> None:
    """A row sampler visits every row once before it visits any twice."""
    sampler = RowSampler(num_rows=12, batch_size=4, seed=0)
    rows = [int(row) for index in range(3) for row in sampler.rows(index)]

    assert list(range(12)) == sorted(rows)


def test_text_too_short_for_a_window_is_refused() -> None:
    """Neither training nor measuring accepts less than one window."""
    with pytest.raises(CorpusError, match="add text"):
        WindowSampler(STREAM[:40], 32, 8, 0).check()
    with pytest.raises(CorpusError, match="add text"):
        evaluation_windows(STREAM[:32], length=32, count=4)
