"""The table engine's law: a pure function of the whole prefix, neither flat nor one-hot."""

import subprocess
import sys
import time

import numpy as np
import pytest

from paceline.cloud.engine.base import Row
from paceline.cloud.engine.table import TableEngine
from paceline.common.errors import Busy, InternalError


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of a row of logits."""
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


def test_rows_are_the_law_of_the_prefix() -> None:
    """A step's rows are `logits_after` of each prefix, whatever was cached before or beside it."""
    engine = TableEngine(64, seed=3)
    text = list(range(10))
    engine.step([Row(1, 0, [*text[:6], 60, 61], 0)])

    _, rows = engine.step([Row(2, 0, [5], 1), Row(1, 6, text[6:], 3)])

    for i in range(3):
        assert np.array_equal(rows.row(i), engine.logits_after(text[: 8 + i]))


def test_law_depends_on_every_token_and_on_the_seed() -> None:
    """Changing any one token of the prefix, or the seed, changes the law."""
    engine = TableEngine(64, seed=3)
    text = list(range(12))
    law = engine.logits_after(text)

    for i in range(12):
        assert not np.array_equal(law, engine.logits_after([*text[:i], 63, *text[i + 1 :]]))
    assert not np.array_equal(law, TableEngine(64, seed=4).logits_after(text))
    assert np.array_equal(law, TableEngine(64, seed=3).logits_after(text))


@pytest.mark.parametrize("vocab_size", [16, 64, 1000])
def test_law_is_neither_flat_nor_one_hot(vocab_size: int) -> None:
    """The likeliest token has clearly more than its share and clearly less than everything."""
    engine = TableEngine(vocab_size, seed=0)

    tops = [softmax(engine.logits_after([i])).max() for i in range(min(vocab_size, 200))]

    assert 5 / vocab_size < np.mean(tops) + 0.2
    assert 2 / vocab_size < np.median(tops) < 0.8


def test_a_step_may_take_time_and_is_counted() -> None:
    """`step_s` is slept once per step, whatever the number of rows."""
    engine = TableEngine(8, step_s=0.02)
    begin = time.perf_counter()
    engine.step([Row(key, 0, [1], 1) for key in range(5)])

    assert time.perf_counter() - begin >= 0.02
    assert engine.steps == 1


def test_room_is_counted_in_pages() -> None:
    """A session of one token takes a whole page."""
    engine = TableEngine(8, capacity_tokens=40, page_size=16)
    assert engine.capacity_tokens == 32
    engine.step([Row(0, 0, [1], 0), Row(1, 0, [1], 0)])
    with pytest.raises(Busy):
        engine.step([Row(2, 0, [1], 0)])


def test_integrity_check_finds_an_overlong_session() -> None:
    """A text beyond the context is found."""
    engine = TableEngine(8, max_context=4)
    engine.step([Row(0, 0, [1, 2, 3, 4], 0)])
    engine._texts[0].append(5)
    with pytest.raises(InternalError):
        engine.check_integrity()


def test_table_engine_and_conformance_need_no_torch() -> None:
    """Importing the seam, the table engine and the conformance kit loads neither torch nor transformers."""
    code = (
        "import sys, paceline.cloud.engine, paceline.cloud.engine.table, paceline.cloud.engine.conformance, "
        "paceline.cloud.loading; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
