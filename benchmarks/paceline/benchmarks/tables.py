"""Results as tables for people."""

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from paceline.benchmarks.compare import CompareResult, ContestantResult
from paceline.benchmarks.concurrency import ConcurrencyResult, ConcurrencyRow
from paceline.benchmarks.context import ContextResult, ContextRow
from paceline.benchmarks.machine import Machine
from paceline.benchmarks.overhead import Percentiles
from paceline.benchmarks.statistics import Ratio
from paceline.benchmarks.vocabulary import VocabResult, VocabRow

_MEBI = 1 << 20


def compare_tables(result: CompareResult) -> RenderableType:
    """Contestants, speed-ups, and what the protocol and the processes cost."""
    settings = result.settings
    contestants = _table(
        f"{settings.num_prompts} prompts × {settings.max_new_tokens} tokens, contestants in turn; "
        f"target {result.target}, draft model {result.draft_model}",
        (
            "contestant",
            "temp",
            "tokens/s",
            "quartiles",
            "passes/token",
            "block",
            "accepted",
            "bytes/token",
            "texts",
        ),
        [_contestant(one) for one in result.contestants],
    )
    speedups = _table(
        "speed-up: median of ratios per prompt, 95 % interval",
        ("", "over", "temp", "ratio", "interval"),
        [
            (one.name, one.over, f"{one.temperature:g}", f"{one.ratio.median:.2f}×", _interval(one.ratio))
            for one in result.speedups
        ],
    )
    return Group(_head(result.machine), contestants, Text(), speedups, Text(), _costs(result))


def _contestant(one: ContestantResult) -> Sequence[str]:
    speed = one.tokens_per_s
    texts = "–" if one.mismatches is None else "same" if one.mismatches == 0 else f"{one.mismatches} differ"
    return (
        one.name,
        f"{one.temperature:g}",
        f"{speed.median:.0f}",
        f"{speed.low:.0f}–{speed.high:.0f}",
        f"{one.target_passes_per_token:.2f}",
        _or_dash(one.mean_drafted_tokens, ".1f"),
        _or_dash(one.acceptance_rate, ".0%"),
        _or_dash(one.payload_bytes_per_token, ".0f"),
        texts,
    )


def _costs(result: CompareResult) -> RenderableType:
    overhead, memory, start = result.overhead, result.memory, result.cold_start_s
    torch = "with torch" if memory.edge_loads_torch else "no torch"
    rows = [
        ("link per round", f"{_ms(overhead.network_s)} ms (p50 / p95): round less verify step and queue"),
        ("bare gRPC echo", f"{_ms(overhead.echo_s)} ms back to back: link is {overhead.ratio:.2f}× its p50"),
        ("  in the same rhythm", f"{_ms(overhead.rhythm_echo_s)} ms: link is {overhead.rhythm_ratio:.2f}×"),
        ("payload per round", f"{overhead.bytes_up} bytes up, {overhead.bytes_down} down (medians)"),
        (
            "TCP per token",
            f"{result.tcp_bytes_per_token:.0f} bytes both ways, HTTP/2 set-up and prompt included",
        ),
        ("edge process", f"{_mib(memory.edge)} at its peak, {torch}"),
        ("verifier process", f"{_mib(memory.verifier)} at its peak"),
        ("transformers process", f"{_mib(memory.transformers)} at its peak, both models"),
        (
            "edge cold start",
            f"{start.median:.2f} s to the first token (median of {start.count} fresh processes)",
        ),
    ]
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column()
    for row in rows:
        table.add_row(*row)
    return table


def context_table(result: ContextResult) -> RenderableType:
    """Time per round beside the models, by length of context."""
    names = (
        "context",
        "rounds",
        "draft model",
        "draft other",
        "link",
        "target model",
        "engine other",
        "judge",
        "loop",
    )
    table = _table(
        "ms per round, medians", (*names, "all but models"), [_context_row(row) for row in result.rows]
    )
    lengths = result.settings.context_tokens
    return Group(
        _head(result.machine),
        table,
        Text(
            f"beside the models, {lengths[-1]} tokens cost {result.growth:.2f} times what {lengths[0]} tokens do"
        ),
    )


def _context_row(row: ContextRow) -> Sequence[str]:
    seconds = (
        row.draft_model_s,
        row.draft_other_s,
        row.network_s,
        row.target_model_s,
        row.engine_other_s,
        row.judge_s,
        row.loop_s,
        row.other_s,
    )
    return (str(row.context_tokens), str(row.rounds), *(f"{1e3 * one:.2f}" for one in seconds))


def vocabulary_table(result: VocabResult) -> RenderableType:
    """Costs at a large vocabulary, by rule."""
    names = ("logits", "rule", "temp", "nucleus", "accepted", "sampling ms", "acceptance ms", "wire bytes")
    settings = result.settings
    title = f"{settings.vocab_size} tokens, top-p {settings.top_p:g}; acceptance per row, the rest per drafted token"
    return Group(_head(result.machine), _table(title, names, [_vocabulary_row(row) for row in result.rows]))


def _vocabulary_row(row: VocabRow) -> Sequence[str]:
    return (
        row.logits,
        row.rule,
        f"{row.temperature:g}",
        str(row.nucleus_tokens),
        f"{row.acceptance_rate:.0%}",
        f"{row.sampling_ms_per_token:.2f}",
        f"{row.acceptance_ms_per_row:.2f}",
        f"{row.wire_bytes_per_token:.0f}",
    )


def concurrency_table(result: ConcurrencyResult) -> RenderableType:
    """Throughput and round times by number of sessions."""
    names = (
        "sessions",
        "drafts",
        "tokens/s",
        "round p50 / p95 ms",
        "verify p50 / p95 ms",
        "accepted",
        "texts",
    )
    title = (
        f"{result.settings.max_new_tokens} tokens a text, blocks of {result.settings.num_speculative_tokens}"
    )
    return Group(_head(result.machine), _table(title, names, [_concurrency_row(row) for row in result.rows]))


def _concurrency_row(row: ConcurrencyRow) -> Sequence[str]:
    return (
        str(row.sessions),
        row.drafts,
        f"{row.tokens_per_s:.0f}",
        _ms(row.round_s),
        _ms(row.verify_s),
        _or_dash(row.acceptance_rate, ".0%"),
        "same" if row.mismatches == 0 else f"{row.mismatches} of {row.texts} differ",
    )


def print_warning(machine: Machine, console: Console) -> None:
    """Say so if the machine was busy."""
    if machine.warning is not None:
        console.print(f"[bold yellow]warning:[/] {machine.warning}")


def _head(machine: Machine) -> Text:
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return Text(
        f"{machine.date} · {machine.cpu}, {machine.cores} cores, load {machine.load_average:.2f} · "
        f"commit {machine.commit or 'unknown'} · Python {machine.python}, {versions}\n",
        style="dim",
    )


def _table(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Names to the left, figures to the right."""
    table = Table(title=title, title_justify="left", title_style="dim", show_edge=False)
    for index, name in enumerate(names):
        is_figure = any(row[index][:1].isdigit() for row in rows)
        table.add_column(name, justify="right" if is_figure else "left")
    for row in rows:
        table.add_row(*row)
    return table


def _interval(ratio: Ratio) -> str:
    return f"{ratio.low:.2f}–{ratio.high:.2f}"


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _ms(values: Percentiles | None) -> str:
    return "–" if values is None else f"{1e3 * values.p50:.2f} / {1e3 * values.p95:.2f}"


def _mib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / _MEBI:.0f} MiB"
