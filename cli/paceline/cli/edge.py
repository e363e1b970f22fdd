"""`paceline edge generate` and `paceline edge chat`: texts drafted here, verified there."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from paceline.cli import batch, show
from paceline.cli.callers import PeerTimeoutS, TlsCa, TlsCert, TlsKey, TokenFile, calling_of
from paceline.cli.edge_options import (
    LOOPBACK,
    DraftDevice,
    DrafterKind,
    DraftModel,
    DraftThreads,
    Fill,
    FrequencyPenalty,
    MaxBlocksInFlight,
    MaxNewTokens,
    MinP,
    ModeName,
    NumSpeculativeTokens,
    ObjectiveName,
    Offline,
    PadTo,
    PresencePenalty,
    Provisional,
    ReconnectS,
    RepetitionPenalty,
    RuleName,
    Seed,
    StopTokenId,
    Temperature,
    TokenizerPath,
    TopK,
    TopologyFile,
    TopP,
    Verifier,
    WaitS,
)
from paceline.cli.from_file import drafter_section, sampling_of_file
from paceline.cli.inputs import (
    DraftModelDigest,
    check_mode,
    checked_text,
    parse_count,
    parse_fill,
    parse_rule,
    read_prompt,
)
from paceline.cli.live import LivePrinter
from paceline.common.errors import InvalidRequest, Unreachable
from paceline.common.hops.first_reachable import connect_to
from paceline.common.hops.grpc import PEER_TIMEOUT_S
from paceline.common.hops.security import Calling
from paceline.common.speed.objective import Objective
from paceline.common.tokens import SamplingParams
from paceline.edge.assemble import EdgeModel, assemble, assemble_section
from paceline.edge.client import Client, Generation, check_request
from paceline.edge.request import GenerationRequest, Report

app = typer.Typer(
    name="edge", help="Generate texts: draft on this device, verify in the cloud.", no_args_is_help=True
)

_PARSED: Mapping[str, Callable[[str], Any]] = {
    "rule": parse_rule,
    "fill": parse_fill,
    "objective": Objective.parse,
    "num_speculative_tokens": lambda text: parse_count(text, "num_speculative_tokens"),
    "max_blocks_in_flight": lambda text: parse_count(text, "max_blocks_in_flight"),
}
"""Options of a request that are written otherwise than it has them."""
_AS_THEY_ARE = (
    "max_new_tokens", "seed", "ignore_eos", "offline", "reconnect_s", "wait_s", "provisional", "pad_to",
)  # fmt: skip


@app.command("generate")
def generate(
    ctx: typer.Context,
    source: Annotated[str | None, typer.Argument(help="- reads the prompt from standard input.")] = None,
    topology: TopologyFile = None,
    verifier: Verifier = LOOPBACK,
    draft_model: DraftModel = None,
    draft_model_digest: DraftModelDigest = None,
    prompt: Annotated[str | None, typer.Option(help="The prompt.")] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="A file with the prompt.")] = None,
    prompts_file: Annotated[
        Path | None, typer.Option(help="Batch: JSON lines with prompt or prompt_token_ids.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Batch: where the JSON lines go.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Batch: texts at a time.")] = 4,
    max_new_tokens: MaxNewTokens = 128,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    presence_penalty: PresencePenalty = 0.0,
    frequency_penalty: FrequencyPenalty = 0.0,
    seed: Seed = 0,
    stop_token_id: StopTokenId = None,
    ignore_eos: Annotated[bool, typer.Option(help="Go on past the model's end of text.")] = False,
    rule: RuleName = "auto",
    mode: ModeName = "auto",
    num_speculative_tokens: NumSpeculativeTokens = "auto",
    max_blocks_in_flight: MaxBlocksInFlight = "auto",
    fill: Fill = "mode",
    objective: ObjectiveName = "latency",
    offline: Offline = False,
    reconnect_s: ReconnectS = 30.0,
    wait_s: WaitS = 0.0,
    provisional: Provisional = False,
    pad_to: PadTo = 0,
    drafter: DrafterKind = "onnx",
    tokenizer: TokenizerPath = None,
    draft_device: DraftDevice = "cpu",
    draft_threads: DraftThreads = 1,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
    peer_timeout_s: PeerTimeoutS = PEER_TIMEOUT_S,
    explain: Annotated[bool, typer.Option("--explain", help="Say what mode auto decided, and why.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Generate one text, or one per line of a file."""
    check_mode(mode)
    if prompts_file is None and output is not None:
        raise InvalidRequest(
            "only a batch has an output file", field="output", cure="add --prompts-file, or use > FILE"
        )
    text = read_prompt(source, prompt, prompt_file) if prompts_file is None else None
    if prompts_file is not None and (source or prompt or prompt_file):
        raise InvalidRequest(
            "a batch has its prompts in its file", field="prompts_file", cure="give no other prompt"
        )
    template = template_of(ctx.params)
    model, edge = edge_of(ctx, mode)
    if text is not None:
        look = show.Look(as_json=as_json, explain=explain)
        asyncio.run(_generate_one(edge, model, template, text, mode, look))
    elif prompts_file is not None:
        job = batch.Job(prompts_file, output, concurrency, mode, template)
        asyncio.run(batch.run(job, edge, model.tokenizer))


