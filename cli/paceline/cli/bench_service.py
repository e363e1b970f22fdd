"""The part of `paceline bench` that measures what is around the models: protections, overload, the endpoint, time."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from paceline.cli.bench_options import (
    AsJson,
    DrafterKind,
    DraftModel,
    Html,
    MaxNewTokens,
    NumPrompts,
    NumSpeculativeTokens,
    Prompts,
    Quick,
    Seed,
    Target,
    Temperature,
    VerifyFloorMs,
    extras,
    pair_of,
    report,
    texts_of,
    with_page,
)

app = typer.Typer()


@app.command("soak")
def soak(
    minutes: Annotated[
        float, typer.Option(min=0.05, help="How long.", envvar="PACELINE_BENCH_MINUTES")
    ] = 30.0,
    at_once: Annotated[
        int, typer.Option(min=1, help="Streams at a time.", envvar="PACELINE_BENCH_AT_ONCE")
    ] = 16,
    seed: Seed = 0,
    html: Html = None,
    as_json: AsJson = False,
) -> None:
    """Streams for long, half of them left in the middle: memory, files, threads, tasks and sessions meanwhile."""
    with extras():
        from paceline.benchmarks import soak as bench

    settings = bench.SoakSettings(minutes, at_once, seed=seed)
    show = with_page(html, bench.soak_html, bench.soak_table)
    report(lambda progress: bench.soak(settings, progress), show, as_json)


@app.command("endpoint")
def endpoint(
    target: Target = None,
    draft_model: DraftModel = None,
    drafter: DrafterKind = "onnx",
    prompts: Prompts = None,
    num_prompts: NumPrompts = 24,
    max_new_tokens: MaxNewTokens = 96,
    verify_floor_ms: VerifyFloorMs = 30.0,
    mode: Annotated[str, typer.Option(help="Of both.", envvar="PACELINE_MODE")] = "auto",
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """The local endpoint beside the client it stands before: speed, and time to the first token."""
    with extras():
        from paceline.benchmarks import endpoint as bench

    settings = bench.EndpointSettings(num_prompts, max_new_tokens, verify_floor_ms, mode, temperature, seed)
    if quick:
        settings = replace(settings, num_prompts=2, max_new_tokens=24, verify_floor_ms=0.0)
    texts = texts_of(prompts, "heldout.jsonl", settings.num_prompts)
    pair = pair_of(target, draft_model, drafter)
    report(lambda progress: bench.endpoint(pair, texts, settings, progress), bench.endpoint_table, as_json)


@app.command("protections")
def protections(
    target: Target = None,
    draft_model: DraftModel = None,
    drafter: DrafterKind = "onnx",
    prompts: Prompts = None,
    num_prompts: NumPrompts = 24,
    max_new_tokens: MaxNewTokens = 96,
    num_speculative_tokens: NumSpeculativeTokens = 5,
    seed: Seed = 0,
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """TLS, certificates and tokens, padding: time per round and bytes per token beside none of them, in turn."""
    with extras():
        from paceline.benchmarks import protections as bench

    settings = bench.ProtectionsSettings(num_prompts, max_new_tokens, num_speculative_tokens, seed)
    if quick:
        settings = replace(settings, num_prompts=1, max_new_tokens=24)
    pair = pair_of(target, draft_model, drafter)
    texts = texts_of(prompts, "heldout.jsonl", settings.num_prompts)
    settings = replace(settings, num_prompts=len(texts))
    report(
        lambda progress: bench.protections(pair, texts, settings, progress), bench.protections_table, as_json
    )


@app.command("overload")
def overload(
    places: Annotated[int, typer.Option(min=1, help="Sessions the verifier takes.")] = 8,
    excess: Annotated[int, typer.Option(min=2, help="Clients per place.")] = 10,
    seconds: Annotated[float, typer.Option(min=1, help="Of the overload.")] = 300.0,
    step_ms: Annotated[float, typer.Option(min=0, help="What a step of the target sleeps.")] = 20.0,
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """Ten clients for each place: how soon the others are refused, and what those with a place notice of them."""
    with extras():
        from paceline.benchmarks import overload as bench

    settings = bench.OverloadSettings(places, excess, 2.0 if quick else seconds, step_ms)
    report(lambda progress: bench.overload(settings, progress), bench.overload_table, as_json)
