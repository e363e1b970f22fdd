"""A child process that answers one JSON object per line: contestants and echoes that must not share our memory,
interpreter lock or threads."""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from paceline.common.errors import Unreachable

STOP_TIMEOUT_S = 10.0
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class LineProcess:
    """`python -m module arguments`, which reads requests from its standard input and answers each with a line.

    Its first line says that it is ready. It ends when its input does.

    Args:
        module: what to run.
        arguments: its command line.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self.module = module
        self._log: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by `close`
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, **ONE_THREAD},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._process.pid

    def answer(self) -> Any:
        """The next line; the first one says that the child is ready.

        Raises:
            Unreachable: the child died, or said something else.
        """
        assert self._process.stdout is not None, "it was asked for"
        line = self._process.stdout.readline()
        try:
            return json.loads(line)
        except ValueError:
            self._log.seek(0)
            said = [text.strip() for text in self._log if text.strip()]
            raise Unreachable(
                f"{self.module} failed: {said[-1] if said else line or 'it said nothing'}", field="benchmark"
            ) from None

    def ask(self, request: Any) -> Any:
        """Send one request, wait for its answer."""
        assert self._process.stdin is not None, "it was asked for"
        with suppress(BrokenPipeError):  # why is said by what it printed
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        """End it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def say(value: Any) -> None:
    """The child's side: answer with one line."""
    print(json.dumps(value), flush=True)


def peak_memory_bytes(pid: int) -> int | None:
    """Largest resident size a live process has had; None where the kernel does not tell."""
    return _told(pid, "VmHWM:")


def memory_bytes(pid: int) -> int | None:
    """Resident size of a live process; None where the kernel does not tell."""
    return _told(pid, "VmRSS:")


def _told(pid: int, name: str) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    kibibytes = [line.split()[1] for line in lines if line.startswith(name)]
    return 1024 * int(kibibytes[0]) if kibibytes else None
