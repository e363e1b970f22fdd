"""The loop that plain training and distillation share: step, measure, checkpoint, stop in time."""

import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from transformers import LlamaForCausalLM

from paceline.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from paceline.training.errors import TrainingError
from paceline.training.optimiser import Optimiser
from paceline.training.reporting import Reporter
from paceline.training.schedule import Schedule

STEPS_BEFORE_ESTIMATE = 20
"""Steps timed before a wall-time budget is turned into a number of steps."""


@dataclass(frozen=True)
class RunSettings:
    """How long and how fast to train."""

    steps: int
    """Optimiser steps; with ``minutes``, at most this many."""
    batch_tokens: int = 4096
    """Tokens predicted per step."""
    window: int = 256
    """Tokens per window for most of the run."""
    long_window: int = 2048
    """Tokens per window at the end of the run."""
    learning_rate: float = 3e-3
    """Peak rate of AdamW (embeddings and norms)."""
    matrix_learning_rate: float = 0.02
    """Peak rate of Muon (matrices inside the layers); 0 trains them with AdamW as well."""
    warmup_steps: int = 60
    decay_fraction: float = 0.3
    """Last part of the run over which the learning rate falls to zero."""
    long_fraction: float = 0.12
    """Last part of the run that trains on long windows."""
    max_gradient_norm: float = 1.0
    seed: int = 0
    minutes: float | None = None
    """Wall-time budget; the run is shortened to fit it, roughly. ``None`` trusts ``steps``."""
    evaluate_every: int = 100
    """Steps between held-out measurements, which are also the checkpoints."""
    compile: bool = False
    """Compile the model first: 1.2 times the speed for half a minute's wait, and needs a C++ compiler."""
    threads: int | None = None
    """Processor threads; ``None`` leaves the default. Fix it to repeat a run bit for bit."""
    stop_after: int | None = None
    """Checkpoint and stop after this step, leaving the rest to a later call."""

    def schedule(self, progress: Progress) -> Schedule:
        """The learning-rate schedule, shortened if a budget was set."""
        steps = progress.planned_steps or self.steps
        return Schedule(steps, self.warmup_steps, self.decay_fraction, self.long_fraction)

    def check(self) -> None:
        """Refuse settings that cannot train.

        Raises:
            TrainingError: names the field to change.
        """
        for name in ("steps", "batch_tokens", "window", "long_window", "evaluate_every"):
            if getattr(self, name) < 1:
                raise TrainingError(name, getattr(self, name), "must be at least 1")
        for name in ("decay_fraction", "long_fraction"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise TrainingError(name, getattr(self, name), "must lie in [0, 1]")
        if self.minutes is not None and self.minutes <= 0:
            raise TrainingError("minutes", self.minutes, "must be above 0, or left out")


class Objective(Protocol):
    """What a run minimises."""

    def loss(self, step: int, first_long_step: int) -> tuple[torch.Tensor, int]:
        """Differentiable mean loss of batch ``step`` and how many tokens it predicted."""
        ...

    def measure(self) -> dict[str, float]:
        """Named figures on text that is not trained on."""
        ...


def run_steps(
    model: LlamaForCausalLM,
    objective: Objective,
    settings: RunSettings,
    *,
    checkpoint: Path,
    run_key: str,
    reporter: Reporter,
) -> Progress:
    """Train ``model`` in place, from the checkpoint if there is one; returns how far it came."""
    optimiser = Optimiser(
        model, learning_rate=settings.learning_rate, matrix_learning_rate=settings.matrix_learning_rate
    )
    progress = load_checkpoint(checkpoint, run_key=run_key, model=model, optimiser=optimiser)
    started = time.monotonic() - progress.elapsed_s
    losses: deque[float] = deque(maxlen=STEPS_BEFORE_ESTIMATE)
    while not _finished(progress, settings):
        loss, num_tokens = _step(model, objective, optimiser, settings, progress)
        losses.append(loss)
        progress = progress.after_step(num_tokens, elapsed_s=time.monotonic() - started)
        progress = _plan(progress, settings)
        total = settings.schedule(progress).steps
        if progress.step % STEPS_BEFORE_ESTIMATE == 0:
            reporter.step(progress, total, sum(losses) / len(losses))
        if progress.step % settings.evaluate_every == 0 or _finished(progress, settings):
            reporter.measurement(progress, objective.measure())
            save_checkpoint(checkpoint, run_key=run_key, progress=progress, model=model, optimiser=optimiser)
    return progress


def _finished(progress: Progress, settings: RunSettings) -> bool:
    """Whether the run, or this call's part of it, is over."""
    last = settings.schedule(progress).steps
    if settings.stop_after is not None:
        last = min(last, settings.stop_after)
    return progress.step >= last


def _plan(progress: Progress, settings: RunSettings) -> Progress:
    """Turn the wall-time budget into steps, once, when the speed is known."""
    if settings.minutes is None or progress.step != STEPS_BEFORE_ESTIMATE:
        return progress
    affordable = int(settings.minutes * 60 * progress.step / progress.elapsed_s)
    return replace(progress, planned_steps=max(progress.step, min(settings.steps, affordable)))


def _step(
    model: LlamaForCausalLM,
    objective: Objective,
    optimiser: Optimiser,
    settings: RunSettings,
    progress: Progress,
) -> tuple[float, int]:
    """One optimiser step; returns the loss before it, and the tokens predicted."""
    schedule = settings.schedule(progress)
    model.train()
    loss, num_tokens = objective.loss(progress.step, schedule.first_long_step())
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_gradient_norm)
    optimiser.step(schedule.learning_rate_factor(progress.step))
    return loss.item(), num_tokens
