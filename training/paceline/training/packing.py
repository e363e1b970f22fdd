"""Batches as a pure function of the step number, so that a resumed run sees what an unbroken one would."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from paceline.training.errors import CorpusError

TokenStream = npt.NDArray[np.uint16]
"""Token ids of many documents in a row, shape ``(num_tokens,)``."""


@dataclass(frozen=True)
class WindowSampler:
    """Cuts a token stream into windows, in a new order and at a new offset every epoch."""

    stream: TokenStream
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
                "text", f"{len(self.stream)} tokens", f"need {2 * self.length} for one window: add text"
            )

    def batch(self, index: int) -> torch.Tensor:
        """Batch number ``index``: ids, shape ``(batch_size, length + 1)``, int64."""
        first = index * self.batch_size
        rows = [self._window(number) for number in range(first, first + self.batch_size)]
        return torch.from_numpy(np.stack(rows).astype(np.int64))

    def _window(self, number: int) -> TokenStream:
        epoch, place = divmod(number, self.windows_per_epoch)
        rng = np.random.default_rng((self.seed, self.length, epoch))
        offset = int(rng.integers(self.length))
        start = int(rng.permutation(self.windows_per_epoch)[place]) * self.length + offset
        # One window was kept in reserve for the offset; it may still lack the one extra token.
        start = min(start, len(self.stream) - self.length - 1)
        return self.stream[start : start + self.length + 1]


@dataclass(frozen=True)
class RowSampler:
    """Numbers of the rows in each batch, every row once per epoch, in a new order each time."""

    num_rows: int
    batch_size: int
    seed: int

    def rows(self, index: int) -> torch.Tensor:
        """Row numbers of batch ``index``, shape ``(batch_size,)``."""
        numbers = np.arange(index * self.batch_size, (index + 1) * self.batch_size)
        epochs, places = np.divmod(numbers, self.num_rows)
        orders = {
            epoch: np.random.default_rng((self.seed, epoch)).permutation(self.num_rows)
            for epoch in set(epochs)
        }
        return torch.tensor([orders[epoch][place] for epoch, place in zip(epochs, places, strict=True)])


def in_groups(windows: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    """Slices of at most ``size`` rows, in order."""
    for first in range(0, len(windows), size):
        yield windows[first : first + size]


def evaluation_windows(stream: TokenStream, *, length: int, count: int) -> torch.Tensor:
    """``count`` windows (or as many as there are) spread evenly; shape ``(windows, length + 1)``, int64.

    Raises:
        CorpusError: too little text for one window.
    """
    if len(stream) <= length:
        raise CorpusError(
            "heldout", f"{len(stream)} tokens", f"too short for one window of {length}: add text"
        )
    starts = np.linspace(0, len(stream) - length - 1, min(count, max(1, len(stream) // length)))
    rows = [stream[int(start) : int(start) + length + 1] for start in starts]
    return torch.from_numpy(np.stack(rows).astype(np.int64))
