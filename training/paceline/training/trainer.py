"""Plain training: next-token loss on the corpus."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from paceline.training.architecture import ModelShape, build_model
from paceline.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from paceline.training.corpus import CorpusConfig, build_corpus
from paceline.training.errors import TrainingError
from paceline.training.optimiser import Optimiser
from paceline.training.packing import WindowSampler, evaluation_windows
from paceline.training.schedule import Schedule
from paceline.training.storage import save_model
from paceline.training.tokenizer import encode_modules, load_tokenizer, save_tokenizer

Model = torch.nn.Module


@dataclass(frozen=True)
class TrainConfig:
    """One plain training run."""

    output: Path
    """Folder the finished model is written to."""
    tokenizer: Path
    """Folder that holds ``tokenizer.json``."""
    work: Path
    """Folder for the checkpoint."""
    shape: ModelShape
    corpus: CorpusConfig
    steps: int
    batch_tokens: int = 4096
    """Tokens predicted per step."""
    window: int = 512
    """Tokens per window for most of the run."""
    long_window: int = 2048
    """Tokens per window at the end of the run."""
    learning_rate: float = 3e-3
    """Peak rate of AdamW (embeddings, norms)."""
    matrix_learning_rate: float = 0.02
    """Peak rate of Muon (hidden matrices); 0 uses AdamW for them too."""
    warmup_steps: int = 60
    decay_fraction: float = 0.3
    long_fraction: float = 0.12
    max_gradient_norm: float = 1.0
    seed: int = 0
    minutes: float | None = None
    """Wall-time budget; the decay is moved so that the run ends in time. ``None`` trusts ``steps``."""
    evaluate_every: int = 100
    """Steps between held-out measurements and checkpoints."""
    compile: bool = False
    """Compile the model first; pays after some minutes where a C++ compiler is installed."""
    stop_after: int | None = None
    """Stop (checkpointed, nothing written) after this step; for tests and for splitting a run."""

    @property
    def schedule(self) -> Schedule:
        """The learning-rate schedule."""
        return Schedule(self.steps, self.warmup_steps, self.decay_fraction, self.long_fraction)

    def run_key(self, stream: npt.NDArray[np.uint16]) -> str:
        """Names what a checkpoint must agree on; the number of steps may change (see ``schedule``)."""
        parts = (self.shape, self.batch_tokens, self.window, self.learning_rate, self.matrix_learning_rate, self.seed)
        digest = hashlib.sha256(stream.tobytes()).hexdigest()
        return hashlib.sha256(f"{parts}{digest}".encode()).hexdigest()


@dataclass(frozen=True)
class TrainReport:
    """What a run came to."""

    steps: int
    tokens: int
    elapsed_s: float
    heldout_loss: float
    """Nats per token."""


def train(config: TrainConfig, *, log: Callable[[str], None] = print) -> TrainReport:
    """Train one model, resuming from ``work/checkpoint.pt`` if it is there, and write it to ``output``."""
    tokenizer = load_tokenizer(config.tokenizer)
    corpus = build_corpus(config.corpus)
    stream = encode_modules(tokenizer, corpus.train)
    heldout = evaluation_windows(encode_modules(tokenizer, corpus.heldout), length=config.window, count=32)
    model = build_model(config.shape, seed=config.seed)
    optimiser = Optimiser(
        model, learning_rate=config.learning_rate, matrix_learning_rate=config.matrix_learning_rate
    )
    path = config.work / "checkpoint.pt"
    key = config.run_key(stream)
    progress = load_checkpoint(path, run_key=key, model=model, optimiser=optimiser)
    started = time.monotonic() - progress.elapsed_s
    forward: Callable[..., object] = torch.compile(model) if config.compile else model
    losses: list[float] = []
    while progress.step < config.steps:
        batch = _batch(config, stream, progress.step)
        losses.append(_step(forward, model, optimiser, batch, config, progress.step))
        progress = Progress(progress.step + 1, progress.tokens + batch.shape[0] * (batch.shape[1] - 1), time.monotonic() - started)
        if progress.step % 20 == 0:
            log(f"step {progress.step}/{config.steps} loss {np.mean(losses[-20:]):.4f} tokens {progress.tokens} {progress.tokens / progress.elapsed_s:.0f} tok/s {progress.elapsed_s:.0f} s")
        if progress.step % config.evaluate_every == 0 or progress.step == config.steps:
            log(f"step {progress.step} heldout {heldout_loss(model, heldout):.4f}")
            save_checkpoint(path, run_key=key, progress=progress, model=model, optimiser=optimiser)
        if config.stop_after is not None and progress.step >= config.stop_after:
            break
    save_model(model, config.output)
    save_tokenizer(tokenizer, config.output, max_length=config.shape.max_positions)
    return TrainReport(progress.step, progress.tokens, progress.elapsed_s, heldout_loss(model, heldout))


def _batch(config, stream, step):
    first_long = config.schedule.first_long_step()
    long = step >= first_long
    length = config.long_window if long else config.window
    sampler = WindowSampler(stream, length, max(1, config.batch_tokens // length), config.seed)
    return sampler.batch(step - first_long if long else step)


def _step(forward, model, optimiser, batch, config, step):
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = forward(input_ids=batch[:, :-1], use_cache=False).logits
    loss = functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_gradient_norm)
    optimiser.step(config.schedule.learning_rate_factor(step))
    return loss.item()


@torch.no_grad()
def heldout_loss(model: Model, windows: torch.Tensor) -> float:
    """Mean loss over windows of shape ``(windows, length + 1)``, in nats per token."""
    model.eval()
    total = 0.0
    for rows in windows.split(8):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=rows[:, :-1], use_cache=False).logits
        total += functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten()).item() * len(rows)
    return total / len(windows)
