"""Whose each cache in the engine is: a live session's, nobody's for a while, or that of whoever came back."""

from collections.abc import Callable

from paceline.cloud.admission import Admission
from paceline.cloud.config import VerifierConfig
from paceline.cloud.engine.base import TargetEngine
from paceline.cloud.metrics import VerifierMetrics
from paceline.cloud.parking import Name, Parking
from paceline.cloud.port import Port
from paceline.common.session import VerifierSession


class Caches:
    """See above.

    Args:
        engine: that holds them.
        admission: says what live sessions may claim.
        config: how long, and how many, may belong to nobody.
        metrics: counters to keep.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        engine: TargetEngine,
        admission: Admission,
        config: VerifierConfig,
        metrics: VerifierMetrics,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._admission = admission
        self.parking = Parking(config.park_s, config.max_parked_sessions, engine.release, metrics, clock)
        self._live: dict[Name, Port] = {}

    def holder(self, name: Name) -> Port | None:
        """The stream that is live under this name."""
        return self._live.get(name)

    def is_overtaken(self, name: Name, attempt: tuple[int, ...]) -> bool:
        """Whether a later stream of the session than this one is live, or has left its cache."""
        held = self._live.get(name)
        known = held.attempt if held is not None else self.parking.attempt(name)
        return bool(attempt) and attempt < known

    def give(self, port: Port, session: VerifierSession, needed: int) -> None:
        """A session begins: it gets what an earlier stream left, if that is of use, and room for `needed` tokens."""
        port.cache_key = port.key
        if port.name is not None:
            self._live[port.name] = port
            parked = self.parking.take(port.name, session.text, needed)
            if parked is not None:
                port.cache_key = parked.key
                session.adopt(len(parked.token_ids), parked.num_held)
        self.parking.fit(self._admission.free_tokens)

    def take_back(self, port: Port, session: VerifierSession, *, parks: bool) -> None:
        """A session, whose room is free again, is over; or its stream is, and its cache is kept for the next one."""
        if port.name is None:
            self._engine.release(port.cache_key)
            return
        self._live.pop(port.name, None)
        num_held = self._admission.whole_pages(session.num_held)
        text = session.cached_token_ids
        is_kept = parks and self.parking.park(port.name, port.cache_key, text, num_held, port.attempt)
        if not is_kept:
            self._engine.release(port.cache_key)
        self.parking.fit(self._admission.free_tokens)
