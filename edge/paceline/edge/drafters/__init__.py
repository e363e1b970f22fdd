"""Drafters by name: one literal table; other packages add theirs by entry point, group
`paceline.drafters`."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from paceline.common.drafter import Drafter, DraftSession, KeepGoing, Proposal, always
from paceline.common.errors import InvalidRequest

ENTRY_POINT_GROUP = "paceline.drafters"

DRAFTERS: dict[str, str] = {
    "onnx": "paceline.edge.drafters.onnx:OnnxDrafter",
    "torch": "paceline.edge.drafters.torch:TorchDrafter",
    "ngram": "paceline.edge.drafters.ngram:NgramDrafter",
    "table": "paceline.edge.drafters.table:TableDrafter",
    "siblings": "paceline.edge.drafters.siblings:SiblingsDrafter",
    "union": "paceline.edge.drafters.siblings:UnionDrafter",
    "cascade": "paceline.edge.drafters.cascade:CascadeDrafter",
    "vertical": "paceline.edge.drafters.vertical:VerticalDrafter",
    "adaptive": "paceline.edge.drafters.adaptive:AdaptiveDrafter",
}
"""Name to "module:factory", as an entry point has it: nothing heavy is imported before it is asked for."""


def load_drafter(kind: str, options: Mapping[str, Any] | None = None) -> Drafter:
    """Make the drafter called `kind`.

    Args:
        kind: a name in `DRAFTERS` or an entry point of another package.
        options: keyword arguments of that drafter.
    Raises:
        InvalidRequest: no such drafter, or no such option, or one is missing.
    """
    factory = _factory(kind)
    given = dict(options or {})
    parameters = inspect.signature(factory).parameters
    for name in given:
        if name not in parameters:
            near = difflib.get_close_matches(name, parameters, n=1)
            raise InvalidRequest(
                f"drafter {kind!r} has no option {name!r}",
                field=f"drafter.{name}",
                cure=f"did you mean {near[0]!r}?" if near else f"options: {', '.join(parameters) or 'none'}",
            )
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in given:
            raise InvalidRequest(f"drafter {kind!r} needs {name!r}", field=f"drafter.{name}", cure="set it")
    return factory(**given)


def drafter_from_section(section: Mapping[str, Any], **common: Any) -> Drafter:
    """Make the drafter that a topology's `drafter` section describes, and those it is made of.

    Args:
        section: `kind` and options, as plain values; `drafters` holds sections, and None is as good as left out.
        common: options for every part that has them (`progress`).
    Raises:
        InvalidRequest: as `load_drafter`.
    """
    options = {
        name: value for name, value in section.items() if value is not None and name not in _NO_OPTIONS
    }
    options |= section.get("options") or {}
    if "drafters" in options:
        options["drafters"] = [drafter_from_section(part, **common) for part in options["drafters"]]
    kind = str(section["kind"])
    parameters = inspect.signature(_factory(kind)).parameters
    return load_drafter(kind, {name: common[name] for name in common if name in parameters} | options)


_NO_OPTIONS = ("kind", "num_speculative_tokens", "options")
"""Keys of a section that are not for the drafter."""


def drafter_names() -> list[str]:
    """Every drafter that can be loaded here, built in or installed."""
    return sorted({*DRAFTERS, *entry_points(group=ENTRY_POINT_GROUP).names})


def _factory(kind: str) -> Callable[..., Drafter]:
    found = list(entry_points(group=ENTRY_POINT_GROUP, name=kind))
    if kind in DRAFTERS:
        found = [EntryPoint(kind, DRAFTERS[kind], ENTRY_POINT_GROUP)]
    if not found:
        known = ", ".join(drafter_names())
        raise InvalidRequest(f"there is no drafter {kind!r}", field="drafter.kind", cure=f"known: {known}")
    factory: Callable[..., Drafter] = found[0].load()
    return factory


__all__ = [
    "DRAFTERS",
    "DraftSession",
    "Drafter",
    "KeepGoing",
    "Proposal",
    "always",
    "drafter_from_section",
    "drafter_names",
    "load_drafter",
]
