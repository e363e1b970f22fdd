"""Quotas and the longest round, from options and from files."""

from pathlib import Path
from typing import Any

import pytest

from paceline.cli.serving import READY_PREFIX
from paceline.cloud.quotas import Quota
from paceline.common.tokens import Rule

MODEL = ("serve", "--model", "m")
LET_IN = ("--token-key", "secret")
FILE = """\
version: 1
hops:
  - {name: phone, drafter: {kind: table, vocab_size: 64}, token_file: t}
  - name: cloud
    listen: 127.0.0.1:7443
    target: {kind: table, vocab_size: 64, max_round_ms: 80}
    access:
      token_key: secret
      tenants:
        acme: {rules: [greedy], max_sessions: 8, positions_per_s: 2000}
        lab: [greedy, coupled]
        free: {}
      quota: {opens_per_s: 5, bytes_per_s: 10000.5}
"""


def test_quotas_are_options(asked: Any) -> None:
    """Each tenant's keys, everybody's, and how long a round may take."""
    given = (
        "--quota",
        "acme:max_sessions=8,positions_per_s=2000",
        "--quota",
        "*:bytes_per_s=1e5,opens_per_s=0.5",
    )
    serving = asked(*MODEL, *LET_IN, *given, "--max-round-ms", "50")
    access = serving.server.access
    assert access.quotas == {
        "acme": Quota(max_sessions=8, positions_per_s=2000.0),
        "*": Quota(bytes_per_s=1e5, opens_per_s=0.5),
    }
    assert serving.verifier.max_round_s == pytest.approx(0.05)
    assert asked(*MODEL).verifier.max_round_s is None


def test_a_file_has_quotas_in_both_forms(asked: Any, tmp_path: Path) -> None:
    """A tenant is a list of rules, or a section with quotas; an option beside the file wins."""
    file = tmp_path / "chain.yaml"
    file.write_text(FILE)
    serving = asked("serve", "--topology", file)
    access = serving.server.access
    assert access.tenants == {
        "acme": {Rule.GREEDY}, "lab": {Rule.GREEDY, Rule.COUPLED}, "free": frozenset(Rule)
    }  # fmt: skip
    assert access.quotas == {
        "acme": Quota(max_sessions=8, positions_per_s=2000.0),
        "*": Quota(bytes_per_s=10000.5, opens_per_s=5.0),
    }
    assert serving.verifier.max_round_s == pytest.approx(0.08)
    other = asked("serve", "--topology", file, "--quota", "lab:max_sessions=1").server.access
    assert other.quotas == {"lab": Quota(max_sessions=1)}


@pytest.mark.parametrize(
    ("quota", "words"),
    [
        ("acme", ("quota:", "no quota ''", "max_sessions")),
        ("acme:max_sesions=3", ("max_sesions", "did you mean 'max_sessions'?")),
        ("acme:max_sessions=1.5", ("max_sessions", "whole number of at least 1")),
        ("acme:positions_per_s=0", ("positions_per_s", "number above 0")),
        ("acme:positions_per_s=nan", ("positions_per_s", "number above 0")),
        ("acme:opens_per_s", ("opens_per_s", "number above 0")),
        (":opens_per_s=1", ("names no tenant", "acme:max_sessions=8")),
        ("acme:opens_per_s=1,opens_per_s=2", ("opens_per_s", "twice")),
    ],
)
def test_malformed_quotas_are_refused(inline: Any, quota: str, words: tuple[str, ...]) -> None:
    """The key, the value and the cure are named."""
    inline("cloud", *MODEL, *LET_IN, "--quota", quota).complains(*words)


def test_quotas_of_tenants_need_tenants(inline: Any) -> None:
    """Where nobody is asked who they are only everybody can have a quota; nobody has two."""
    inline("cloud", *MODEL, "--quota", "acme:max_sessions=1").complains("tenant:", "nobody is asked")
    twice = ("--quota", "*:max_sessions=1", "--quota", "*:opens_per_s=1")
    inline("cloud", *MODEL, *twice).complains("quota:", "two")


@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        ("max_sessions: 8", "max_session: 8", (":10: hops[1].access.tenants.acme.max_session:", "'max_sessions'")),
        ("rules: [greedy]", "rules: [gredy]", ("hops[1].access.tenants.acme.rules[0]:", "'greedy'")),
        ("lab: [greedy, coupled]", "lab: [gredy]", (":11: hops[1].access.tenants.lab[0]:", "'greedy'")),
        ("lab: [greedy, coupled]", "lab: 5", ("hops[1].access.tenants.lab:", "not a mapping")),
        ("opens_per_s: 5", "opens_per_s: 0", (":13: hops[1].access.quota.opens_per_s:", "not more than 0")),
        ("max_round_ms: 80", "max_round_ms: fast", ("hops[1].target.max_round_ms:", "not a number")),
    ],
)  # fmt: skip
def test_malformed_quotas_of_a_file_are_refused(
    inline: Any, tmp_path: Path, right: str, wrong: str, words: tuple[str, ...]
) -> None:
    """File, line, key, value and cure, whichever form a tenant has."""
    file = tmp_path / "chain.yaml"
    file.write_text(FILE.replace(right, wrong))
    inline("topology", "check", file).complains(*words)


def test_a_refused_text_says_why(start: Any, paceline: Any, tmp_path: Path, models: Path) -> None:
    """Exit code 4, the quota, and a time to come back that is longer than this command would wait."""
    file = tmp_path / "table.yaml"
    file.write_text(
        "version: 1\nhops:\n  - {name: device}\n  - {name: cloud, listen: '127.0.0.1:7443', "
        "target: {kind: table, vocab_size: 2048}}\n"
    )
    serve = (
        "cloud",
        "serve",
        "--topology",
        file,
        "--listen",
        "127.0.0.1:0",
        "--quota",
        "*:opens_per_s=0.001",
    )
    server = start(*serve)
    address = server.stdout.readline().removeprefix(READY_PREFIX).strip()
    ask = (
        "edge", "generate", "--verifier", address, "--mode", "cloud", "--tokenizer", models / "pico", "--prompt", "x",
        "--max-new-tokens", "4", "--ignore-eos", "--json",
    )  # fmt: skip
    assert paceline(*ask).code == 0
    refused = paceline(*ask, "--wait-s", "1")
    refused.complains("opens_per_s:", "callers without a tenant", "(retry after ", code=4)
