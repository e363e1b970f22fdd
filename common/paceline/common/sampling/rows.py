"""The target's rows for one block, read lazily: a row after the first rejection is never processed."""

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from paceline.common.errors import TargetNumerics
from paceline.common.sampling.history import History
from paceline.common.sampling.law import Law, greedy_token, one_hot, target_law
from paceline.common.sampling.logprobs import token_logprobs
from paceline.common.tokens import SamplingParams, TokenLogprobs
from paceline.common.trees import path_to


class LogitRows(Protocol):
    """Raw logits of consecutive positions, wherever they live (numpy here, an accelerator in the cloud)."""

    def __len__(self) -> int: ...

    def argmax(self) -> NDArray[np.int64]:
        """Raw argmax of every row, lowest index first. int64 [rows].

        Raises:
            TargetNumerics: a row holds NaN or +inf, or nothing but -inf.
        """
        ...

    def row(self, index: int) -> NDArray[np.float32]:
        """One row. float32 [vocab]; not to be written to."""
        ...


class NumpyLogitRows:
    """Rows of an array, float32 [rows, vocab]."""

    def __init__(self, logits: NDArray[np.float32]) -> None:
        self._logits = logits

    def __len__(self) -> int:
        return len(self._logits)

    def argmax(self) -> NDArray[np.int64]:
        """See `LogitRows.argmax`."""
        token_ids: NDArray[np.int64] = self._logits.argmax(axis=1)
        tops = self._logits[np.arange(len(token_ids)), token_ids]
        if not np.isfinite(tops).all():
            row = int(np.isfinite(tops).argmin())
            raise TargetNumerics(f"row {row} of the logits holds NaN or +inf, or forbids every token")
        return token_ids

    def row(self, index: int) -> NDArray[np.float32]:
        """See `LogitRows.row`."""
        row: NDArray[np.float32] = self._logits[index]
        return row


class TargetRows:
    """What the target says at each position of one block: row `i` follows the first `i` drafted tokens. In a tree row 0
    follows the prefix, and row `i + 1` the path to node `i`.

    Draft tokens enter `history` only as rows that need them are read, and leave it at `close` (or the end of
    the `with` block): the history is as before, whatever was judged.
    """

    def __init__(
        self,
        logits: LogitRows,
        params: SamplingParams,
        history: History,
        draft_token_ids: Sequence[int],
        parents: Sequence[int] = (),
    ) -> None:
        self.params = params
        self._logits = logits
        self._history = history
        self._draft_token_ids = draft_token_ids
        self._parents = parents
        self._start = history.num_generated
        self._argmax: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self._logits)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Put the history back."""
        self._history.truncate(self._start)

    def greedy(self, index: int) -> int:
        """The target's greedy token at row `index`; one batched argmax when raw logits decide it."""
        if self.params.keeps_argmax_of_raw_logits:
            if self._argmax is None:
                self._argmax = self._logits.argmax()
            return int(self._argmax[index])
        return greedy_token(self._logits.row(index), self.params, self._history_at(index))

    def law(self, index: int) -> Law:
        """The target's law at row `index`, under the sampling parameters."""
        if self.params.is_greedy and self.params.keeps_argmax_of_raw_logits:
            return one_hot(self.greedy(index))
        return target_law(self._logits.row(index), self.params, self._history_at(index))

    def logprobs(self, index: int, token_id: int, num_top: int) -> TokenLogprobs:
        """How likely a token of row `index` is to the target itself; see `token_logprobs`."""
        return token_logprobs(self._logits.row(index), token_id, num_top)

    def _history_at(self, index: int) -> History:
        if self.params.has_penalties and self._parents:
            self._history.truncate(self._start)
            for node in path_to(self._parents, index - 1):
                self._history.push(self._draft_token_ids[node])
        elif self.params.has_penalties:
            known = self._history.num_generated - self._start
            for token_id in self._draft_token_ids[known:index]:
                self._history.push(token_id)
            self._history.truncate(self._start + index)
        return self._history
