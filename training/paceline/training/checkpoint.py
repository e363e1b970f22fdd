"""Checkpoints: a killed run goes on where it stopped and ends with the same weights."""

import json
import os
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

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
    state = {
        "run_key": run_key,
        "progress": astuple(progress),
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    tensors: dict[str, torch.Tensor] = {}
    rest = json.dumps(_without_tensors(state, tensors))
    save_file(tensors, partial, metadata={"state": rest})
    os.replace(partial, path)


def load_checkpoint(path: Path, *, run_key: str, model: Any, optimiser: Any) -> Progress:
    """Load a checkpoint into ``model`` and ``optimiser``; without a file, start from nothing.

    Raises:
        CheckpointError: the file belongs to a run with another shape, data or seed.
    """
    if not path.is_file():
        return Progress()
    with safe_open(path, framework="pt") as file:
        state = _with_tensors(json.loads(file.metadata()["state"]), file.get_tensor)
    if state["run_key"] != run_key:
        raise CheckpointError(
            "checkpoint",
            str(path),
            "was written by a run with other settings: remove it, or restore the settings",
        )
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return Progress(*state["progress"])


def _without_tensors(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """A nested state as JSON takes it: tensors go to `tensors` and leave their name; keys keep their type."""
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = (
            value.detach().clone().contiguous()
        )  # tied weights share memory, which the format does not know
        return {"tensor": name}
    if isinstance(value, dict):
        return {"items": [[key, _without_tensors(held, tensors)] for key, held in value.items()]}
    if isinstance(value, list | tuple):
        return [_without_tensors(one, tensors) for one in value]
    return value


def _with_tensors(value: Any, tensor: Callable[[str], torch.Tensor]) -> Any:
    """The state again."""
    if not isinstance(value, dict):
        return value if not isinstance(value, list) else [_with_tensors(one, tensor) for one in value]
    if "tensor" in value:
        return tensor(value["tensor"])
    return {key: _with_tensors(held, tensor) for key, held in value["items"]}
