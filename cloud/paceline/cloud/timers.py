"""When a session needs a look though nothing arrives: its drafts are late, its time is up, its client is silent."""

from collections import OrderedDict
from collections.abc import Container, Iterator


class Timers:
    """Times of live sessions, by key and the desk's clock.

    Args:
        idle_s: how long a client may leave its session waiting; 0: for ever.
    """

    def __init__(self, idle_s: float) -> None:
        self._idle_s = idle_s
        self._drafts_s: dict[int, float] = {}
        """Until when to wait for a draft."""
        self._ends_s: dict[int, float] = {}
        """Deadlines that clients set."""
        self._active_s: OrderedDict[int, float] = OrderedDict()
        """When anything happened last, the longest ago first."""

    @property
    def due_s(self) -> Iterator[float]:
        """When to look again."""
        yield from self._drafts_s.values()
        yield from self._ends_s.values()
        if self._idle_s and self._active_s:
            yield next(iter(self._active_s.values())) + self._idle_s

    def is_active(self, key: int, now_s: float) -> None:
        """Its client said or read something, or it got on."""
        self._active_s[key] = now_s
        self._active_s.move_to_end(key)

    def wait_for_draft(self, key: int, until_s: float) -> None:
        """It need not be asked before."""
        self._drafts_s[key] = until_s

    def end_at(self, key: int, at_s: float) -> None:
        """Its client gives it no more time than that."""
        self._ends_s[key] = at_s

    def ends_s(self, key: int) -> float | None:
        """When its client's time for it is up."""
        return self._ends_s.get(key)

    def forget(self, key: int) -> None:
        """It is gone."""
        for times in (self._drafts_s, self._ends_s, self._active_s):
            times.pop(key, None)

    def late_drafts(self, now_s: float) -> list[int]:
        """Those that have waited for a draft; told once."""
        late = _passed(self._drafts_s, now_s)
        for key in late:
            del self._drafts_s[key]
        return late

    def ended(self, now_s: float) -> list[int]:
        """Those whose time is up."""
        return _passed(self._ends_s, now_s)

    def idle(self, now_s: float, waiting: Container[int]) -> list[int]:
        """Those whose clients leave them waiting.

        Args:
            waiting: for their turn, or for their tenant's: that is none of their doing.
        """
        found = []
        while self._idle_s and self._active_s:
            key, at_s = next(iter(self._active_s.items()))
            if at_s + self._idle_s > now_s:
                break
            if key in waiting or key in self._drafts_s:
                self.is_active(key, now_s)
            else:
                del self._active_s[key]
                found.append(key)
        return found


def _passed(times: dict[int, float], now_s: float) -> list[int]:
    return [key for key, due_s in times.items() if due_s <= now_s]
