"""The catalogue of malformed topologies through the program: one line, exit code 2, and no socket."""

import importlib.util
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "config"


def _load(name: str) -> ModuleType:
    """A module of the neighbouring folder of tests, which is no package."""
    spec = importlib.util.spec_from_file_location(f"topology_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


SOUND: str = _load("conftest").SOUND
CATALOGUE = _load("test_malformed")


@pytest.mark.parametrize("command", ["check", "plan", "graph", "up"])
def test_a_sound_file_is_no_error(inline: Any, tmp_path: Path, command: str) -> None:
    """What the cases break is whole: but for `up`, which would go on to serve, each command takes it."""
    file = tmp_path / "chain.yaml"
    file.write_text(SOUND if command != "up" else "version: 1\nhops: []\n")
    outcome = inline("topology", command, file)

    assert outcome.code == (2 if command == "up" else 0), outcome.err


@pytest.mark.parametrize("case", CATALOGUE.CASES, ids=lambda case: case.name)
def test_a_malformed_file_is_one_line_and_exit_2(
    inline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Any
) -> None:
    """File, line, key, fault and cure on stderr; nothing on stdout; nobody was connected to or listened for."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    for name, value in CATALOGUE.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "chain.yaml"
    file.write_text(SOUND.replace(case.old, case.new))
    monkeypatch.setattr(socket, "socket", refuse)
    outcome = inline("topology", "check", "chain.yaml")

    outcome.complains(f"chain.yaml:{case.line}: ", case.message, case.cure)
    assert outcome.err.rstrip().endswith(")"), "every line ends in a cure"


def test_the_catalogue_is_large() -> None:
    """At least forty files, no two of them alike."""
    texts = {SOUND.replace(case.old, case.new) for case in CATALOGUE.CASES}

    assert len(texts) == len(CATALOGUE.CASES) >= 40


@pytest.mark.parametrize("command", ["check", "plan", "graph", "up"])
def test_models_that_do_not_share_a_vocabulary_are_refused(
    inline: Any, tmp_path: Path, models: Path, stranger: Path, command: str
) -> None:
    """Before anything runs, by every command that takes a file."""
    file = tmp_path / "chain.yaml"
    file.write_text(
        f"version: 1\nhops:\n  - {{name: a, drafter: {{kind: onnx, model: {stranger}}}}}\n"
        f"  - {{name: b, listen: '127.0.0.1:1', target: {{model: {models / 'base'}}}}}\n"
    )
    inline("topology", command, file).complains(f"{file}:3: hops[0].drafter.model", "share one tokenizer")
