"""What runs is pinned, fits together, and is not known to be vulnerable."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

EXTRAS = frozenset({"edge", "cloud", "certs", "export"})


def normal(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(name: str, extras: Iterable[str]) -> dict[str, str]:
    """Every installed distribution that `name[extras]` needs, with its version."""
    seen: dict[str, frozenset[str]] = {}
    waiting = [(name, frozenset(extras))]
    while waiting:
        name, extras = waiting.pop()
        if name in seen and extras <= seen[name]:
            continue
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue
        seen[name] = seen.get(name, frozenset()) | extras
        for needed in map(Requirement, lines):
            if not needed.marker or any(needed.marker.evaluate({"extra": one}) for one in {"", *extras}):
                waiting.append((normal(needed.name), frozenset(needed.extras)))
    return {name: version(name) for name in seen}


def pins(text: str) -> dict[str, str]:
    """Distribution to version, from a constraints file."""
    pairs = (line.partition("#")[0].strip().split("==") for line in text.splitlines() if "==" in line)
    return {normal(name): pinned for name, pinned in pairs}


def test_everything_that_runs_is_pinned(root: Path) -> None:
    """Every installed distribution that Paceline's extras need, however far down, is in constraints.txt."""
    needed = closure("paceline", EXTRAS)
    pinned = pins((root / "constraints.txt").read_text())

    assert {"torch", "onnxruntime", "grpcio", "jinja2", "typing-extensions"} <= set(needed)
    assert set(needed) - set(pinned) - {"paceline"} == set()


@pytest.mark.slow
def test_what_is_installed_fits_together() -> None:
    """`pip check` finds no conflict."""
    command = [sys.executable, "-m", "pip", "check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stdout


def known(report: dict[str, Any]) -> tuple[dict[str, list[str]], int]:
    """Vulnerabilities by distribution, and how many distributions were looked up at all."""
    audited = [one for one in report["dependencies"] if "skip_reason" not in one]
    found = {one["name"]: [each["id"] for each in one["vulns"]] for one in audited if one["vulns"]}
    return found, len(audited)


def test_the_report_is_read_right() -> None:
    """A distribution that could not be looked up is not one without vulnerabilities."""
    bad = {"name": "torch", "version": "2.5.0", "vulns": [{"id": "PYSEC-1", "fix_versions": []}]}
    good = {"name": "rich", "version": "15.0.0", "vulns": []}
    absent = {"name": "onnx", "skip_reason": "not found"}

    assert known({"dependencies": [bad, good, absent]}) == ({"torch": ["PYSEC-1"]}, 2)
    assert known({"dependencies": [absent]}) == ({}, 0)


@pytest.mark.slow
def test_no_pinned_version_is_known_to_be_vulnerable(root: Path) -> None:
    """pip-audit knows nothing against constraints.txt; needs its service, and `make audit` once to install it."""
    tool = next((one for one in (root / ".venv/audit/bin/pip-audit", shutil.which("pip-audit")) if one), None)
    if tool is None or not Path(tool).exists():
        pytest.skip("pip-audit is not installed: `make audit` installs it")
    command = [
        str(tool),
        "--no-deps",
        "--disable-pip",
        "--format",
        "json",
        "--requirement",
        "constraints.txt",
    ]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=240, check=False)
    if not done.stdout.startswith("{"):
        pytest.skip(f"the service did not answer: {done.stderr.strip().splitlines()[-1:]}")
    found, num_audited = known(json.loads(done.stdout))
    if num_audited == 0:
        pytest.skip("this package index serves no vulnerability data")

    assert found == {}
    assert num_audited == len(pins((root / "constraints.txt").read_text()))
