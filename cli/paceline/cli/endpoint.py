"""`paceline edge serve`: the OpenAI API on this device."""

import asyncio
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from paceline.cli import edge
from paceline.cli import edge_options as options
from paceline.cli.callers import PeerTimeoutS, TlsCa, TlsCert, TlsKey, TokenFile
from paceline.cli.inputs import DraftModelDigest, check_mode
from paceline.cli.version import software_version
from paceline.common.errors import MissingDependency
from paceline.common.hops.grpc import PEER_TIMEOUT_S
from paceline.edge.assemble import EdgeModel
from paceline.edge.client import Client

READY_PREFIX = "paceline endpoint ready on "
KEY_VARIABLE = "PACELINE_API_KEY"
"""Holds the API key where no file does. No option takes the key itself: other users could read the command line."""

Listen = Annotated[
    str, typer.Option(help="HOST:PORT; port 0 takes a free one.", envvar="PACELINE_ENDPOINT_LISTEN")
]
InsecureListen = Annotated[
    bool,
    typer.Option("--insecure-listen", help="Let other machines connect though no API key is asked for."),
]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        help=f"Holds the key callers must show. {KEY_VARIABLE} may hold it instead.",
        envvar="PACELINE_API_KEY_FILE",
    ),
]
CorsOrigin = Annotated[
    list[str] | None,
    typer.Option(help="A web origin whose pages may call; repeatable.", envvar="PACELINE_CORS_ORIGINS"),
]
AllowedHost = Annotated[
    list[str] | None,
    typer.Option(
        help="A further name this endpoint is called by; repeatable.", envvar="PACELINE_ALLOWED_HOSTS"
    ),
]
ModelName = Annotated[
    list[str] | None,
    typer.Option(
        help="A further name applications may give the model; repeatable.", envvar="PACELINE_MODEL_NAMES"
    ),
]
ChatTemplateFile = Annotated[
    str | None,
    typer.Option(
        help="File with a Jinja chat template, or plain. Default: the tokenizer's own.",
        envvar="PACELINE_CHAT_TEMPLATE",
    ),
]
LocalOnly = Annotated[
    bool,
    typer.Option(
        "--local-only/--no-local-only",
        help="Send nothing off this device: the draft model writes alone, unverified.",
        envvar="PACELINE_LOCAL_ONLY",
    ),
]
MaxConcurrent = Annotated[
    int, typer.Option(min=1, help="Requests at a time; others get 429.", envvar="PACELINE_MAX_CONCURRENT")
]
DrainS = Annotated[
    float, typer.Option(min=0, help="Seconds texts may go on after SIGTERM.", envvar="PACELINE_DRAIN_S")
]


def serve(
    ctx: typer.Context,
    topology: options.TopologyFile = None,
    listen: Listen = "127.0.0.1:8080",
    verifier: options.Verifier = options.LOOPBACK,
    draft_model: options.DraftModel = None,
    draft_model_digest: DraftModelDigest = None,
    api_key_file: ApiKeyFile = None,
    cors_origin: CorsOrigin = None,
    allowed_host: AllowedHost = None,
    insecure_listen: InsecureListen = False,
    model_name: ModelName = None,
    chat_template: ChatTemplateFile = None,
    local_only: LocalOnly = False,
    max_concurrent: MaxConcurrent = 32,
    drain_s: DrainS = 30.0,
    max_new_tokens: options.MaxNewTokens = 512,
    temperature: options.Temperature = 1.0,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    min_p: options.MinP = 0.0,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    presence_penalty: options.PresencePenalty = 0.0,
    frequency_penalty: options.FrequencyPenalty = 0.0,
    rule: options.RuleName = "auto",
    mode: options.ModeName = "auto",
    num_speculative_tokens: options.NumSpeculativeTokens = "auto",
    max_blocks_in_flight: options.MaxBlocksInFlight = "auto",
    fill: options.Fill = "mode",
    objective: options.ObjectiveName = "latency",
    offline: options.Offline = False,
    reconnect_s: options.ReconnectS = 30.0,
    wait_s: options.WaitS = 0.0,
    pad_to: options.PadTo = 0,
    drafter: options.DrafterKind = "onnx",
    tokenizer: options.TokenizerPath = None,
    draft_device: options.DraftDevice = "cpu",
    draft_threads: options.DraftThreads = 1,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
    peer_timeout_s: PeerTimeoutS = PEER_TIMEOUT_S,
) -> None:
    """Serve the OpenAI API on this device. Sampling options hold where a request says nothing."""
    check_mode(mode)
    mode = "local" if local_only else mode
    template = edge.template_of(ctx.params)
    config = _config_class()(
        listen=listen,
        insecure_listen=insecure_listen,
        api_key=_api_key(api_key_file),
        cors_origins=tuple(cors_origin or ()),
        allowed_hosts=tuple(allowed_host or ()),
        model_names=tuple(model_name or ()),
        mode=mode,
        template=template,
        max_concurrent=max_concurrent,
        drain_s=drain_s,
    )
    config.check()
    model, client = edge.edge_of(ctx, mode)
    asyncio.run(_serve(config, "" if mode == "local" else ", ".join(verifier), model, client, chat_template))


def _config_class() -> Any:
    try:
        import fastapi  # noqa: F401 - to say what is missing before anything is loaded
        import uvicorn  # noqa: F401

        from paceline.edge.serve.config import ServeConfig
    except ModuleNotFoundError as missing:
        raise MissingDependency(
            f"{missing.name} is not installed", field="serve", cure="pip install 'paceline[serve]'"
        ) from None
    return ServeConfig


def _api_key(file: Path | None) -> str:
    from paceline.edge.serve.config import read_api_key

    return read_api_key(file) if file is not None else os.environ.get(KEY_VARIABLE, "").strip()


async def _serve(
    config: Any, verifier: str, model: EdgeModel, client: Client, chat_template: str | None
) -> None:
    from paceline.edge.serve.chat_template import find_chat_template
    from paceline.edge.serve.endpoint import Endpoint
    from paceline.edge.serve.server import EndpointServer, serve_until_signal

    template = find_chat_template(model.tokenizer_dir, chat_template)
    endpoint = Endpoint(client, model.tokenizer, template, config, draft_name=model.tokenizer_dir.name)
    server = EndpointServer(endpoint, version=software_version(), verifier=verifier)
    asking = asyncio.create_task(_say_what_is_missing(endpoint))
    try:
        await serve_until_signal(server, lambda url: print(f"{READY_PREFIX}{url}", flush=True))
    finally:
        asking.cancel()


async def _say_what_is_missing(endpoint: Any) -> None:
    """One line on stderr if no verifier answers yet; the endpoint listens all the same."""
    if not (health := await endpoint.health()).is_well:
        notes = Console(stderr=True, highlight=False)
        notes.print(f"[yellow]not ready yet[/]: {escape(health.reason)}; /health says when it is")
