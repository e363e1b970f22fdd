"""A target whose law is a pure function of the whole text so far: exactness becomes arithmetic, not
statistics.

It needs no weights and no torch, and is a real engine in every other way: it remembers what it was given,
session by session, refuses an impossible `past_length`, and runs out of room."""

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from paceline.cloud.engine.base import Row, check_rows
from paceline.common.errors import Busy, InternalError
from paceline.common.prefix import Prefix, extend_hash
from paceline.common.sampling.rows import NumpyLogitRows
from paceline.common.table_model import table_logits


class TableEngine:
    """Logits drawn by hashing (seed, prefix, token); see `table_logits`."""

    takes_trees = True

    def __init__(
        self,
        vocab_size: int,
        seed: int = 0,
        *,
        spread: float = 2.0,
        max_context: int = 2048,
        capacity_tokens: int = 1 << 20,
        page_size: int = 16,
        step_s: float = 0.0,
        resembles: int | None = None,
        agreement: float = 0.8,
    ) -> None:
        """Make a target with its own law.

        Args:
            vocab_size: Width of a row of logits.
            seed: Names the law; two engines with the same seed and vocabulary agree.
            spread: Standard deviation of the logits; 0 is flat, 2 gives the likeliest of 64 tokens about a
                quarter.
            max_context: Longest session, tokens.
            capacity_tokens: Cached tokens over all sessions, rounded down to whole pages.
            page_size: Granule of allocation, tokens.
            step_s: Seconds every step sleeps, to stand for a slow model.
            resembles: Seed of another table whose logits are `agreement` parts of this one's: a relay's model.
            agreement: 1 has that table's law exactly; 0 is unrelated to it.
        """
        self.vocab_size = vocab_size
        self.seed = seed
        self.spread = spread
        self.max_context = max_context
        self.page_size = page_size
        self.capacity_tokens = capacity_tokens // page_size * page_size
        self.step_s = step_s
        self.resembles = resembles
        self.agreement = np.float32(agreement)
        self.steps = 0
        """Forward passes so far."""
        self._texts: dict[int, Prefix] = {}

    def step(self, rows: Sequence[Row]) -> list[NumpyLogitRows]:
        """One forward over all rows; see `TargetEngine.step`."""
        lengths = {key: len(text) for key, text in self._texts.items()}
        check_rows(rows, lengths, vocab_size=self.vocab_size, max_context=self.max_context)
        after = lengths | {row.key: row.past_length + len(row.token_ids) for row in rows}
        pages = sum(-(-length // self.page_size) for length in after.values())
        if pages * self.page_size > self.capacity_tokens:
            raise Busy("the table engine is full", cure="release a session", retry_after_s=1.0)
        if self.step_s:
            time.sleep(self.step_s)
        self.steps += 1
        return [self._run(row) for row in rows]

    def release(self, key: int) -> None:
        """Forget a session; an unknown key is no error."""
        self._texts.pop(key, None)

    def cached_tokens(self) -> int:
        """Tokens cached now, over all sessions."""
        return sum(len(text) for text in self._texts.values())

    def check_integrity(self) -> None:
        """Raise `InternalError` if a session is empty or longer than the context."""
        for key, text in self._texts.items():
            if not 0 < len(text) <= self.max_context:
                raise InternalError(f"session {key} holds {len(text)} tokens")

    def logits_after(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """The law itself: logits [vocab] of the token after `token_ids`."""
        text = token_ids if isinstance(token_ids, Prefix) else Prefix(token_ids)
        return self._logits(text.hash_at(len(text)))

    def _logits(self, prefix_hash: int) -> NDArray[np.float32]:
        own = table_logits(prefix_hash, self.vocab_size, self.seed, self.spread)
        if self.resembles is None:
            return own
        other = table_logits(prefix_hash, self.vocab_size, self.resembles, self.spread)
        return self.agreement * other + (np.float32(1) - self.agreement) * own

    def _run(self, row: Row) -> NumpyLogitRows:
        text = self._texts.setdefault(row.key, Prefix())
        text.truncate(row.past_length)
        if row.parents:
            return self._run_tree(row, text)
        text.extend(row.token_ids)
        ends = range(len(text) - row.num_logits + 1, len(text) + 1)
        return self._rows([text.hash_at(end) for end in ends])

    def _run_tree(self, row: Row, text: Prefix) -> NumpyLogitRows:
        num_text = len(row.token_ids) - len(row.parents)
        text.extend(row.token_ids[:num_text])
        hashes = [text.hash_at(end) for end in range(row.past_length + 1, len(text) + 1)]
        for parent, token_id in zip(row.parents, row.token_ids[num_text:], strict=True):
            hashes.append(extend_hash(hashes[num_text + parent], token_id))
        text.extend(row.token_ids[num_text : row.num_kept])
        return self._rows(hashes[len(hashes) - row.num_logits :])

    def _rows(self, hashes: Sequence[int]) -> NumpyLogitRows:
        logits = [self._logits(one) for one in hashes]
        return NumpyLogitRows(np.stack(logits) if logits else np.empty((0, self.vocab_size), np.float32))
