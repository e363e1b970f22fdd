"""One session class for every drafter that is a language model; the model itself is a `ModelRunner`.

The key/value cache needs no bookkeeping beyond its length: what the model has yet to consume is
`text[cached:]`. After a rejection that is the correction alone; after full acceptance it is the last draft
*and* the bonus, because the drafter never consumed its own last token (the hole of methods E6).
"""

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from paceline.common.sampling.choose import Choice, Chooser
from paceline.edge.drafters.text import TextSession, common_length

Logits = npt.NDArray[np.float32]


class ModelRunner(Protocol):
    """A language model with one key/value cache."""

    @property
    def vocab_size(self) -> int:
        """Length of the logits."""
        ...

    @property
    def max_length(self) -> int:
        """Most tokens the model can consume in one text."""
        ...

    def forward(self, past_length: int, token_ids: Sequence[int]) -> Logits:
        """Consume `token_ids` after the first `past_length` cached tokens; whatever was cached beyond is
        forgotten.

        Returns:
            Logits `[vocab_size]` for the token after the last one. May be a view that the next call
            overwrites.
        """
        ...

    def close(self) -> None:
        """Free the cache."""
        ...


class RowsRunner(ModelRunner, Protocol):
    """A model that can check another's guesses: it tells what comes after each of several tokens."""

    def forward_rows(self, past_length: int, token_ids: Sequence[int], num_rows: int) -> Logits:
        """As `forward`, for each of the last `num_rows` tokens.

        Args:
            num_rows: at most the drafter's `max_rows`, and at most as many as `token_ids`.
        Returns:
            Logits `[num_rows, vocab_size]`. May be a view that the next call overwrites.
        """
        ...


class ModelSession(TextSession):
    """A text written by a language model."""

    def __init__(
        self,
        prompt_token_ids: Sequence[int],
        chooser: Chooser,
        runner: ModelRunner,
        num_cached: int,
        give_back: Callable[[ModelRunner, list[int]], None],
    ) -> None:
        super().__init__(prompt_token_ids, chooser.how)
        self._chooser = chooser
        self._runner = runner
        self._num_cached = num_cached
        self._give_back = give_back

    def _next(self) -> Choice | None:
        position = len(self._tokens)
        if position > self._runner.max_length:
            return None
        # Cut back to a text it had already consumed, the model reads the last token again, for its logits.
        num_cached = min(self._num_cached, position - 1)
        pending = self._tokens[num_cached:]
        if min(pending) < 0 or max(pending) >= self._runner.vocab_size:
            return None  # the target wrote a token this model does not have
        logits = self._read(num_cached, pending)
        self._num_cached = position
        return self._chooser.choose(logits, position, self._history)

    def _read(self, num_cached: int, pending: Sequence[int]) -> Logits:
        """Logits after the text, of which the model has yet to consume `pending`."""
        return self._runner.forward(num_cached, pending)

    def _truncated(self, length: int) -> None:
        self._num_cached = min(self._num_cached, length)

    def close(self) -> None:
        """Hand the model's cache back to the drafter."""
        if self._is_closed:
            return
        super().close()
        self._give_back(self._runner, self._tokens[: self._num_cached])
        del self._runner


class ModelDrafter:
    """A drafter whose sessions each run a model of their own cache over shared weights.

    The cache of the session closed last is kept: the next text usually begins like it (a further turn of one
    conversation, a session reopened after a lost link), and then only the new part is computed.
    """

    def __init__(
        self, name: str, make_runner: Callable[[], ModelRunner], vocab_size: int, *, max_rows: int = 1
    ) -> None:
        """Say what the sessions run on.

        Args:
            name: for logs and metrics.
            make_runner: a model with a cache of its own.
            vocab_size: length of its logits.
            max_rows: logits rows one forward can return; above 1 the runners are `RowsRunner`s, and other
                drafters may guess for the model.
        """
        self.max_rows = max_rows
        self._name = name
        self._make_runner = make_runner
        self._vocab_size = vocab_size
        self._spare: tuple[ModelRunner, list[int]] | None = None
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Short name for logs and metrics."""
        return self._name

    @property
    def vocab_size(self) -> int | None:
        """Length of the model's logits."""
        return self._vocab_size

    def start(self, prompt_token_ids: Sequence[int], chooser: Chooser) -> ModelSession:
        """Begin a text, on the spare cache if there is one."""
        runner, num_cached = self.take_runner(prompt_token_ids)
        return ModelSession(prompt_token_ids, chooser, runner, num_cached, self.give_back)

    def take_runner(self, prompt_token_ids: Sequence[int]) -> tuple[ModelRunner, int]:
        """A runner for a text of one's own, and how much of the prompt it has consumed; goes to `give_back`."""
        with self._lock:
            spare, self._spare = self._spare, None
        runner, cached = spare if spare is not None else (self._make_runner(), [])
        # The last prompt token is always consumed anew: its logits are what the first draft is chosen from.
        num_cached = min(common_length(cached, prompt_token_ids), max(len(prompt_token_ids) - 1, 0))
        return runner, num_cached

    def give_back(self, runner: ModelRunner, cached: list[int]) -> None:
        """Keep a runner, which has consumed `cached`, for the next text."""
        with self._lock:
            replaced, self._spare = self._spare, (runner, cached)
        if replaced is not None:
            replaced[0].close()
