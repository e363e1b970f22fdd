"""What a figure was measured on, and whether the machine was quiet."""

import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

BUSY_LOAD_PER_CORE = 0.5
_PACKAGES = (
    "paceline",
    "torch",
    "transformers",
    "scikit-learn",
    "onnxruntime",
    "grpcio",
    "protobuf",
    "numpy",
)
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and when a benchmark ran."""

    date: str
    """UTC, ISO 8601."""
    cpu: str
    cores: int
    load_average: float
    """Of the minute before the run."""
    platform: str
    python: str
    commit: str | None
    """Of the source tree, with `+` if it had changes; None outside a clone."""
    versions: dict[str, str]
    """Installed packages only."""

    @property
    def warning(self) -> str | None:
        """Why the figures may not be trusted; None on a quiet machine."""
        if self.load_average <= BUSY_LOAD_PER_CORE * self.cores:
            return None
        return (
            f"the machine was busy before this run (load average {self.load_average:.2f} on {self.cores} cores): "
            "the figures are worth little"
        )


def machine() -> Machine:
    """Describe this machine now."""
    return Machine(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        platform=platform.platform(),
        python=platform.python_version(),
        commit=_commit(),
        versions={name: found for name in _PACKAGES if (found := _version(name))},
    )


def _cpu() -> str:
    """The processor's name as the kernel has it, with family and model where the name says too little."""
    if not _CPUINFO.is_file():
        return platform.processor() or platform.machine()
    facts: dict[str, str] = {}
    for line in _CPUINFO.read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    name = facts.get("model name", platform.machine())
    numbers = [f"{key} {facts[key]}" for key in ("cpu family", "model") if key in facts]
    return f"{name} ({', '.join(numbers)})" if numbers else name


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--abbrev=9"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
