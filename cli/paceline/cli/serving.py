"""From what was asked for to a process that serves: `load` makes the verifier or relay, `run` serves it."""

import asyncio
import importlib
import socket
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console

from paceline.cli.version import software_version
from paceline.cloud.config import ServerConfig, VerifierConfig
from paceline.common.errors import InvalidRequest, MissingDependency
from paceline.common.hops.first_reachable import connect_to
from paceline.common.hops.grpc import check_address
from paceline.common.hops.security import SERVING_NAMES, Calling
from paceline.common.tokenizer import fingerprint

READY_PREFIX = "paceline verifier ready on "
RELAY_READY_PREFIX = "paceline relay ready on "
_TABLE_VOCAB_SIZE = 64


@dataclass(frozen=True, slots=True)
class Serving:
    """Everything a serving process needs."""

    model: str
    """Folder or hub id of the target; not read for a table."""
    kind: str = "transformers"
    """`transformers` or `table`."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    model_digest: str | None = None
    """What the model's folder must come to."""
    device: str = "auto"
    dtype: str = "auto"
    kv_cache_tokens: int | None = None
    """Tokens the cache holds; None: what fits."""
    threads: int = 1
    """Torch threads on a CPU."""
    vocab_size: int | None = None
    """Of a table."""
    seed: int = 0
    """Which law, of a table."""
    step_s: float = 0.0
    """What every step of a table sleeps."""
    verify_floor_s: float = 0.0
    """Every engine step lasts at least so long, for benchmarks."""
    fill_drafter: str = "none"
    """Writes ahead while no client does."""
    fill_draft_model: str | None = None
    fill_draft_model_digest: str | None = None
    verifier: VerifierConfig = field(default_factory=VerifierConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    calling: Calling = field(default_factory=Calling)
    """Who a relay is, towards its next hop."""
    upstreams: tuple[str, ...] = ()
    """A relay's next hop, and alternatives to it; a verifier has none."""
    name: str = ""
    """A relay's own, in reports."""

    @property
    def is_relay(self) -> bool:
        """Whether the verifier's tokens go on as drafts for another one."""
        return bool(self.upstreams)


def load(serving: Serving, console: Console) -> Any:
    """The verifier, or the relay around it. Everything that can be refused at once is, before a model is loaded.

    Raises:
        PacelineError: it cannot be served; says why.
    """
    check_listen(serving.server.listen)
    check_identity(serving.server)
    for address in serving.upstreams:
        check_address(address, "upstream")
    relay = _relay_class() if serving.is_relay else None
    timeout_s = serving.server.peer_timeout_s
    upstream = connect_to(serving.upstreams, serving.calling, timeout_s) if serving.is_relay else None
    with console.status(f"loading {serving.model or serving.kind}"):
        verifier = _verifier(serving)
    info = verifier.info
    console.print(
        f"[bold]{info.name}[/]: vocabulary {verifier.limits.vocab_size}, context {verifier.limits.max_context}, "
        f"{info.dtype or 'no weights'} on {info.device or 'this machine'}, {verifier.capacity_tokens} cache tokens"
    )
    if serving.verify_floor_s:
        console.print(
            f"[yellow]slowed down on purpose[/]: every engine step lasts at least "
            f"{1000 * serving.verify_floor_s:g} ms"
        )
    if relay is None:
        return verifier
    from paceline.edge.metrics import EdgeMetrics

    above = EdgeMetrics(serving.name, verifier.metrics.registry)
    return relay(verifier, upstream, name=serving.name, above=above)


def run(serving: Serving, verifier: Any) -> None:
    """Serve until SIGTERM; says on stdout where, once it does."""
    from paceline.cloud.server import Server, serve_until_signal

    if serving.server.metrics_port is not None:
        _serve_metrics(verifier, serving.server.metrics_port, serving.server.metrics_host)
    prefix = RELAY_READY_PREFIX if serving.is_relay else READY_PREFIX

    def announce(address: str) -> None:
        print(f"{prefix}{address}", flush=True)

    asyncio.run(serve_until_signal(Server(verifier, serving.server), announce))


def check_listen(address: str) -> None:
    """Refuse an address nobody could listen on before a model is loaded, which may take minutes."""
    check_address(address, "listen")
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host.strip("[]"), int(port)), family=family).close()
    except OSError as error:
        raise InvalidRequest(
            f"cannot listen on {address}: {str(error.strerror).partition(' (')[0]}",
            field="listen",
            cure="choose another port, or port 0 for a free one",
        ) from None


