"""Every example runs as its first lines say, and prints what it promises."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

SAYS = {
    "01_one_process.py": ("drafted tokens accepted", "same text as the target alone: True"),
    "02_two_processes.py": ("def read_lines(path):", "48 tokens in", "passes of the target"),
    "04_from_names.py": ("the same either way: True", "sampled:"),
    "05_openai_client.py": ("48 tokens; of", "stand"),
    "03_my_drafter.py": ("keeps every promise", "same text as the target alone: True"),
}


def test_every_example_is_run_here() -> None:
    """None is forgotten."""
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs(name) -> None:
    """It ends well and says so."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    for words in SAYS[name]:
        assert words in done.stdout
