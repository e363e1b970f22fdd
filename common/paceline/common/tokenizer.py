"""A model's tokenizer, through the `tokenizers` library alone, and the fingerprint both ends compare."""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from tokenizers import Tokenizer as _Tokenizer
from tokenizers.decoders import DecodeStream

from paceline.common.errors import InvalidRequest

FINGERPRINT_BYTES = 16


def fingerprint(vocabulary: Mapping[str, int]) -> bytes:
    """First 16 bytes of SHA-256 over the vocabulary sorted by id.

    The vocabulary alone: serialised forms differ between library versions, and equal vocabularies are what makes
    token ids mean the same at both ends.
    """
    entries = sorted((token_id, token) for token, token_id in vocabulary.items())
    return sha256(json.dumps(entries, ensure_ascii=True).encode()).digest()[:FINGERPRINT_BYTES]


class Tokenizer:
    """Text to ids and back.

    Args:
        path: a `tokenizer.json`, or a folder with one.
    Raises:
        InvalidRequest: it is not there or unreadable.
    """

    def __init__(self, path: Path) -> None:
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise InvalidRequest(
                f"there is no {file}", field="tokenizer", cure="name a model folder with one"
            )
        try:
            self._tokenizer = _Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises bare Exception
            raise InvalidRequest(f"{file} is not a tokenizer: {error}", field="tokenizer") from None
        self.fingerprint = fingerprint(self._tokenizer.get_vocab(with_added_tokens=True))

    def encode(self, text: str, *, as_is: bool = False) -> tuple[int, ...]:
        """Token ids of a text, special tokens as the tokenizer's own template adds them.

        Args:
            as_is: add none, for the text is the beginning of nothing or has them written out.
        Raises:
            InvalidRequest: it holds half characters, which JSON can say and no text has.
        """
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidRequest("not valid Unicode", field="prompt", cure="send UTF-8 text") from None
        return tuple(self._tokenizer.encode(text, add_special_tokens=not as_is).ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of some ids; special tokens are left out."""
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text

    def token(self, token_id: int) -> str:
        """What one token stands for, special ones by name; the replacement character where it is half of one."""
        text: str = self._tokenizer.decode([token_id], skip_special_tokens=False)
        return text

    def stream(self) -> "TextStream":
        """For decoding token by token."""
        return TextStream(self._tokenizer)


class TextStream:
    """Incremental decoding: text appears as soon as its bytes are complete."""

    def __init__(self, tokenizer: _Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def push(self, token_id: int) -> str:
        """The text this token completes; empty while a character is unfinished."""
        return self._stream.step(self._tokenizer, token_id) or ""
