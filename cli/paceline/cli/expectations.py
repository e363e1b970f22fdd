"""The figures a plan starts from: options first, then the file's sections `expect`, then a default that is named."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paceline.common.errors import InvalidRequest
from paceline.common.speed.chain import Chain, ChainHop

if TYPE_CHECKING:  # pydantic costs every other command a fifth of a second
    from paceline.common.config import Topology

DEFAULTS = {
    "draft_ms": 10.0,
    "verify_ms": 30.0,
    "verify_per_token_ms": 0.2,
    "rtt_ms": 50.0,
    "acceptance": 0.8,
}
_KEYS = tuple(DEFAULTS)


@dataclass(frozen=True, slots=True)
class Expected:
    """A chain with a figure everywhere."""

    chain: Chain
    assumed: list[str]
    """Figures nobody gave, as `hop.key=value`."""


def expected(topology: "Topology", options: Mapping[str, float | None], expect: Sequence[str]) -> Expected:
    """Gather a chain's figures.

    Args:
        topology: a chain of at least two hops.
        options: figures of the ends: drafting on the first hop; pass, link below and acceptance of the last.
        expect: further ones, `HOP.KEY=VALUE` or `HOP.acceptance.LOWER=VALUE`.
    Raises:
        InvalidRequest: a figure is malformed, or the chain has one hop only.
    """
    if len(topology.hops) < 2 or topology.hops[0].target is not None:
        raise InvalidRequest(
            "a plan is about a chain that begins with a device", field="hops", cure="add a hop that drafts"
        )
    figures = _Figures(topology)
    for text in expect:
        figures.override(text)
    last = len(topology.hops) - 1
    ends = {
        "draft_ms": (0, "draft_ms"),
        "verify_ms": (last, "verify_ms"),
        "verify_per_token_ms": (last, "verify_per_token_ms"),
        "rtt_ms": (last - 1, "rtt_ms"),
        "acceptance": (last, f"acceptance.{topology.hops[last - 1].name}"),
    }
    for name, value in options.items():
        if value is not None:
            figures.set(*ends[name], value, name)
    return Expected(figures.chain(), figures.assumed)


class _Figures:
    """Figures by hop and key; acceptance by `acceptance.LOWER`."""

    def __init__(self, topology: "Topology") -> None:
        self.assumed: list[str] = []
        self._names = [hop.name for hop in topology.hops]
        self._known: dict[tuple[int, str], float] = {}
        for index, hop in enumerate(topology.hops):
            if hop.expect is None:
                continue
            for key, value in hop.expect.model_dump(exclude_none=True).items():
                values = value.items() if key == "acceptance" else [("", value)]
                for lower, figure in values:
                    self._known[index, f"{key}.{lower}" if lower else key] = figure

    def override(self, text: str) -> None:
        """Take `metro.verify_ms=12`."""
        name, _, value = text.partition("=")
        # Names may hold dots, keys do not.
        hop = max((one for one in self._names if name.startswith(f"{one}.")), key=len, default=None)
        if hop is None:
            raise InvalidRequest(
                f"{text!r} begins with no hop's name", field="expect", cure=f"one of {', '.join(self._names)}"
            )
        key = name.removeprefix(f"{hop}.")
        self._check_key(hop, key)
        try:
            figure = float(value)
        except ValueError:
            raise InvalidRequest(
                f"{value!r} is not a number", field=f"expect {name}", cure="for example 12"
            ) from None
        self.set(self._names.index(hop), key, figure, f"expect {name}")

    def _check_key(self, hop: str, key: str) -> None:
        stem, _, lower = key.partition(".")
        below = self._names[: self._names.index(hop)]
        if stem == "acceptance" and lower not in below:
            raise InvalidRequest(
                f"there is no hop {lower!r} below {hop}",
                field="expect",
                cure=f"for example {hop}.acceptance.{below[-1]}=0.8" if below else f"{hop} verifies nobody",
            )
        if stem not in _KEYS or (lower and stem != "acceptance"):
            near = difflib.get_close_matches(stem, _KEYS, n=1, cutoff=0.5)
            cure = f"did you mean {near[0]!r}?" if near else f"keys: {', '.join(_KEYS)}"
            raise InvalidRequest(f"there is no such figure as {key!r}", field="expect", cure=cure)

    def set(self, index: int, key: str, value: float, field: str) -> None:
        """Take a figure that somebody gave."""
        if key.startswith("acceptance") and not 0 <= value <= 1:
            raise InvalidRequest(f"{value} is no share", field=field, cure="0 to 1")
        if not 0 <= value < 3.6e6:
            raise InvalidRequest(f"{value} is not a time", field=field, cure="milliseconds, 0 or more")
        self._known[index, key] = value

    def chain(self) -> Chain:
        """The chain they describe."""
        hops = [
            ChainHop(
                name,
                round_trip_s=self._take(index - 1, "rtt_ms") / 1e3,
                verify_fixed_s=self._take(index, "verify_ms") / 1e3,
                verify_per_token_s=self._take(index, "verify_per_token_ms") / 1e3,
                acceptance=self._acceptance(index),
            )
            for index, name in enumerate(self._names)
            if index
        ]
        return Chain(self._names[0], self._take(0, "draft_ms") / 1e3, tuple(hops))

    def _acceptance(self, index: int) -> dict[str, float]:
        below = self._names[index - 1]
        given = {
            lower: self._known[index, f"acceptance.{lower}"]
            for lower in self._names[:index]
            if (index, f"acceptance.{lower}") in self._known
        }
        return given if below in given else {**given, below: self._take(index, f"acceptance.{below}")}

    def _take(self, index: int, key: str) -> float:
        if (index, key) in self._known:
            return self._known[index, key]
        default = DEFAULTS[key.partition(".")[0]]
        self.assumed.append(f"{self._names[index]}.{key}={default:g}")
        return default
