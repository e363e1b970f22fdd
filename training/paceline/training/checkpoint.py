"""Checkpoints: a killed run goes on where it stopped and ends with the same weights."""

import os
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from paceline.training.errors import CheckpointError


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    """Optimiser steps taken."""
    tokens: int = 0
    """Tokens predicted so far."""
    elapsed_s: float = 0.0
    """Wall time spent training, over all attempts."""
    planned_steps: int | None = None
    """Steps that a wall-time budget allows, once the speed is known."""

    def after_step(self, num_tokens: int, *, elapsed_s: float) -> "Progress":
        """Progress after one more step on ``num_tokens`` tokens."""
        return replace(self, step=self.step + 1, tokens=self.tokens + num_tokens, elapsed_s=elapsed_s)


def save_checkpoint(path: Path, *, run_key: str, progress: Progress, model: Any, optimiser: Any) -> None:
    """Replace the checkpoint in one move, so that a kill half-way leaves the old one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(
        {
            "run_key": run_key,
            "progress": astuple(progress),
            "model": model.state_dict(),
            "optimiser": optimiser.state_dict(),
        },
        partial,
    )
    os.replace(partial, path)


def load_checkpoint(path: Path, *, run_key: str, model: Any, optimiser: Any) -> Progress:
    """Load a checkpoint into ``model`` and ``optimiser``; without a file, start from nothing.

    Raises:
        CheckpointError: the file belongs to a run with another shape, data or seed.
    """
    if not path.is_file():
        return Progress()
    state = torch.load(path, weights_only=True)
    if state["run_key"] != run_key:
        raise CheckpointError(
            "checkpoint",
            str(path),
            "was written by a run with other settings: remove it, or restore the settings",
        )
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return Progress(*state["progress"])
