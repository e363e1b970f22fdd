"""Who is taken in: as many sessions as there may be, and whose caches fit.

A session gets its whole cache up front: once admitted it can always finish.
"""

from paceline.cloud.config import VerifierConfig
from paceline.cloud.engine.base import TargetEngine
from paceline.common.errors import Busy
from paceline.common.session import Limits


class Admission:
    """See above.

    Args:
        engine: whose cache is given out.
        limits: what is accepted.
        config: how many sessions there may be.
    """

    def __init__(self, engine: TargetEngine, limits: Limits, config: VerifierConfig) -> None:
        self._engine = engine
        self._limits = limits
        self._config = config
        self._reserved: dict[int, int] = {}
        """Session to cache tokens."""

    @property
    def free_tokens(self) -> int:
        """Cache tokens that no live session may claim. Parked caches lie in them, and make room."""
        return self._engine.capacity_tokens - sum(self._reserved.values())

    def whole_pages(self, num_tokens: int) -> int:
        """What so many tokens take of the cache, in tokens."""
        return -(-num_tokens // self._engine.page_size) * self._engine.page_size

    def check(self, end: int) -> int:
        """How many cache tokens a session needs that may grow to `end` tokens.

        Raises:
            Busy: they are not there, or all sessions are taken.
        """
        if len(self._reserved) >= self._config.max_sessions:
            raise Busy(
                f"all {self._config.max_sessions} sessions are taken",
                field="sessions",
                cure="retry",
                retry_after_s=1.0,
            )
        needed = self.whole_pages(end + self._limits.max_draft_tokens)
        if needed > self.free_tokens:
            raise Busy(
                f"{needed} cache tokens are needed, {self.free_tokens} are free",
                field="kv_cache",
                cure="retry, or ask for fewer tokens",
                retry_after_s=1.0,
            )
        return needed

    def admit(self, key: int, needed: int) -> None:
        """Set aside what `check` has found free."""
        self._reserved[key] = needed

    def free(self, key: int) -> None:
        """A session is over."""
        self._reserved.pop(key, None)
