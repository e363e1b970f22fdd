"""Caches of streams that broke off, kept for whoever comes back. No I/O, and no clock of its own.

A parked cache is keys and values, never an authority: what it is worth is decided by comparing its text with the one
that comes. It takes only room that no live session may claim, and is dropped when its time is over.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice

from paceline.cloud.metrics import VerifierMetrics
from paceline.common.prefix import common_length

Name = tuple[str, bytes]
"""Tenant and session id. Another tenant's is another name, and so unknown."""


class Fate(StrEnum):
    """Why a cache is parked no more."""

    HIT = "hit"
    EVICTED = "evicted"
    EXPIRED = "expired"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Parked:
    """One cache."""

    key: int
    """In the engine's books."""
    token_ids: Sequence[int]
    """The text that is cached."""
    num_held: int
    """Tokens the engine may hold for it in all, in whole pages."""
    until_s: float = 0.0
    attempt: tuple[int, ...] = ()
    """Which of the session's streams left it."""


class Parking:
    """See above. The order is that of parking: the first one has been there longest, and ends first.

    Args:
        park_s: how long a cache is kept; 0 keeps none.
        max_sessions: caches at a time.
        release: frees a cache in the engine.
        metrics: counters to keep.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        park_s: float,
        max_sessions: int,
        release: Callable[[int], None],
        metrics: VerifierMetrics,
        clock: Callable[[], float],
    ) -> None:
        self._park_s = park_s
        self._max_sessions = max_sessions
        self._release = release
        self._metrics = metrics
        self._clock = clock
        self._parked: dict[Name, Parked] = {}

    def __len__(self) -> int:
        return len(self._parked)

    @property
    def num_tokens(self) -> int:
        """Cache tokens that parked sessions hold."""
        return sum(one.num_held for one in self._parked.values())

    @property
    def due_s(self) -> tuple[float, ...]:
        """When the next one's time is over, by the clock; empty if none is kept."""
        return tuple(one.until_s for one in islice(self._parked.values(), 1))

    def attempt(self, name: Name) -> tuple[int, ...]:
        """Which of a session's streams left what is kept of it; empty if nothing is."""
        found = self._parked.get(name)
        return found.attempt if found is not None else ()

    def park(
        self, name: Name, key: int, token_ids: Sequence[int], num_held: int, attempt: tuple[int, ...] = ()
    ) -> bool:
        """Keep a cache; whether it is kept. If not, it is still the caller's to free."""
        if not (token_ids and self._park_s and self._max_sessions):
            return False
        self._end(name, Fate.DROPPED)
        if len(self._parked) >= self._max_sessions:
            self._end(next(iter(self._parked)), Fate.EVICTED)
        self._parked[name] = Parked(key, token_ids, num_held, self._clock() + self._park_s, attempt)
        self._metrics.parked()
        return True

    def take(self, name: Name, text: Sequence[int], most_held: int) -> Parked | None:
        """Hand a cache over, as far as it is of this text; it is the caller's to free from now on. None if none is of
        use.

        Args:
            text: that goes on. Its last token has to be run again, whatever is cached.
            most_held: cache tokens that are set aside for it.
        """
        found = self._parked.get(name)
        if found is None:
            return None
        length = min(common_length(found.token_ids, text), len(text) - 1)
        if not length or found.num_held > most_held:
            self._end(name, Fate.DROPPED)
            return None
        del self._parked[name]
        self._metrics.unparked(Fate.HIT)
        return replace(found, token_ids=found.token_ids[:length])

    def fit(self, num_tokens: int) -> None:
        """Make room until all parked caches take at most so many tokens."""
        while self._parked and self.num_tokens > num_tokens:
            self._end(next(iter(self._parked)), Fate.EVICTED)

    def expire(self) -> None:
        """Drop those whose time is over."""
        now_s = self._clock()
        while self._parked and (name := next(iter(self._parked))) and self._parked[name].until_s <= now_s:
            self._end(name, Fate.EXPIRED)

    def clear(self) -> None:
        """Drop all, and keep no more."""
        self._park_s = 0.0
        for name in list(self._parked):
            self._end(name, Fate.DROPPED)

    def _end(self, name: Name, why: Fate) -> None:
        found = self._parked.pop(name, None)
        if found is not None:
            self._release(found.key)
            self._metrics.unparked(why)
