"""A text as it grows: whole characters, and nothing of a stop string."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.common.shipped import models_dir
from paceline.common.tokenizer import Tokenizer
from paceline.edge.serve.text import GrowingText

TOKENIZER = Tokenizer(models_dir() / "base")


def grown(token_ids: list[int], stops: list[str]) -> tuple[GrowingText, list[str]]:
    """The text, and the pieces it was given out in."""
    growing, pieces = GrowingText(TOKENIZER, stops), []
    for token_id in token_ids:
        growing.push(token_id)
        if growing.stopped_by is not None:
            break
        pieces.append(growing.take()[0])
    growing.end()
    pieces.append(growing.take(all_of_it=True)[0])
    return growing, pieces


@settings(deadline=None, max_examples=200)
@given(
    st.text(st.sampled_from("ab\n€😀"), max_size=30),
    st.lists(st.text(st.sampled_from("ab\n€😀"), min_size=1, max_size=4), max_size=3),
)
def test_pieces_add_up_to_the_text_before_the_first_stop_string(text: str, stops: list[str]) -> None:
    """Whichever tokens it comes in, and wherever stop strings overlap."""  # fmt: skip
    growing, pieces = grown(list(TOKENIZER.encode(text)), stops)
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    # The earliest to be complete is found first; of those that begin before it none is complete by then.
    found = "".join(pieces)
    assert found == growing.text
    if not ends:
        assert found == text
        assert growing.stopped_by is None
    else:
        assert growing.stopped_by in stops
        assert text.startswith(found + growing.stopped_by)
        assert not any(stop in found for stop in stops)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 2047), max_size=30))
def test_any_tokens_give_the_tokenizer_s_own_text(token_ids: list[int]) -> None:
    """Halves of characters at the end included."""
    growing, pieces = grown(token_ids, [])
    assert "".join(pieces) == growing.text == TOKENIZER.decode(token_ids)


def test_nothing_is_given_that_may_be_taken_back() -> None:
    """What could begin a stop string waits for what follows; tokens come with their text."""
    growing = GrowingText(TOKENIZER, ["\n\n"])
    for token_id in TOKENIZER.encode("a\n"):
        growing.push(token_id)
    text, tokens = growing.take()
    assert text == "a"
    assert [token.offset for token in tokens] == [0]
    growing.push(TOKENIZER.encode("b")[0])
    assert growing.take()[0] == "\nb"


def test_tokens_of_a_stop_string_count_and_are_not_told() -> None:
    """They were written; the text ends before them."""
    growing, _ = grown(list(TOKENIZER.encode("x = 1\n\ny")), ["\n\n"])
    assert growing.text == "x = 1"
    assert growing.num_tokens >= len(growing.tokens)
    assert all(token.offset < len(growing.text) for token in growing.tokens)


@pytest.mark.parametrize("stop", ["1", "= 1", "x"])
def test_a_stop_string_inside_a_token_cuts_it(stop: str) -> None:
    """Characters count, not tokens."""
    growing, pieces = grown(list(TOKENIZER.encode("x = 1\n")), [stop])
    assert "".join(pieces) == "x = 1\n".partition(stop)[0]
    assert growing.stopped_by == stop
