"""YAML read strictly: plain data with the line of every key, or one error that names the line.

Only what JSON can say is accepted (mappings with text keys, lists, text, numbers, true/false/null); a document is
bounded in size and depth before anything is built, and aliases, which let a few lines stand for gigabytes, are
refused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from paceline.common.config.environment import Secret, redact, substitute
from paceline.common.config.errors import Path, TopologyError, format_key

MAX_BYTES = 64 * 1024
PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
MAX_DEPTH = 12
"""Nested lists and mappings; a topology needs six."""

Value = dict[str, Any] | list[Any] | str | int | float | bool | None
"""What JSON can say."""


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file."""

    file: str
    value: dict[str, Any]
    lines: Mapping[Path, int]
    """1-based line of every key and list item."""
    written: Mapping[Path, str] = field(default_factory=dict)
    """Texts that took something from the environment, as they stand in the file."""
    secrets: tuple[Secret, ...] = ()
    """What they took; no message shows it."""

    def line_of(self, path: Path) -> int:
        """Line of a key, or of the nearest key around it that is in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def error(self, path: Path, message: str, cure: str = "") -> TopologyError:
        """An error about the value at `path`."""
        return TopologyError(
            redact(message, self.secrets),
            file=self.file,
            line=self.line_of(path),
            key=format_key(path),
            cure=redact(cure, self.secrets),
        )

    def with_environment(self, environment: Mapping[str, str]) -> "Document":
        """The document with `${NAME}` replaced; see `substitute`.

        Raises:
            TopologyError: a variable is not set, or a reference is malformed.
        """
        value, written, secrets = substitute(self.value, environment, self.error)
        return replace(self, value=value, written=written, secrets=secrets)


def parse_document(data: bytes, file: str) -> Document:
    """Parse YAML whose top level is a mapping.

    Args:
        data: the file's bytes, UTF-8.
        file: its name for messages.
    Raises:
        TopologyError: not UTF-8, not YAML, or more than JSON can say; names the line.
    """
    if len(data) > MAX_BYTES:
        raise TopologyError(
            f"{len(data)} bytes are more than the {MAX_BYTES} a topology may have",
            file=file,
            cure="is this the right file?",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TopologyError("is not UTF-8 text", file=file, line=line, cure="save it as UTF-8") from None
    try:
        _check_events(text, file)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        has_reference = "${" in "".join(text.splitlines()[line - 1 : line])
        raise TopologyError(
            f"is not YAML: {error.problem or error.context}",
            file=file,
            line=line,
            cure="inside braces quote a reference: '${NAME}'"
            if has_reference
            else "check indentation, brackets and quotes",
        ) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise TopologyError("holds a control character", file=file, line=line, cure="delete it") from None
    if not isinstance(root, yaml.MappingNode):
        found = "is empty" if root is None else "is not a mapping of keys to values"
        raise TopologyError(found, file=file, line=1, cure="begin with `version: 1` and `hops:`")
    reader = _Reader(file)
    return Document(file, reader.mapping(root, ()), reader.lines)


def _check_events(text: str, file: str) -> None:
    """Refuse aliases, second documents and deep nesting before any of it is built."""
    depth = documents = 0
    for event in _events(text):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise TopologyError(
                "anchors and aliases are not read", file=file, line=line, cure="write the value out"
            )
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise TopologyError(
                    "a second document begins", file=file, line=line, cure="one topology per file"
                )
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise TopologyError(
                f"is nested more than {MAX_DEPTH} deep", file=file, line=line, cure="check the indentation"
            )


def _events(text: str) -> Iterator[Any]:
    yield from yaml.parse(text, Loader=yaml.SafeLoader)


class _Reader:
    """Turns YAML nodes into plain values and remembers their lines."""

    def __init__(self, file: str) -> None:
        self.lines: dict[Path, int] = {(): 1}
        self._file = file
        self._scalars = yaml.constructor.SafeConstructor()

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        """A mapping whose keys are text and occur once."""
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                shown = key_node.value if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
                raise self._error(line, path, f"{shown} is used as a key", "keys are plain words")
            key = key_node.value
            if key in values:
                first = self.lines[(*path, key)]
                raise self._error(
                    line, (*path, key), f"is given twice, first in line {first}", "keep one of them"
                )
            self.lines[(*path, key)] = line
            values[key] = self.value(value_node, (*path, key))
        return values

    def value(self, node: yaml.Node, path: Path) -> Value:
        """Any value."""
        if isinstance(node, yaml.CollectionNode) and node.tag not in PLAIN_TAGS:
            raise self._error(node.start_mark.line + 1, path, f"has the tag {node.tag}", "leave the tag out")
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            items = []
            for index, item in enumerate(node.value):
                self.lines[(*path, index)] = item.start_mark.line + 1
                items.append(self.value(item, (*path, index)))
            return items
        return self._scalar(node, path)

    def _scalar(self, node: yaml.Node, path: Path) -> Value:
        line = node.start_mark.line + 1
        try:
            value = self._scalars.construct_object(node)
        except (yaml.constructor.ConstructorError, ValueError, OverflowError):
            tag = node.tag.removeprefix("tag:yaml.org,2002:")
            raise self._error(
                line, path, f"{node.value!s:.60} cannot be read as {tag}", "write plain text, or quote it"
            ) from None
        if isinstance(value, str) and not _is_sound(value):
            raise self._error(line, path, "holds a broken character", "use plain text")
        if value is None or isinstance(value, str | int | float):
            return value
        raise self._error(
            line, path, f"{node.value!s:.60} reads as a {type(value).__name__}", "quote it to make it text"
        )

    def _error(self, line: int, path: Path, message: str, cure: str) -> TopologyError:
        return TopologyError(message, file=self._file, line=line, key=format_key(path), cure=cure)


def _is_sound(text: str) -> bool:
    """Whether the text has no half of a surrogate pair, which no file or terminal could take."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
