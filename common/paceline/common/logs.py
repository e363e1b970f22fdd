"""Log lines that say which text they are about.

Whoever serves a text says once which it is (`about`); every line that is logged meanwhile, in that task or below it,
carries it. As text the fields stand behind the message, as JSON they are keys.
"""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

Fields = dict[str, str | int]
LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")

_about: ContextVar[Fields] = ContextVar("log_fields", default={})  # noqa: B039 - never changed in place


def current() -> Fields:
    """What lines logged here are about."""
    return _about.get()


def set_about(**fields: str | int) -> None:
    """Lines of this task, and of those it starts, are about this; fields without a value are left out."""
    _about.set({**_about.get(), **_known(fields)})


@contextmanager
def about(fields: Fields) -> Iterator[None]:
    """Lines logged within are about this and nothing else."""
    token = _about.set(fields)
    try:
        yield
    finally:
        _about.reset(token)


def _known(fields: Fields) -> Fields:
    return {name: value for name, value in fields.items() if value != ""}


class _Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s%(about)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={json.dumps(value)}" for name, value in _about.get().items())
        record.about = f" [{fields}]" if fields else ""
        return super().formatMessage(record)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_about.get(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def formatter(form: str) -> logging.Formatter:
    """Writes lines in one of `FORMATS`."""
    return _Json() if form == "json" else _Text()


def configure(level: str, form: str) -> None:
    """Log to stderr.

    Args:
        level: one of `LEVELS`.
        form: one of `FORMATS`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(form))
    logging.basicConfig(level=level.upper(), handlers=[handler])
