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
    def reserved_tokens(self) -> int:
        """Cache tokens set aside for sessions."""
        return sum(self._reserved.values())

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
        pages = -(-(end + self._limits.max_draft_tokens) // self._engine.page_size)
        needed = pages * self._engine.page_size
        free = self._engine.capacity_tokens - self.reserved_tokens
        if needed > free:
            raise Busy(
                f"{needed} cache tokens are needed, {free} are free",
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
