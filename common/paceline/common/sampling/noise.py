"""Randomness without state: every number is a pure function of (seed, absolute position, purpose[, token
id]).

Nothing is drawn "next", so a retry, a duplicate, a resumed session or another machine sees the same numbers,
and the two ends of a link share noise by sharing a seed. To reimplement, let

    mix(z)       z ^= z >> 30;  z *= 0xBF58476D1CE4E5B9;  z ^= z >> 27;  z *= 0x94D049BB133111EB;  z ^= z >>
    31 out(s, n)    mix(s + (n + 1) * 0x9E3779B97F4A7C15)

all modulo 2**64: `out(s, n)` is the n-th output (from 0) of the SplitMix64 generator seeded with `s`
(Steele, Lea and Flood, OOPSLA 2014). Then

    key(seed, position, purpose)             out(out(out(seed, 0), position), purpose)
    uniform(seed, position, purpose)         (key >> 11) * 2**-53                     in [0, 1)
    uniform(seed, position, purpose, s)      the same with purpose + 256 * s, for sibling s of a tree draft
    noise(seed, position, token)             out(key(seed, position, NOISE), token)
    exponential(seed, position, token)       -log1p(-v),  v = ((noise >> 12) + 1/2) * 2**-52  in (0, 1)

The Gumbel noise of a token is -log(exponential), so argmax(log prob + Gumbel) is argmin(exponential / prob),
which is how it is computed here. `tests/sampling/test_noise.py` pins vectors.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from paceline.common.sampling.law import Law

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB

_U64_GAMMA, _U64_MIX_1, _U64_MIX_2 = np.uint64(_GAMMA), np.uint64(_MIX_1), np.uint64(_MIX_2)
_U64_30, _U64_27, _U64_31, _U64_12 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(12)
_EXPONENT_OF_ONE = np.uint64(0x3FF0000000000000)
_ONE_LESS_HALF_STEP = 1.0 - 2.0**-53

_SIBLING = 256
_BLOCK = 16_384
"""Tokens hashed at a time: small enough for the cache, large enough to hide the interpreter."""
_LAZY_FROM = 64
"""Support size from which bounds are cheaper than taking every logarithm."""


class Purpose(IntEnum):
    """What a number is for. Numbers of different purposes are independent; the values are part of the
    format, and stay below 256."""

    NOISE = 0
    """The noise both ends share when picks are coupled."""
    ACCEPT = 1
    """The verifier's coin for a drafted token."""
    RECOVER = 2
    """The verifier's own draw: recovered, bonus and filled tokens under rejection."""
    DRAFT = 3
    """The drafter's private draw under rejection."""
    RELAY = 4
    """Seed of a relay's own dice under rejection; its "position" is its place in the chain."""


def mix64(value: int) -> int:
    """SplitMix64's finaliser: a bijection of 64-bit integers that flips half the bits for any change."""
    value = ((value ^ (value >> 30)) * _MIX_1) & _MASK
    value = ((value ^ (value >> 27)) * _MIX_2) & _MASK
    return value ^ (value >> 31)


def _out(state: int, index: int) -> int:
    return mix64((state + (index + 1) * _GAMMA) & _MASK)


def key(seed: int, position: int, purpose: int) -> int:
    """The 64 random bits of one purpose at one position. `seed` is taken modulo 2**64."""
    return _out(_out(_out(seed & _MASK, 0), position), purpose)


def uniform(seed: int, position: int, purpose: Purpose, sibling: int = 0) -> float:
    """A number in [0, 1) with 53 random bits.

    Args:
        sibling: Place among the siblings that a tree draft offers for this position. Every pair of purpose and
            sibling has a key of its own, for `key` is one to one in it; sibling 0 has the numbers of a chain.
    """
    return (key(seed, position, purpose + _SIBLING * sibling) >> 11) * 2.0**-53


def token_uniforms(seed: int, position: int, token_ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """The shared number `v` of every token, in (0, 1): 52 random bits, never 0 or 1. float64 [tokens]."""
    values = np.empty(len(token_ids))
    first = np.uint64((key(seed, position, Purpose.NOISE) + _GAMMA) & _MASK)
    scratch = np.empty(min(len(token_ids), _BLOCK), dtype=np.uint64)
    for start in range(0, len(token_ids), _BLOCK):
        block = values[start : start + _BLOCK]
        _fill_uniforms(block, first, token_ids[start : start + _BLOCK].view(np.uint64), scratch[: len(block)])
    return values


def _fill_uniforms(
    values: NDArray[np.float64], first: np.uint64, token_ids: NDArray[np.uint64], shifted: NDArray[np.uint64]
) -> None:
    bits = values.view(np.uint64)
    np.multiply(token_ids, _U64_GAMMA, out=bits)
    bits += first
    np.right_shift(bits, _U64_30, out=shifted)
    bits ^= shifted
    bits *= _U64_MIX_1
    np.right_shift(bits, _U64_27, out=shifted)
    bits ^= shifted
    bits *= _U64_MIX_2
    np.right_shift(bits, _U64_31, out=shifted)
    bits ^= shifted
    # Put 52 bits behind the exponent of 1.0: a float in [1, 2), exact and without an integer conversion.
    bits >>= _U64_12
    bits |= _EXPONENT_OF_ONE
    values -= _ONE_LESS_HALF_STEP


def gumbel_pick(law: Law, seed: int, position: int) -> int:
    """The token both ends pick: argmax of log prob + Gumbel(seed, position, token); a draw from `law`.

    Computed as argmin(exponential / prob). For large supports -log1p(-v) >= v bounds every ratio from below,
    so only tokens whose bound does not exceed a ratio already seen need a logarithm; the result is the same.

    References: Daliri, Musco and Suresh, arXiv:2408.07978.
    """
    token_ids, probs = law.token_ids, law.probs
    if len(token_ids) == 1:
        return int(token_ids[0])
    values = token_uniforms(seed, position, token_ids)
    # A mass near the smallest float, or rounded to 0: an infinite ratio, never the least.
    with np.errstate(over="ignore", divide="ignore"):
        if len(token_ids) < _LAZY_FROM:
            return int(token_ids[(np.log1p(-values) / probs).argmax()])
        bounds = values / probs
        first = bounds.argmin()
        within = (bounds <= -np.log1p(-values[first]) / probs[first]).nonzero()[0]
        ratios = np.log1p(-values[within]) / probs[within]
        return int(token_ids[within[ratios.argmax()]])


def inverse_cdf(law: Law, u: float) -> int:
    """The token whose stretch of the cumulative law (in order of token id) holds `u`, a number in [0, 1)."""
    cumulative = law.probs.cumsum()
    index = int(cumulative.searchsorted(u * cumulative[-1], side="right"))
    return int(law.token_ids[min(index, len(cumulative) - 1)])
