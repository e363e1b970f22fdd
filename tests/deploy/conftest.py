"""What lies in deploy/, and the tools that check it. `pip install -e .[deploy]` brings those that pip can; a test whose
tool is not there skips and says which."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/paceline"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def root() -> Path:
    """Of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def deploy() -> Path:
    """What is deployed."""
    return ROOT / "deploy"


@pytest.fixture(scope="session")
def tool() -> Run:
    """Runs a validator, or skips where it is not installed."""

    def run(name: str, *arguments: object, **options: Any) -> "subprocess.CompletedProcess[str]":
        beside = Path(sys.executable).parent / name
        found = str(beside) if beside.exists() else shutil.which(name)
        if found is None:
            pytest.skip(f"{name} is not installed")
        return subprocess.run(
            [found, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False, **options
        )

    return run


@pytest.fixture(scope="session")
def render() -> Callable[..., list[dict[str, Any]]]:
    """The chart's objects for some values, by Helm's own engine."""
    helm = pytest.importorskip(
        "helm_python", reason="helm-python-sdk is not installed: pip install 'paceline[deploy]'"
    )

    def rendered(**values: Any) -> list[dict[str, Any]]:
        files = helm.Chart.load(CHART).render(values, name="try", namespace="here")
        return [one for text in files.values() for one in yaml.safe_load_all(text) if one]

    return rendered
