"""A topology file, read, checked, and refused with one line that names file, line, key and cure."""

import os
from collections.abc import Iterator, Mapping
from itertools import chain
from json import dumps
from pathlib import Path as FilePath
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from paceline.common.config.checks import check_tokenizers, find_faults, nearest
from paceline.common.config.document import Document, parse_document
from paceline.common.config.errors import Path, TopologyError
from paceline.common.config.topology import FORMS_OF_TENANT, Topology

_PLAIN = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
}
_EXAMPLES = {
    "int_type": "for example 8",
    "int_from_float": "for example 8",
    "int_parsing": "for example 8",
    "float_type": "for example 0.7",
    "string_type": "for example cloud",
    "bool_type": "write true or false",
    "tuple_type": "for example [a, b]",
    "dict_type": "for example {key: value}",
    "model_type": "for example {key: value}",
    "model_attributes_type": "for example {key: value}",
}
_BOUNDS = {
    "greater_than": ("gt", "is not more than"),
    "greater_than_equal": ("ge", "is not at least"),
    "less_than": ("lt", "is not less than"),
    "less_than_equal": ("le", "is more than"),
}
_PATTERN_CURES = {
    "name": "letters, digits, dots, dashes and underscores; at most 63",
    "device": "auto, cpu, cuda or cuda:1",
}


def load_topology(file: str | FilePath) -> Topology:
    """Read and check a topology file.

    Raises:
        TopologyError: it cannot be used; one line says where and why.
    """
    try:
        data = FilePath(file).read_bytes()
    except FileNotFoundError:
        raise TopologyError("there is no such file", file=str(file), cure="check the path") from None
    except OSError as error:
        raise TopologyError(f"cannot be read: {error.strerror}", file=str(file)) from None
    return parse_topology(data, str(file))


def parse_topology(
    data: bytes, file: str = "topology.yaml", environment: Mapping[str, str] | None = None
) -> Topology:
    """Check a topology that is already in memory; see `load_topology`.

    Args:
        data: the file's bytes.
        file: its name for messages.
        environment: what `${NAME}` stands for; this process's environment if None.
    """
    document = parse_document(data, file).with_environment(os.environ if environment is None else environment)
    try:
        topology = Topology.model_validate_json(dumps(document.value))
    except ValidationError as error:
        raise _translate(error, document) from None
    fault = next(chain(find_faults(topology), check_tokenizers(topology)), None)
    if fault is not None:
        raise document.error(fault.path, fault.message, fault.cure)
    # They cannot be fields: the file has no such keys.
    topology._written, topology._secrets = document.written, document.secrets
    return topology


def topology_schema() -> dict[str, Any]:
    """JSON Schema of the format, for editors."""
    schema = Topology.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _translate(error: ValidationError, document: Document) -> TopologyError:
    """The most telling of pydantic's errors, in our words: unknown keys first, they often cause the others."""
    details = error.errors(include_url=False)
    first = next((one for one in details if one["type"] == "extra_forbidden"), details[0])
    path: Path = tuple(part for part in first["loc"] if part not in FORMS_OF_TENANT)
    message, cure = _words(first, path)
    return document.error(path, message, cure)


def _words(details: ErrorDetails, path: Path) -> tuple[str, str]:
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "extra_forbidden":
        return "there is no such key", nearest(str(path[-1]), _section(path[:-1]).model_fields, "keys")
    if kind == "missing":
        return "is missing", "set it"
    if kind in _PLAIN:
        return f"{_shown(value)} is not {_PLAIN[kind]}", _quoting_cure(kind, value)
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return f"{_shown(value)} {words} {context[bound]}", "give a number in range"
    return _special(kind, value, context, path, details["msg"])


def _special(
    kind: str, value: Any, context: Mapping[str, Any], path: Path, otherwise: str
) -> tuple[str, str]:
    if kind in ("literal_error", "enum"):
        if path == ("version",):
            return f"{_shown(value)} is not a version this release reads", "version: 1"
        allowed = [word.strip("'\"") for word in str(context["expected"]).replace(" or ", ", ").split(", ")]
        return f"there is no {path[-1] if isinstance(path[-1], str) else path[-2]} {_shown(value)}", nearest(
            str(value), allowed, "one of"
        )
    if kind == "string_pattern_mismatch":
        return f"{_shown(value)} is not a valid {path[-1]}", _PATTERN_CURES[str(path[-1])]
    if kind in ("too_short", "string_too_short"):
        return "is empty", "give at least one" if kind == "too_short" else "set it, or leave the key out"
    if kind == "too_long":
        return f"has {context['actual_length']} items", f"at most {context['max_length']}"
    if kind == "string_too_long":
        return "is too long", f"at most {context['max_length']} characters"
    return otherwise, str(context.get("cure", "check the value"))


def _quoting_cure(kind: str, value: Any) -> str:
    """YAML 1.1 reads `on`, `no` and `1.0` as something else than text."""
    if kind == "string_type" and isinstance(value, bool | int | float):
        return "quote it to make it text"
    if value is None:
        return "set it, or leave the key out"
    return _EXAMPLES[kind]


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    return (
        dumps(value, ensure_ascii=False)[:60] if isinstance(value, bool | list | dict) else f"{value!r:.60}"
    )


def _section(path: Path) -> type[BaseModel]:
    """The class that describes the mapping at `path`."""
    section: type[BaseModel] = Topology
    for part in path:
        if isinstance(part, str) and part in section.model_fields:
            section = next(_models(section.model_fields[part].annotation))
    return section


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


__all__ = ["load_topology", "parse_topology", "topology_schema"]
