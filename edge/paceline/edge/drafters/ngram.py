"""Drafts by copying: the longest suffix of the text that occurred before says what came next (Max-Gram).

Needs no model, no weights and no vocabulary, so it works against any target; it pays wherever text repeats
(code, quotations, edits). From `min_ngram=1` on the text itself is the bigram table that Max-Gram falls back on:
where no longer match exists its own last successor is right more often than that of a table trained on a corpus, and
it fits every tokenizer (docs/lab-notebook/combined-drafters.md). References: prompt lookup; Cascade Speculative
Drafting, arXiv:2312.11462, section 3.
"""

from collections.abc import Sequence

from paceline.common.errors import InvalidRequest
from paceline.common.sampling.choose import Choice, Chooser
from paceline.common.tokens import How
from paceline.edge.drafters.text import TextSession

PRIOR_TRIES = 4.0
"""Weight of the prior in the estimate of how often a match of some length is right."""


class NgramIndex:
    """Where each n-gram of a growing text was last continued; grows and shrinks by one token in
    O(max_ngram)."""

    def __init__(self, min_ngram: int, max_ngram: int) -> None:
        self._min = min_ngram
        self.max_ngram = max_ngram
        self._last: dict[tuple[int, ...], int] = {}
        self._undo: list[list[tuple[tuple[int, ...], int | None]]] = []

    def push(self, tokens: Sequence[int]) -> None:
        """`tokens` has just grown by one: every n-gram before its last token now has a continuation."""
        end = len(tokens) - 1
        changed: list[tuple[tuple[int, ...], int | None]] = []
        for n in range(self._min, min(self.max_ngram, end) + 1):
            gram = tuple(tokens[end - n : end])
            changed.append((gram, self._last.get(gram)))
            self._last[gram] = end
        self._undo.append(changed)

    def pop(self) -> None:
        """Forget the last `push`."""
        for gram, previous in self._undo.pop():
            if previous is None:
                del self._last[gram]
            else:
                self._last[gram] = previous

    def find(self, tokens: Sequence[int]) -> tuple[int, int]:
        """Longest suffix of `tokens` that was continued before.

        Returns:
            Its length and where its latest continuation stands; `(0, -1)` if there is none.
        """
        end = len(tokens)
        found = (0, -1)
        # If an n-gram was continued, so was each of its own suffixes: the first miss ends the search.
        for n in range(self._min, min(self.max_ngram, end) + 1):
            where = self._last.get(tuple(tokens[end - n : end]))
            if where is None:
                break
            found = (n, where)
        return found


class NgramSession(TextSession):
    """A text continued by copying from itself."""

    def __init__(self, prompt_token_ids: Sequence[int], min_ngram: int, max_ngram: int) -> None:
        super().__init__(prompt_token_ids, How.ONE_HOT)
        self._index = NgramIndex(min_ngram, max_ngram)
        self._guesses: list[tuple[int, int]] = []
        self._num_committed = 0
        self._tries = [0] * (max_ngram + 1)
        self._hits = [0] * (max_ngram + 1)
        tokens, self._tokens = self._tokens, []
        for token_id in tokens:
            self._tokens.append(token_id)
            self._appended(token_id)
        self._committed(len(tokens))

    def _next(self) -> Choice | None:
        num_matched, where = self._index.find(self._tokens)
        if num_matched == 0:
            return None
        return Choice(token_id=self._tokens[where], prob=self._prob(num_matched), law=None)

    def _prob(self, num_matched: int) -> float:
        """How often a match this long has been right in the committed text, leaning on 1 - 2**-n when
        unseen."""
        prior = 1.0 - 0.5**num_matched
        return (self._hits[num_matched] + PRIOR_TRIES * prior) / (self._tries[num_matched] + PRIOR_TRIES)

    def _appended(self, token_id: int) -> None:
        before = self._tokens[-self._index.max_ngram - 1 : -1]
        num_matched, where = self._index.find(before)
        self._guesses.append((num_matched, self._tokens[where] if num_matched else -1))
        self._index.push(self._tokens)

    def _truncated(self, length: int) -> None:
        self._count(length, self._num_committed, -1)
        self._num_committed = min(self._num_committed, length)
        for _ in range(len(self._tokens) - length):
            self._index.pop()
        del self._guesses[length:]

    def _committed(self, length: int) -> None:
        self._count(self._num_committed, length, +1)
        self._num_committed = max(self._num_committed, length)

    def _count(self, start: int, stop: int, step: int) -> None:
        """Add `step` to the record of the guesses for positions `start` to `stop`."""
        for position in range(start, stop):
            num_matched, guess = self._guesses[position]
            if num_matched:
                self._tries[num_matched] += step
                self._hits[num_matched] += step * (guess == self._tokens[position])


class NgramDrafter:
    """Prompt lookup. Its drafts are a fixed function of the text (one-hot), whatever rule the target uses."""

    def __init__(self, *, min_ngram: int = 2, max_ngram: int = 8) -> None:
        """Configure the lookup.

        Args:
            min_ngram: shortest suffix worth copying after; 1 (Max-Gram) drafts more and is right less often.
            max_ngram: longest suffix looked for; memory is about 1.5 kB per token of text at 8.
        """
        if not 1 <= min_ngram <= max_ngram:
            raise InvalidRequest(
                f"min_ngram={min_ngram} and max_ngram={max_ngram} are not 1 <= min <= max", field="drafter"
            )
        self._min_ngram = min_ngram
        self._max_ngram = max_ngram

    @property
    def name(self) -> str:
        """Short name for logs and metrics."""
        return "ngram"

    @property
    def vocab_size(self) -> int | None:
        """None: it only copies ids it has seen."""
        return None

    def start(self, prompt_token_ids: Sequence[int], chooser: Chooser) -> NgramSession:
        """Begin a text; the chooser is not asked, because copying leaves nothing to choose."""
        return NgramSession(prompt_token_ids, self._min_ngram, self._max_ngram)
