"""Who is taken in: as many sessions as there may be, whose caches fit, and whose rounds stay short.

A session gets its whole cache up front: once admitted it can always finish. Whoever is refused is told when a place is
likely to be free that nobody else was told of.
"""

from paceline.cloud.config import VerifierConfig
from paceline.cloud.engine.base import TargetEngine
from paceline.common.cost import CostLine
from paceline.common.errors import Busy
from paceline.common.session import Limits

UNKNOWN_S = 1.0
"""Told while no session has ended yet."""
SHORTEST_S, LONGEST_S = 0.1, 10.0
"""Bounds of what is told."""
_WEIGHT = 0.1
"""Of a new measurement."""


class Turnover:
    """How soon sessions end, from how long those before lasted; that one has lasted long already says nothing."""

    def __init__(self) -> None:
        self._mean_s: float | None = None
        self._promised_s = 0.0
        """Places until then were told to somebody."""

    def ended(self, seconds: float) -> None:
        """A session is over that lasted so long."""
        past_s = seconds if self._mean_s is None else self._mean_s
        self._mean_s = past_s + _WEIGHT * (seconds - past_s)

    def until(self, num_live: int, num_ends: int = 1) -> float:
        """Seconds until so many of the live sessions have ended."""
        if self._mean_s is None:
            return UNKNOWN_S
        return _bounded(num_ends * self._mean_s / max(num_live, 1))

    def promise(self, num_live: int, num_ends: int, now_s: float) -> float:
        """The same, after whoever was told before."""
        begins_s = min(max(self._promised_s, now_s), now_s + LONGEST_S)
        self._promised_s = begins_s + self.until(num_live, num_ends)
        return _bounded(self._promised_s - now_s)


def _bounded(seconds: float) -> float:
    return min(max(seconds, SHORTEST_S), LONGEST_S)


class Admission:
    """See above.

    Args:
        engine: whose cache is given out.
        limits: what is accepted.
        config: how many sessions there may be, and how long a round may take.
        cost: what steps have cost.
    """

    def __init__(
        self, engine: TargetEngine, limits: Limits, config: VerifierConfig, cost: CostLine | None = None
    ) -> None:
        self.turnover = Turnover()
        self._engine = engine
        self._limits = limits
        self._config = config
        self._cost = cost or CostLine()
        self._reserved: dict[int, int] = {}
        """Session to cache tokens."""
        self._since_s: dict[int, float] = {}
        self._turn_tokens = 1.0
        """What a session asks of a step, typically."""

    @property
    def reserved_tokens(self) -> int:
        """Cache tokens set aside for sessions."""
        return sum(self._reserved.values())

    @property
    def free_tokens(self) -> int:
        """Cache tokens that no live session may claim. Parked caches lie in them, and make room."""
        return self._engine.capacity_tokens - self.reserved_tokens

    def whole_pages(self, num_tokens: int) -> int:
        """What so many tokens take of the cache, in tokens."""
        return -(-num_tokens // self._engine.page_size) * self._engine.page_size

    def check(self, end: int, now_s: float) -> int:
        """How many cache tokens a session needs that may grow to `end` tokens.

        Raises:
            Busy: they are not there, all sessions are taken, or rounds would take too long.
        """
        self.check_places(len(self._reserved), now_s)
        self._check_round(now_s)
        needed = self.whole_pages(end + self._limits.max_draft_tokens)
        if needed > self._engine.capacity_tokens:
            raise Busy(
                f"{needed} cache tokens are needed, there are {self._engine.capacity_tokens}",
                field="kv_cache",
                cure="ask for fewer tokens: no end of other sessions makes room for so many",
            )
        free = self.free_tokens
        if needed > free:
            reserved = self._engine.capacity_tokens - free
            num_ends = -(-(needed - free) * len(self._reserved) // reserved)
            error = self._busy(
                f"{needed} cache tokens are needed, {free} are free", "kv_cache", num_ends, now_s
            )
            error.cure = "retry, or ask for fewer tokens"
            raise error
        return needed

    def check_places(self, num_sessions: int, now_s: float) -> None:
        """The part of `check` that any thread may ask.

        Raises:
            Busy: that many are all there may be.
        """
        if num_sessions >= self._config.max_sessions:
            raise self._busy(f"all {self._config.max_sessions} sessions are taken", "sessions", 1, now_s)

    def _check_round(self, now_s: float) -> None:
        """A round is what every session's turn takes if all ask at once. The first session is always taken: a cost that
        nobody measures any more would never get better."""
        num_live, most_s = len(self._reserved), self._config.max_round_s
        if most_s is None or not num_live:
            return
        num_tokens = (num_live + 1) * self._turn_tokens
        num_steps = -(-num_tokens // self._config.max_step_tokens)
        round_s = num_steps * self._cost.fixed_s + num_tokens * self._cost.per_token_s
        if round_s > most_s:
            raise self._busy(
                f"with {num_live + 1} sessions a round would take {1000 * round_s:.0f} ms, the most is "
                f"{1000 * most_s:.0f}",
                "max_round_ms",
                1,
                now_s,
            )

    def _busy(self, message: str, field: str, num_ends: int, now_s: float) -> Busy:
        wait_s = self.turnover.promise(len(self._reserved), num_ends, now_s)
        return Busy(message, field=field, cure="retry", retry_after_s=wait_s)

    def observe_turn(self, num_tokens: int) -> None:
        """A session's part of a step."""
        self._turn_tokens += _WEIGHT * (num_tokens - self._turn_tokens)

    def admit(self, key: int, needed: int, now_s: float) -> None:
        """Set aside what `check` has found free."""
        self._reserved[key] = needed
        self._since_s[key] = now_s

    def free(self, key: int, now_s: float) -> None:
        """A session is over."""
        if self._reserved.pop(key, None) is not None:
            self.turnover.ended(now_s - self._since_s.pop(key))