@app.command("chat")
def chat(
    ctx: typer.Context,
    topology: TopologyFile = None,
    verifier: Verifier = LOOPBACK,
    draft_model: DraftModel = None,
    draft_model_digest: DraftModelDigest = None,
    max_new_tokens: MaxNewTokens = 64,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    rule: RuleName = "auto",
    mode: ModeName = "auto",
    num_speculative_tokens: NumSpeculativeTokens = "auto",
    offline: Offline = False,
    provisional: Provisional = False,
    pad_to: PadTo = 0,
    drafter: DrafterKind = "onnx",
    tokenizer: TokenizerPath = None,
    draft_device: DraftDevice = "cpu",
    draft_threads: DraftThreads = 1,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
    peer_timeout_s: PeerTimeoutS = PEER_TIMEOUT_S,
) -> None:
    """Write a text together: what you type is appended and continued. Colours show who wrote each token."""
    check_mode(mode)
    template = template_of(ctx.params, sampling_of_file(ctx))
    model, edge = edge_of(ctx, mode)
    _chat(edge, model, template, mode)


def template_of(options: Mapping[str, Any], sampling: SamplingParams | None = None) -> GenerationRequest:
    """What a command's options ask for; the prompt is still to come. Refuses what no verifier could serve, before
    anything is loaded.

    Args:
        options: by name. What a command has no option for is as usual.
        sampling: what they change; None for greedy.
    """
    asked = {name: parse(options[name]) for name, parse in _PARSED.items() if name in options}
    asked |= {name: options[name] for name in _AS_THEY_ARE if name in options}
    given = {one.name: options[one.name] for one in fields(SamplingParams) if one.name in options}
    stop_token_ids = tuple(options.get("stop_token_id") or ())
    template = GenerationRequest(
        (), sampling=replace(sampling or SamplingParams(), **given), stop_token_ids=stop_token_ids, **asked
    )
    check_request(replace(template, prompt_token_ids=(0,)))
    return template


def edge_of(ctx: typer.Context, mode: str) -> tuple[EdgeModel, Client]:
    """The drafter and tokenizer that a command's options ask for, and a client with them."""
    options = ctx.params
    model = load_edge(
        options["draft_model"],
        options["drafter"],
        options["tokenizer"],
        mode,
        options["draft_device"],
        options["draft_threads"],
        drafter_section(ctx, options["drafter"]),
        options["draft_model_digest"],
    )
    calling = calling_of(*(options[name] for name in ("tls_ca", "tls_cert", "tls_key", "token_file")))
    addresses = () if mode == "local" else options["verifier"]
    return model, client(addresses, model, calling, options["peer_timeout_s"])


