"""A miniature world: two dozen generated files, a tokenizer of 300 entries, models of a few thousand weights."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from paceline.training import (
    CorpusConfig,
    ModelShape,
    RunSettings,
    TrainConfig,
    save_tokenizer,
    train_tokenizer,
)
from paceline.training.corpus import build_corpus


@dataclass(frozen=True)
class World:
    """Folders and settings that the tests share."""

    folder: Path
    corpus: CorpusConfig
    tokenizer: Path

    def train_config(self, name: str, **settings: object) -> TrainConfig:
        """A training run of a tiny model, all of whose files carry ``name``."""
        defaults: dict[str, object] = {
            "steps": 20,
            "window": 32,
            "long_window": 64,
            "batch_tokens": 256,
            "warmup_steps": 2,
            "evaluate_every": 5,
        }
        return TrainConfig(
            output=self.folder / name,
            tokenizer=self.tokenizer,
            work=self.folder / f"{name}-work",
            shape=ModelShape(32, 1, 1, 1, 64, vocab_size=300, max_positions=128),
            run=RunSettings(**{**defaults, **settings}),  # type: ignore[arg-type]  # Settings of many types.
            corpus=self.corpus,
        )


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny models are slower, and not repeatable, on many threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Text of 24 small modules and a tokenizer trained on those not held out."""
    folder = tmp_path_factory.mktemp("world")
    text = folder / "text"
    text.mkdir()
    for number in range(24):
        body = "".join(
            f"def area_{number}_{row}(width, height):\n    return width * height + {row}\n\n\n"
            for row in range(12)
        )
        (text / f"module_{number}.py").write_text(f'"""Shapes, part {number}."""\n\n{body}')
    corpus = CorpusConfig(folder=text, heldout_fraction=0.25)
    tokenizer = folder / "tokenizer"
    save_tokenizer(train_tokenizer(build_corpus(corpus).train, vocab_size=300), tokenizer, max_length=128)
    return World(folder, corpus, tokenizer)
