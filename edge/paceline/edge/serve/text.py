"""A text as it grows for a caller: characters that are whole, and none of a stop string. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from paceline.common.tokenizer import Tokenizer
from paceline.common.tokens import TokenLogprobs


@dataclass(frozen=True, slots=True)
class WrittenToken:
    """A token of a text."""

    token_id: int
    offset: int
    """Characters of the text before it."""
    logprobs: TokenLogprobs | None


class GrowingText:
    """Decodes tokens and watches for stop strings.

    Args:
        tokenizer: the model's.
        stops: what ends the text, and is not part of it.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stream = tokenizer.stream()
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._text = ""
        self._num_given = self._num_told = 0
        self.num_tokens = 0
        """All that were taken, those of a stop string included."""
        self.tokens: list[WrittenToken] = []
        self.stopped_by: str | None = None
        """The stop string that ended the text."""

    @property
    def text(self) -> str:
        """All of it so far; of a text that is stopped, up to the stop string."""
        return self._text

    def push(self, token_id: int, logprobs: TokenLogprobs | None = None) -> None:
        """Take a token. After the one that completes a stop string no more are taken."""
        if self.stopped_by is not None:
            return
        self.num_tokens += 1
        self.tokens.append(WrittenToken(token_id, len(self._text), logprobs))
        self._extend(self._stream.push(token_id))

    def end(self) -> None:
        """No more tokens come: what is left of an unfinished character is shown as the tokenizer shows it."""
        if self.stopped_by is None:
            whole = self._tokenizer.decode([token.token_id for token in self.tokens])
            if whole.startswith(self._text):
                self._extend(whole[len(self._text) :])

    def take(self, *, all_of_it: bool = False) -> tuple[str, list[WrittenToken]]:
        """What may be given to the caller now and was not before: characters, and the tokens that begin in them.

        Args:
            all_of_it: nothing more comes.
        """
        end = len(self._text) - (0 if all_of_it else self._held_back())
        piece, self._num_given = self._text[self._num_given : end], end
        is_free = all_of_it or not self._stops
        ready = [one for one in self.tokens[self._num_told :] if is_free or one.offset < end]
        self._num_told += len(ready)
        return piece, ready

    def _extend(self, piece: str) -> None:
        if not piece:
            return
        start = max(len(self._text) - self._longest + 1, 0)
        self._text += piece
        found = [(at, stop) for stop in self._stops if (at := self._text.find(stop, start)) >= 0]
        if found:
            at, self.stopped_by = min(found, key=lambda one: (one[0], -len(one[1])))
            self._text = self._text[:at]
            self.tokens = [token for token in self.tokens if token.offset < at]

    def _held_back(self) -> int:
        """Characters at the end that may be the beginning of a stop string."""
        if self.stopped_by is not None:
            return 0
        for length in range(min(self._longest - 1, len(self._text)), 0, -1):
            end = self._text[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0
