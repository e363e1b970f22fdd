"""Pages made from the code: the keys of a topology file, every metric."""

from collections.abc import Iterator, Mapping
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


_METRICS_HEAD = """\
# Metrics

Made by `paceline top --reference > docs/metrics.md`. What to look at when: [observability](observability.md).

Each has the label `hop`, the name of the hop that counts; further labels are in brackets. Counters carry the suffix
`_total`, histograms come as `_bucket`, `_sum` and `_count`. Suffixes are vLLM's wherever vLLM counts the same thing."""


def metric_reference() -> str:
    """Every metric of either end, in Markdown."""
    from paceline.cloud.metrics import VerifierMetrics
    from paceline.edge.metrics import EdgeMetrics

    parts = [_METRICS_HEAD]
    for title, registry in (
        ("A hop that serves: verifiers, and relays towards the hop below", VerifierMetrics().registry),
        ("A hop that calls: devices, and relays towards the hop above", EdgeMetrics().registry),
    ):
        rows = [
            f"| `{name}` | {kind} | {text}{f' ({labels})' if labels else ''} |"
            for name, kind, text, labels in sorted(_metrics(registry))
        ]
        parts.append("\n".join([f"## {title}", "", "| metric | kind | |", "|---|---|---|", *rows]))
    return "\n\n".join(parts)


def _metrics(registry: Any) -> Iterator[tuple[str, str, str, str]]:
    for collector in registry._collector_to_names:  # nothing public tells labels before they have values
        suffix = "_total" if collector._type == "counter" else ""
        labels = ", ".join(f"`{name}`" for name in collector._labelnames if name != "hop")
        yield collector._name + suffix, collector._type, collector._documentation, labels
