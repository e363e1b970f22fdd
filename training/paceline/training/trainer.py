"""Plain training: next-token loss on the corpus."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import LlamaForCausalLM

from paceline.training.architecture import ModelShape, build_model
from paceline.training.corpus import CorpusConfig, build_corpus
from paceline.training.loop import RunSettings, run_steps
from paceline.training.packing import TokenStream, WindowSampler, evaluation_windows, in_groups
from paceline.training.reporting import Reporter
from paceline.training.storage import RunFacts, save_model
from paceline.training.tokenizer import encode_modules, load_tokenizer, save_tokenizer

EVALUATION_WINDOWS = 32
"""Held-out windows measured during a run; the card measures all of them."""


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
    run: RunSettings
    corpus: CorpusConfig = field(default_factory=CorpusConfig)

    def run_key(self, stream: TokenStream) -> str:
        """Names what a checkpoint must agree on. The number of steps may change: see ``schedule``."""
        run = self.run
        parts = (
            self.shape,
            run.batch_tokens,
            run.window,
            run.learning_rate,
            run.matrix_learning_rate,
            run.seed,
        )
        digest = hashlib.sha256(stream.tobytes()).hexdigest()
        return hashlib.sha256(f"{parts}{digest}".encode()).hexdigest()


@dataclass(frozen=True)
class NextTokenObjective:
    """Cross-entropy of the next token, on short windows first and long ones at the end."""

    model: LlamaForCausalLM
    forward: Callable[..., Any]
    """The model, perhaps compiled."""
    short: WindowSampler
    long: WindowSampler
    heldout: torch.Tensor
    """Windows of ids, shape ``(windows, length + 1)``."""

    def loss(self, step: int, first_long_step: int) -> tuple[torch.Tensor, int]:
        """Mean nats per token over batch ``step``."""
        is_long = step >= first_long_step
        batch = self.long.batch(step - first_long_step) if is_long else self.short.batch(step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = self.forward(input_ids=batch[:, :-1], use_cache=False).logits
        targets = batch[:, 1:].flatten()
        return functional.cross_entropy(logits.float().flatten(0, 1), targets), targets.numel()

    def measure(self) -> dict[str, float]:
        """Held-out loss in nats per token."""
        return {"heldout": quick_loss(self.model, self.heldout)}


def train(config: TrainConfig) -> RunFacts:
    """Train one model, resuming from ``work/checkpoint.safetensors`` if it is there, and write it to ``output``.

    Raises:
        TrainingError: settings, shape, text or checkpoint that cannot be used; the message says which.
    """
    config.run.check()
    config.shape.check_window(max(config.run.window, config.run.long_window))
    use_threads(config.run.threads)
    tokenizer = load_tokenizer(config.tokenizer)
    corpus = build_corpus(config.corpus)
    stream = encode_modules(tokenizer, corpus.train)
    heldout = encode_modules(tokenizer, corpus.heldout)
    model = build_model(config.shape, seed=config.run.seed)
    objective = NextTokenObjective(
        model=model,
        forward=maybe_compiled(model, config.run),
        short=window_sampler(stream, config.run, config.run.window),
        long=window_sampler(stream, config.run, config.run.long_window),
        heldout=evaluation_windows(heldout, length=config.run.window, count=EVALUATION_WINDOWS),
    )
    with Reporter(config.output.name) as reporter:
        progress = run_steps(
            model,
            objective,
            config.run,
            checkpoint=config.work / "checkpoint.safetensors",
            run_key=config.run_key(stream),
            reporter=reporter,
        )
    facts = RunFacts("plain", progress.step, progress.tokens, progress.elapsed_s, start=None)
    save_model(model, config.output, facts)
    save_tokenizer(tokenizer, config.output, max_length=config.shape.max_positions)
    return facts


def window_sampler(stream: TokenStream, run: RunSettings, length: int) -> WindowSampler:
    """A sampler of ``run.batch_tokens`` tokens per batch; windows shrink to what the text can fill."""
    length = min(length, max(1, len(stream) // 2))
    sampler = WindowSampler(stream, length, max(1, run.batch_tokens // length), run.seed)
    sampler.check()
    return sampler


def maybe_compiled(model: LlamaForCausalLM, run: RunSettings) -> Callable[..., Any]:
    """The model, compiled if the settings say so; both share their weights."""
    compiled: Callable[..., Any] = torch.compile(model, dynamic=False) if run.compile else model
    return compiled


def use_threads(threads: int | None) -> None:
    """Set the number of processor threads, if one is given."""
    if threads is not None:
        torch.set_num_threads(threads)


@torch.no_grad()
def quick_loss(model: LlamaForCausalLM, windows: torch.Tensor) -> float:
    """Mean loss in bf16 over windows of shape ``(windows, length + 1)``, in nats per token."""
    model.train(False)
    total = 0.0
    for rows in in_groups(windows, 8):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=rows[:, :-1], use_cache=False).logits
        total += functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten()).item() * len(
            rows
        )
    return total / len(windows)
