"""Sound model folders to spoil, a sentinel that no loader may make, and a record of every loader that was called."""

import io
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from paceline.cli.main import main


class Payload:
    """Unpickled, makes a folder: what an attacker would run in its place needs no more."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.sentinel),)


def pickled(sentinel: Path) -> bytes:
    """A checkpoint as `torch.save` makes it, with a payload among its tensors."""
    file = io.BytesIO()
    torch.save({"weight": torch.zeros(1), "payload": Payload(sentinel)}, file)
    return file.getvalue()


def tarred(sentinel: Path) -> bytes:
    """A checkpoint in the format of before 2018, whose first member torch once unpickled even with `weights_only`."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(Payload(sentinel))
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture
def sentinel(tmp_path: Path) -> Path:
    """Exists once hostile code has run."""
    return tmp_path / "sentinel"


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Hugging Face folder that loads."""
    path = tmp_path_factory.mktemp("sound") / "tiny"
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    words = Tokenizer(models.WordLevel({"<s>": 0, "a": 1, "b": 2, "</s>": 3}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>").save_pretrained(path)
    return path


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(sound, tmp_path / "models" / "tiny"))


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A copy of the shipped ONNX drafter to spoil."""
    pico = Path(__file__).resolve().parents[2] / "models" / "pico" / "onnx"
    return Path(shutil.copytree(pico, tmp_path / "models" / "onnx"))


@pytest.fixture
def loaders(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the loaders of weights that were called; each still does its work."""
    import onnxruntime

    called: list[str] = []

    def watch(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            called.append(name)
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, watched)

    watch(transformers.AutoModelForCausalLM, "from_pretrained")
    watch(transformers.LlamaForCausalLM, "from_pretrained")
    watch(torch, "load")
    watch(onnxruntime, "InferenceSession")
    watch(subprocess, "run")
    return called


@pytest.fixture
def paceline(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Exit code, output and complaint of a command, run in this process."""
    for name in os.environ:
        if name.startswith("PACELINE_"):
            monkeypatch.delenv(name)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["paceline", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capfd.readouterr()

    return run
