"""The byte-level BPE tokenizer that all models of one family share."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from paceline.training.corpus import Module
from paceline.training.errors import TrainingError

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 0
"""Begins, ends, pads and separates documents."""

SPLIT = (
    r"[ .]?_*\p{L}+"  # A word keeps its dot or space, and its leading underscores: ".append", "_len".
    r"| ?\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+"
    r"|\s+(?!\S)|\s+"  # A line break keeps the indentation after it, bar the space the next word owns.
)
"""Pre-tokens: merges never cross these borders."""


def train_tokenizer(modules: Sequence[Module], *, vocab_size: int = 2048) -> Tokenizer:
    """Learn a byte-level BPE with exactly ``vocab_size`` entries from training text.

    Raises:
        TrainingError: ``vocab_size`` cannot hold the 256 bytes and the special token, or the text is too
            small to yield that many merges.
    """
    if vocab_size < 257:
        raise TrainingError("vocab_size", vocab_size, "choose at least 257 (256 bytes and one special token)")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((module.text for module in modules), trainer=trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise TrainingError(
            "vocab_size",
            vocab_size,
            f"the text yields only {tokenizer.get_vocab_size()} entries: ask for fewer",
        )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, *, max_length: int) -> None:
    """Write the tokenizer so that both ``AutoTokenizer`` and plain ``tokenizers`` load it."""
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # Not annotated there.
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load ``tokenizer.json`` of a model folder.

    Raises:
        TrainingError: the folder holds no tokenizer.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise TrainingError(
            "tokenizer", str(path), "no such file: name a folder that holds a trained tokenizer"
        )
    return Tokenizer.from_file(str(path))


def encode_modules(tokenizer: Tokenizer, modules: Sequence[Module]) -> npt.NDArray[np.uint16]:
    """One stream of ids, each document preceded by the end-of-text id; shape ``(num_tokens,)``."""
    encodings = tokenizer.encode_batch([module.text for module in modules])
    parts = [np.array([END_OF_TEXT_ID, *encoding.ids], dtype=np.uint16) for encoding in encodings]
    return np.concatenate(parts)
