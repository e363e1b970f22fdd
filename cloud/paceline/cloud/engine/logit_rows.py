"""Rows of logits that stay on the device until somebody reads them."""

import numpy as np
import torch
from numpy.typing import NDArray

from paceline.common.errors import TargetNumerics


class StepLogits:
    """All logits of one step; every row's argmax is found at once, when first asked for."""

    def __init__(self, logits: torch.Tensor) -> None:
        """Take `logits` of shape [rows, vocab], any float type, any device."""
        self.logits = logits
        self._likeliest: NDArray[np.int64] | None = None

    def likeliest(self) -> NDArray[np.int64]:
        """Argmax of every row, int64 [rows]; -1 where the row holds NaN or +inf, or nothing but -inf."""
        if self._likeliest is None:
            in_place = self.logits.device.type == "cpu" and self.logits.dtype == torch.float32
            self._likeliest = _by_numpy(self.logits.numpy()) if in_place else _by_torch(self.logits)
        return self._likeliest


def _by_torch(logits: torch.Tensor) -> NDArray[np.int64]:
    top, token_ids = logits.max(dim=-1)
    likeliest: NDArray[np.int64] = token_ids.where(torch.isfinite(top), -1).cpu().numpy()
    return likeliest


def _by_numpy(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """The same on a CPU, where torch's `max` with indices takes ten times as long."""
    token_ids = logits.argmax(axis=1)
    top = logits[np.arange(len(token_ids)), token_ids]
    return np.where(np.isfinite(top), token_ids, -1)


class TorchLogitRows:
    """Rows [begin, end) of a step's logits: one session's share.

    Implements `paceline.common.sampling.rows.LogitRows`.
    """

    __slots__ = ("_begin", "_end", "_step")

    def __init__(self, step: StepLogits, begin: int, end: int) -> None:
        self._step, self._begin, self._end = step, begin, end

    def __len__(self) -> int:
        return self._end - self._begin

    def argmax(self) -> NDArray[np.int64]:
        """See `LogitRows.argmax`; found on the device."""
        token_ids = self._step.likeliest()[self._begin : self._end]
        if len(token_ids) and token_ids.min() < 0:
            raise TargetNumerics(
                f"row {int(token_ids.argmin())} of the logits holds NaN or +inf, or forbids every token",
                cure="check the weights; where float16 overflows, use bfloat16 or float32",
            )
        return token_ids

    def row(self, index: int) -> NDArray[np.float32]:
        """See `LogitRows.row`; a view, not a copy, for float32 on a CPU."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        array: NDArray[np.float32] = self._step.logits[self._begin + index].float().cpu().numpy()
        return array
