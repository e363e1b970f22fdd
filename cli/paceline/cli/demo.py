"""`paceline demo`: the real job on this machine. This process drafts on ONNX Runtime, a second one verifies with the
torch target; drafts and verdicts cross loopback gRPC; then the same target writes the same text alone."""

import asyncio
import statistics
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from paceline.cli import show
from paceline.cli.edge import client, load_edge
from paceline.cli.live import LivePrinter
from paceline.cli.verifier_process import verifier_process
from paceline.common.shipped import models_dir
from paceline.common.tokens import SamplingParams
from paceline.edge.assemble import EdgeModel
from paceline.edge.client import Client
from paceline.edge.request import GenerationRequest, Report

DEFAULT_PROMPT = '''class Stack:
    """A last-in, first-out collection of items."""

    def __init__(self, items=None):'''
_REPETITIONS = 3


@dataclass(frozen=True, slots=True)
class Comparison:
    """The text, and both ways of getting it, run in turn."""

    live: Report
    paceline: list[Report]
    alone: list[Report]

    @property
    def speedup(self) -> float:
        """Median over pairs of tokens/s with drafts over tokens/s of the target alone."""
        pairs = zip(self.paceline, self.alone, strict=True)
        return statistics.median(
            with_drafts.tokens_per_s / alone.tokens_per_s for with_drafts, alone in pairs
        )

    @property
    def same_text(self) -> bool:
        """Whether both ways gave the same tokens every time."""
        texts = {tuple(report.token_ids) for report in (self.live, *self.paceline, *self.alone)}
        return len(texts) == 1


def demo(
    prompt: Annotated[str, typer.Option(help="Text to continue.", envvar="PACELINE_PROMPT")] = DEFAULT_PROMPT,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens to generate.", envvar="PACELINE_MAX_NEW_TOKENS")
    ] = 256,
    temperature: Annotated[
        float, typer.Option(min=0, help="0 is greedy.", envvar="PACELINE_TEMPERATURE")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of every random choice.", envvar="PACELINE_SEED")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Draft here, verify in a second process, with the shipped models; compare with the target alone."""
    models = models_dir()
    notes = Console(stderr=True, quiet=as_json)
    model = load_edge(str(models / "pico"), "onnx", None, "auto", "cpu", 1)
    request = GenerationRequest(
        model.tokenizer.encode(prompt), max_new_tokens, SamplingParams(temperature=temperature), seed=seed
    )
    with (
        notes.status("starting a verifier process with models/base") as status,
        verifier_process(models / "base") as verifier,
    ):
        status.stop()
        edge = client([verifier.address], model)
        outcome = asyncio.run(_compare(edge, model, request, prompt, as_json))
    if as_json:
        show.print_json(_json(outcome, model))
    else:
        _print_table(outcome)


async def _compare(
    edge: Client, model: EdgeModel, request: GenerationRequest, prompt: str, quiet: bool
) -> Comparison:
    console = Console(highlight=False, quiet=quiet)
    async with edge:
        warm = replace(request, max_new_tokens=min(24, request.max_new_tokens))
        for mode in ("cloud", "auto"):
            await edge.complete(warm, mode)
        generation, printer = edge.generate(request), LivePrinter(console, model.tokenizer)
        printer.write(prompt, "dim")
        async for event in generation:
            printer.handle(event)
        console.print("\n")
        console.print(show.legend(generation.report.origins))
        paceline, alone = [], []
        console.print(
            f"measuring: {_REPETITIONS} runs each way", style="dim"
        )  # a spinner would take a core's share
        for _ in range(_REPETITIONS):
            paceline.append(await edge.complete(request, "auto"))
            alone.append(await edge.complete(request, "cloud"))
    return Comparison(generation.report, paceline, alone)


def _json(outcome: Comparison, model: EdgeModel) -> dict[str, Any]:
    best = _median_report(outcome.paceline)
    alone = _median_report(outcome.alone)
    return {
        **show.result(best, model.tokenizer.decode(best.token_ids)),
        "baseline": {"tokens_per_s": alone.tokens_per_s, "mode": alone.mode, "repetitions": _REPETITIONS},
        "speedup": outcome.speedup,
        "same_text": outcome.same_text,
    }


def _median_report(reports: list[Report]) -> Report:
    return sorted(reports, key=lambda report: report.tokens_per_s)[len(reports) // 2]


def _print_table(outcome: Comparison) -> None:
    mine, alone = _median_report(outcome.paceline), _median_report(outcome.alone)
    table = Table(
        title=f"median of {_REPETITIONS} runs each, in turn", title_justify="left", title_style="dim"
    )
    for name in ("", "tokens/s", "first token", "target passes per token"):
        table.add_column(name, justify="left" if not name else "right")
    passes = len(mine.rounds) / len(mine.token_ids)
    table.add_row(
        "target alone (streamed)", f"{alone.tokens_per_s:.0f}", f"{1000 * alone.ttft_s:.0f} ms", "1.00"
    )
    table.add_row("with drafts", f"{mine.tokens_per_s:.0f}", f"{1000 * mine.ttft_s:.0f} ms", f"{passes:.2f}")
    console = Console(highlight=False)
    console.print(table)
    same = "the same text, token for token" if outcome.same_text else "DIFFERENT TEXTS: please report this"
    console.print(
        f"speed-up [bold]{outcome.speedup:.2f}×[/] · {same} · "
        f"{mine.acceptance_rate:.0%} of {mine.drafted_tokens} drafts accepted"
    )
