"""`paceline cloud serve`: a verifier process."""

import asyncio
import importlib
import socket
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console

from paceline.cli.version import software_version
from paceline.common.errors import InvalidRequest, MissingDependency
from paceline.common.hops.grpc import check_address
from paceline.common.tokenizer import fingerprint
from paceline.common.tokens import Rule

app = typer.Typer(name="cloud", help="Serve a target model that verifies drafts.", no_args_is_help=True)
READY_PREFIX = "paceline verifier ready on "


@app.callback()
def group() -> None:
    """Serve a target model that verifies drafts."""


@app.command("serve")
def serve(
    model: Annotated[
        str, typer.Option(help="Folder or Hugging Face hub id of the target model.", envvar="PACELINE_MODEL")
    ],
    listen: Annotated[
        str, typer.Option(help="HOST:PORT; port 0 takes a free one.", envvar="PACELINE_LISTEN")
    ] = "127.0.0.1:7443",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda[:N].", envvar="PACELINE_DEVICE")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="auto, float32, bfloat16 or float16.", envvar="PACELINE_DTYPE")
    ] = "auto",
    max_sessions: Annotated[
        int, typer.Option(min=1, help="Sessions at a time.", envvar="PACELINE_MAX_SESSIONS")
    ] = 64,
    kv_cache_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tokens the cache holds; default: what fits.", envvar="PACELINE_KV_CACHE_TOKENS"
        ),
    ] = None,
    prefill_chunk_tokens: Annotated[
        int,
        typer.Option(min=1, help="Prompt tokens per engine step.", envvar="PACELINE_PREFILL_CHUNK_TOKENS"),
    ] = 256,
    rule: Annotated[
        list[Rule] | None,
        typer.Option(help="A rule to allow; repeat for several. Default: all.", envvar="PACELINE_RULES"),
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Prometheus port on loopback.", envvar="PACELINE_METRICS_PORT")
    ] = None,
    drain_s: Annotated[
        float, typer.Option(min=0, help="Seconds SIGTERM waits for live texts.", envvar="PACELINE_DRAIN_S")
    ] = 10.0,
    threads: Annotated[
        int, typer.Option(min=1, help="Torch threads on a CPU.", envvar="PACELINE_THREADS")
    ] = 1,
    fill_drafter: Annotated[
        str,
        typer.Option(
            help="Writes ahead while no client does: none, ngram, onnx or torch.",
            envvar="PACELINE_FILL_DRAFTER",
        ),
    ] = "none",
    fill_draft_model: Annotated[
        str | None, typer.Option(help="Its model (onnx, torch).", envvar="PACELINE_FILL_DRAFT_MODEL")
    ] = None,
    verify_floor_ms: Annotated[
        float,
        typer.Option(
            min=0,
            help="For benchmarks only: every engine step lasts at least so long, asleep.",
            envvar="PACELINE_VERIFY_FLOOR_MS",
        ),
    ] = 0.0,
) -> None:
    """Load a target model and verify drafts until SIGTERM."""
    from paceline.cloud.config import ServerConfig, VerifierConfig

    _check_listen(listen)
    config = VerifierConfig(
        max_sessions=max_sessions,
        prefill_chunk_tokens=prefill_chunk_tokens,
        max_step_tokens=max(VerifierConfig().max_step_tokens, prefill_chunk_tokens),
        rules=frozenset(rule) if rule else frozenset(Rule),
    )
    console = Console(stderr=True)
    with console.status(f"loading {model}"):
        drafter = _fill_drafter(fill_drafter, fill_draft_model, model)
        asked = _Engine(device, dtype, kv_cache_tokens, threads, verify_floor_ms / 1000)
        verifier, target = _load(model, asked, drafter, config)
    console.print(
        f"[bold]{target.name}[/]: vocabulary {target.vocab_size}, context {target.max_context}, "
        f"{target.dtype} on {target.device}, {verifier.capacity_tokens} cache tokens"
    )
    if verify_floor_ms:
        console.print(
            f"[yellow]slowed down on purpose[/]: every engine step lasts at least {verify_floor_ms:g} ms"
        )
    if metrics_port is not None:
        _serve_metrics(verifier, metrics_port)
    _run(verifier, ServerConfig(listen=listen, metrics_port=metrics_port, drain_s=drain_s))


def _check_listen(address: str) -> None:
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


@dataclass(frozen=True, slots=True)
class _Engine:
    """How the target is to run."""

    device: str
    dtype: str
    kv_cache_tokens: int | None
    threads: int
    floor_s: float


def _fill_drafter(kind: str, draft_model: str | None, target: str) -> Any:
    """The verifier's own drafter; None for none."""
    if kind == "none":
        if draft_model is not None:
            raise InvalidRequest(
                f"{draft_model} is not used", field="fill_draft_model", cure="add --fill-drafter onnx"
            )
        return None
    from paceline.edge.assemble import assemble

    return assemble(draft_model, kind=kind, tokenizer=target if kind == "ngram" else None).drafter


def _load(model: str, asked: _Engine, drafter: Any, config: Any) -> tuple[Any, Any]:
    """The verifier for a model, and the model; torch is imported here and nowhere earlier."""
    try:
        torch = importlib.import_module("torch")
        from paceline.cloud.engine.base import EngineConfig, TargetEngine
        from paceline.cloud.engine.floor import FloorEngine
        from paceline.cloud.engine.paged import PagedEngine
        from paceline.cloud.loading import load_target
    except ModuleNotFoundError as missing:
        raise MissingDependency(
            f"{missing.name} is not installed", field="cloud", cure="pip install 'paceline[cloud]'"
        ) from None
    from paceline.cloud.verifier import TargetInfo, Verifier

    torch.set_num_threads(asked.threads)
    target = load_target(model, device=asked.device, dtype=asked.dtype)
    engine: TargetEngine = PagedEngine(target.model, EngineConfig(capacity_tokens=asked.kv_cache_tokens))
    if asked.floor_s:
        engine = FloorEngine(engine, asked.floor_s)
    info = TargetInfo(
        name=target.name,
        software_version=software_version(),
        eos_token_ids=target.eos_token_ids,
        tokenizer_fingerprint=fingerprint(target.vocab) if target.vocab else b"",
        device=str(target.device),
        dtype=str(target.dtype),
        verify_floor_s=asked.floor_s,
    )
    return Verifier(engine, info, config, drafter=drafter), target


def _serve_metrics(verifier: Any, port: int) -> None:
    try:
        verifier.metrics.serve(port)
    except OSError:
        raise InvalidRequest(f"port {port} is in use", field="metrics_port", cure="choose another") from None


def _run(verifier: Any, config: Any) -> None:
    from paceline.cloud.server import Server, serve_until_signal

    def announce(address: str) -> None:
        print(f"{READY_PREFIX}{address}", flush=True)

    asyncio.run(serve_until_signal(Server(verifier, config), announce))
