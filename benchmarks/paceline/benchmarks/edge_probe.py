"""The edge as a user starts it: `paceline edge generate` in a process of its own, timed from outside."""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from paceline.benchmarks.line_process import peak_memory_bytes
from paceline.common.errors import Unreachable

_POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class EdgeRun:
    """One run of the command."""

    first_token_s: float
    """From starting the process to the first byte of text."""
    total_s: float
    peak_memory_bytes: int | None
    loads_torch: bool


def run_edge(verifier: str, options: list[str], prompt: str, max_new_tokens: int) -> EdgeRun:
    """Generate one text with a fresh edge process.

    Args:
        verifier: `HOST:PORT`.
        options: that choose drafter and models.
        prompt: the text.
        max_new_tokens: how many tokens.
    Raises:
        Unreachable: the process failed; the message carries its last line.
    """
    command = [
        sys.executable,
        "-m",
        "paceline.cli.main",
        "edge",
        "generate",
        "--verifier",
        verifier,
        *options,
    ]
    command += ["--prompt", prompt, "--max-new-tokens", str(max_new_tokens), "--ignore-eos"]
    began_s = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None, "it was asked for"
        assert process.stderr is not None, "it was asked for"
        first = process.stdout.read(1)
        first_token_s = time.perf_counter() - began_s
        peak, loads_torch = 0, False
        while process.poll() is None:
            peak = max(peak, peak_memory_bytes(process.pid) or 0)
            loads_torch = loads_torch or _maps_torch(process.pid)
            time.sleep(_POLL_S)
        if not first or process.returncode:
            said = process.stderr.read().decode(errors="replace").strip().splitlines()
            raise Unreachable(
                f"`paceline edge generate` failed: {said[-1] if said else ''}", field="benchmark"
            )
    return EdgeRun(first_token_s, time.perf_counter() - began_s, peak or None, loads_torch)


def _maps_torch(pid: int) -> bool:
    """Whether a process has torch's library in its memory."""
    try:
        return "libtorch" in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
