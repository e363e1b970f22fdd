"""Caches of lost streams: how long, how many, how much, and for which text."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from paceline.cloud.metrics import VerifierMetrics
from paceline.cloud.parking import Fate, Parking

TEXT = (1, 2, 3, 4, 5, 6)


@dataclass
class Lot:
    """A parking with a clock that stands still."""

    park_s: float = 60.0
    max_sessions: int = 8
    now_s: float = 0.0
    released: list[int] = field(default_factory=list)
    metrics: VerifierMetrics = field(default_factory=VerifierMetrics)

    def __post_init__(self) -> None:
        self.parking = Parking(
            self.park_s, self.max_sessions, self.released.append, self.metrics, lambda: self.now_s
        )

    def park(
        self, key: int, token_ids: Sequence[int] = TEXT, num_held: int = 16, tenant: str = "acme"
    ) -> bool:
        """Park a cache under a session id made of its key."""
        return self.parking.park((tenant, bytes([key])), key, token_ids, num_held)

    def take(self, key: int, text: Sequence[int] = TEXT, tenant: str = "acme") -> tuple[int, int] | None:
        """Key and usable length of what is found."""
        found = self.parking.take((tenant, bytes([key])), text, 1000)
        return None if found is None else (found.key, len(found.token_ids))

    def count(self, why: Fate) -> float:
        """How many caches ended so."""
        labels = {"hop": "cloud", "why": why}
        return self.metrics.registry.get_sample_value("paceline_parked_caches_total", labels) or 0.0


def test_what_is_parked_is_found_once_and_as_far_as_the_texts_agree() -> None:
    """The longest common beginning counts, and never the whole text: its last token has to be run again."""
    for text, length in (
        (TEXT, 5),
        ((*TEXT, 7, 8), 6),
        (TEXT[:3], 2),
        ((1, 2, 9, 4, 5, 6, 7), 2),
    ):
        lot = Lot()
        lot.park(3)
        assert lot.take(3, text) == (3, length)
        assert lot.take(3, text) is None
        assert (lot.released, lot.count(Fate.HIT)) == ([], 1)


def test_what_is_of_no_use_is_dropped() -> None:
    """Another text, a text of one token, and a cache larger than what is set aside for the text."""
    for text, held in (((9, 2, 3), 16), ((1,), 16), (TEXT, 1001)):
        lot = Lot()
        lot.park(3, num_held=held)
        assert lot.take(3, text) is None
        assert (lot.released, len(lot.parking), lot.count(Fate.DROPPED)) == ([3], 0, 1)


def test_another_tenants_name_is_unknown() -> None:
    """The same session id under another tenant finds nothing and disturbs nothing."""
    lot = Lot()
    lot.park(3)
    assert lot.take(3, tenant="rival") is None
    assert lot.take(3) == (3, 5)


def test_time_number_and_room_bound_what_is_kept() -> None:
    """What has been parked longest goes first: when its time is over, when others come, when room is needed."""
    lot = Lot(max_sessions=3)
    for key in (1, 2, 3, 4):
        assert lot.park(key)
        lot.now_s += 10
    assert lot.released == [1]
    lot.parking.fit(32)
    assert lot.released == [1, 2]
    assert lot.parking.due_s == (80.0,)
    lot.now_s = 80.0
    lot.parking.expire()
    assert lot.released == [1, 2, 3]
    assert (lot.count(Fate.EVICTED), lot.count(Fate.EXPIRED)) == (2, 1)
    assert lot.parking.num_tokens == 16
    lot.parking.fit(16)
    assert lot.take(4) == (4, 5), "what fits stays"


def test_where_nothing_is_to_be_kept_the_cache_is_the_callers() -> None:
    """No time, no number, an empty cache, a verifier that goes away."""
    lots = [Lot(park_s=0.0), Lot(max_sessions=0)]
    assert not any(lot.park(3) for lot in lots)
    lot = Lot()
    assert not lot.park(3, ())
    lot.park(4)
    lot.parking.clear()
    assert (lot.released, lot.park(5)) == ([4], False)


def test_a_name_is_parked_once() -> None:
    """Whoever parks under a name again has the older cache dropped."""
    lot = Lot()
    lot.park(3)
    lot.parking.park(("acme", bytes([3])), 8, TEXT, 16)
    assert (lot.released, len(lot.parking)) == ([3], 1)
    assert lot.take(3) == (8, 5)
