"""An engine made slower on purpose: a slow target on a fast machine, for benchmarks."""

import time
from collections.abc import Sequence

from paceline.cloud.engine.base import Row, TargetEngine
from paceline.common.sampling.rows import LogitRows


class FloorEngine:
    """Another engine whose every step lasts at least so long; the rest of it is slept.

    Args:
        engine: who really works.
        floor_s: seconds.
    """

    def __init__(self, engine: TargetEngine, floor_s: float) -> None:
        self._engine = engine
        self._floor_s = floor_s
        self.vocab_size = engine.vocab_size
        self.max_context = engine.max_context
        self.capacity_tokens = engine.capacity_tokens
        self.page_size = engine.page_size
        self.takes_trees = engine.takes_trees

    def step(self, rows: Sequence[Row]) -> Sequence[LogitRows]:
        """See `TargetEngine`."""
        until_s = time.perf_counter() + self._floor_s
        logits = self._engine.step(rows)
        time.sleep(max(until_s - time.perf_counter(), 0.0))
        return logits

    def release(self, key: int) -> None:
        """See `TargetEngine`."""
        self._engine.release(key)

    def cached_tokens(self) -> int:
        """See `TargetEngine`."""
        return self._engine.cached_tokens()

    def check_integrity(self) -> None:
        """See `TargetEngine`."""
        self._engine.check_integrity()
