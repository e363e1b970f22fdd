"""What every engine must pass; call `check_engine` from your engine's tests.

The checks know only the protocol: an engine is compared with itself, run in other pieces and other company.
Whether its logits are the model's is the engine's own test (`tests/engine/test_paged_engine.py`)."""

import random
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from paceline.cloud.engine.base import Row, TargetEngine
from paceline.common.errors import Busy, InternalError, InvalidRequest, OutOfRange, PacelineError
from paceline.common.trees import path_to, principal_length

MakeEngine = Callable[[int], TargetEngine]
"""Builds a fresh engine of the same model with room for about so many cached tokens."""

ROOM = 512
"""Cached tokens asked for in every check but the one about running out."""


def check_engine(make_engine: MakeEngine, *, tolerance: float = 2e-5) -> None:
    """Run every check; raises AssertionError naming the first that fails.

    Args:
        make_engine: See `MakeEngine`. `max_context` must be at least 64 and `page_size` at most 64.
        tolerance: Largest difference allowed between logits of the same text run in different pieces.
    """
    for check in CHECKS:
        check(make_engine, tolerance)


def check_pieces_do_not_matter(make_engine: MakeEngine, tolerance: float) -> None:
    """Prefill in chunks of any size gives the same logits as in one."""
    engine = make_engine(ROOM)
    text = _text(engine, 40)
    whole = _run(engine, 0, text)
    for size in (1, 3, 8, 16, 17, 39):
        pieces = [_run(engine, size, text[at : at + size], past=at) for at in range(0, len(text), size)]
        _assert_close(np.concatenate(pieces), whole, tolerance, f"chunks of {size}")
    engine.check_integrity()


def check_company_does_not_matter(make_engine: MakeEngine, tolerance: float) -> None:
    """A row's logits and argmax are the same alone and beside prefills, verifications and decodes of
    others."""
    engine = make_engine(ROOM)
    texts = [_text(engine, 48, seed=i) for i in range(4)]
    alone = [_run(engine, 100 + i, text) for i, text in enumerate(texts)]
    for i in range(4):
        engine.release(100 + i)
    cuts = [(0, 30), (0, 17), (0, 1), (0, 0)]
    for rest in ([(30, 31), (17, 25), (1, 48), (0, 5)], [(31, 48), (25, 26), (48, 48), (5, 48)]):
        _step_together(engine, texts, cuts, alone, tolerance)
        cuts = rest
    _step_together(engine, texts, cuts, alone, tolerance)
    engine.check_integrity()


def check_rollback(make_engine: MakeEngine, tolerance: float) -> None:
    """After any rollback, with wrong tokens cached beyond it, the right text gives the right logits."""
    engine = make_engine(ROOM)
    text, wrong = _text(engine, 40), _text(engine, 40, seed=9)
    whole = _run(engine, 0, text)
    for length in range(40):
        _run(engine, 1, text[:length] + wrong[length:], past=0)
        again = _run(engine, 1, text[length:], past=length)
        _assert_close(again, whole[length:], tolerance, f"rollback to {length}")
    assert engine.cached_tokens() == 80
    engine.check_integrity()


def check_logits_on_demand(make_engine: MakeEngine, tolerance: float) -> None:
    """The last n tokens' logits are given, none for n = 0, and reading them twice changes nothing."""
    engine = make_engine(ROOM)
    text = _text(engine, 12)
    whole = _run(engine, 0, text)
    for count in (0, 1, 5, 12):
        (rows,) = engine.step([Row(1, 0, text, count)])
        assert len(rows) == count, f"{len(rows)} logit rows where {count} were asked"
        got = [rows.row(i).copy() for i in range(count)]
        if count:
            _assert_close(np.stack(got), whole[-count:], tolerance, f"{count} logit rows")
            assert rows.row(0).dtype == np.float32
            assert rows.row(0).shape == (engine.vocab_size,)
            assert rows.argmax().tolist() == [int(row.argmax()) for row in got], (
                "argmax is not the rows' argmax"
            )
            assert np.array_equal(rows.row(0), got[0])


def check_release(make_engine: MakeEngine, tolerance: float) -> None:
    """Release frees everything, twice is no error, and the key can be used again."""
    del tolerance
    engine = make_engine(ROOM)
    text = _text(engine, 20)
    for _ in range(60):
        for key in range(4):
            engine.step([Row(key, 0, text, 0)])
        for key in range(4):
            engine.release(key)
            engine.release(key)
    assert engine.cached_tokens() == 0
    engine.check_integrity()


