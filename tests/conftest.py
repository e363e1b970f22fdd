"""What several folders share: starting a verifier with a real model takes longer than most tests."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paceline.common.shipped import models_dir


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests that may last longest come first: nothing long begins where others have ended."""

    def most_s(item: pytest.Item) -> float:
        own = item.get_closest_marker("timeout")
        return float(own.args[0]) if own and item.get_closest_marker("slow") else 0.0

    items.sort(key=most_s, reverse=True)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What tests put on record: whole numbers are added up over the cases of a test, all else is shown as it is."""
    totals: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    told = []
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties if report.when == "call" else ():
            if isinstance(value, int):
                totals[report.nodeid.partition("[")[0]][name] += value
            else:
                told.append(f"{report.nodeid}: {name}: {value}")
    if totals or told:
        terminalreporter.section("on record")
    for test, sums in sorted(totals.items()):
        terminalreporter.line(f"{test}: " + ", ".join(f"{count:,} {name}" for name, count in sums.items()))
    for line in told:
        terminalreporter.line(line)


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
