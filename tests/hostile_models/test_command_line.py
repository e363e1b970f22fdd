"""What a user sees of a hostile or other model: one line, an exit code, no traceback, and nothing loaded."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.hostile_models.corpus import CORPUS

from paceline.common.model_files import model_digest

OTHER = "sha256:" + "0" * 64
COMMANDS: dict[str, tuple[str, ...]] = {
    "cloud serve": ("cloud", "serve", "--listen", "127.0.0.1:0", "--model"),
    "cloud relay": ("cloud", "relay", "--upstream", "127.0.0.1:9", "--listen", "127.0.0.1:0", "--model"),
    "edge generate, torch": (
        *("edge", "generate", "--drafter", "torch", "--mode", "local", "--prompt", "a"),
        "--draft-model",
    ),
    "edge generate, onnx": ("edge", "generate", "--mode", "local", "--prompt", "a", "--draft-model"),
    "edge chat": ("edge", "chat", "--mode", "local", "--draft-model"),
    "models export": ("models", "export", "--output", "out", "--model"),
}
SOME = (
    "pickle .bin",
    "old tar .bin",
    "config auto_map",
    "tokenizer auto_map",
    "index with ..",
    "linked weights",
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports and the user's cache go to the test's own folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", SOME)
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_hostile_models_are_one_line_and_exit_code_2(
    paceline, folder, sentinel, loaders, command, kind
) -> None:
    """Every command that loads models refuses them alike."""
    spoil, named = CORPUS[kind]
    spoil(folder, sentinel)

    code, out, err = paceline(*command, folder)

    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("error: model: ")
    assert named in err
    assert loaders == []
    assert not sentinel.exists()


@pytest.mark.parametrize("command", list(COMMANDS)[:5])
def test_another_model_than_the_pinned_one(paceline, folder, loaders, command) -> None:
    """A pin on the command line is compared before anything is loaded."""
    option = "--model-digest" if command.startswith("cloud") else "--draft-model-digest"

    code, out, err = paceline(*COMMANDS[command], folder, option, OTHER)

    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("error: digest: ")
    assert model_digest(folder) in err
    assert loaders == []


def test_the_model_of_a_verifiers_own_drafter_is_pinned_too(paceline, folder, monkeypatch) -> None:
    """`--fill-draft-model-digest` guards what writes ahead on the verifier's side."""
    fill = ("--fill-drafter", "torch", "--fill-draft-model", folder, "--fill-draft-model-digest", OTHER)

    code, _, err = paceline(*COMMANDS["cloud serve"], folder, "--kv-cache-tokens", 256, *fill)

    assert code == 2
    assert "error: digest: " in err


CHAIN = """\
version: 1
hops:
  - {{name: device, drafter: {{kind: torch, model: {folder}, digest: "{draft}"}}}}
  - {{name: cloud, listen: 127.0.0.1:7443, target: {{model: {folder}, digest: "{target}"}}}}
"""


@pytest.mark.parametrize(
    "command",
    [("cloud", "serve", "--listen", "127.0.0.1:0"), ("edge", "generate", "--mode", "local", "--prompt", "a")],
)
def test_a_file_pins_its_models(paceline, folder, loaders, command) -> None:
    """`digest` beside `model` holds for whoever takes the file; an option beside the file wins over it."""
    file = folder.parent / "chain.yaml"
    file.write_text(CHAIN.format(folder=folder, draft=OTHER, target=OTHER))

    code, _, err = paceline(*command, "--topology", file)
    assert (code, err.startswith("error: digest: "), loaders) == (2, True, [])

    good = model_digest(folder)
    file.write_text(CHAIN.format(folder=folder, draft=good, target=good))
    option = "--model-digest" if command[0] == "cloud" else "--draft-model-digest"
    code, _, err = paceline(*command, "--topology", file, option, OTHER)
    assert (code, err.startswith("error: digest: "), loaders) == (2, True, [])


def test_the_digest_is_printed(paceline: Callable[..., tuple[int, str, str]], folder: Path) -> None:
    """`paceline models digest` prints it and nothing else; what leads out of the folder has none."""
    assert paceline("models", "digest", "--model", folder) == (0, model_digest(folder) + "\n", "")

    (folder / "out").symlink_to("/etc/hostname")
    code, out, err = paceline("models", "digest", "--model", folder)
    assert (code, out) == (2, "")
    assert "out is a link" in err


def test_a_process_of_its_own_says_the_same(exported: Path) -> None:
    """Not only in this process: the installed command, with an export whose weights are a hard link."""
    (exported.parent / "second").hardlink_to(exported / "model.onnx.data")
    command = [sys.executable, "-m", "paceline.cli.main", *COMMANDS["edge generate, onnx"], str(exported)]

    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: model: ")
    assert "hard link" in done.stderr
    assert "Traceback" not in done.stderr