def check_running_out(make_engine: MakeEngine, tolerance: float) -> None:
    """A step that does not fit raises `Busy` and changes nothing; the others go on."""
    engine = make_engine(128)
    pages = engine.capacity_tokens // engine.page_size
    size = engine.page_size
    text = [token % engine.vocab_size for token in range(size)]
    before = _run(engine, 0, text)
    for key in range(1, pages):
        engine.step([Row(key, 0, text, 0)])
    cached = engine.cached_tokens()
    _expect(Busy, engine, [Row(0, size - 1, text[-1:], 1), Row(pages, 0, text[:1], 1)])
    _expect(Busy, engine, [Row(1, size, text[:1], 1)])
    assert engine.cached_tokens() == cached, "a refused step changed the cache"
    engine.check_integrity()
    again = _run(engine, 0, text[-1:], past=size - 1)
    _assert_close(again, before[-1:], tolerance, "a session after Busy")
    engine.release(1)
    engine.step([Row(pages, 0, text[:1], 1)])
    engine.check_integrity()


def check_impossible_rows(make_engine: MakeEngine, tolerance: float) -> None:
    """Rows that contradict the books, the vocabulary or the context are refused and change nothing."""
    del tolerance
    engine = make_engine(ROOM)
    text = _text(engine, 10)
    engine.step([Row(0, 0, text, 0)])
    one = text[:1]
    _expect(InternalError, engine, [Row(0, 11, one, 1)])
    _expect(InternalError, engine, [Row(0, -1, one, 1)])
    _expect(InternalError, engine, [Row(7, 1, one, 1)])
    _expect(InternalError, engine, [Row(0, 10, one, 1), Row(0, 10, one, 1)])
    _expect(InternalError, engine, [Row(0, 10, [], 0)])
    _expect(InternalError, engine, [Row(0, 10, one, 2)])
    _expect(InvalidRequest, engine, [Row(0, 10, [engine.vocab_size], 1)])
    _expect(InvalidRequest, engine, [Row(0, 10, [-1], 1)])
    _expect(OutOfRange, engine, [Row(0, 10, [text[0]] * engine.max_context, 1)])
    assert engine.cached_tokens() == 10
    assert engine.step([]) == []
    engine.check_integrity()


def check_trees(make_engine: MakeEngine, tolerance: float) -> None:
    """Every row of a tree equals the last row of its path run alone; afterwards the principal chain is cached, and no
    more. An engine that takes no trees refuses them."""
    engine = make_engine(ROOM)
    text = _text(engine, 24)
    if not engine.takes_trees:
        engine.step([Row(0, 0, text, 0)])
        _expect(InvalidRequest, engine, [Row(0, 24, text[:3], 3, (-1, -1))])
        return
    for num, parents in enumerate(TREES):
        _check_tree(engine, text[: 12 + num], parents, tolerance)
    engine.step([Row(0, 0, text, 0)])
    for wrong in ((-1, 1), (0, -1), (-1, -1, 0), (-1, -2)):
        _expect(InternalError, engine, [Row(0, 24, text[: len(wrong) + 1], 1, wrong)])
    _expect(InternalError, engine, [Row(0, 24, text[:2], 1, (-1, -1))])
    engine.check_integrity()


def _check_tree(engine: TargetEngine, text: list[int], parents: Sequence[int], tolerance: float) -> None:
    dice = random.Random(len(text))
    nodes = [dice.randrange(engine.vocab_size) for _ in parents]
    cut, count = len(text) - 1 - len(parents) % 3, len(parents)
    expected = []
    for node in range(-1, count):
        path = [nodes[one] for one in path_to(parents, node)]
        engine.release(1)
        expected.append(_run(engine, 1, [*text, *path])[-1])
    engine.release(1)
    engine.step([Row(1, 0, text[:cut], 0), Row(2, 0, text[:5], 0)])
    rows = [Row(1, cut, [*text[cut:], *nodes], count + 1, parents), Row(2, 5, text[5:7], 1)]
    got = engine.step(rows)[0]
    _assert_close(
        np.stack([got.row(i) for i in range(len(got))]), np.stack(expected), tolerance, f"tree {parents}"
    )
    principal = principal_length(parents)
    kept = len(text) + principal
    if count > principal:
        _expect(InternalError, engine, [Row(1, kept + 1, text[:1], 1)])
    for length in (kept, len(text)):  # a token that follows the principal chain, and one instead of it
        whole = [*text, *nodes[: length - len(text)], text[0]]
        again = _run(engine, 1, text[:1], past=length)
        engine.release(3)
        _assert_close(again, _run(engine, 3, whole)[-1:], tolerance, f"after tree {parents}")
    for key in (1, 2, 3):
        engine.release(key)


