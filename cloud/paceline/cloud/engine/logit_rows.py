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
            top, token_ids = self.logits.max(dim=-1)
            self._likeliest = token_ids.where(torch.isfinite(top), -1).cpu().numpy()
        return self._likeliest


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
