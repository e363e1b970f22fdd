"""A language model without weights: the logits are a pure function of a hash of the whole prefix.

Targets, drafters and tests share it. Every conditional differs from every other, so any mistake in position,
rollback or order shows at once; it costs microseconds; and it is integer arithmetic up to one final scaling,
hence identical on every machine.
"""

import numpy as np
import numpy.typing as npt

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_MASK_64 = (1 << 64) - 1
_STD_OF_SUM = 65536.0 * (4.0 / 12.0) ** 0.5


def _splitmix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Mix each 64-bit counter into a 64-bit hash (splitmix64's finaliser); wraps on overflow."""
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))


def table_logits(
    prefix_hash: int, vocab_size: int, seed: int = 0, scale: float = 3.0
) -> npt.NDArray[np.float32]:
    """Logits `[vocab_size]` after the prefix with this hash (`paceline.common.prefix`).

    Args:
        prefix_hash: 64-bit hash of the tokens so far.
        vocab_size: number of logits.
        seed: which model; two seeds are unrelated.
        scale: standard deviation of the logits; they are near normal and bounded by 3.5 times this.
    """
    start = np.array([(prefix_hash ^ (seed * 0xD1B54A32D192ED03)) & _MASK_64], dtype=np.uint64)
    counters = np.arange(1, vocab_size + 1, dtype=np.uint64) * _GOLDEN + _splitmix(start)
    # The sum of four independent 16-bit uniforms is nearly normal and exact in float32.
    uniforms = _splitmix(counters).view(np.uint16).reshape(vocab_size, 4)
    total = uniforms.sum(axis=1, dtype=np.uint32).astype(np.float32)
    logits: npt.NDArray[np.float32] = (total - np.float32(2 * 65535)) * np.float32(scale / _STD_OF_SUM)
    return logits
