"""`paceline topology plan`: figures from costs, and refusals in one line."""

import json
from typing import Any

import pytest

FILE = "deploy/topologies/edge-cloud.yaml"


def test_the_plan_is_one_object(inline: Any) -> None:
    """Every way has its speed, and the verdict says when drafting pays."""
    near = json.loads(inline("topology", "plan", FILE, "--rtt-ms", "10", "--json").out)
    far = json.loads(inline("topology", "plan", FILE, "--rtt-ms", "300", "--json").out)
    rate = {way["name"]: way["tokens_per_s"] for way in near["ways"]}
    assert rate["stream + fill"] > rate["cloud"] == pytest.approx(1 / 0.0302)
    assert near["break_even_rtt_ms"]["stream bound"] > near["break_even_rtt_ms"]["sync"] > 0
    assert near["day"]["cloud"]["verifiers"] > near["day"]["co-located"]["verifiers"] >= 1
    assert any("does not make" in line for line in far["verdict"])


def test_a_million_requests_fit(inline: Any) -> None:
    """More requests than are simulated are scaled."""
    report = json.loads(inline("topology", "plan", FILE, "--users", "1000000", "--json").out)
    small = json.loads(inline("topology", "plan", FILE, "--users", "10000", "--json").out)
    assert report["day"]["cloud"]["requests"] == pytest.approx(1_000_000, rel=0.01)
    ratio = report["day"]["cloud"]["p50_sessions"] / small["day"]["cloud"]["p50_sessions"]
    assert ratio == pytest.approx(100, rel=0.1)


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--acceptance", "1.5", "acceptance"),
        ("--draft-ms", "-1", "draft_s"),
        ("--users", "0", "users"),
        ("--verify-ms", "-3", "verify_fixed_s"),
        ("--target-tokens-per-s", "0", "target_tokens_per_s"),
    ],
)
def test_impossible_figures_are_refused(inline: Any, option: str, value: str, word: str) -> None:
    """One line, with the field."""
    inline("topology", "plan", FILE, option, value).complains(word)


def test_a_missing_file_is_refused(inline: Any) -> None:
    """As everywhere."""
    inline("topology", "plan", "nowhere.yaml").complains("nowhere.yaml")
