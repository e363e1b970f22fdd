"""`paceline models`: every option is documented, errors are ours, and a tiny family can really be made."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from paceline.cli.models import app
from paceline.common.errors import InvalidRequest

COMMANDS = ("train", "distill", "export", "card")
SHAPE = ("--hidden-size", 32, "--num-layers", 1, "--num-heads", 1, "--num-kv-heads", 1, "--mlp-size", 64)
RUN = ("--steps", 20, "--batch-tokens", 256, "--window", 32, "--long-window", 64, "--threads", 1)
TINY = (*SHAPE, *RUN, "--heldout-fraction", 0.25)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Two dozen small files."""
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(24):
        rows = (
            f"def area_{number}_{row}(width, height):\n    return width * height + {row}\n\n\n"
            for row in range(12)
        )
        (folder / f"module_{number}.py").write_text(f'"""Part {number}."""\n\n' + "".join(rows))
    return folder


def run(*arguments: object) -> str:
    """The output of a command that must succeed."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception:
        raise result.exception
    return result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_default_and_environment_variable_of_every_option(command: str) -> None:
    """Every option can be set by a PACELINE_ variable, and says what it is without it."""
    group = typer.main.get_command(app)
    options = [one for one in group.commands[command].params if one.name != "help"]  # type: ignore[attr-defined]  # a group

    assert options
    for option in options:
        assert str(option.envvar).startswith("PACELINE_"), option.name
        assert option.help, option.name
        assert option.required or option.show_default, option.name


def test_a_missing_folder_of_text_is_named(tmp_path: Path) -> None:
    """Text that is not there is an error of ours, with a cure."""
    with pytest.raises(InvalidRequest, match="existing folder") as caught:
        run(
            "train", "--output", tmp_path / "out", "--text", tmp_path / "nowhere", "--work", tmp_path / "work"
        )

    assert caught.value.exit_code == 2


def test_acceptance_without_prompts_is_refused(tmp_path: Path) -> None:
    """A card with a target needs prompts to measure on."""
    with pytest.raises(InvalidRequest, match="prompts: none are given"):
        run("card", "--model", tmp_path, "--target", tmp_path)


@pytest.mark.slow
def test_a_family_can_be_trained_distilled_described_and_exported(text: Path, tmp_path: Path) -> None:
    """A target is trained, a draft model distilled from it, its acceptance measured, and its export made."""
    base, pico, onnx = tmp_path / "base", tmp_path / "pico", tmp_path / "pico-onnx"
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "def area_1_3(width", "source": "module_1.py"}) + "\n")
    tokenizer = ("--vocab-size", 300, "--max-positions", 128)

    run("train", "--output", base, "--text", text, "--work", tmp_path / "a", *tokenizer, *TINY)
    windows = ("--windows", 16, "--long-windows", 16)
    common = ("--text", text, "--work", tmp_path / "b")
    run("distill", "--target", base, "--output", pico, *common, *windows, *TINY)
    measure = ("--text", text, "--heldout-fraction", 0.25, "--prompts", prompts)
    run("card", "--model", pico, "--target", base, *measure)
    run("export", "--model", pico, "--output", onnx, "--precision", "int8")

    assert "Acceptance under base" in (pico / "README.md").read_text()
    assert (base / "tokenizer.json").read_bytes() == (pico / "tokenizer.json").read_bytes()
    assert (onnx / "genai_config.json").is_file()
