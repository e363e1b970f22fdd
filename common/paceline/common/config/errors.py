"""What is wrong with a configuration file, and where: one line an editor can jump to."""

from collections.abc import Sequence
from typing import NamedTuple

from paceline.common.errors import InvalidRequest

Path = tuple[str | int, ...]
"""Where a value stands in a document, e.g. `("hops", 1, "drafter", "kind")`."""


class Finding(NamedTuple):
    """Something wrong."""

    path: Path
    message: str
    cure: str


class TopologyError(InvalidRequest):
    """A topology file that cannot be used; prints as `FILE:LINE: hops[1].drafter.kind: message (cure)`.

    Args:
        message: what is wrong, naming the value.
        file: the file as the user named it.
        line: 1-based line of the key concerned; 0 if the file as a whole is meant.
        key: the key concerned, as `format_key` writes it; empty if the file as a whole is meant.
        cure: what the reader should do.
    """

    def __init__(self, message: str, *, file: str, line: int = 0, key: str = "", cure: str = "") -> None:
        where = f"{file}:{line}" if line else file
        field = f"{where}: {_one_line(key)}" if key else where
        super().__init__(_one_line(message), field=field, cure=_one_line(cure))
        self.file = file
        self.line = line
        self.key = key


def format_key(path: Sequence[str | int]) -> str:
    """`("hops", 1, "name")` as `hops[1].name`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).removeprefix(".")


def _one_line(text: str) -> str:
    """The text without line breaks or other characters that a terminal would act on."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
