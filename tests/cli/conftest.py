"""The command line as a user meets it: its own process, or `main()` in this one where no link is involved."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from paceline.cli import cloud
from paceline.cli.main import main
from paceline.cli.serving import READY_PREFIX, Serving
from paceline.edge.draft_model import resolve_draft_model

TIMEOUT_S = 240
STOP_TIMEOUT_S = 15


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    def complains(self, *words: str, code: int = 2) -> None:
        """It failed with one line that holds every word, nothing on stdout, and no traceback."""
        assert self.code == code, self.err
        assert self.out == ""
        assert self.err.startswith("error: "), self.err
        assert self.err.count("\n") == 1, self.err
        for word in words:
            assert word in self.err


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the developer's own; a plain terminal of 80 columns."""
    for name in os.environ:
        if name.startswith("PACELINE_") and name != "PACELINE_MODELS":
            monkeypatch.delenv(name)
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def command(*arguments: object) -> list[str]:
    """The command line of a `paceline` process."""
    return [sys.executable, "-m", "paceline.cli.main", *map(str, arguments)]


@pytest.fixture
def unused_ports() -> Callable[[int], list[int]]:
    """Ports of loopback that were free a moment ago."""

    def find(count: int) -> list[int]:
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
            return [one.getsockname()[1] for one in sockets]

    return find


@pytest.fixture
def paceline(clean_environment: None) -> Callable[..., Outcome]:
    """Run a command in a process of its own."""

    def run(*arguments: object, stdin: str = "") -> Outcome:
        done = subprocess.run(
            command(*arguments), input=stdin.encode(), capture_output=True, timeout=TIMEOUT_S, check=False
        )
        return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


@pytest.fixture
def start(clean_environment: None) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start a command and talk to it; at the end it is asked to stop, for it may have processes of its own."""
    started = []

    def run(*arguments: object) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            command(*arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None and not stream.closed:
                stream.close()


@pytest.fixture
def inline(
    clean_environment: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Run a command in this process: for what ends before a verifier is asked."""

    def run(*arguments: object, stdin: str = "") -> Outcome:
        monkeypatch.setattr(sys, "argv", ["paceline", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capfd.readouterr()
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def pico(models: Path) -> Path:
    """The shipped draft model, exported."""
    return resolve_draft_model(models / "pico").onnx_dir


@pytest.fixture(scope="session")
def stranger(pico: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A draft model that works, but means other tokens by two of its ids."""
    folder = tmp_path_factory.mktemp("stranger") / "model"
    shutil.copytree(pico, folder)
    source = pico if (pico / "tokenizer.json").is_file() else pico.parent
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    one, other = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return folder


@pytest.fixture
def serve(
    models: Path, start: Callable[..., "subprocess.Popen[str]"]
) -> Callable[..., "contextmanager[tuple[subprocess.Popen[str], str]]"]:
    """A verifier of the test's own, to be ended by it; gives the process and its address."""

    @contextmanager
    def run(*options: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
        process = start("cloud", "serve", "--model", models / "base", "--listen", "127.0.0.1:0", *options)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith(READY_PREFIX), process.stderr and process.stderr.read()
        try:
            yield process, line.removeprefix(READY_PREFIX).strip()
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)

    return run


@pytest.fixture
def asked(inline: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Serving]:
    """What a command line comes to, without loading or serving anything."""
    taken: list[Serving] = []
    monkeypatch.setattr(cloud, "load", lambda serving, console: taken.append(serving))
    monkeypatch.setattr(cloud, "run", lambda serving, verifier: None)

    def run(*arguments: object) -> Serving:
        outcome = inline("cloud", *arguments)
        assert outcome.code == 0, outcome.err
        return taken.pop()

    return run
