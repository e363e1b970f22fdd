"""`paceline topology`: check, draw, plan and run a chain of hops written in YAML, or export the format's schema."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from paceline.cli.graph import graph
from paceline.cli.plan import plan
from paceline.cli.reference import key_reference
from paceline.cli.up import up
from paceline.cli.written import (
    open_topology,
    shown_addresses,
    shown_listen,
    shown_model,
    shown_name,
    shown_upstreams,
    shown_work,
)

if TYPE_CHECKING:  # pydantic costs every other command a fifth of a second
    from paceline.common.config import Topology

app = typer.Typer(
    name="topology", help="Check, draw, plan and run chains of hops written in YAML.", no_args_is_help=True
)


@app.callback()
def group() -> None:
    """Check, draw, plan and run chains of hops written in YAML."""


@app.command("check")
def check(
    file: Annotated[
        Path, typer.Argument(help="Topology file; deploy/topologies/ has examples.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Check a topology; exit 2 with one line that names file, line, key and cure if it cannot be used.

    Model folders are looked for from the current folder; those that are here must share one vocabulary.
    """
    topology = open_topology(file)
    if as_json:
        print(json.dumps(_report(topology, str(file)), ensure_ascii=False))
        return
    console = Console(highlight=False)
    console.print(_table(topology))
    for note in notes(topology):
        console.print(f"[yellow]note[/] {escape(note)}", soft_wrap=True)
    shared = "".join(f", vocabulary {one}" for one in _vocabularies(topology))
    console.print(f"[green]ok[/] {escape(str(file))}: rule {topology.effective_rule}{shared}", soft_wrap=True)


@app.command("schema")
def schema(
    as_markdown: Annotated[bool, typer.Option("--markdown", help="As tables for a reader instead.")] = False,
) -> None:
    """Print the JSON Schema of topology files, for editors."""
    from paceline.common.config import topology_schema

    found = topology_schema()
    print(key_reference(found) if as_markdown else json.dumps(found, indent=2, sort_keys=True))


app.command("graph")(graph)
app.command("plan")(plan)
app.command("up", context_settings={"allow_extra_args": True})(up)


def notes(topology: "Topology") -> list[str]:
    """What a reader should know about a valid topology."""
    from paceline.common.config import fingerprint_of, model_of

    lines = []
    for index, hop in enumerate(topology.hops):
        model = model_of(hop)
        if model is not None and fingerprint_of(model[1]) is None:
            lines.append(
                f"hops[{index}].{model[0]}.model: {shown_model(topology, index)} is not here; "
                "its vocabulary was not compared"
            )
    return lines


def _report(topology: "Topology", file: str) -> dict[str, Any]:
    return {
        "ok": True,
        "file": file,
        "rule": str(topology.effective_rule),
        "notes": notes(topology),
        "hops": [
            {
                "name": shown_name(topology, index),
                "role": topology.role_of(index),
                "listen": shown_listen(topology, index),
                "upstream": next(iter(shown_upstreams(topology, index)), None),
                "upstreams": shown_upstreams(topology, index),
                "model": shown_model(topology, index),
                "optional": hop.optional,
            }
            for index, hop in enumerate(topology.hops)
        ],
    }


def _table(topology: "Topology") -> Table:
    table = Table(box=SIMPLE, pad_edge=False)
    for name in ("hop", "role", "address", "model"):
        table.add_column(name, overflow="fold")
    for index, hop in enumerate(topology.hops):
        role = topology.role_of(index) + ("\n(optional)" if hop.optional else "")
        places, work = shown_addresses(topology, index), shown_work(topology, index)
        cells = (shown_name(topology, index), role, "\n".join(places), "\n".join(work))
        table.add_row(*(escape(cell) for cell in cells))
    return table


def _vocabularies(topology: "Topology") -> set[str]:
    from paceline.common.config import fingerprint_of, model_of

    models = (model_of(hop) for hop in topology.hops)
    found = (fingerprint_of(model[1]) for model in models if model is not None)
    return {one.hex()[:12] for one in found if one is not None}
