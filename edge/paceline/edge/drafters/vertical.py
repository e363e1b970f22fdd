"""Drafters that draft for drafters: a model's proposals, made sooner because another drafter guesses for it.

The inner drafter guesses a few tokens; the model reads them all in one forward and then makes its *own* choice at
every position, with its own rows and its own chooser, until a choice differs from the guess. What is proposed is
therefore token for token what the model alone would have proposed, under every rule and for any inner drafter; a
guess only decides how many forwards it takes. Rows of guesses that were right but not asked for yet are kept.

Reference: the vertical cascade of Cascade Speculative Drafting, arXiv:2312.11462, with leniency 1.
"""

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import cast

from paceline.common.drafter import Drafter, DraftSession
from paceline.common.errors import InvalidRequest
from paceline.common.sampling.choose import Chooser
from paceline.edge.drafters.model import Logits, ModelDrafter, ModelRunner, ModelSession, RowsRunner


class VerticalSession(ModelSession):
    """A text written by a model that reads an inner session's guesses ahead of its own choices."""

    def __init__(
        self,
        prompt_token_ids: Sequence[int],
        chooser: Chooser,
        runner: ModelRunner,
        num_cached: int,
        give_back: Callable[[ModelRunner, list[int]], None],
        *,
        inner: DraftSession,
        num_guesses: int,
    ) -> None:
        super().__init__(prompt_token_ids, chooser, runner, num_cached, give_back)
        self._inner = inner
        self._num_guesses = num_guesses
        self._num_told = self._num_prompt
        self._rows: Logits | None = None
        self._rows_base = 0
        self._guesses: tuple[int, ...] = ()

    def _read(self, num_cached: int, pending: Sequence[int]) -> Logits:
        position = num_cached + len(pending)
        if self._rows is None or position - self._rows_base > len(self._guesses):
            guesses = self._guess(position)
            runner = cast(RowsRunner, self._runner)
            self._rows = runner.forward_rows(num_cached, [*pending, *guesses], len(guesses) + 1)
            self._rows_base = position
            self._guesses = guesses
        row: Logits = self._rows[position - self._rows_base]
        return row

    def _guess(self, position: int) -> tuple[int, ...]:
        """What the inner drafter thinks comes next, as far as the model can read it."""
        self._inner.observe(self._num_told, self._tokens[self._num_told :])
        self._num_told = position
        if self._inner.length > position:  # this text was cut where nothing contradicts the inner one
            self._inner.follow(position, ())
        room = self._runner.max_length - position
        guesses = self._inner.propose(min(self._num_guesses, room)).token_ids
        return tuple(takewhile(lambda token_id: token_id < self._runner.vocab_size, guesses))

    def _appended(self, token_id: int) -> None:
        index = len(self._tokens) - 1 - self._rows_base
        if self._guesses[index : index + 1] != (token_id,):
            self._rows = None

    def _truncated(self, length: int) -> None:
        super()._truncated(length)
        self._num_told = min(self._num_told, length)
        if length < self._rows_base:
            self._rows = None

    def close(self) -> None:
        """Hand back both drafters' buffers."""
        self._inner.close()
        self._rows = None
        super().close()


class VerticalDrafter:
    """A draft model for which smaller drafters guess, each for the one before it."""

    is_even = False
    """A block whose tokens were guessed takes less time."""

    def __init__(self, drafters: Sequence[Drafter], *, num_guesses: int = 4) -> None:
        """Put drafters on top of each other.

        Args:
            drafters: at least two, the largest first; all but the last are models that give logits after every
                token (`ModelDrafter.max_rows` above 1).
            num_guesses: tokens guessed for one forward.
        Raises:
            InvalidRequest: fewer than two, or one that cannot check guesses.
        """
        if len(drafters) < 2:
            raise InvalidRequest(
                f"{len(drafters)} is too few",
                field="drafter.drafters",
                cure="name a model and who guesses for it",
            )
        if num_guesses < 1:
            raise InvalidRequest(f"{num_guesses} is not positive", field="drafter.num_guesses")
        model, inner = drafters[0], drafters[1]
        if not isinstance(model, ModelDrafter) or model.max_rows == 1:
            raise InvalidRequest(
                f"the drafter {model.name!r} tells what comes after its last token only, so nobody can guess for it",
                field="drafter.drafters",
                cure="set `all_rows: true` on an onnx drafter, or use a torch drafter",
            )
        self._model = model
        self._inner = inner if len(drafters) == 2 else VerticalDrafter(drafters[1:], num_guesses=num_guesses)
        self._num_guesses = min(num_guesses, model.max_rows - 1)

    @property
    def name(self) -> str:
        """Short name for logs and metrics."""
        return f"{self._model.name}({self._inner.name})"

    @property
    def vocab_size(self) -> int | None:
        """Length of the model's logits."""
        return self._model.vocab_size

    def start(self, prompt_token_ids: Sequence[int], chooser: Chooser) -> VerticalSession:
        """Begin a text; the guesses use the chooser too, for equal noise makes more of them right."""
        runner, num_cached = self._model.take_runner(prompt_token_ids)
        return VerticalSession(
            prompt_token_ids,
            chooser,
            runner,
            num_cached,
            self._model.give_back,
            inner=self._inner.start(prompt_token_ids, chooser.apart()),
            num_guesses=self._num_guesses,
        )
