"""The tokenizer."""

from typing import Any

import pytest
from transformers import AutoTokenizer

from paceline.training import TrainingError, build_corpus, load_tokenizer, train_tokenizer
from paceline.training.tokenizer import END_OF_TEXT, END_OF_TEXT_ID, encode_modules


def test_any_text_survives_the_round_trip(world: Any) -> None:
    """Text with tabs, accents, emoji and odd spacing decodes to itself."""
    tokenizer = load_tokenizer(world.tokenizer)
    text = "\tif x:\n\n        naïve = '🚴'  \r\n   # end"

    assert text == tokenizer.decode(tokenizer.encode(text).ids)


def test_both_loaders_agree(world: Any) -> None:
    """``AutoTokenizer`` and plain ``tokenizers`` give the same ids, and neither adds special tokens."""
    plain, auto = load_tokenizer(world.tokenizer), AutoTokenizer.from_pretrained(world.tokenizer)
    text = "def area(width, height):\n    return width * height\n"

    assert plain.encode(text).ids == auto(text)["input_ids"]
    assert END_OF_TEXT_ID not in plain.encode(text).ids
    assert END_OF_TEXT_ID == auto.eos_token_id == auto.bos_token_id == plain.token_to_id(END_OF_TEXT)


def test_vocabulary_has_the_size_asked_for(world: Any) -> None:
    """The vocabulary is exact, so the models' shapes are known beforehand."""
    assert load_tokenizer(world.tokenizer).get_vocab_size() == 300


def test_documents_are_separated(world: Any) -> None:
    """In a stream, every document is preceded by the end-of-text id."""
    corpus = build_corpus(world.corpus)
    stream = encode_modules(load_tokenizer(world.tokenizer), corpus.train)

    assert len(corpus.train) == (stream == END_OF_TEXT_ID).sum()
    assert stream[0] == END_OF_TEXT_ID


@pytest.mark.parametrize("vocab_size", [256, 100_000])
def test_impossible_vocabularies_are_refused(world: Any, vocab_size: int) -> None:
    """A vocabulary too small for the bytes, or too large for the text, is refused."""
    with pytest.raises(TrainingError, match="vocab_size"):
        train_tokenizer(build_corpus(world.corpus).train, vocab_size=vocab_size)
