"""A newcomer's path: every command of every tutorial, in order, as it stands there."""

import doctest
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

TUTORIALS = ("device", "server", "chain")
_BLOCK = re.compile(r'^```(\w+)(?: title="([^"]*)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_FAILS = re.compile(r"fails, with exit code (\d+)")
_PORT = re.compile(r"(?<=[:\s])([4-9]\d{3})(?=[\s/]|$)", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    title: str
    text: str


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    for language, title, text in _BLOCK.findall(page):
        yield Block(language, title, text)


def with_free_ports(page: str) -> str:
    """The page with every port it names replaced by one that is free: somebody may be using those."""
    free: dict[str, str] = {}
    for port in dict.fromkeys(_PORT.findall(page)):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            free[port] = str(taken.getsockname()[1])
    return _PORT.sub(lambda match: free[match[1]], page)


class Newcomer:
    """Types what a tutorial says, in an empty folder beside the models."""

    def __init__(self, folder: Path, root: Path) -> None:
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []
        for name in ("models", "deploy"):
            (folder / name).symlink_to(root / name)
        (folder / ".venv").symlink_to(Path(sys.prefix))

    def follow(self, page: str) -> None:
        """Do what the page says; the outcome of a command is compared with the `text` block after it."""
        said = ""
        for block in blocks(with_free_ports(page)):
            if block.language == "sh" and "keeps running" in block.title:
                self._start(block.text)
            elif block.language == "sh":
                said = self._run(block)
            elif block.language == "text":
                self._compare(block.text, said)
            elif block.title.endswith((".yaml", ".py")):
                (self._folder / block.title).write_text(block.text)

    def leave(self) -> None:
        """Close the terminals."""
        for process in self._running:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _run(self, block: Block) -> str:
        done = subprocess.run(
            ["bash", "-c", "set -eo pipefail\n" + self._activated(block.text)],
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        wanted = _FAILS.search(block.title)
        assert done.returncode == (int(wanted[1]) if wanted else 0), f"{block.text}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout + (done.stderr if wanted else "")

    def _start(self, command: str) -> None:
        """Another terminal; go on once it listens."""
        log = self._folder / f"terminal-{len(self._running)}.log"
        with log.open("w") as out:
            process = subprocess.Popen(
                ["bash", "-c", self._activated(command)],
                cwd=self._folder,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running.append(process)
        deadline = time.monotonic() + 60
        while "ready on" not in log.read_text():
            assert process.poll() is None, f"{command} ended: {log.read_text()}"
            assert time.monotonic() < deadline, f"{command} does not listen: {log.read_text()}"
            time.sleep(0.1)

    def _activated(self, command: str) -> str:
        return f'export PATH="$PWD/.venv/bin:$PATH"\n{command}'

    def _compare(self, wanted: str, said: str) -> None:
        tidy = "\n".join(line.rstrip() for line in said.splitlines()) + "\n"
        assert doctest.OutputChecker().check_output(
            wanted, tidy, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        ), f"the page says\n{wanted}\nit was\n{said}"


@pytest.fixture
def newcomer(tmp_path: Path, root: Path) -> Iterator[Newcomer]:
    """Somebody with a clone and a set-up environment."""
    one = Newcomer(tmp_path, root)
    yield one
    one.leave()


@pytest.mark.slow
@pytest.mark.parametrize("name", TUTORIALS)
def test_a_tutorial_works_command_by_command(newcomer: Newcomer, root: Path, name: str) -> None:
    """Exit codes and output are what the page says they are."""
    newcomer.follow((root / "docs" / "tutorials" / f"{name}.md").read_text())


def test_a_tutorial_that_promises_too_much_is_noticed(newcomer: Newcomer) -> None:
    """The harness can fail: on an exit code, and on what is printed."""
    newcomer.follow("```sh\necho one two\n```\n\n```text\none ...\n```\n")
    with pytest.raises(AssertionError, match="the page says"):
        newcomer.follow("```sh\necho one two\n```\n\n```text\nthree\n```\n")
    with pytest.raises(AssertionError):
        newcomer.follow("```sh\nfalse\n```\n")
    with pytest.raises(AssertionError):
        newcomer.follow('```sh title="fails, with exit code 2"\ntrue\n```\n')
