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
        ("--draft-ms", "-1", "draft_ms"),
        ("--users", "0", "users"),
        ("--verify-ms", "-3", "verify_ms"),
        ("--target-tokens-per-s", "0", "target_tokens_per_s"),
        ("--expect", "moon.rtt_ms=3", "device, cloud"),
        ("--expect", "cloud.verify=3", "'verify_ms'"),
        ("--expect", "cloud.verify_ms=soon", "'soon'"),
        ("--expect", "cloud.verify_ms.x=3", "no such figure"),
        ("--expect", "cloud.colour=3", "keys: draft_ms"),
        ("--expect", "cloud.acceptance=0.8", "cloud.acceptance.device=0.8"),
        ("--expect", "cloud.acceptance.moon=0.8", "cloud.acceptance.device=0.8"),
        ("--expect", "cloud.acceptance.device=8", "0 to 1"),
        ("--expect", "device.acceptance.cloud=0.8", "verifies nobody"),
        ("--expect", "cloud.verify_ms=-1", "not a time"),
    ],
)
def test_impossible_figures_are_refused(inline: Any, option: str, value: str, word: str) -> None:
    """One line, with the field."""
    inline("topology", "plan", FILE, option, value).complains(word)


def test_a_missing_file_is_refused(inline: Any) -> None:
    """As everywhere."""
    inline("topology", "plan", "nowhere.yaml").complains("nowhere.yaml")


CHAIN = "deploy/topologies/edge-metro-cloud.yaml"


def test_figures_come_from_the_file_and_options_win(inline: Any) -> None:
    """A section `expect` is taken, an option changes it, and what nobody said is named."""
    by_file = json.loads(inline("topology", "plan", FILE, "--json").out)
    changed = json.loads(
        inline("topology", "plan", FILE, "--rtt-ms", "90", "--expect", "cloud.verify_ms=20", "--json").out
    )

    assert by_file["costs"] == {
        "draft_s": 0.01, "verify_fixed_s": 0.03, "verify_per_token_s": 0.0002, "round_trip_s": 0.05,
        "acceptance": 0.8,
    }  # fmt: skip
    assert by_file["assumed"] == []
    assert changed["costs"]["round_trip_s"] == pytest.approx(0.09)
    assert changed["costs"]["verify_fixed_s"] == pytest.approx(0.02)


def test_a_chain_of_three_says_whether_its_middle_pays(inline: Any) -> None:
    """Both sums and both rates; nearer to a target that agrees less, the same hop no longer pays."""
    far = json.loads(inline("topology", "plan", CHAIN, "--json").out)
    options = ("--rtt-ms", "1", "--expect", "metro.verify_ms=60", "--json")
    near = json.loads(inline("topology", "plan", CHAIN, *options).out)
    ((worth,), (other,)) = far["worth"], near["worth"]

    assert worth["hop"] == "metro"
    assert worth["pays"]
    assert worth["with_ms"] == pytest.approx(0.2 * 17.1 + 0.08 * 147.3)
    assert worth["without_ms"] == pytest.approx(0.3 * 135.2)
    assert worth["with"]["tokens_per_s"] > worth["without"]["tokens_per_s"]
    assert worth["with"]["passes_per_token"] < worth["without"]["passes_per_token"]
    assert not other["pays"]
    assert far["chain"]["ms_per_token"] == pytest.approx(10 + worth["with_ms"])
    assert any("metro pays" in line for line in far["verdict"])
    assert any("metro does not pay" in line for line in near["verdict"])


def test_what_nobody_said_is_named(inline: Any, tmp_path: Any) -> None:
    """A file without figures is planned with defaults, each of which is listed; a guess is called one."""
    file = tmp_path / "bare.yaml"
    file.write_text(
        "version: 1\nhops:\n  - {name: a, drafter: {kind: ngram}}\n"
        "  - {name: b.c, listen: 'h:1', insecure: true, target: {kind: table}}\n"
        "  - {name: d, listen: 'h:2', insecure: true, target: {kind: table}}\n"
    )
    bare = json.loads(inline("topology", "plan", file, "--json").out)
    text = inline(
        "topology", "plan", file, "--expect", "b.c.verify_ms=7", "--expect", "d.acceptance.a=0.7"
    ).out

    assert "b.c.verify_ms=30" in bare["assumed"]
    assert bare["worth"][0]["is_acceptance_without_it_a_guess"]
    assert "b.c.verify_ms=30" not in text
    assert "a.draft_ms=10" in text
    assert "guess" not in text


def test_a_verifier_alone_has_no_plan(inline: Any, tmp_path: Any) -> None:
    """There is no device to plan for."""
    file = tmp_path / "alone.yaml"
    file.write_text(
        "version: 1\nhops: [{name: cloud, listen: 'h:1', insecure: true, target: {kind: table}}]\n"
    )
    inline("topology", "plan", file).complains("begins with a device")
