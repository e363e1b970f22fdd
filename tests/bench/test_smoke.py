"""Every sub-command runs for real with a tiny pair, and prints exactly one JSON object."""

import json
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from paceline.cli.main import app

if TYPE_CHECKING:
    from tests.bench.conftest import TinyPair


def bench(*arguments: str) -> dict[str, Any]:
    """The JSON a sub-command prints."""
    outcome = CliRunner().invoke(app, ["bench", *arguments, "--quick", "--json"])
    if outcome.exception is not None:
        raise outcome.exception
    (line,) = outcome.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    assert found["machine"]["cores"] >= 1
    return found


def models(pair: "TinyPair") -> list[str]:
    """Options that name the pair."""
    return ["--target", str(pair.target), "--draft-model", str(pair.draft_model)]


def test_compare_measures_every_contestant(pair: "TinyPair") -> None:
    """Five contestants at two temperatures write the same greedy text, and an edge without torch is timed."""
    found = bench(*models(pair))
    contestants = {(one["name"], one["temperature"]): one for one in found["contestants"]}
    assert len(contestants) == 10
    assert all(one["mismatches"] in (0, None) for one in contestants.values())
    ours = contestants["paceline-sync", 0.0]
    assert 0 < ours["acceptance_rate"] <= 1
    assert (
        ours["target_passes_per_token"] < 1 == contestants["paceline-cloud", 0.0]["target_passes_per_token"]
    )
    assert found["overhead"]["network_s"]["count"] > 0
    assert found["tcp_bytes_per_token"] > 0
    assert not found["memory"]["edge_loads_torch"]
    assert found["cold_start_s"]["count"] == 1


def test_context_splits_every_round(pair: "TinyPair") -> None:
    """At each length all parts of a round are there, and the growth is that of their sum."""
    found = bench("context", *models(pair), "--context-tokens", "64", "--context-tokens", "256")
    assert [row["context_tokens"] for row in found["rows"]] == [64, 256]
    assert all(row["target_model_s"] > 0 and row["draft_model_s"] > 0 for row in found["rows"])
    parts = ("draft_other_s", "network_s", "engine_other_s", "judge_s", "loop_s")
    short, long = (sum(row[part] for part in parts) for row in found["rows"])
    assert found["growth"] == pytest.approx(long / short)


def test_vocab_covers_every_rule() -> None:
    """Greedy at 0, coupled and rejection at each temperature, for nearly flat and for peaked logits."""
    found = bench("vocab", "--vocab-size", "4096")
    assert len(found["rows"]) == 10
    assert {row["rule"] for row in found["rows"]} == {"greedy", "coupled", "rejection"}
    assert all(row["wire_bytes_per_token"] > 0 for row in found["rows"])


@pytest.mark.slow
@pytest.mark.timed
def test_protections_are_measured_on_equal_texts(pair: "TinyPair") -> None:
    """One text with each of them; padding adds bytes, and TLS adds what messages do not show."""
    found = bench("protections", *models(pair))
    prices = {one["name"]: one for one in found["prices"]}
    bare, padded, tls = prices["none"], prices["padding, 256 bytes"], prices["TLS"]
    assert found["num_different_texts"] == 0
    assert len({one["round_us"]["count"] for one in found["prices"]}) == 1
    assert tls["payload_bytes_per_token"] == pytest.approx(bare["payload_bytes_per_token"], rel=0.02), (
        "the times in verdicts are numbers of one or two bytes"
    )
    assert prices["no fencing either"]["payload_bytes_per_token"] < bare["payload_bytes_per_token"]
    assert padded["payload_bytes_per_token"] > 1.1 * bare["payload_bytes_per_token"]
    assert tls["tcp_bytes_per_token"] > bare["tcp_bytes_per_token"] > bare["payload_bytes_per_token"]


def test_concurrent_texts_equal_texts_written_alone(pair: "TinyPair") -> None:
    """One and four sessions, in three ways each, write what one session writes."""
    found = bench("concurrency", *models(pair))
    assert [row["sessions"] for row in found["rows"]] == [1, 1, 1, 4, 4, 4]
    assert all(row["mismatches"] == 0 for row in found["rows"])
    live, recorded = (row["acceptance_rate"] for row in found["rows"][1:3])
    assert live == recorded


def test_the_excess_is_refused_and_keeps_to_it() -> None:
    """Places stay taken, everybody else is told when to come back and does not come sooner; health answers."""
    found = bench("overload", "--places", "2")
    alone, crowded, again = found["phases"]
    assert alone["refusal_s"] is again["refusal_s"] is None
    assert crowded["refusal_s"]["count"] > 0
    assert crowded["told_s"]["p50"] > 0
    assert all(phase["hurried"] == phase["num_unhealthy"] == 0 for phase in found["phases"])
    assert all(not phase["failed"] for phase in found["phases"])


def test_the_endpoint_writes_what_the_client_writes(pair: "TinyPair") -> None:
    """Both are timed, text by text."""
    found = bench("endpoint", *models(pair))
    assert found["mismatches"] == 0
    assert found["tokens_per_s"]["pairs"] == 2
    assert found["endpoint_first_s"]["median"] > 0
