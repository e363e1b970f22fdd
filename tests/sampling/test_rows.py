"""The target's rows, read lazily, with the history each row needs."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from paceline.common.errors import TargetNumerics
from paceline.common.sampling.history import History
from paceline.common.sampling.law import greedy_token, target_law
from paceline.common.sampling.rows import NumpyLogitRows, TargetRows
from paceline.common.tokens import SamplingParams

PENALISED = SamplingParams(temperature=1.0, frequency_penalty=1.5, repetition_penalty=1.2)
LOGITS = np.random.default_rng(0).standard_normal((4, 12)).astype(np.float32)


class CountingRows(NumpyLogitRows):
    """Rows that remember what was read."""

    def __init__(self, logits: NDArray[np.float32]) -> None:
        super().__init__(logits)
        self.read: list[int] = []
        self.argmax_calls = 0

    def row(self, index: int) -> NDArray[np.float32]:
        """Remember and return."""
        self.read.append(index)
        return super().row(index)

    def argmax(self) -> NDArray[np.int64]:
        """Remember and return."""
        self.argmax_calls += 1
        return super().argmax()


def history_of(*generated: int) -> History:
    """A history with a prompt of token 0."""
    history = History([0])
    for token_id in generated:
        history.push(token_id)
    return history


def test_a_row_sees_the_draft_tokens_before_it_and_no_others() -> None:
    """Row i is processed with the first i drafted tokens in the history, in any order of reading."""
    history = history_of(5)
    with TargetRows(NumpyLogitRows(LOGITS), PENALISED, history, (7, 7, 8)) as rows:
        for index, seen in (0, ()), (2, (7, 7)), (1, (7,)), (3, (7, 7, 8)), (0, ()):
            expected = target_law(LOGITS[index], PENALISED, history_of(5, *seen))
            assert np.array_equal(rows.law(index).probs, expected.probs)
            greedy = greedy_token(LOGITS[index], PENALISED, history_of(5, *seen))
            assert rows.greedy(index) == greedy
    assert history.num_generated == 1
    assert history.seen()[1].tolist() == history_of(5).seen()[1].tolist()


def test_the_history_is_restored_after_an_error() -> None:
    """A row with NaN leaves no drafted token behind."""
    logits = LOGITS.copy()
    logits[2, 0] = math.nan
    history = history_of()
    with (
        pytest.raises(TargetNumerics),
        TargetRows(NumpyLogitRows(logits), PENALISED, history, (7, 8, 9)) as rows,
    ):
        rows.law(2)
    assert history.num_generated == 0


def test_plain_greedy_reads_one_batched_argmax_and_no_rows() -> None:
    """When raw logits decide, no row leaves the accelerator."""
    logits = CountingRows(LOGITS)
    with TargetRows(logits, SamplingParams(), history_of(), (1, 2, 3)) as rows:
        assert [rows.greedy(index) for index in range(4)] == LOGITS.argmax(axis=1).tolist()
        assert [rows.law(index).token_ids.tolist() for index in range(4)] == [
            [i] for i in LOGITS.argmax(axis=1)
        ]
    assert (logits.argmax_calls, logits.read) == (1, [])


def test_only_the_rows_asked_for_are_read() -> None:
    """A row after the first rejection costs nothing."""
    logits = CountingRows(LOGITS)
    with TargetRows(logits, PENALISED, history_of(), (1, 2, 3)) as rows:
        rows.law(0)
        rows.law(1)
    assert (logits.argmax_calls, logits.read) == (0, [0, 1])


def test_without_penalties_the_history_is_never_touched() -> None:
    """A history nothing depends on stays as it is, even while rows are read."""
    history = history_of()
    rows = TargetRows(NumpyLogitRows(LOGITS), SamplingParams(temperature=1.0), history, (1, 2, 3))
    rows.law(3)
    assert history.num_generated == 0
    assert len(rows) == 4


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_batched_argmax_names_the_broken_row(bad: float) -> None:
    """NaN and +inf are found in every row, wherever they stand in it."""
    logits = LOGITS.copy()
    logits[2, 11] = bad
    with pytest.raises(TargetNumerics, match="row 2"):
        NumpyLogitRows(logits).argmax()
    logits[2] = -math.inf
    with pytest.raises(TargetNumerics, match="row 2"):
        NumpyLogitRows(logits).argmax()
