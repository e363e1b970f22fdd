"""`paceline topology up`: real processes, started from the last hop down, watched, and ended together."""

import importlib.util
import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from paceline.cli.supervisor import FIRST_EXIT_CODE, Row, row_of
from paceline.cli.verifier_process import hop_environment
from paceline.common.messages import Description, HopDescription
from paceline.common.tokens import Rule

CHAIN = """\
version: 1
sampling: {temperature: 0.7, seed: 3}
max_new_tokens: 16
hops:
  - name: phone
    drafter: {kind: ngram, min_ngram: 1, max_ngram: 3, num_speculative_tokens: 4}
  - name: metro
    listen: 0.0.0.0:%d
    optional: true
    target: {kind: table, vocab_size: 2048, seed: 5}
  - name: cloud
    listen: 0.0.0.0:%d
    target: {kind: table, vocab_size: 2048, seed: 5, max_sessions: 3}
"""
NO_RELAY = '''"""A relay in name: the verifier answers by itself."""


def Relay(verifier, upstream, *, name):
    """The verifier as it is."""
    return verifier
'''


@pytest.fixture
def chain(tmp_path: Path, unused_ports: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A chain of three without weights. Where relays are not installed, one in name stands in."""
    if not importlib.util.find_spec("paceline.relay"):
        package = tmp_path / "stub" / "paceline" / "relay"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "relay.py").write_text(NO_RELAY)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stub"))
    file = tmp_path / "chain.yaml"
    file.write_text(CHAIN % tuple(unused_ports(2)))
    return file


class Chain:
    """A running `topology up --json`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.seen: list[dict[str, Any]] = []

    def until(self, event: str, hop: str = "") -> dict[str, Any]:
        """The next event of that kind, about that hop if one is named."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            found: dict[str, Any] = json.loads(line)
            self.seen.append(found)
            if found["event"] == event and hop in ("", found.get("hop")):
                return found
        raise AssertionError(f"it ended before {event} {hop}: {self.seen}")

    @property
    def told(self) -> list[tuple[str, str]]:
        """What has happened, without the statuses in between."""
        return [(one["event"], one["hop"]) for one in self.seen if one["event"] not in ("status", "note")]


@pytest.fixture
def up(start: Callable[..., "subprocess.Popen[str]"], chain: Path) -> Iterator[Callable[..., Chain]]:
    """Start a chain; whatever it leaves behind is ended."""
    running: list[Chain] = []

    def run(*options: object) -> Chain:
        running.append(Chain(start("topology", "up", chain, "--json", "--drain-s", 1, *options)))
        return running[-1]

    yield run
    for one in running:
        for event in one.seen:
            if "pid" in event and psutil.pid_exists(event["pid"]):
                psutil.Process(event["pid"]).kill()


def gone(chain: Chain) -> bool:
    """Whether no hop that was started is left."""
    return not any(psutil.pid_exists(event["pid"]) for event in chain.seen if "pid" in event)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_chain_starts_from_the_last_hop_down_and_stops_cleanly(
    up: Callable[..., Chain], number: signal.Signals
) -> None:
    """Each hop is ready before the one below it starts; a signal ends all of them, with exit code 0."""
    chain = up()
    note = chain.until("note")
    status = chain.until("status", "cloud")
    chain.process.send_signal(number)
    chain.until("stopped", "cloud")

    assert chain.process.wait(60) == 0
    assert chain.told == [
        ("starting", "cloud"), ("ready", "cloud"), ("starting", "metro"), ("ready", "metro"),
        ("stopping", "metro"), ("stopping", "cloud"), ("stopped", "metro"), ("stopped", "cloud"),
    ]  # fmt: skip
    assert "edge generate --topology" in note["text"]
    assert "--verifier" not in note["text"], "seen from this machine the file's own addresses do"
    assert (status["sessions"], status["model"], status["state"]) == ("0/3", "table", "ready")
    assert gone(chain)
    assert chain.process.stderr.read() == ""


def test_a_hop_that_dies_ends_the_chain_by_name(up: Callable[..., Chain]) -> None:
    """One line says which hop ended how; the exit code says which, too; nobody is left."""
    chain = up()
    pid = chain.until("ready", "cloud")["pid"]
    chain.until("note")
    os.kill(pid, signal.SIGKILL)
    chain.until("stopped", "metro")
    complaint = chain.process.stderr.read()

    assert chain.process.wait(60) == FIRST_EXIT_CODE + 2
    assert complaint.startswith("error: cloud: the verifier ended with exit code -9: ")
    assert complaint.count("\n") == 1
    assert ("died", "cloud") in chain.told
    assert gone(chain)


def test_a_hop_that_dies_is_started_again_if_asked(up: Callable[..., Chain]) -> None:
    """At the same address, which the hop below knows; the others stay."""
    chain = up("--restart", "--free-ports")
    first = chain.until("ready", "cloud")
    note = chain.until("note")
    os.kill(first["pid"], signal.SIGKILL)
    again = chain.until("ready", "cloud")
    chain.process.send_signal(signal.SIGTERM)
    chain.until("stopped", "cloud")

    assert chain.process.wait(60) == 0
    assert f"--verifier {first['address']}" in note["text"]
    assert again["address"] == first["address"]
    assert again["pid"] != first["pid"]
    assert chain.told.count(("ready", "metro")) == 1
    assert gone(chain)


def test_a_text_through_the_chain(paceline: Any, chain: Path, models: Path) -> None:
    """--prompt writes one text on stdout and stops; what follows -- goes to the edge. The text is the target's."""
    edge = ("--tokenizer", models / "pico", "--json")
    through = paceline("topology", "up", chain, "--free-ports", "--prompt", "import os\n", "--", *edge)
    alone = paceline("topology", "up", chain, "--prompt", "import os\n", "--", *edge, "--mode", "cloud")

    assert through.code == 0, through.err
    text = json.loads(through.out)
    assert text["usage"]["completion_tokens"] == 16
    assert text["verified"]
    assert json.loads(alone.out)["token_ids"] == text["token_ids"]
    assert "metro ready on 127.0.0.1:" in through.err


def test_an_interrupt_while_a_hop_loads_ends_it(up: Callable[..., Chain]) -> None:
    """The signal does not wait for the start to succeed."""
    chain = up()
    chain.until("starting", "cloud")
    chain.process.send_signal(signal.SIGINT)

    assert chain.process.wait(60) == 0
    assert not psutil.pid_exists(chain.process.pid) or not psutil.Process(chain.process.pid).children()


def test_a_port_that_is_taken_is_one_line(inline: Any, chain: Path, unused_ports: Any) -> None:
    """The hop that wanted it is named, with what it said; the exit code is the hop's."""
    (port,) = unused_ports(1)
    with socket.create_server(("127.0.0.1", port)):
        lines = chain.read_text().splitlines()
        lines[11] = f"    listen: 127.0.0.1:{port}"
        chain.write_text("\n".join(lines) + "\n")
        outcome = inline("topology", "up", chain)

    assert outcome.code == FIRST_EXIT_CODE + 2
    assert outcome.err.startswith(
        "error: cloud: the verifier ended with exit code 2: listen: cannot listen on"
    )
    assert outcome.err.count("\n") == 1


def test_what_cannot_be_run_is_refused(inline: Any, chain: Path, tmp_path: Path) -> None:
    """A chain of one device serves nothing; further options need a text."""
    alone = tmp_path / "alone.yaml"
    alone.write_text("version: 1\nhops: [{name: phone, drafter: {kind: ngram}}]\n")

    inline("topology", "up", alone).complains("no hop of", "edge generate --topology")
    inline("topology", "up", chain, "--", "--json").complains("'--json' is for a text", "--prompt")


def test_a_terminal_sees_a_table(chain: Path, clean_environment: None) -> None:
    """There every hop has a line that keeps up, with its address, model, sessions and state."""

    ours, theirs = pty.openpty()
    command = ["topology", "up", str(chain), "--free-ports", "--drain-s", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "paceline.cli.main", *command],
        stdin=theirs, stdout=theirs, stderr=theirs, env={**hop_environment(), "TERM": "xterm", "COLUMNS": "120"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while b"0/3" not in shown:
        shown += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    try:
        while block := os.read(ours, 4096):
            shown += block
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)

    assert process.wait(60) == 0
    assert all(word in shown for word in (b"metro", b"relay", b"cloud", b"verifier", b"table", b"ready"))


def test_a_row_is_made_of_what_a_hop_says_of_itself() -> None:
    """Model and sessions from its description; a hop that does not answer is silent, and keeps its place."""
    before = Row("cloud", "verifier", "127.0.0.1:1", "ready", "base")
    description = Description("1", "base", 64, 99, 8, 4, (Rule.GREEDY,), active_sessions=2)
    relay = replace(
        description,
        hops=(
            HopDescription("metro", "mid", num_judged=40, num_accepted=30, num_written=90),
            HopDescription(),
        ),
    )

    row = Row("cloud", "verifier", "127.0.0.1:1", "ready", "base", "2/8")
    assert row_of(before, description) == row
    assert row_of(before, None) == Row("cloud", "verifier", "127.0.0.1:1", "silent", "base")
    counted = replace(row, model="mid", tokens_per_s=45.0, acceptance_rate=0.75, num_written=90)
    assert row_of(before, relay, 2.0) == counted
    assert row_of(counted, relay, 2.0) == replace(counted, tokens_per_s=0.0)
