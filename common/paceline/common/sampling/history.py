"""What penalties need to know about the past: which tokens were seen, and how often each was generated."""

from array import array
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


class _Tally:
    """Counts per distinct token, as arrays that can be applied to a row of logits at once.

    A token gets the next free slot when first seen. Forgetting happens in reverse order, so a token whose
    last occurrence goes always holds the last slot, and the arrays never have holes.
    """

    def __init__(self, prompt: "array[int]", generated: "array[int]") -> None:
        distinct = np.unique(np.frombuffer(prompt, dtype=np.int64)) if prompt else np.empty(0, dtype=np.int64)
        self._slots: dict[int, int] = {int(token_id): slot for slot, token_id in enumerate(distinct)}
        self._num_prompt = self._num = len(distinct)
        self._token_ids = np.concatenate([distinct, np.empty(64, dtype=np.int64)])
        self._counts = np.zeros(len(self._token_ids), dtype=np.int64)
        for token_id in generated:
            self.push(token_id)

    def push(self, token_id: int) -> None:
        slot = self._slots.get(token_id)
        if slot is None:
            slot = self._slots[token_id] = self._num
            if slot == len(self._token_ids):
                self._token_ids = np.concatenate([self._token_ids, np.empty_like(self._token_ids)])
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._token_ids[slot] = token_id
            self._num += 1
        self._counts[slot] += 1

    def pop(self, token_id: int) -> None:
        slot = self._slots[token_id]
        self._counts[slot] -= 1
        if slot >= self._num_prompt and self._counts[slot] == 0:
            del self._slots[token_id]
            self._num -= 1

    def seen(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return self._token_ids[: self._num], self._counts[: self._num]


class History:
    """The tokens before a row: a fixed prompt and a generated tail that grows and is truncated.

    O(1) amortised per token. Nothing is counted before `seen` is first called, so a history no penalty ever
    looks at costs one append per token.
    """

    __slots__ = ("_generated", "_prompt", "_tally")

    def __init__(self, prompt_token_ids: Iterable[int] = ()) -> None:
        self._prompt = array("q", prompt_token_ids)
        self._generated = array("q")
        self._tally: _Tally | None = None

    @property
    def num_generated(self) -> int:
        """How many tokens were pushed and not truncated."""
        return len(self._generated)

    def push(self, token_id: int) -> None:
        """Add one generated token."""
        self._generated.append(token_id)
        if self._tally is not None:
            self._tally.push(token_id)

    def truncate(self, num_generated: int) -> None:
        """Forget every generated token from the `num_generated`-th on; the prompt stays."""
        if not 0 <= num_generated <= len(self._generated):
            raise ValueError(f"cannot truncate {len(self._generated)} generated tokens to {num_generated}")
        if self._tally is not None:
            for token_id in reversed(self._generated[num_generated:]):
                self._tally.pop(token_id)
        del self._generated[num_generated:]

    def seen(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Distinct tokens of prompt and output, and how often each was generated (0: in the prompt alone).

        int64 [distinct] each; views that are valid until the next `push` or `truncate`.
        """
        if self._tally is None:
            self._tally = _Tally(self._prompt, self._generated)
        return self._tally.seen()