def load_edge(
    draft_model: str | None,
    drafter: str,
    tokenizer: str | None,
    mode: str,
    device: str,
    threads: int,
    section: Mapping[str, Any] | None = None,
    digest: str | None = None,
) -> EdgeModel:
    """The drafter and tokenizer a command asked for; progress goes to stderr.

    Args:
        section: a topology file's, which may be made of drafters; options given beside the file win.
    """
    console = Console(stderr=True)

    def progress(line: str) -> None:
        console.print(line, style="dim")

    drafts = mode != "cloud"
    if section is None:
        return assemble(
            draft_model,
            kind=drafter,
            tokenizer=tokenizer,
            drafts=drafts,
            device=device,
            num_threads=threads,
            digest=digest,
            progress=progress,
        )
    options = {"model": draft_model, "device": device, "num_threads": threads}
    given = {key: options[key] for key in options.keys() & section.keys()}
    if digest is not None:
        given["digest"] = digest
    return assemble_section({**section, **given}, tokenizer=tokenizer, drafts=drafts, progress=progress)


def client(
    addresses: Sequence[str],
    model: EdgeModel,
    calling: Calling | None = None,
    peer_timeout_s: float = PEER_TIMEOUT_S,
) -> Client:
    """A client for the verifier at these addresses, the best first (none: only mode local).

    Args:
        calling: who this side is.
        peer_timeout_s: how long a verifier that has frozen goes unnoticed at most.
    """
    return Client(
        connect_to(addresses, calling, peer_timeout_s) if addresses else None,
        model.drafter,
        tokenizer_fingerprint=model.tokenizer.fingerprint,
        eos_token_ids=model.eos_token_ids,
    )


async def _generate_one(
    edge: Client, model: EdgeModel, template: GenerationRequest, text: str, mode: str, look: show.Look
) -> None:
    request = replace(template, prompt_token_ids=model.tokenizer.encode(text))
    async with connected(edge, request):
        if look.as_json:
            report = await edge.complete(request, mode)
            show.print_json(show.result(report, model.tokenizer.decode(report.token_ids)))
            return
        report = await _show_live(edge.generate(request, mode), model, text)
    notes = Console(stderr=True, highlight=False)
    notes.print("\n", show.legend(report.origins), sep="")
    notes.print(show.summary(report))
    if len(report.hops) > 1:
        notes.print(show.hop_table(report))
    if look.explain:
        notes.print(show.decisions(report))


@asynccontextmanager
async def connected(edge: Client, request: GenerationRequest) -> AsyncIterator[None]:
    """A client whose verifier has answered; where the drafter may begin alone, it need not have."""
    try:
        if edge.has_verifier:
            try:
                await edge.connect()
            except Unreachable:
                if not request.offline:
                    raise
        yield
    finally:
        await edge.close()


async def _show_live(generation: Generation, model: EdgeModel, text: str) -> Report:
    """Tokens on stdout as they come; a terminal shows the prompt before them."""
    console = Console(highlight=False)
    printer = LivePrinter(console, model.tokenizer)
    if console.is_terminal:
        printer.write(text, "dim")
    try:
        async with aclosing(aiter(generation)) as events:
            async for event in events:
                printer.handle(event)
    finally:
        printer.close()
        if generation.report.token_ids:
            printer.write("\n", "default")
    return generation.report


def _chat(edge: Client, model: EdgeModel, template: GenerationRequest, mode: str) -> None:
    """Between turns no event loop runs, so that an interrupt ends the waiting for a line as it does anywhere."""
    notes = Console(stderr=True, highlight=False)
    text: tuple[int, ...] = ()
    with asyncio.Runner() as runner:
        try:
            if mode != "local":
                runner.run(edge.connect())
            notes.print("Type text to continue; \\n in it is a line break, an empty line ends.", style="dim")
            while line := _read_line():
                text = (*text, *model.tokenizer.encode(checked_text(line, "prompt")))
                generation = edge.generate(replace(template, prompt_token_ids=text), mode)
                report = runner.run(_show_live(generation, model, ""))
                text = (*text, *report.token_ids)
                notes.print(show.legend(report.origins))
                notes.print(show.brief(report), style="dim")
        finally:
            runner.run(edge.close())


def _read_line() -> str:
    """A line of the user; empty at the end of input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n").replace("\\n", "\n")
    try:
        return input("› ").replace("\\n", "\n")
    except EOFError:
        return ""
    except KeyboardInterrupt:
        print()
        raise
