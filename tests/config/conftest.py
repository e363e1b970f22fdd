"""A sound topology that each test breaks in one place."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

SOUND = """\
version: 1
sampling: {temperature: 0.7, top_p: 0.95, seed: 7}
rule: coupled
max_new_tokens: 64
hops:
  - name: phone
    upstream: metro
    drafter: {kind: onnx, model: models/pico, num_speculative_tokens: 8}
  - name: metro
    listen: 0.0.0.0:7444
    optional: true
    target: {kind: transformers, model: models/mid}
    insecure: true
  - name: cloud
    listen: 0.0.0.0:7443
    target: {kind: transformers, model: models/base, max_draft_tokens: 32}
    insecure: true
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files name models relative to the current folder; here there are none, wherever the tests run."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def sound() -> str:
    """A valid three-hop chain."""
    return SOUND


@pytest.fixture
def write_tokenizer() -> Callable[[Path, Sequence[str]], Path]:
    """Makes a folder with a word-level tokenizer and a configuration."""

    def write(folder: Path, words: Sequence[str]) -> Path:
        folder.mkdir()
        Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token=words[0])).save(
            str(folder / "tokenizer.json")
        )
        (folder / "config.json").write_text("{}")
        return folder

    return write
