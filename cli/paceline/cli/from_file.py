"""Options whose defaults come from a topology file: the command line wins over the environment, that over the file, and
the file over the built-in defaults.
"""

import difflib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from paceline.cli.callers import calling_of
from paceline.cli.quotas import written_quota
from paceline.cli.serving import Serving
from paceline.cli.written import open_topology
from paceline.cloud.config import EVERYBODY
from paceline.common.errors import InvalidRequest
from paceline.common.hops.security import Calling
from paceline.common.tokens import SamplingParams

if TYPE_CHECKING:  # pydantic costs every other command a fifth of a second
    from paceline.common.config import DrafterSection, HopSection, Topology

_FILE, _HOP, _CHAIN = "paceline.topology", "paceline.hop", "paceline.chain"
_CALLING = ("tls_ca", "tls_cert", "tls_key", "token_file")
_SECTION = ("revision", "vocab_size", "seed")
_TARGET = ("device", "dtype", "kv_cache_tokens", "max_round_ms")
_CONFIG = (
    "max_sessions", "max_draft_tokens", "max_blocks_in_flight", "max_step_tokens", "prefill_chunk_tokens",
    "idle_s", "park_s", "max_parked_sessions", "receipt_key", "require_receipts",
)  # fmt: skip


def take_topology(ctx: typer.Context, file: Path | None) -> Path | None:
    """Callback of a serving command's --topology; it and `take_hop` work whichever comes first."""
    ctx.meta[_FILE] = file
    _take_serving(ctx)
    return file


def take_hop(ctx: typer.Context, name: str | None) -> str | None:
    """Callback of a serving command's --hop."""
    ctx.meta[_HOP] = name
    _take_serving(ctx)
    return name


def take_first_hop(ctx: typer.Context, file: Path | None) -> Path | None:
    """Callback of an edge command's --topology."""
    if file is not None:
        topology = open_topology(file)
        ctx.meta[_CHAIN] = (topology, 0)
        ctx.default_map = edge_defaults(topology, file)
    return file


def _take_serving(ctx: typer.Context) -> None:
    if _FILE not in ctx.meta or _HOP not in ctx.meta:
        return
    file, name = ctx.meta[_FILE], ctx.meta[_HOP]
    if file is None:
        if name is not None:
            raise InvalidRequest(f"{name!r} of which file?", field="hop", cure="add --topology FILE")
        return
    topology = open_topology(file)
    index = _serving_hop(topology, file, name)
    ctx.meta[_CHAIN] = (topology, index)
    ctx.default_map = serving_defaults(topology, index)


def _serving_hop(topology: "Topology", file: Path, name: str | None) -> int:
    """Place of the hop to serve; may go unnamed where only one serves.

    Raises:
        InvalidRequest: none or several fit, or the hop does not serve.
    """
    serving = [hop.name for hop in topology.hops if hop.target is not None]
    if name is None:
        if len(serving) != 1:
            raise InvalidRequest(
                f"{file} has {len(serving)} hops that serve", field="hop", cure=f"one of {', '.join(serving)}"
            )
        name = serving[0]
    index = topology.index_of(name)
    if index is None:
        near = difflib.get_close_matches(name, serving, n=1, cutoff=0.5)
        raise InvalidRequest(
            f"{file} has no hop {name!r}",
            field="hop",
            cure=f"did you mean {near[0]!r}?" if near else f"one of {', '.join(serving)}",
        )
    if topology.hops[index].target is None:
        raise InvalidRequest(
            f"{name!r} serves nobody: it is where texts are asked for",
            field="hop",
            cure=f"paceline edge generate --topology {file}",
        )
    return index


def serving_defaults(topology: "Topology", index: int) -> dict[str, Any]:
    """Options of `cloud serve` and `cloud relay` that a hop's section sets."""
    hop = topology.hops[index]
    assert hop.target is not None, "the caller chose a hop that serves"
    target = hop.target
    defaults = {
        "model": target.model or "",
        "model_digest": target.digest,
        "listen": hop.listen,
        "upstream": list(topology.upstreams_of(index)) or None,
        "name": hop.name,
        "rule": [str(rule) for rule in target.rules],
        "peer_timeout_s": hop.peer_timeout_s,
        **_identity_defaults(hop),
        **{key: getattr(target, key) for key in (*_TARGET, *_CONFIG)},
    }
    return {key: value for key, value in defaults.items() if value is not None}


