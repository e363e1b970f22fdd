"""The keys of a topology file as tables, from the schema."""

from collections.abc import Mapping
from typing import Any

_SECTIONS = {
    "The file": None,
    "sampling": "Sampling",
    "hops[…]": "HopSection",
    "hops[…].drafter": "DrafterSection",
    "hops[…].target": "TargetSection",
    "hops[…].tls": "TlsSection",
    "hops[…].access": "AccessSection",
    "hops[…].access.tenants.NAME": "TenantSection",
    "hops[…].access.quota": "QuotaSection",
    "hops[…].expect": "ExpectSection",
}
_HEAD = """\
# Keys of a topology file

Made by `paceline topology schema --markdown > docs/topology-keys.md`. What they are for:
[topologies](topologies.md)."""


def key_reference(schema: Mapping[str, Any]) -> str:
    """Every section with its keys, what each takes, its default, and what it means, in Markdown."""
    parts = [_HEAD]
    for title, name in _SECTIONS.items():
        section = schema if name is None else schema["$defs"][name]
        rows = [_row(key, one, schema) for key, one in section["properties"].items()]
        heading = title if name is None else f"`{title}`"
        parts.append(
            "\n".join([f"### {heading}", "", "| key | takes | default | |", "|---|---|---|---|", *rows])
        )
    return "\n\n".join(parts)


def _row(key: str, described: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    default = described.get("default")
    shown = "" if default is None or isinstance(default, dict | list) else f"`{str(default).lower()}`"
    text = " ".join(described.get("description", "").split()).replace("|", "\\|")
    return f"| `{key}` | {_takes(described, schema)} | {shown} | {text} |"


def _takes(described: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """What a key takes, in a word or two."""
    if "anyOf" in described:
        kinds = [_takes(one, schema) for one in described["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "$ref" in described:
        name = described["$ref"].rpartition("/")[2]
        referred = schema["$defs"][name]
        return _takes(referred, schema) if "enum" in referred else "a section"
    if "enum" in described:
        return ", ".join(f"`{one}`" for one in described["enum"])
    if "const" in described:
        return f"`{described['const']}`"
    if described.get("type") == "array":
        return f"a list of {_takes(described['items'], schema)}" if "items" in described else "a list"
    return {
        "string": "text", "integer": "a whole number", "number": "a number", "boolean": "true or false",
        "object": "a mapping",
    }.get(described.get("type", ""), "text")  # fmt: skip
