"""What several folders share: starting a verifier with a real model takes longer than most tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from paceline.common.shipped import models_dir


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def models() -> Path:
    """The folder of the shipped models."""
    return models_dir().resolve()


@pytest.fixture(scope="session")
def verifier(models: Path) -> Iterator[str]:
    """Address of a verifier process that serves the shipped target; started once, when a test asks for it."""
    from paceline.cli.verifier_process import verifier_process

    with verifier_process(models / "base") as process:
        yield process.address
