"""`paceline topology`: check a chain of hops written in YAML, or export the format's JSON Schema."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from paceline.cli.plan import plan

if TYPE_CHECKING:  # pydantic costs every other command a fifth of a second
    from paceline.common.config import HopSection, Topology

app = typer.Typer(name="topology", help="Check chains of hops written in YAML.", no_args_is_help=True)
MAX_RUNNABLE_HOPS = 2


@app.callback()
def group() -> None:
    """Check chains of hops written in YAML."""


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
    from paceline.common.config import load_topology

    topology = load_topology(file)
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
def schema() -> None:
    """Print the JSON Schema of topology files, for editors."""
    from paceline.common.config import topology_schema

    print(json.dumps(topology_schema(), indent=2, sort_keys=True))


app.command("plan")(plan)


def notes(topology: "Topology") -> list[str]:
    """What a reader should know about a valid topology."""
    from paceline.common.config import fingerprint_of, model_of

    lines = []
    if not topology.is_runnable:
        lines.append(
            f"{len(topology.hops)} hops are valid; this version runs chains of {MAX_RUNNABLE_HOPS}, "
            "without the relays between"
        )
    for index, hop in enumerate(topology.hops):
        model = model_of(hop)
        if model is not None and fingerprint_of(model[1]) is None:
            lines.append(
                f"hops[{index}].{model[0]}.model: {model[1]} is not here; its vocabulary was not compared"
            )
    return lines


def _report(topology: "Topology", file: str) -> dict[str, Any]:
    from paceline.common.config import model_of

    return {
        "ok": True,
        "file": file,
        "runnable": topology.is_runnable,
        "rule": str(topology.effective_rule),
        "notes": notes(topology),
        "hops": [
            {
                "name": hop.name,
                "role": role(topology, index),
                "listen": hop.listen,
                "upstream": topology.upstream_of(index),
                "model": (model_of(hop) or ("", None))[1],
            }
            for index, hop in enumerate(topology.hops)
        ],
    }


def role(topology: "Topology", index: int) -> str:
    """What a hop does, in one word."""
    if index == len(topology.hops) - 1:
        return "verifier"
    if index > 0:
        return "relay"
    return "drafter" if topology.hops[0].drafter is not None else "client"


def _table(topology: "Topology") -> Table:
    table = Table(box=SIMPLE, pad_edge=False)
    for name in ("hop", "role", "address", "model"):
        table.add_column(name, overflow="fold")
    for index, hop in enumerate(topology.hops):
        cells = (
            hop.name,
            role(topology, index) + ("\n(optional)" if hop.optional else ""),
            _addresses(topology, index),
            _models(hop),
        )
        table.add_row(*(escape(cell) for cell in cells))
    return table


def _addresses(topology: "Topology", index: int) -> str:
    listen, upstream = topology.hops[index].listen, topology.upstream_of(index)
    return "\n".join([f"on {listen}"] * (listen is not None) + [f"to {upstream}"] * (upstream is not None))


def _models(hop: "HopSection") -> str:
    if hop.drafter is not None:
        length = hop.drafter.num_speculative_tokens
        what = f"{hop.drafter.kind} {hop.drafter.model or ''}".strip()
        return (
            f"drafts with {what}\n{'adaptive blocks' if length == 'auto' else f'blocks of {length} tokens'}"
        )
    if hop.target is not None:
        return f"verifies with {hop.target.kind} {hop.target.model or ''}".strip()
    return ""


def _vocabularies(topology: "Topology") -> set[str]:
    from paceline.common.config import fingerprint_of, model_of

    models = (model_of(hop) for hop in topology.hops)
    found = (fingerprint_of(model[1]) for model in models if model is not None)
    return {one.hex()[:12] for one in found if one is not None}
