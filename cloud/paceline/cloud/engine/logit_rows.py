"""Rows of logits that stay on the device until somebody reads them."""

import numpy as np
import torch
from numpy.typing import NDArray

from paceline.common.errors import TargetNumerics


class StepLogits:
    """All logits of one step; the argmax and the finiteness of every row are computed once, when first
    asked."""

    def __init__(self, logits: torch.Tensor) -> None:
        """Take `logits` of shape [rows, vocab], any float type, any device."""
        self.logits = logits
        self._argmax: NDArray[np.int64] | None = None
        self._is_finite: NDArray[np.bool_] | None = None

    def read(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Argmax [rows] and whether all logits are finite [rows]; one transfer from the device for both."""
        if self._argmax is None or self._is_finite is None:
            lowest, highest = torch.aminmax(self.logits, dim=-1)
            is_finite = torch.isfinite(lowest) & torch.isfinite(highest)
            packed = torch.stack((self.logits.argmax(dim=-1), is_finite.long())).cpu().numpy()
            self._argmax, self._is_finite = packed[0], packed[1].astype(np.bool_)
        return self._argmax, self._is_finite


class TorchLogitRows:
    """Rows [begin, end) of a step's logits: one session's share
    (`paceline.common.sampling.rows.LogitRows`)."""

    __slots__ = ("_begin", "_end", "_step")

    def __init__(self, step: StepLogits, begin: int, end: int) -> None:
        self._step, self._begin, self._end = step, begin, end

    def __len__(self) -> int:
        return self._end - self._begin

    def argmax(self) -> NDArray[np.int64]:
        """The likeliest token of every row, [rows]; the lowest id among equals.

        Raises:
            TargetNumerics: a row holds NaN or infinity.
        """
        token_ids, is_finite = self._step.read()
        if not is_finite[self._begin : self._end].all():
            raise _not_finite(int(np.argmin(is_finite[self._begin : self._end])))
        return token_ids[self._begin : self._end]

    def row(self, index: int) -> NDArray[np.float32]:
        """The logits of row `index`, float32 [vocab]; a view, not a copy, for float32 on a CPU.

        Raises:
            TargetNumerics: the row holds NaN or infinity.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        if not self._step.read()[1][self._begin + index]:
            raise _not_finite(index)
        array: NDArray[np.float32] = self._step.logits[self._begin + index].float().cpu().numpy()
        return array


def _not_finite(index: int) -> TargetNumerics:
    return TargetNumerics(
        f"the target model produced NaN or infinity in logit row {index}",
        cure="check the weights; in float16, try bfloat16 or float32",
    )
