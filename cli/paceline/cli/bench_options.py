"""What the commands of `paceline bench` have in common: options, models and texts, a report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType

from paceline.common.errors import MissingDependency

if TYPE_CHECKING:
    from paceline.benchmarks.pair import Pair

_FILE_WIDTH = 140

Target = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the target model. Default: the shipped base.", envvar="PACELINE_BENCH_TARGET"
    ),
]
DraftModel = Annotated[
    Path | None,
    typer.Option(help="Folder of the draft model. Default: the shipped pico.", envvar="PACELINE_DRAFT_MODEL"),
]
DrafterKind = Annotated[str, typer.Option(help="The edge's drafter.", envvar="PACELINE_DRAFTER")]
Prompts = Annotated[
    Path | None,
    typer.Option(
        help="JSON lines with the key prompt. Default: the shipped ones, else a few built in.",
        envvar="PACELINE_BENCH_PROMPTS",
    ),
]
NumPrompts = Annotated[int, typer.Option(min=1, help="Prompts to run.", envvar="PACELINE_BENCH_NUM_PROMPTS")]
MaxNewTokens = Annotated[int, typer.Option(min=8, help="Tokens per text.", envvar="PACELINE_MAX_NEW_TOKENS")]
NumSpeculativeTokens = Annotated[
    int, typer.Option(min=1, help="Tokens per block, fixed.", envvar="PACELINE_BENCH_NUM_SPECULATIVE_TOKENS")
]
Temperature = Annotated[float, typer.Option(min=0, help="0 is greedy.", envvar="PACELINE_TEMPERATURE")]
Temperatures = Annotated[
    list[float], typer.Option(min=0, help="0 is greedy; repeatable.", envvar="PACELINE_BENCH_TEMPERATURES")
]
VerifyFloorMs = Annotated[
    float,
    typer.Option(min=0, help="Slow the target down to so much a pass.", envvar="PACELINE_VERIFY_FLOOR_MS"),
]
DraftMs = Annotated[float, typer.Option(min=0, help="Virtual clock: per drafted token.")]
VerifyMs = Annotated[float, typer.Option(min=0, help="Virtual clock: per target pass.")]
VerifyPerTokenMs = Annotated[float, typer.Option(min=0, help="Virtual clock: per token of a pass.")]
Acceptance = Annotated[float, typer.Option(min=0, max=1, help="Virtual clock: share of drafts that stand.")]
Html = Annotated[Path | None, typer.Option(help="Write a page with plots here.")]
Seed = Annotated[int, typer.Option(min=0, help="Of order, texts and intervals.", envvar="PACELINE_SEED")]
Quick = Annotated[
    bool, typer.Option("--quick", help="A small run: does it work?", envvar="PACELINE_BENCH_QUICK")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON object on stdout.", envvar="PACELINE_BENCH_JSON")
]


@contextmanager
def extras() -> Iterator[None]:
    """Benchmarks need both ends; who installed one of them is told how to get the other."""
    try:
        yield
    except ModuleNotFoundError as missing:
        raise MissingDependency(
            f"{missing.name} is not installed", field="bench", cure="pip install 'paceline[cloud,edge]'"
        ) from None


def pair_of(target: Path | None, draft_model: Path | None, drafter: str) -> Pair:
    """The models to measure with; the shipped ones where none are named."""
    from paceline.benchmarks.pair import choose_pair

    return choose_pair(target, draft_model, drafter)


def with_page(
    html: Path | None, page: Callable[[Any], str], table: Callable[[Any], RenderableType]
) -> Callable[[Any], RenderableType]:
    """Shows a result as `table`, and writes it as `page` where a file is named."""

    def show(result: Any) -> RenderableType:
        if html is not None:
            html.write_text(page(result), encoding="utf-8")
        return table(result)

    return show


def texts_of(file: Path | None, shipped: str, count: int) -> list[str]:
    """Prompts of a file, or the shipped ones."""
    from paceline.benchmarks.pair import shipped_prompts
    from paceline.benchmarks.prompts import load_prompts

    return load_prompts(file or shipped_prompts(shipped), count)


def report(
    measure: Callable[[Callable[[str], None]], Any], table: Callable[[Any], RenderableType], as_json: bool
) -> None:
    """Run with progress on stderr, then print the outcome."""
    from paceline.benchmarks.machine import machine
    from paceline.benchmarks.tables import print_warning

    notes = Console(stderr=True, highlight=False)
    print_warning(machine(), notes)
    result = measure(lambda line: notes.print(line, style="dim"))
    shown = table(result)
    if as_json:
        print(json.dumps({**asdict(result), "warning": result.machine.warning}, ensure_ascii=False))
    else:
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = _FILE_WIDTH  # nothing is cut in a file
        console.print(shown)
        print_warning(result.machine, notes)
