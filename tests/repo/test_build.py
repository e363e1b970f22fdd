"""Makefile, constraints and wheel: what a newcomer's first two commands rest on."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

TARGETS = ("demo", "test", "test-slow", "check", "fmt", "proto", "bench", "audit", "clean")


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((root / "pyproject.toml").read_text())


def requirements(project: dict[str, Any]) -> set[str]:
    """Names of every distribution that pyproject.toml asks for, normalised; Paceline's own extras left out."""
    groups = project["project"]["optional-dependencies"].values()
    lines = [*project["project"]["dependencies"], *(line for group in groups for line in group)]
    names = {re.match(r"[A-Za-z0-9._-]+", line)[0] for line in lines}
    return {normal(name) for name in names} - {"paceline"}


def normal(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def pins(root: Path) -> dict[str, str]:
    """Distribution to version, from constraints.txt."""
    lines = (line.partition("#")[0].strip() for line in (root / "constraints.txt").read_text().splitlines())
    pairs = (line.split("==") for line in lines if line)
    return {normal(name): version for name, version in pairs}


def test_the_makefile_has_its_targets(root: Path) -> None:
    """The documented targets are there, and each one is phony."""
    text = (root / "Makefile").read_text()
    phony = re.search(r"^\.PHONY:(.*)$", text, re.MULTILINE)

    assert phony
    for target in TARGETS:
        assert re.search(rf"^{target}:", text, re.MULTILINE), target
        assert target in phony[1].split()


def test_the_makefile_can_be_read(root: Path) -> None:
    """`make -n` understands the Makefile and names pytest for `test`."""
    done = subprocess.run(
        ["make", "-n", "test"], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "-m pytest" in done.stdout


def test_an_old_python_is_refused_with_a_cure(root: Path, tmp_path: Path) -> None:
    """A Python before 3.11 gives one line that says what to do."""
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((root / name).read_bytes())

    done = subprocess.run(
        ["make", f"PYTHON={old}", "test"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode != 0
    assert "not Python 3.11 or newer; say where one is: make PYTHON=" in done.stdout


def test_ci_runs_the_tests_and_the_checks(root: Path) -> None:
    """.ci/run is executable and stops at the first failure."""
    script = root / ".ci" / "run"

    assert script.stat().st_mode & 0o111
    assert re.findall(r"^make (\w+)$", script.read_text(), re.MULTILINE) == ["test", "check"]
    assert "set -euo pipefail" in script.read_text()


def test_constraints_cover_every_requirement(project: dict[str, Any], pins: dict[str, str]) -> None:
    """Every package that pyproject.toml names is pinned."""
    assert requirements(project) - set(pins) == set()


def test_constraints_name_no_source(root: Path) -> None:
    """constraints.txt pins versions, not places."""
    lines = (root / "constraints.txt").read_text().splitlines()

    assert all(re.fullmatch(r"(#.*|[A-Za-z0-9._-]+==[0-9A-Za-z.]+)?", line) for line in lines)


def test_the_edge_needs_no_torch(project: dict[str, Any]) -> None:
    """Neither the base requirements nor the extra `edge`, with the one it includes, name torch or transformers."""
    extras = project["project"]["optional-dependencies"]
    edge = [line for line in extras["edge"] if line != "paceline[serve]"]
    lines = [*project["project"]["dependencies"], *edge, *extras["serve"]]

    assert not any(line.startswith(("torch", "transformers", "paceline[")) for line in lines)


def test_generated_code_is_older_than_its_runtime(pins: dict[str, str]) -> None:
    """Generated stubs refuse a grpcio older than their generator, so both have one version."""
    assert pins["grpcio"] == pins["grpcio-tools"]


@pytest.mark.slow
def test_the_wheel_holds_every_package(root: Path, tmp_path: Path) -> None:
    """The wheel has every module of every folder, the type marker, and nothing else at the top."""
    backend = f"import hatchling.build; print(hatchling.build.build_wheel({str(tmp_path)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", backend], cwd=root, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    names = set(zipfile.ZipFile(tmp_path / done.stdout.split()[-1]).namelist())

    for folder in ("common", "edge", "cloud", "training", "benchmarks", "cli"):
        for path in (root / folder / "paceline").rglob("*.py"):
            assert path.relative_to(root / folder).as_posix() in names
        assert f"paceline/{folder}/py.typed" in names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"paceline"}
    assert "paceline/__init__.py" not in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