TREES = (
    (-1,),
    (-1, 0, 1),
    (-1, -1),
    (-1, 0, 1, -1, 3, -1),
    (-1, 0, 0, 2, 2, -1, 5),
    (-1, 0, 1, 2, 1, 4, 4, 0, 7, -1, 9, 10, -1),
)
"""Shapes `check_trees` runs: chains, siblings, and forks below forks."""


def check_random_lives(make_engine: MakeEngine, tolerance: float) -> None:
    """Sessions that come, grow, roll back and go at random keep the right logits and leave nothing behind."""
    engine, fresh = make_engine(ROOM), make_engine(ROOM)
    dice = random.Random(5)
    texts: dict[int, list[int]] = {}
    for _ in range(60):
        rows = []
        for key in dice.sample(range(6), dice.randint(1, 4)):
            past = dice.randint(0, len(texts.get(key, [])))
            new = [dice.randrange(engine.vocab_size) for _ in range(dice.randint(1, 9))]
            if past + len(new) > 60:
                engine.release(key)
                texts[key], past = [], 0
            texts[key] = texts.get(key, [])[:past] + new
            rows.append(Row(key, past, new, 1))
        results = engine.step(rows)
        pick = dice.randrange(len(rows))
        last = _run(fresh, 0, texts[rows[pick].key])[-1:]
        _assert_close(results[pick].row(0)[None], last, tolerance, "a random life")
        engine.check_integrity()
    assert engine.cached_tokens() == sum(len(text) for text in texts.values())
    for key in range(6):
        engine.release(key)
    assert engine.cached_tokens() == 0


CHECKS = (
    check_pieces_do_not_matter,
    check_company_does_not_matter,
    check_rollback,
    check_logits_on_demand,
    check_release,
    check_running_out,
    check_impossible_rows,
    check_trees,
    check_random_lives,
)
"""Every check, each also usable alone: `check(make_engine, tolerance)`."""


def _text(engine: TargetEngine, length: int, seed: int = 0) -> list[int]:
    dice = random.Random(seed)
    return [dice.randrange(engine.vocab_size) for _ in range(length)]


def _run(engine: TargetEngine, key: int, token_ids: Sequence[int], past: int = 0) -> NDArray[np.float32]:
    """Logits [n, vocab] of every token of one row, alone in its step."""
    (rows,) = engine.step([Row(key, past, token_ids, len(token_ids))])
    return np.stack([rows.row(i).copy() for i in range(len(rows))])


def _step_together(
    engine: TargetEngine,
    texts: list[list[int]],
    cuts: list[tuple[int, int]],
    alone: list[NDArray[np.float32]],
    tolerance: float,
) -> None:
    """Run slice `cuts[i]` of every text in one step and compare with the logits each had alone."""
    rows = [Row(i, a, texts[i][a:b], b - a) for i, (a, b) in enumerate(cuts) if b > a]
    for row, result in zip(rows, engine.step(rows), strict=True):
        expected = alone[row.key][row.past_length : row.past_length + row.num_logits]
        got = np.stack([result.row(i) for i in range(len(result))])
        _assert_close(got, expected, tolerance, f"session {row.key} in company")
        assert result.argmax().tolist() == expected.argmax(axis=1).tolist(), "company changed the argmax"


def _expect(error: type[PacelineError], engine: TargetEngine, rows: list[Row]) -> None:
    """Assert that the step raises exactly this kind of error."""
    raised: PacelineError | None = None
    try:
        engine.step(rows)
    except PacelineError as caught:
        raised = caught
    if type(raised) is not error:
        raise AssertionError(f"{rows} raised {type(raised).__name__}, not {error.__name__}")


def _assert_close(
    got: NDArray[np.float32], expected: NDArray[np.float32], tolerance: float, what: str
) -> None:
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}"
    error = float(np.abs(got - expected).max(initial=0.0))
    assert error <= tolerance, f"{what}: logits differ by {error:.3g}, more than {tolerance:.3g}"
