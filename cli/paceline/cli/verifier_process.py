"""A verifier, a relay, or an endpoint, in a process of its own, for the demo, benchmarks, examples and tests."""

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from paceline.cli.endpoint import READY_PREFIX as ENDPOINT_READY_PREFIX
from paceline.cli.serving import READY_PREFIX, RELAY_READY_PREFIX
from paceline.common.errors import Unreachable

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 10.0
_OWN_SETTINGS = (
    "ENDPOINT_LISTEN",
    "API_KEY",
    "API_KEY_FILE",
    "LOCAL_ONLY",
    "MODE",
    "MODEL",
    "LISTEN",
    "UPSTREAM",
    "NAME",
    "TOPOLOGY",
    "HOP",
    "METRICS_PORT",
    "VERIFIER",
    "TLS_CERT",
    "TLS_KEY",
    "TLS_CLIENT_CA",
    "TLS_CA",
    "TOKEN_KEY",
    "TOKEN_FILE",
    "TENANT",
    "QUOTA",
    "MAX_ROUND_MS",
    "RECEIPT_KEY",
    "REQUIRE_RECEIPTS",
)


@dataclass(frozen=True, slots=True)
class VerifierProcess:
    """A running verifier."""

    address: str
    pid: int


@contextmanager
def verifier_process(model: str | Path, options: Sequence[str] = ()) -> Iterator[VerifierProcess]:
    """Run `paceline cloud serve` on a free loopback port; SIGTERM on leaving.

    Args:
        model: folder or hub id.
        options: further options of `cloud serve`.
    Raises:
        Unreachable: it did not come up; the message carries its last line.
    """
    with _process(_serving("serve", model, options), READY_PREFIX) as running:
        yield running


@contextmanager
def relay_process(
    model: str | Path, upstream: str, name: str, options: Sequence[str] = ()
) -> Iterator[VerifierProcess]:
    """Run `paceline cloud relay` before the hop at `upstream`; otherwise as `verifier_process`.

    Raises:
        Unreachable: it did not come up.
    """
    more = ["--upstream", upstream, "--name", name, *options]
    with _process(_serving("relay", model, more), RELAY_READY_PREFIX) as running:
        yield running


@contextmanager
def endpoint_process(verifier: str, options: Sequence[str] = ()) -> Iterator[VerifierProcess]:
    """Run `paceline edge serve` on a free loopback port; its address is what clients call their base URL.

    Raises:
        Unreachable: it did not come up.
    """
    command = ["edge", "serve", "--verifier", verifier, *options]
    with _process(command, ENDPOINT_READY_PREFIX) as running:
        yield running


def _serving(verb: str, model: str | Path, options: Sequence[str]) -> list[str]:
    return ["cloud", verb, "--model", str(model), *options]


@contextmanager
def _process(arguments: Sequence[str], ready_prefix: str) -> Iterator[VerifierProcess]:
    group, verb, *options = arguments
    defaults = [
        "--listen",
        "127.0.0.1:0",
        "--drain-s",
        "1",
    ]  # first: of an option given twice the last one counts
    command = [sys.executable, "-m", "paceline.cli.main", group, verb, *defaults, *options]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=hop_environment()
        )
        try:
            yield VerifierProcess(_await_ready(process, log, ready_prefix), process.pid)
        finally:
            _stop(process)


def hop_environment() -> dict[str, str]:
    """The same environment, without settings meant for a verifier of the user's own."""
    own = {f"PACELINE_{name}" for name in _OWN_SETTINGS}
    return {name: value for name, value in os.environ.items() if name not in own}


def _await_ready(process: "subprocess.Popen[str]", log: IO[str], ready_prefix: str) -> str:
    lines: queue.Queue[str] = queue.Queue()
    assert process.stdout is not None, "it was asked for"
    threading.Thread(target=_forward, args=(process.stdout, lines), daemon=True).start()
    try:
        line = lines.get(timeout=START_TIMEOUT_S)
    except queue.Empty:
        line = ""
    if line.startswith(ready_prefix):
        return line.removeprefix(ready_prefix).strip()
    log.seek(0)
    said = [text.strip() for text in log if text.strip()]
    raise Unreachable(
        f"the process did not start: {said[-1] if said else 'it said nothing'}", field="verifier"
    )


def _forward(stdout: IO[str], lines: "queue.Queue[str]") -> None:
    for line in stdout:
        lines.put(line)
    lines.put("")


def _stop(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
