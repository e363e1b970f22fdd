"""Counting the past, one token at a time."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.common.sampling.history import History

Tokens = st.lists(st.integers(0, 12), max_size=30)


def counted(history: History) -> dict[int, int]:
    """What the history says, as a mapping; every token appears once."""
    token_ids, counts = history.seen()
    pairs = list(zip(token_ids.tolist(), counts.tolist(), strict=True))
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def expected(prompt: list[int], generated: list[int]) -> dict[int, int]:
    """The slow count."""
    counter = Counter(generated)
    return {token_id: counter[token_id] for token_id in {*prompt, *generated}}


@settings(deadline=None)
@given(Tokens, st.lists(st.one_of(st.integers(0, 12), st.floats(0, 1)), max_size=80), st.booleans())
def test_any_pushes_and_truncations_equal_a_rebuilt_history(
    prompt: list[int], events: list[int | float], count_early: bool
) -> None:
    """A truncated history counts exactly what a fresh one would, whenever counting began."""
    history, generated = History(prompt), list[int]()
    if count_early:
        history.seen()
    for event in events:
        if isinstance(event, float):
            generated = generated[: int(event * len(generated))]
            history.truncate(len(generated))
        else:
            generated.append(event)
            history.push(event)
        if count_early:
            assert counted(history) == expected(prompt, generated)
    assert history.num_generated == len(generated)
    assert counted(history) == expected(prompt, generated)


def test_many_distinct_tokens_grow_the_arrays() -> None:
    """Growth beyond the first allocation keeps every count."""
    history = History(range(50))
    history.seen()
    for token_id in range(1_000):
        history.push(token_id)
        history.push(token_id)
    assert counted(history) == dict.fromkeys(range(1_000), 2)
    history.truncate(101)
    assert counted(history) == {token_id: 2 if token_id < 50 else 0 for token_id in range(50)} | {50: 1}


@pytest.mark.parametrize("length", [-1, 3])
def test_truncating_to_a_length_that_never_was_is_refused(length: int) -> None:
    """A history only shrinks, and never into the prompt."""
    history = History([1, 2, 3])
    history.push(4)
    history.push(5)
    with pytest.raises(ValueError, match="cannot truncate 2 generated tokens"):
        history.truncate(length)


def test_the_prompt_is_copied() -> None:
    """A prompt that grows later does not change what was seen."""
    prompt = [1]
    history = History(prompt)
    prompt.append(2)
    assert counted(history) == {1: 0}
