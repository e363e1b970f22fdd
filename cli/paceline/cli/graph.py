"""`paceline topology graph`: the chain as a drawing, in the terminal or for a document."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.text import Text

from paceline.cli.written import open_topology, shown_addresses, shown_name, shown_work

if TYPE_CHECKING:  # pydantic costs every other command a fifth of a second
    from paceline.common.config import Topology


class Format(StrEnum):
    """What draws it."""

    TERMINAL = "terminal"
    MERMAID = "mermaid"
    DOT = "dot"


def graph(
    file: Annotated[Path, typer.Argument(help="Topology file.", show_default=False)],
    drawn_as: Annotated[
        Format, typer.Option("--format", help="terminal, mermaid (Markdown) or dot (Graphviz).")
    ] = Format.TERMINAL,
) -> None:
    """Draw a chain; dashed lines lead past hops that are optional."""
    topology = open_topology(file)
    if drawn_as is Format.TERMINAL:
        Console(highlight=False).print(boxes(topology))
    else:
        print(mermaid(topology) if drawn_as is Format.MERMAID else dot(topology))


def boxes(topology: "Topology") -> RenderableType:
    """One box per hop, the device on top, with the way on between them."""
    parts: list[RenderableType] = []
    for index, hop in enumerate(topology.hops):
        kind = topology.role_of(index) + (", optional" if hop.optional else "")
        lines = [*shown_work(topology, index), *shown_addresses(topology, index)]
        parts.append(
            Panel(
                Text("\n".join(lines) or "asks the next hop for all"),
                title=f"[bold]{escape(shown_name(topology, index))}[/] {kind}",
                title_align="left",
                width=60,
                border_style="dim" if hop.optional else "default",
            )
        )
        if index + 1 < len(topology.hops):
            parts.append(Text(f"      │ drafts ▼   ▲ verdicts{_round_trip(topology, index)}"))
    return Group(*parts)


def mermaid(topology: "Topology") -> str:
    """The chain as a Mermaid flowchart, which Markdown on many sites draws."""
    lines = ["flowchart LR"]
    for index in range(len(topology.hops)):
        label = "<br>".join(_label(topology, index)).replace('"', "#quot;")
        lines.append(f'    h{index}["{label}"]')
    for lower, upper, note in _ways(topology):
        arrow = "-->" if upper == lower + 1 else "-.->"
        lines.append(f"    h{lower} {arrow}{f'|{note}|' if note else ''} h{upper}")
    return "\n".join(lines)


def dot(topology: "Topology") -> str:
    """The chain in Graphviz's language."""
    lines = ["digraph chain {", "  rankdir=LR;", "  node [shape=box];"]
    for index, hop in enumerate(topology.hops):
        label = "\\n".join(one.replace("\\", "\\\\").replace('"', '\\"') for one in _label(topology, index))
        lines.append(f'  h{index} [label="{label}"{", style=dashed" if hop.optional else ""}];')
    for lower, upper, note in _ways(topology):
        style = "solid" if upper == lower + 1 else "dashed"
        lines.append(
            f"  h{lower} -> h{upper} [style={style}{f', label={chr(34)}{note}{chr(34)}' if note else ''}];"
        )
    return "\n".join([*lines, "}"])


def _label(topology: "Topology", index: int) -> list[str]:
    return [f"{shown_name(topology, index)} ({topology.role_of(index)})", *shown_work(topology, index)]


def _ways(topology: "Topology") -> list[tuple[int, int, str]]:
    """Every hop to the next, and past optional ones to those beyond."""
    return [
        (lower, upper, _round_trip(topology, lower).strip() if upper == lower + 1 else "")
        for lower in range(len(topology.hops))
        for upper in topology.above(lower)
    ]


def _round_trip(topology: "Topology", index: int) -> str:
    expect = topology.hops[index].expect
    return f"  {expect.rtt_ms:g} ms" if expect is not None and expect.rtt_ms is not None else ""
