"""`paceline cloud serve` and `paceline cloud relay`: a verifier process, and one that drafts for the next."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from paceline.cli.callers import PeerTimeoutS, TlsCa, TokenFile, calling_of
from paceline.cli.from_file import take_hop, take_topology, with_section
from paceline.cli.quotas import Quotas, parse_quotas
from paceline.cli.serving import Serving, load, run
from paceline.cloud.config import AccessConfig, ServerConfig, VerifierConfig
from paceline.common.errors import InvalidRequest
from paceline.common.hops.grpc import PEER_TIMEOUT_S
from paceline.common.hops.security import TENANT_PATTERN, TlsFiles
from paceline.common.tokens import Rule

app = typer.Typer(name="cloud", help="Serve a target model that verifies drafts.", no_args_is_help=True)

Model = Annotated[
    str, typer.Option(help="Folder or Hugging Face hub id of the target model.", envvar="PACELINE_MODEL")
]
ModelDigest = Annotated[
    str | None,
    typer.Option(
        help="What `paceline models digest` printed for the model's folder; any other is refused.",
        envvar="PACELINE_MODEL_DIGEST",
    ),
]
TopologyFile = Annotated[
    Path | None,
    typer.Option(
        help="Take what a hop of this file says as defaults: model, address, limits.",
        envvar="PACELINE_TOPOLOGY",
        callback=take_topology,
        is_eager=True,
    ),
]
HopName = Annotated[
    str | None,
    typer.Option(
        help="Which hop of the file; may be left out where one serves.",
        envvar="PACELINE_HOP",
        callback=take_hop,
        is_eager=True,
    ),
]
Listen = Annotated[str, typer.Option(help="HOST:PORT; port 0 takes a free one.", envvar="PACELINE_LISTEN")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda[:N].", envvar="PACELINE_DEVICE")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.", envvar="PACELINE_DTYPE")]
MaxSessions = Annotated[int, typer.Option(min=1, help="Sessions at a time.", envvar="PACELINE_MAX_SESSIONS")]
IdleS = Annotated[
    float,
    typer.Option(
        min=0,
        help="Seconds a client may leave its session waiting before its place is given up; 0: for ever.",
        envvar="PACELINE_IDLE_S",
    ),
]
ParkS = Annotated[
    float,
    typer.Option(
        min=0,
        help="Seconds the cache of a broken stream is kept for whoever comes back; 0 keeps none.",
        envvar="PACELINE_PARK_S",
    ),
]
MaxParkedSessions = Annotated[
    int,
    typer.Option(min=0, help="Caches kept so at a time.", envvar="PACELINE_MAX_PARKED_SESSIONS"),
]
ReceiptKey = Annotated[
    Path | None,
    typer.Option(
        help="The fleet's secrets for receipts, one per line: the first signs, all are known again.",
        envvar="PACELINE_RECEIPT_KEY",
    ),
]
RequireReceipts = Annotated[
    bool,
    typer.Option(
        "--require-receipts",
        help="Take no history that has no receipt.",
        envvar="PACELINE_REQUIRE_RECEIPTS",
    ),
]
KvCacheTokens = Annotated[
    int | None,
    typer.Option(
        min=1, help="Tokens the cache holds; default: what fits.", envvar="PACELINE_KV_CACHE_TOKENS"
    ),
]
PrefillChunkTokens = Annotated[
    int, typer.Option(min=1, help="Prompt tokens per engine step.", envvar="PACELINE_PREFILL_CHUNK_TOKENS")
]
MaxRoundMs = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Refuse new sessions where a turn of all would take longer, by measured costs. Default: as many as fit.",
        envvar="PACELINE_MAX_ROUND_MS",
    ),
]
Rules = Annotated[
    list[Rule] | None,
    typer.Option(help="A rule to allow; repeat for several. Default: all.", envvar="PACELINE_RULES"),
]
MetricsPort = Annotated[
    int | None, typer.Option(help="Port of the Prometheus endpoint.", envvar="PACELINE_METRICS_PORT")
]
MetricsHost = Annotated[
    str,
    typer.Option(
        help="Address that endpoint listens on: plain HTTP, open to whoever reaches it.",
        envvar="PACELINE_METRICS_HOST",
    ),
]
DrainS = Annotated[
    float, typer.Option(min=0, help="Seconds SIGTERM waits for live texts.", envvar="PACELINE_DRAIN_S")
]
Threads = Annotated[int, typer.Option(min=1, help="Torch threads on a CPU.", envvar="PACELINE_THREADS")]
FillDrafter = Annotated[
    str,
    typer.Option(
        help="Writes ahead while no client does: none, ngram, onnx or torch.", envvar="PACELINE_FILL_DRAFTER"
    ),
]
FillDraftModel = Annotated[
    str | None, typer.Option(help="Its model (onnx, torch).", envvar="PACELINE_FILL_DRAFT_MODEL")
]
FillDraftModelDigest = Annotated[
    str | None,
    typer.Option(help="Its model's digest, as --model-digest.", envvar="PACELINE_FILL_DRAFT_MODEL_DIGEST"),
]
VerifyFloorMs = Annotated[
    float,
    typer.Option(
        min=0,
        help="For benchmarks only: every engine step lasts at least so long, asleep.",
        envvar="PACELINE_VERIFY_FLOOR_MS",
    ),
]


TlsCert = Annotated[
    Path | None, typer.Option(help="This server's certificate (PEM).", envvar="PACELINE_TLS_CERT")
]
TlsKey = Annotated[Path | None, typer.Option(help="Its private key (PEM).", envvar="PACELINE_TLS_KEY")]
TlsClientCa = Annotated[
    Path | None,
    typer.Option(
        help="Who signed callers' certificates (PEM); without one nobody gets in.",
        envvar="PACELINE_TLS_CLIENT_CA",
    ),
]
TokenKey = Annotated[
    Path | None,
    typer.Option(
        help="Checks callers' tokens: a public key (PEM), a JWKS, or a shared secret; without one nobody gets in.",
        envvar="PACELINE_TOKEN_KEY",
    ),
]
TokenAudience = Annotated[
    str, typer.Option(help="What a token's aud must hold.", envvar="PACELINE_TOKEN_AUDIENCE")
]
Tenants = Annotated[
    list[str] | None,
    typer.Option(
        help="NAME, or NAME=RULE,RULE: who may call, and by which rules; repeat for several. Default: all who prove "
        "who they are.",
        envvar="PACELINE_TENANT",
    ),
]
InsecureListen = Annotated[
    bool,
    typer.Option(
        "--insecure-listen",
        help="Take anybody, or links without TLS, from other machines too.",
        envvar="PACELINE_INSECURE_LISTEN",
    ),
]
Reflection = Annotated[
    bool,
    typer.Option(
        "--reflection", help="Describe the service to generic clients.", envvar="PACELINE_REFLECTION"
    ),
]


@app.callback()
def group() -> None:
    """Serve a target model that verifies drafts."""


@app.command("serve")
def serve(
    ctx: typer.Context,
    model: Model,
    topology: TopologyFile = None,
    hop: HopName = None,
    listen: Listen = "127.0.0.1:7443",
    model_digest: ModelDigest = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    max_sessions: MaxSessions = 64,
    idle_s: IdleS = 60.0,
    park_s: ParkS = 60.0,
    max_parked_sessions: MaxParkedSessions = 64,
    kv_cache_tokens: KvCacheTokens = None,
    prefill_chunk_tokens: PrefillChunkTokens = 256,
    max_round_ms: MaxRoundMs = None,
    rule: Rules = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "127.0.0.1",
    drain_s: DrainS = 10.0,
    peer_timeout_s: PeerTimeoutS = PEER_TIMEOUT_S,
    threads: Threads = 1,
    fill_drafter: FillDrafter = "none",
    fill_draft_model: FillDraftModel = None,
    fill_draft_model_digest: FillDraftModelDigest = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_client_ca: TlsClientCa = None,
    token_key: TokenKey = None,
    token_audience: TokenAudience = "paceline",
    tenant: Tenants = None,
    quota: Quotas = None,
    insecure_listen: InsecureListen = False,
    reflection: Reflection = False,
    receipt_key: ReceiptKey = None,
    require_receipts: RequireReceipts = False,
    verify_floor_ms: VerifyFloorMs = 0.0,
) -> None:
    """Load a target model and verify drafts until SIGTERM.

    With --topology it serves a hop of that file, as verifier or relay by its place; options given beside it win.
    """
    _serve(ctx)


@app.command("relay")
def relay(
    ctx: typer.Context,
    model: Model,
    upstream: Annotated[
        list[str],
        typer.Option(
            help="HOST:PORT of the next hop; repeat for alternatives, the best first.",
            envvar="PACELINE_UPSTREAM",
        ),
    ],
    name: Annotated[str, typer.Option(help="This relay's, in reports.", envvar="PACELINE_NAME")] = "relay",
    topology: TopologyFile = None,
    hop: HopName = None,
    listen: Listen = "127.0.0.1:7444",
    model_digest: ModelDigest = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    max_sessions: MaxSessions = 64,
    idle_s: IdleS = 60.0,
    park_s: ParkS = 60.0,
    max_parked_sessions: MaxParkedSessions = 64,
    kv_cache_tokens: KvCacheTokens = None,
    prefill_chunk_tokens: PrefillChunkTokens = 256,
    max_round_ms: MaxRoundMs = None,
    rule: Rules = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "127.0.0.1",
    drain_s: DrainS = 10.0,
    peer_timeout_s: PeerTimeoutS = PEER_TIMEOUT_S,
    threads: Threads = 1,
    fill_drafter: FillDrafter = "none",
    fill_draft_model: FillDraftModel = None,
    fill_draft_model_digest: FillDraftModelDigest = None,
    tls_ca: TlsCa = None,
    token_file: TokenFile = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_client_ca: TlsClientCa = None,
    token_key: TokenKey = None,
    token_audience: TokenAudience = "paceline",
    tenant: Tenants = None,
    quota: Quotas = None,
    insecure_listen: InsecureListen = False,
    reflection: Reflection = False,
    verify_floor_ms: VerifyFloorMs = 0.0,
) -> None:
    """Verify drafts, and send what stands on as drafts to the next hop, whose word is final, until SIGTERM."""
    _serve(ctx)


def _serve(ctx: typer.Context) -> None:
    console = Console(stderr=True)
    serving = with_section(serving_of(ctx.params), ctx)
    run(serving, load(serving, console))


def serving_of(options: dict[str, Any]) -> Serving:
    """What a command line asks for.

    Args:
        options: the command's, by name.
    """
    chunk, rules = options["prefill_chunk_tokens"], options["rule"]
    round_ms = options["max_round_ms"]
    kept = (
        *("model", "model_digest", "device", "dtype", "kv_cache_tokens", "threads"),
        *("fill_drafter", "fill_draft_model", "fill_draft_model_digest"),
    )
    return Serving(
        **{name: options[name] for name in kept},
        verify_floor_s=options["verify_floor_ms"] / 1000,
        verifier=VerifierConfig(
            max_sessions=options["max_sessions"],
            idle_s=options["idle_s"],
            park_s=options["park_s"],
            max_parked_sessions=options["max_parked_sessions"],
            receipt_keys=_receipt_keys(options.get("receipt_key")),
            require_receipts=options.get("require_receipts", False),
            prefill_chunk_tokens=chunk,
            max_step_tokens=max(VerifierConfig().max_step_tokens, chunk),
            max_round_s=None if round_ms is None else round_ms / 1000,
            rules=frozenset(map(Rule, rules)) if rules else frozenset(Rule),
        ),
        server=ServerConfig(
            listen=options["listen"],
            metrics_port=options["metrics_port"],
            metrics_host=options["metrics_host"],
            drain_s=options["drain_s"],
            peer_timeout_s=options["peer_timeout_s"],
            tls=TlsFiles(options["tls_cert"], options["tls_key"], options["tls_client_ca"]),
            access=AccessConfig(
                options["token_key"],
                options["token_audience"],
                tenants=_tenants(options["tenant"] or ()),
                quotas=parse_quotas(options["quota"] or ()),
            ),
            insecure_listen=options["insecure_listen"],
            reflection=options["reflection"],
        ),
        calling=calling_of(
            options.get("tls_ca"), options["tls_cert"], options["tls_key"], options.get("token_file")
        ),
        upstreams=tuple(options.get("upstream") or ()),
        name=options.get("name", ""),
    )


def _receipt_keys(file: Path | None) -> Any:
    """The secrets of a file; None without one."""
    if file is None:
        return None
    from paceline.cloud.receipts import ReceiptKeys  # brings what only serving needs

    return ReceiptKeys(file)


def _tenants(given: Sequence[str]) -> dict[str, frozenset[Rule]]:
    """Who may call, and by which rules, from `NAME` and `NAME=RULE,RULE`."""
    found = {}
    for one in given:
        name, _, listed = one.partition("=")
        rules = [rule for rule in listed.split(",") if rule]
        unknown = next((rule for rule in rules if rule not in set(Rule)), None)
        if unknown is not None:
            raise InvalidRequest(
                f"there is no rule {unknown!r}", field="tenant", cure=f"one of {', '.join(Rule)}"
            )
        if not TENANT_PATTERN.fullmatch(name):
            raise InvalidRequest(
                f"{one!r} names no tenant", field="tenant", cure="for example acme or acme=greedy,coupled"
            )
        found[name] = frozenset(map(Rule, rules)) if rules else frozenset(Rule)
    return found
