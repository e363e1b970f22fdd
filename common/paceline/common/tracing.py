"""The seam for traces. Off unless somebody calls `install`, and then nothing here costs more than a look at a variable.

A text is one trace: each hop's part of it is a span, and what a hop does for the text, round by round, are spans below
that. Which span called travels as the stream's W3C `traceparent`.
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Protocol

Attribute = str | int | float | bool
Headers = tuple[tuple[str, str], ...]

TRACEPARENT = "traceparent"


class Span(Protocol):
    """Something that takes time."""

    @property
    def headers(self) -> Headers:
        """What tells another process to hang its spans below this one."""

    def record(self, name: str, seconds: float, **attributes: Attribute) -> None:
        """A span below this one that lasted so long and ends now."""

    def end(self, **attributes: Attribute) -> None:
        """It is over."""


class _NoSpan:
    headers: Headers = ()

    def record(self, name: str, seconds: float, **attributes: Attribute) -> None:
        pass

    def end(self, **attributes: Attribute) -> None:
        pass


NO_SPAN: Span = _NoSpan()
Begin = Callable[[str, str, Mapping[str, Attribute]], Span]
"""Makes a span from its name, the `traceparent` above it (empty: a new trace) and its attributes."""

_begin: Begin | None = None
_caller: ContextVar[str] = ContextVar("traceparent", default="")


def install(begin: Begin | None) -> None:
    """Trace from now on; None stops."""
    global _begin
    _begin = begin


def called_by(metadata: Mapping[str, str]) -> None:
    """In this task, and those it starts, spans hang below the one a call's metadata names."""
    if _begin is not None:
        _caller.set(metadata.get(TRACEPARENT, ""))


def begin(name: str, **attributes: Attribute) -> Span:
    """A span below the caller's; `NO_SPAN` if nothing is traced."""
    return NO_SPAN if _begin is None else _begin(name, _caller.get(), attributes)
