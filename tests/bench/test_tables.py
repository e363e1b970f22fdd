"""Every result has a table that shows what it is about."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from paceline.benchmarks import vocabulary
from paceline.benchmarks.compare import CompareResult, Memory, Settings, reference_at, speedups, summarise
from paceline.benchmarks.concurrency import ConcurrencyResult, ConcurrencyRow, ConcurrencySettings
from paceline.benchmarks.contestants import ALONE, Sample
from paceline.benchmarks.context import ContextResult, ContextRow, ContextSettings
from paceline.benchmarks.machine import machine
from paceline.benchmarks.overhead import EchoRecord, overhead, percentiles
from paceline.benchmarks.statistics import spread
from paceline.benchmarks.tables import compare_tables, concurrency_table, context_table, vocabulary_table
from paceline.benchmarks.vocabulary import VocabResult, VocabRow, VocabSettings
from paceline.cli.main import app
from paceline.common.errors import MissingDependency


def compared() -> CompareResult:
    """Two contestants, ours twice as fast."""
    samples = {
        (0.0, ALONE): [Sample((1, 2), 2.0, 2)],
        (0.0, "paceline-sync"): [Sample((1, 2), 1.0, 1, 3, 1, 40)],
    }
    settings = Settings(modes=("sync",), temperatures=(0.0,))
    return CompareResult(
        machine=machine(),
        settings=settings,
        target="base",
        draft_model="pico",
        drafter="onnx",
        prompt_tokens=spread([8.0]),
        contestants=summarise(samples),
        speedups=speedups(samples, settings),
        reference={"0.0": reference_at(samples, 0.0)},
        assistant_tokens={"0.0": 5},
        overhead=overhead([0.003], EchoRecord(40, 20, [0.002], [0.004])),
        tcp_bytes_per_token=31.4,
        memory=Memory(verifier=1 << 29, edge=100 << 20, transformers=None, edge_loads_torch=False),
        cold_start_s=spread([1.25]),
    )


def vocabularies() -> VocabResult:
    """One row."""
    row = VocabRow("peaked", "coupled", 0.7, 22, 0.5, 0.61, 0.33, 7.7)
    return VocabResult(machine(), VocabSettings(), [row])


def concurrent() -> ConcurrencyResult:
    """A level with a text that went wrong."""
    times = percentiles([0.01])
    rows = [ConcurrencyRow("cloud", 4, 120.0, None, None, None, 0, 8)]
    rows.append(ConcurrencyRow("recorded drafts", 4, 240.0, times, times, 0.7, 1, 8))
    return ConcurrencyResult(machine(), ConcurrencySettings(), "base", "pico", "onnx", rows)


def contexts() -> ContextResult:
    """Two lengths."""
    rows = [
        ContextRow(length, 80, 0.6e-3, 0.4e-3, 1e-3, 3e-3, 0.2e-3, 0.3e-3, 0.1e-3) for length in (128, 512)
    ]
    return ContextResult(machine(), ContextSettings(context_tokens=(128, 512)), "base", "pico", rows, 1.0)


@pytest.mark.parametrize(
    ("result", "table", "words"),
    [
        (
            compared,
            compare_tables,
            ["paceline-sync", "2.00×", "1.50×", "same", "100 MiB", "unknown", "1.25 s"],
        ),
        (vocabularies, vocabulary_table, ["peaked", "coupled", "50%", "0.61", "152000"]),
        (concurrent, concurrency_table, ["recorded drafts", "240", "10.00 / 10.00", "1 of 8 differ", "–"]),
        (contexts, context_table, ["512", "0.60", "3.00", "2.00", "1.00 times"]),
    ],
)
def test_a_table_shows_the_result(
    result: Callable[[], Any], table: Callable[[Any], Any], words: list[str]
) -> None:
    """Speeds, ratios, differences and what could not be measured are all to be read."""
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table(result()))
    text = captured.get()
    assert [word for word in words if word not in text] == []


def test_a_table_is_printed_without_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """People get the table on stdout, progress on stderr."""
    monkeypatch.setattr(vocabulary, "vocabulary", lambda _, progress: progress("working") or vocabularies())
    outcome = CliRunner().invoke(app, ["bench", "vocab"])
    assert outcome.exit_code == 0
    assert "coupled" in outcome.stdout
    assert "working" in outcome.stderr


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the other end's packages the error says what to install."""
    monkeypatch.setitem(sys.modules, "paceline.benchmarks.tables", None)
    outcome = CliRunner().invoke(app, ["bench", "vocab", "--quick"])
    assert isinstance(outcome.exception, MissingDependency)
    assert "paceline[cloud,edge]" in str(outcome.exception)


def test_options_without_a_sub_command_are_those_of_compare() -> None:
    """`paceline bench --quick context` is refused, not silently run without --quick."""
    outcome = CliRunner().invoke(app, ["bench", "--quick", "context"])
    assert outcome.exit_code == 2