def _identity_defaults(hop: "HopSection") -> dict[str, Any]:
    tls, access = hop.tls, hop.access
    tenants = access.tenant_sections if access is not None else {}
    return {
        **(
            {}
            if tls is None
            else {f"tls_{key}": getattr(tls, key) for key in ("cert", "key", "client_ca", "ca")}
        ),
        "token_key": access.token_key if access is not None else None,
        "token_audience": access.token_audience if access is not None else None,
        "tenant": [f"{name}={','.join(one.rules)}" for name, one in tenants.items()] or None,
        "quota": [
            written
            for name, one in [*tenants.items(), (EVERYBODY, access.quota if access is not None else None)]
            if one is not None
            for written in written_quota(name, one.model_dump())
        ]
        or None,
        "insecure_listen": hop.insecure,
        "token_file": hop.token_file,
    }


def calling_of_hop(hop: "HopSection") -> Calling:
    """Who a hop is, towards the one above."""
    files = [getattr(hop.tls, key) if hop.tls is not None else None for key in ("ca", "cert", "key")]
    ca, cert, key, token_file = (None if one is None else Path(one) for one in (*files, hop.token_file))
    return calling_of(ca, cert, key, token_file)


def with_section(serving: Serving, ctx: typer.Context) -> Serving:
    """What options cannot say, from the file's section."""
    if (found := ctx.meta.get(_CHAIN)) is None:
        return serving
    topology, index = found
    target = topology.hops[index].target
    config = {key: getattr(target, key) for key in ("max_draft_tokens", "max_blocks_in_flight")}
    steps = max(target.max_step_tokens, serving.verifier.prefill_chunk_tokens)
    stated = {key: getattr(target, key) for key in _SECTION if getattr(target, key) is not None}
    return replace(
        serving,
        kind=target.kind,
        step_s=(target.step_ms or 0.0) / 1000,
        verifier=replace(serving.verifier, max_step_tokens=steps, **config),
        upstreams=serving.upstreams or topology.upstreams_of(index),
        name=serving.name or topology.hops[index].name,
        calling=_either(serving.calling, calling_of_hop(topology.hops[index])),
        **stated,
    )


def _either(given: Calling, of_file: Calling) -> Calling:
    """`cloud serve` has no options for the way up, so a hop it serves as a relay calls as its file says."""
    return replace(given, ca=given.ca or of_file.ca, token_file=given.token_file or of_file.token_file)


def edge_defaults(topology: "Topology", file: Path) -> dict[str, Any]:
    """Options of `edge generate` and `edge chat` that the file sets.

    Raises:
        InvalidRequest: no hop of it asks for texts.
    """
    role = topology.role_of(0)
    if role not in ("drafter", "client"):
        raise InvalidRequest(
            f"{file} has no hop that asks for texts",
            field="topology",
            cure="add a first hop with a drafter, or give --verifier and --draft-model",
        )
    hop, upstreams = topology.hops[0], topology.upstreams_of(0)
    defaults: dict[str, Any] = {
        **topology.sampling.model_dump(),
        "rule": str(topology.rule or "auto"),
        "max_new_tokens": topology.max_new_tokens,
        "pad_to": topology.pad_to,
        "peer_timeout_s": hop.peer_timeout_s,
        "tokenizer": _tokenizer(topology),
        **{key: one for key, one in _identity_defaults(hop).items() if key in _CALLING},
    }
    if upstreams:
        defaults["verifier"] = list(upstreams)
    if not upstreams or role == "client":
        defaults["mode"] = "cloud" if upstreams else "local"
    if hop.drafter is not None:
        defaults |= _drafter_defaults(hop.drafter)
    return {key: value for key, value in defaults.items() if value is not None}


def _drafter_defaults(drafter: "DrafterSection") -> dict[str, Any]:
    return {
        "drafter": drafter.kind,
        "draft_model": drafter.model,
        "draft_model_digest": drafter.digest,
        "num_speculative_tokens": str(drafter.num_speculative_tokens),
        "draft_device": drafter.device,
        "draft_threads": drafter.num_threads,
    }


def sampling_of_file(ctx: typer.Context) -> SamplingParams:
    """The file's, for a command that has options for some of it; greedy without a file."""
    found = ctx.meta.get(_CHAIN)
    return found[0].sampling.params if found is not None else SamplingParams()


def drafter_section(ctx: typer.Context, kind: str) -> dict[str, Any] | None:
    """The file's drafter as plain values; None without a file, or if another kind was asked for."""
    if (found := ctx.meta.get(_CHAIN)) is None:
        return None
    drafter = found[0].hops[0].drafter
    if drafter is None or drafter.kind != kind:
        return None
    section: dict[str, Any] = drafter.model_dump(exclude_none=True, exclude={"num_speculative_tokens"})
    return section


def _tokenizer(topology: "Topology") -> str | None:
    """Where the first hop has no model: a folder of another hop's that is here. They share one vocabulary."""
    from paceline.common.config import model_of

    if topology.hops[0].drafter is not None and topology.hops[0].drafter.model is not None:
        return None
    here = (found[1] for hop in topology.hops if (found := model_of(hop)))
    return next((model for model in here if (Path(model) / "tokenizer.json").is_file()), None)
