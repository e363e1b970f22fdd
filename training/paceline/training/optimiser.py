"""Muon for the matrices inside the layers, AdamW for everything else."""

from collections.abc import Mapping
from typing import Any

import torch

MATRIX_LEARNING_RATE = 0.02
"""Peak step of Muon; its update is orthogonal, so the step does not depend on the model's width."""


class Optimiser:
    """Two optimisers stepped as one.

    Muon orthogonalises the momentum of each hidden matrix (Jordan et al., 2024). It reached the
    loss of AdamW in far fewer steps here; the comparison is in ``docs/lab-notebook/models.md``.
    """

    def __init__(self, model: torch.nn.Module, *, learning_rate: float, matrix_learning_rate: float) -> None:
        matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
        others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
        self._parts: dict[str, torch.optim.Optimizer] = {
            "others": torch.optim.AdamW(
                others, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
            )
        }
        self._peaks = {"others": learning_rate}
        if matrix_learning_rate > 0:
            self._parts["matrices"] = torch.optim.Muon(
                matrices, lr=matrix_learning_rate, momentum=0.95, weight_decay=0.01
            )
            self._peaks["matrices"] = matrix_learning_rate
        else:
            self._parts["matrices"] = torch.optim.AdamW(
                matrices, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.1, fused=True
            )
            self._peaks["matrices"] = learning_rate

    def step(self, learning_rate_factor: float) -> None:
        """Apply the gradients at ``learning_rate_factor`` times the peak rates, then clear them."""
        for name, part in self._parts.items():
            for group in part.param_groups:
                group["lr"] = self._peaks[name] * learning_rate_factor
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on later."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state."""
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