def check_identity(config: ServerConfig) -> None:
    """Refuse a port that gives itself away, or files that cannot be used, before a model is loaded."""
    config.check()
    if config.tls.cert is not None:
        config.tls.watch(SERVING_NAMES)
    if config.access.token_key is not None:
        from paceline.cloud.tokens import read_keys

        read_keys(config.access.token_key)


def _relay_class() -> Any:
    try:
        return importlib.import_module("paceline.relay.relay").Relay
    except ModuleNotFoundError as missing:
        raise MissingDependency(
            f"{missing.name} is not installed", field="relay", cure="install a Paceline with relays"
        ) from None


def _verifier(serving: Serving) -> Any:
    engine, info = _table(serving) if serving.kind == "table" else _transformers(serving)
    if serving.verify_floor_s:
        from paceline.cloud.engine.floor import FloorEngine

        engine = FloorEngine(engine, serving.verify_floor_s)
    from paceline.cloud.verifier import Verifier

    config = replace(serving.verifier, hop_name=serving.verifier.hop_name or serving.name)
    return Verifier(engine, info, config, drafter=_fill_drafter(serving))


def _table(serving: Serving) -> tuple[Any, Any]:
    """A law without weights."""
    from paceline.cloud.engine.table import TableEngine
    from paceline.cloud.verifier import TargetInfo

    engine = TableEngine(serving.vocab_size or _TABLE_VOCAB_SIZE, serving.seed, step_s=serving.step_s)
    return engine, TargetInfo(
        name="table", software_version=software_version(), verify_floor_s=serving.verify_floor_s
    )


def _transformers(serving: Serving) -> tuple[Any, Any]:
    """The engine for a model, and what to say about it; torch is imported here and nowhere earlier."""
    try:
        torch = importlib.import_module("torch")
        from paceline.cloud.engine.base import EngineConfig
        from paceline.cloud.engine.paged import PagedEngine
        from paceline.cloud.loading import load_target
    except ModuleNotFoundError as missing:
        raise MissingDependency(
            f"{missing.name} is not installed", field="cloud", cure="pip install 'paceline[cloud]'"
        ) from None
    from paceline.cloud.verifier import TargetInfo

    torch.set_num_threads(serving.threads)
    target = load_target(
        serving.model,
        device=serving.device,
        dtype=serving.dtype,
        revision=serving.revision,
        digest=serving.model_digest,
    )
    info = TargetInfo(
        name=target.name,
        software_version=software_version(),
        eos_token_ids=target.eos_token_ids,
        tokenizer_fingerprint=fingerprint(target.vocab) if target.vocab else b"",
        device=str(target.device),
        dtype=str(target.dtype),
        verify_floor_s=serving.verify_floor_s,
    )
    return PagedEngine(target.model, EngineConfig(capacity_tokens=serving.kv_cache_tokens)), info


def _fill_drafter(serving: Serving) -> Any:
    """The verifier's own drafter; None for none."""
    kind, draft_model, digest = (
        serving.fill_drafter,
        serving.fill_draft_model,
        serving.fill_draft_model_digest,
    )
    if kind == "none":
        if draft_model is not None or digest is not None:
            raise InvalidRequest(
                f"{draft_model or digest} is not used",
                field="fill_draft_model",
                cure="add --fill-drafter onnx",
            )
        return None
    from paceline.edge.assemble import assemble

    tokenizer = serving.model if kind == "ngram" else None
    return assemble(draft_model, kind=kind, tokenizer=tokenizer, digest=digest).drafter


def _serve_metrics(verifier: Any, port: int, host: str) -> None:
    try:
        verifier.metrics.serve(port, host)
    except OSError as error:
        raise InvalidRequest(
            f"cannot listen on {host}:{port}: {str(error.strerror).partition(' (')[0]}",
            field="metrics_port",
            cure="choose another",
        ) from None
