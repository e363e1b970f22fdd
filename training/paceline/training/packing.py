"""Batches as a pure function of the step number, so that a resumed run sees what an unbroken one would."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from paceline.training.errors import CorpusError


@dataclass(frozen=True)
class WindowSampler:
    """Cuts a token stream into windows, in a new order and at a new offset every epoch."""

    stream: npt.NDArray[np.uint16]
    """Token ids, shape ``(num_tokens,)``."""
    length: int
    """Tokens predicted per window; a window holds one more."""
    batch_size: int
    """Windows per batch."""
    seed: int

    @property
    def windows_per_epoch(self) -> int:
        """Windows cut from the stream in one pass, whatever the offset."""
        return (len(self.stream) - self.length) // self.length

    def check(self) -> None:
        """Refuse a stream that does not fill one window.

        Raises:
            CorpusError: too little text.
        """
        if self.windows_per_epoch < 1:
            raise CorpusError(
                "text", f"{len(self.stream)} tokens", f"too short for one window of {self.length}: add text"
            )

    def batch(self, index: int) -> torch.Tensor:
        """Batch number ``index``: ids, shape ``(batch_size, length + 1)``, int64."""
        first = index * self.batch_size
        rows = [self._window(number) for number in range(first, first + self.batch_size)]
        return torch.from_numpy(np.stack(rows).astype(np.int64))

    def _window(self, number: int) -> npt.NDArray[np.uint16]:
        epoch, place = divmod(number, self.windows_per_epoch)
        rng = np.random.default_rng((self.seed, self.length, epoch))
        offset = int(rng.integers(self.length))
        start = int(rng.permutation(self.windows_per_epoch)[place]) * self.length + offset
        # The offset is below one window, and one window was kept in reserve for it and the extra token.
        start = min(start, len(self.stream) - self.length - 1)
        return self.stream[start : start + self.length + 1]


def evaluation_windows(
    stream: npt.NDArray[np.uint16], *, length: int, count: int
) -> torch.Tensor:
    """``count`` windows (or as many as there are) spread evenly; shape ``(windows, length + 1)``, int64."""
    if len(stream) <= length:
        raise CorpusError("heldout", f"{len(stream)} tokens", f"too short for one window of {length}: add text")
    starts = np.linspace(0, len(stream) - length - 1, min(count, max(1, len(stream) // length)))
    rows = [stream[int(start) : int(start) + length + 1] for start in starts]
    return torch.from_numpy(np.stack(rows).astype(np.int64))
