"""`paceline bench`: measured, not promised. Every sub-command prints a table, or one JSON object with `--json`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from paceline.cli import bench_service
from paceline.cli.bench_options import (
    Acceptance,
    AsJson,
    DrafterKind,
    DraftModel,
    DraftMs,
    Html,
    MaxNewTokens,
    NumPrompts,
    NumSpeculativeTokens,
    Prompts,
    Quick,
    Seed,
    Target,
    Temperature,
    Temperatures,
    VerifyFloorMs,
    VerifyMs,
    VerifyPerTokenMs,
    extras,
    pair_of,
    report,
    texts_of,
    with_page,
)

_DEFAULT = "compare"


class _Group(TyperGroup):
    """`paceline bench` and `paceline bench --quick` mean `paceline bench compare …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="bench",
    cls=_Group,
    help="Measure Paceline beside what you would use instead. Without a sub-command: compare.",
)


@app.command("compare")
def compare(
    target: Target = None,
    draft_model: DraftModel = None,
    drafter: DrafterKind = "onnx",
    prompts: Prompts = None,
    num_prompts: NumPrompts = 24,
    max_new_tokens: MaxNewTokens = 128,
    temperature: Temperatures = [0.0, 0.7],  # noqa: B006  # read by typer alone
    mode: Annotated[
        list[str],
        typer.Option(
            help="Of Paceline; repeatable. The last one must draft; bytes and overhead are its.",
            envvar="PACELINE_BENCH_MODES",
        ),
    ] = ["cloud", "sync"],  # noqa: B006  # read by typer alone
    cold_starts: Annotated[
        int, typer.Option(min=1, help="Fresh edge processes to time.", envvar="PACELINE_BENCH_COLD_STARTS")
    ] = 5,
    seed: Seed = 0,
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """The same texts from transformers (alone, assisted) and Paceline, in turn; speed, bytes, memory, cold start."""
    with extras():
        from paceline.benchmarks import compare as bench
        from paceline.benchmarks.tables import compare_tables

    settings = bench.Settings(num_prompts, max_new_tokens, tuple(temperature), tuple(mode), cold_starts, seed)
    if quick:
        settings = replace(settings, num_prompts=2, max_new_tokens=24, cold_starts=1)
    pair = pair_of(target, draft_model, drafter)
    texts = texts_of(prompts, "heldout.jsonl", settings.num_prompts)
    settings = replace(settings, num_prompts=len(texts))
    report(lambda progress: bench.compare(pair, texts, settings, progress), compare_tables, as_json)


@app.command("context")
def context(
    target: Target = None,
    draft_model: DraftModel = None,
    prompts: Prompts = None,
    num_prompts: NumPrompts = 4,
    context_tokens: Annotated[
        list[int], typer.Option(min=8, help="Lengths; repeatable.", envvar="PACELINE_BENCH_CONTEXT_TOKENS")
    ] = [128, 512, 1536],  # noqa: B006  # read by typer alone
    max_new_tokens: MaxNewTokens = 96,
    num_speculative_tokens: NumSpeculativeTokens = 5,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """Time per round beside the models, at several lengths of context: it should not grow."""
    with extras():
        from paceline.benchmarks import context as bench
        from paceline.benchmarks.tables import context_table

    settings = bench.ContextSettings(
        tuple(context_tokens), num_prompts, max_new_tokens, num_speculative_tokens, temperature, seed
    )
    if quick:
        settings = replace(settings, num_prompts=1, max_new_tokens=24)
    pair = pair_of(target, draft_model, "onnx")
    texts = texts_of(prompts, "long.jsonl", max(settings.num_prompts, 8))
    report(lambda progress: bench.context(pair, texts, settings, progress), context_table, as_json)


@app.command("vocab")
def vocab(
    vocab_size: Annotated[
        int, typer.Option(min=64, help="Tokens of the vocabulary.", envvar="PACELINE_BENCH_VOCAB_SIZE")
    ] = 152_000,
    top_p: Annotated[float, typer.Option(help="Mass the law keeps.", envvar="PACELINE_TOP_P")] = 0.95,
    temperature: Annotated[
        list[float], typer.Option(help="Above 0; repeatable.", envvar="PACELINE_BENCH_TEMPERATURES")
    ] = [0.7, 1.0],  # noqa: B006  # read by typer alone
    max_new_tokens: MaxNewTokens = 120,
    num_speculative_tokens: NumSpeculativeTokens = 5,
    seed: Seed = 0,
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """Sampling, acceptance and wire at a large vocabulary, by rule; tiny random models made on the fly."""
    with extras():
        from paceline.benchmarks import vocabulary as bench
        from paceline.benchmarks.tables import vocabulary_table

    heats = tuple(heat for heat in temperature if heat > 0)
    settings = bench.VocabSettings(vocab_size, top_p, heats, max_new_tokens, num_speculative_tokens, seed)
    if quick:
        settings = replace(settings, max_new_tokens=24)
    report(lambda progress: bench.vocabulary(settings, progress), vocabulary_table, as_json)


@app.command("concurrency")
def concurrency(
    target: Target = None,
    draft_model: DraftModel = None,
    drafter: DrafterKind = "onnx",
    prompts: Prompts = None,
    num_prompts: NumPrompts = 32,
    sessions: Annotated[
        list[int], typer.Option(min=1, help="Sessions at once; repeatable.", envvar="PACELINE_BENCH_SESSIONS")
    ] = [1, 4, 16, 32],  # noqa: B006  # read by typer alone
    max_new_tokens: MaxNewTokens = 96,
    num_speculative_tokens: NumSpeculativeTokens = 5,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """Many sessions on one verifier: throughput, round times, and texts equal to those written alone."""
    with extras():
        from paceline.benchmarks import concurrency as bench
        from paceline.benchmarks.tables import concurrency_table

    if quick:
        num_prompts, max_new_tokens, sessions = 2, 24, [1, 4]
    pair = pair_of(target, draft_model, drafter)
    texts = texts_of(prompts, "heldout.jsonl", num_prompts)
    settings = bench.ConcurrencySettings(
        tuple(sessions), len(texts), max_new_tokens, num_speculative_tokens, temperature, seed
    )
    report(lambda progress: bench.concurrency(pair, texts, settings, progress), concurrency_table, as_json)


@app.command("link")
def link(
    target: Target = None,
    draft_model: DraftModel = None,
    drafter: DrafterKind = "onnx",
    prompts: Prompts = None,
    num_prompts: NumPrompts = 5,
    max_new_tokens: MaxNewTokens = 96,
    rtt_ms: Annotated[
        list[float], typer.Option(min=0, help="Round trips; repeatable.", envvar="PACELINE_BENCH_RTT_MS")
    ] = [0, 10, 30, 60, 100, 200, 300],  # noqa: B006  # read by typer alone
    temperature: Temperatures = [0.0, 0.7, 1.0],  # noqa: B006  # read by typer alone
    verify_floor_ms: VerifyFloorMs = 30.0,
    virtual: Annotated[
        bool, typer.Option("--virtual", help="On a virtual clock, with the costs given here.")
    ] = False,
    draft_ms: DraftMs = 10.0,
    verify_ms: VerifyMs = 30.0,
    verify_per_token_ms: VerifyPerTokenMs = 0.2,
    acceptance: Acceptance = 0.8,
    check_virtual: Annotated[
        bool,
        typer.Option(
            "--check-virtual", help="Run each real cell again on a virtual clock with its own costs."
        ),
    ] = False,
    html: Html = None,
    seed: Seed = 0,
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """Every mode at every round trip: local, cloud, co-located, sync, one block ahead, stream and auto, in turn."""
    with extras():
        from paceline.benchmarks import link as bench
        from paceline.benchmarks.link_report import link_html, link_tables
    from paceline.common.speed.costs import Costs

    floor_ms = 0.0 if virtual else verify_floor_ms
    settings = bench.LinkSettings(
        tuple(rtt_ms), tuple(temperature), num_prompts, max_new_tokens, floor_ms, seed, check_virtual
    )
    if quick:
        settings = replace(
            settings, num_prompts=1, max_new_tokens=24, temperatures=(0.0,), round_trips_ms=tuple(rtt_ms)[:2]
        )

    def measure(progress: Callable[[str], None]) -> Any:
        if virtual:
            costs = Costs(draft_ms / 1e3, verify_ms / 1e3, verify_per_token_ms / 1e3, 0.0, acceptance)
            return bench.virtual_link(costs, settings, progress)
        texts = texts_of(prompts, "heldout.jsonl", settings.num_prompts)
        return bench.link(pair_of(target, draft_model, drafter), texts, settings, progress)

    report(measure, with_page(html, link_html, link_tables), as_json)


@app.command("step")
def step(
    draft_ms: DraftMs = 10.0,
    verify_ms: VerifyMs = 30.0,
    verify_per_token_ms: VerifyPerTokenMs = 0.2,
    acceptance: Acceptance = 0.65,
    low_ms: Annotated[float, typer.Option(min=0, help="Round trip before and after.")] = 10.0,
    high_ms: Annotated[float, typer.Option(min=0, help="Round trip in between.")] = 150.0,
    html: Html = None,
    as_json: AsJson = False,
) -> None:
    """How soon mode auto follows a round trip that steps up and back; on a virtual clock, in seconds."""
    with extras():
        from paceline.benchmarks import step as bench
    from paceline.common.speed.costs import Costs

    costs = Costs(draft_ms / 1e3, verify_ms / 1e3, verify_per_token_ms / 1e3, low_ms / 1e3, acceptance)
    settings = bench.StepSettings(costs, high_ms / 1e3)
    report(lambda _: bench.step(settings), with_page(html, bench.step_html, bench.step_table), as_json)


@app.command("cascade")
def cascade(
    target: Target = None,
    draft_model: DraftModel = None,
    middle: Annotated[
        Path | None, typer.Option(help="Folder of the relay's model. Default: the shipped mid.")
    ] = None,
    drafter: DrafterKind = "onnx",
    prompts: Prompts = None,
    num_prompts: NumPrompts = 4,
    max_new_tokens: MaxNewTokens = 96,
    near_ms: Annotated[
        list[float], typer.Option(min=0, help="Round trips from device to relay; repeatable.")
    ] = [5, 40],  # noqa: B006  # read by typer alone
    far_ms: Annotated[
        list[float], typer.Option(min=0, help="Round trips from relay to target; repeatable.")
    ] = [5, 30, 100],  # noqa: B006  # read by typer alone
    temperature: Temperatures = [0.0, 0.7],  # noqa: B006  # read by typer alone
    relay_floor_ms: Annotated[
        float, typer.Option(min=0, help="Slow the relay down to so much a pass.")
    ] = 10.0,
    verify_floor_ms: VerifyFloorMs = 30.0,
    seed: Seed = 0,
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """A chain of three hops beside device and target alone, and beside what the plan said; at every pair of links."""
    with extras():
        from paceline.benchmarks import cascade as bench
    from paceline.common.shipped import models_dir

    links = bench.all_links(near_ms, far_ms)
    settings = bench.CascadeSettings(
        links, tuple(temperature), num_prompts, max_new_tokens, relay_floor_ms, verify_floor_ms, seed
    )
    if quick:
        settings = replace(
            settings, links_ms=links[:1], temperatures=(0.0,), num_prompts=1, max_new_tokens=24
        )

    def measure(progress: Callable[[str], None]) -> Any:
        texts = texts_of(prompts, "heldout.jsonl", settings.num_prompts)
        pair = pair_of(target, draft_model, drafter)
        return bench.cascade(pair, middle or models_dir() / "mid", texts, settings, progress)

    report(measure, bench.cascade_table, as_json)


app.add_typer(bench_service.app)
