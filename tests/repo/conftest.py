"""The repository as data: its tracked files, its packages' modules."""

import subprocess
from pathlib import Path

import pytest

PACKAGES = ("common", "edge", "cloud", "training", "benchmarks", "cli")


@pytest.fixture(scope="session")
def tracked(root: Path) -> list[Path]:
    """Files under version control; every file where there is no git (a source archive)."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        names = (root / name for name in done.stdout.split("\0") if name)
        return [path for path in names if path.is_file()]
    skipped = {".venv", ".git", "__pycache__", "build", "dist"}
    return [
        path for path in root.rglob("*") if path.is_file() and not skipped & set(path.relative_to(root).parts)
    ]


@pytest.fixture(scope="session")
def modules(root: Path) -> list[Path]:
    """Our Python modules, without generated code."""
    found = (path for package in PACKAGES for path in (root / package / "paceline").rglob("*.py"))
    return sorted(path for path in found if "v1" not in path.parts)
