"""Links to order: delay, jitter, bandwidth, stalls and cuts, as a pure function of what is sent when. No clock, no I/O.

A link never reorders and never loses: like TCP it delivers late instead. One shape serves the proxy, which delays real
bytes, and the simulated hop, which delays messages on whatever clock its event loop has.
"""

import math
import random
import re
from dataclasses import dataclass
from typing import Literal

from paceline.common.errors import InvalidRequest

CutKind = Literal["stall", "reset"]
_MAX_S = 3600
_UNITS_S = {"ms": 1e-3, "s": 1.0}
_UNITS_BYTES_PER_S = {"kbit": 125.0, "mbit": 125_000.0, "gbit": 125_000_000.0}


@dataclass(frozen=True, slots=True)
class Cut:
    """A time in which nothing passes."""

    at_s: float
    """Since the link got the shape that plans it."""
    duration_s: float
    kind: CutKind = "stall"
    """`stall`: what is sent or on its way arrives afterwards. `reset`: connections break, new ones are refused."""

    def __post_init__(self) -> None:
        for name in ("at_s", "duration_s"):
            _check_time(f"cuts.{name}", getattr(self, name))


@dataclass(frozen=True, slots=True)
class LinkShape:
    """What a link does to what is sent over it. Seconds and bytes."""

    rtt_s: float = 0.0
    jitter_s: float = 0.0
    """Mean of an exponential delay on top of half the round trip, each way."""
    bytes_per_s: float | None = None
    stall_every_s: float = 0.0
    """Mean time between pauses as a lost segment causes them, exponential; 0 for none."""
    stall_s: float = 0.0
    cuts: tuple[Cut, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rtt_s", "jitter_s", "stall_every_s", "stall_s"):
            _check_time(name, getattr(self, name))
        if self.bytes_per_s is not None and not 0 < self.bytes_per_s < math.inf:
            raise InvalidRequest(
                f"{self.bytes_per_s} is no speed", field="bytes_per_s", cure="above 0, or none for no limit"
            )

    @classmethod
    def parse(cls, text: str) -> "LinkShape":
        """`rtt=100ms,jitter=10ms,bandwidth=10mbit,stall=200ms/2s,cut=5s@3s,reset=5s@3s,seed=1`, any of them.

        Raises:
            InvalidRequest: naming the part.
        """
        values: dict[str, object] = {}
        cuts: list[Cut] = []
        for part in filter(None, (part.strip() for part in text.split(","))):
            key, _, value = part.partition("=")
            match key:
                case "rtt" | "jitter":
                    values[f"{key}_s"] = _seconds(key, value)
                case "bandwidth":
                    values["bytes_per_s"] = _quantity(key, value, _UNITS_BYTES_PER_S, "for example 10mbit")
                case "stall":
                    length, _, every = value.partition("/")
                    values["stall_s"], values["stall_every_s"] = _seconds(key, length), _seconds(key, every)
                case "cut" | "reset":
                    length, _, at = value.partition("@")
                    kind: CutKind = "stall" if key == "cut" else "reset"
                    cuts.append(Cut(_seconds(key, at or "0s"), _seconds(key, length), kind))
                case "seed" if value.isdecimal():
                    values["seed"] = int(value)
                case _:
                    raise InvalidRequest(
                        f"{part!r} is not understood",
                        field="shape",
                        cure="rtt=, jitter=, bandwidth=, stall=, cut=, reset=, seed=",
                    )
        return cls(cuts=tuple(cuts), **values)  # type: ignore[arg-type]


def _check_time(field: str, value: float) -> None:
    if not 0 <= value < _MAX_S:
        raise InvalidRequest(f"{value} is no time", field=field, cure=f"seconds, from 0 to below {_MAX_S}")


def _seconds(key: str, text: str) -> float:
    return _quantity(key, text, _UNITS_S, "for example 100ms or 2s")


def _quantity(key: str, text: str, units: dict[str, float], cure: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([a-z]+)", text)
    if found is None or found[2] not in units:
        raise InvalidRequest(f"{text!r} is no {key}", field="shape", cure=cure)
    return float(found[1]) * units[found[2]]


class Direction:
    """One way of a link.

    Args:
        shape: what to do; `change` replaces it.
        name: makes the two directions' dice differ.
        began_s: when the link was made, by the caller's clock.
    """

    def __init__(self, shape: LinkShape, name: str, began_s: float) -> None:
        self._dice = random.Random(f"{shape.seed} {name}")
        self._last_s = began_s
        self._free_s = began_s
        self._cuts: list[tuple[float, float, CutKind]] = []
        """From, until, by the caller's clock; in order of their beginnings."""
        self.change(shape, began_s)

    def change(self, shape: LinkShape, now_s: float) -> None:
        """Have another shape from now on. Cuts made or planned before stand; the shape's own count from now."""
        self._shape = shape
        for cut in shape.cuts:
            self.cut(now_s + cut.at_s, cut.duration_s, cut.kind)
        self._next_stall_s = now_s + self._gap_s() if shape.stall_every_s else math.inf

    def arrival(self, now_s: float, num_bytes: int) -> float:
        """When something sent now arrives; never before anything sent earlier."""
        shape = self._shape
        sent_s = max(now_s, self._free_s)
        if shape.bytes_per_s is not None:
            sent_s += num_bytes / shape.bytes_per_s
        self._free_s = sent_s
        arrival_s = sent_s + shape.rtt_s / 2
        if shape.jitter_s:
            arrival_s += self._dice.expovariate(1 / shape.jitter_s)
        arrival_s = self._after_stalls(self.held_until(arrival_s))
        self._last_s = max(self._last_s, arrival_s)
        return self._last_s

    def held_until(self, due_s: float) -> float:
        """When what is due then may pass: at once, unless a cut holds it, be it made after the sending."""
        for from_s, until_s, kind in self._cuts:
            if kind == "stall" and from_s <= due_s < until_s:
                due_s = until_s
        return due_s

    def is_reset(self, now_s: float) -> bool:
        """Whether connections are refused now."""
        return any(kind == "reset" and from_s <= now_s < until_s for from_s, until_s, kind in self._cuts)

    def cut(self, from_s: float, duration_s: float, kind: CutKind = "stall") -> None:
        """Cut the link then, for so long."""
        self._cuts = sorted([*self._cuts, (from_s, from_s + duration_s, kind)])

    def _after_stalls(self, arrival_s: float) -> float:
        while self._next_stall_s <= arrival_s:
            arrival_s = max(arrival_s, self._next_stall_s + self._shape.stall_s)
            self._next_stall_s += self._shape.stall_s + self._gap_s()
        return arrival_s

    def _gap_s(self) -> float:
        return self._dice.expovariate(1 / self._shape.stall_every_s)
