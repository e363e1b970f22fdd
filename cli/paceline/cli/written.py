"""Topology files as commands open them, and their hops in words: what comes from the environment is not shown."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # pydantic costs every other command a fifth of a second
    from paceline.common.config import Topology


_opened: list["Topology"] = []


def open_topology(file: Path) -> "Topology":
    """Read and check a file; from then on no error of this process shows what it took from the environment.

    Raises:
        TopologyError: it cannot be used; one line says where and why.
    """
    from paceline.common.config import load_topology

    topology = load_topology(file)
    _opened.append(topology)
    return topology


def forget_topologies() -> None:
    """Begin anew, as a process does."""
    _opened.clear()


def hide(text: str) -> str:
    """The text without what the opened files took from the environment."""
    for topology in _opened:
        text = topology.hide(text)
    return text


def shown_name(topology: "Topology", index: int) -> str:
    """A hop's name."""
    return topology.written(("hops", index, "name")) or topology.hops[index].name


def shown_listen(topology: "Topology", index: int) -> str | None:
    """Where a hop listens."""
    return topology.written(("hops", index, "listen")) or topology.hops[index].listen


def shown_upstreams(topology: "Topology", index: int) -> list[str]:
    """Where a hop connects to, in order of preference."""
    references = {
        real: written
        for lower, hop in enumerate(topology.hops)
        for place, real in enumerate(hop.upstream or ())
        if (written := _written_upstream(topology, lower, place)) is not None
    }
    for above, hop in enumerate(topology.hops):
        written = topology.written(("hops", above, "listen"))
        if written is not None and hop.listen is not None:
            # Reached where it listens, or on this machine where it listens everywhere.
            references |= dict.fromkeys((hop.listen, f"127.0.0.1:{hop.listen.rpartition(':')[2]}"), written)
    return [references.get(address, address) for address in topology.upstreams_of(index)]


def _written_upstream(topology: "Topology", index: int, place: int) -> str | None:
    path = ("hops", index, "upstream")
    return topology.written((*path, place)) or topology.written(path)


def shown_model(topology: "Topology", index: int) -> str | None:
    """A hop's model; None if it has none."""
    from paceline.common.config import model_of

    found = model_of(topology.hops[index])
    if found is None:
        return None
    section, model = found
    return topology.written(("hops", index, section, "model")) or model


def shown_addresses(topology: "Topology", index: int) -> list[str]:
    """Where a hop listens and where it connects to, in words."""
    listen, (upstream, *others) = shown_listen(topology, index), (*shown_upstreams(topology, index), None)
    lines = [f"on {listen}"] * (listen is not None) + [f"to {upstream}"] * (upstream is not None)
    return lines + [f"or {other}" for other in others if other is not None]


def shown_work(topology: "Topology", index: int) -> list[str]:
    """What a hop drafts or verifies with, in words."""
    hop, model = topology.hops[index], shown_model(topology, index) or ""
    if hop.drafter is not None:
        kind = topology.written(("hops", index, "drafter", "kind")) or hop.drafter.kind
        length = hop.drafter.num_speculative_tokens
        blocks = "adaptive blocks" if length == "auto" else f"blocks of {length} tokens"
        return [f"drafts with {kind} {model}".strip(), blocks]
    return [f"verifies with {hop.target.kind} {model}".strip()] if hop.target is not None else []
