"""A verifier in this environment, and a device's environment made from the wheel."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from paceline.edge.draft_model import resolve_draft_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def draft_model(models: Path) -> Path:
    """The shipped draft model, exported; a device cannot export."""
    found = resolve_draft_model(models / "pico").onnx_dir
    return found.parent if found.parent == models / "pico" else found


@pytest.fixture(scope="session")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin` of an environment that holds `paceline[edge]` from the wheel, and nothing else."""
    folder = tmp_path_factory.mktemp("device")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    done = subprocess.run(build, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("paceline-*.whl")
    venv.create(folder / "env", with_pip=True)
    scripts = folder / "env" / "bin"
    install = [scripts / "python", "-m", "pip", "install", "--quiet", "--retries", "1"]
    install += ["-c", ROOT / "constraints.txt", f"{wheel}[edge]"]
    done = subprocess.run(install, capture_output=True, text=True, timeout=280, check=False)
    if done.returncode != 0 and "Retrying" in done.stderr + done.stdout:
        pytest.skip("no package index can be reached from here")
    assert done.returncode == 0, done.stderr
    return scripts


@pytest.fixture(scope="session")
def device_environment() -> dict[str, str]:
    """Environment variables of a device: none of Paceline's, no way back to this source tree."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PACELINE_") and k not in hidden}
    return {**kept, "OMP_NUM_THREADS": "1"}
