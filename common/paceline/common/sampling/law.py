"""From a row of logits to the law that is asked for. Written once; drafter and verifier both call it.

Order (as transformers and vLLM have it): logit bias, repetition, presence and frequency penalties,
temperature, top-k, top-p, min-p, renormalise. Ties are always broken towards the lowest token id, so exactly
k tokens survive top-k, and the nucleus is the smallest one.

Which tokens survive is decided on float32 weights; their probabilities are the float64 softmax of their
logits. Nothing here sorts the vocabulary: cheap bounds throw most of it away first.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paceline.common.errors import InvalidRequest, TargetNumerics
from paceline.common.sampling.history import History
from paceline.common.tokens import SamplingParams

__all__ = [
    "History",
    "Law",
    "checked_argmax",
    "greedy_token",
    "largest",
    "one_hot",
    "processed_logits",
    "target_law",
]

_SORT_AT_MOST = 2048
"""Arrays up to this size are sorted outright; larger ones are narrowed with a sorted sample first."""


_SMALLEST_DIVISOR = 1e-6
"""Smaller temperatures and penalties act as this one: float32 would turn them into 0, and the row into NaN."""
_LARGEST_BIAS = 1e30
"""Larger biases act as this one, for float32 would make them, divided, infinite."""


@dataclass(frozen=True, slots=True)
class Law:
    """A distribution over token ids that stores only the tokens with mass."""

    token_ids: NDArray[np.int64]
    """Ascending, unique. int64 [support]."""
    probs: NDArray[np.float64]
    """Summing to 1 within 1e-9; positive, but where the smallest float was divided once more. float64 [support]."""

    def prob(self, token_id: int) -> float:
        """Probability of one token; 0.0 outside the support."""
        index = int(self.token_ids.searchsorted(token_id))
        if index < len(self.token_ids) and self.token_ids[index] == token_id:
            return float(self.probs[index])
        return 0.0

    def dense(self, vocab_size: int) -> NDArray[np.float64]:
        """The law as a full row. float64 [vocab]."""
        row = np.zeros(vocab_size)
        row[self.token_ids] = self.probs
        return row


def one_hot(token_id: int) -> Law:
    """The law with all its mass on one token."""
    return Law(np.array([token_id], dtype=np.int64), np.ones(1))


def greedy_token(logits: NDArray[np.float32], params: SamplingParams, history: History) -> int:
    """Argmax after bias and penalties; the lowest id wins ties.

    Raises:
        TargetNumerics: the row holds NaN or +inf, or nothing but -inf.
    """
    return checked_argmax(processed_logits(logits, params, history))


def checked_argmax(row: NDArray[np.float32]) -> int:
    """Index of the largest value, the lowest if several are; raises TargetNumerics as `greedy_token` does."""
    index = int(row.argmax())  # argmax stops at the first NaN, so looking at the winner finds any
    _check_finite(float(row[index]))
    return index


def target_law(logits: NDArray[np.float32], params: SamplingParams, history: History) -> Law:
    """The law of the next token under `params`.

    Args:
        logits: The model's raw row, float32 [vocab]; -inf forbids a token. Left unchanged.
        params: What to do to it; temperature 0 puts all mass on `greedy_token`.
        history: The tokens before this row; read only if there are penalties.
    Raises:
        TargetNumerics: the row holds NaN or +inf, or nothing but -inf.
    """
    if params.is_greedy:
        return one_hot(greedy_token(logits, params, history))
    row = processed_logits(logits, params, history)
    top = row.max()
    _check_finite(float(top))
    temperature = max(params.temperature, _SMALLEST_DIVISOR)
    token_ids: NDArray[np.int64] | None = None
    if 0 < params.top_k < len(row):
        token_ids = largest(row, params.top_k)
        row = row[token_ids]
    if params.top_p < 1.0 or params.min_p > 0.0:
        kept = _nucleus(_weights(row, top, temperature), params.top_p, params.min_p)
        row = row[kept]
        token_ids = kept if token_ids is None else token_ids[kept]
    return _softmax(row, top, temperature, token_ids)


def processed_logits(
    logits: NDArray[np.float32], params: SamplingParams, history: History
) -> NDArray[np.float32]:
    """The row after logit bias and penalties; `logits` itself when there are none. float32 [vocab]."""
    if params.keeps_argmax_of_raw_logits:
        return logits
    row = logits.copy()
    if params.logit_bias:
        _add_bias(row, params)
    if not params.has_penalties:
        return row
    token_ids, counts = history.seen()
    values = row[token_ids]
    if params.repetition_penalty != 1.0:
        penalty = max(params.repetition_penalty, _SMALLEST_DIVISOR)
        values = np.where(values > 0, values / penalty, values * penalty)
    if params.presence_penalty != 0.0:
        values -= params.presence_penalty * (counts > 0)
    if params.frequency_penalty != 0.0:
        values -= params.frequency_penalty * counts
    row[token_ids] = values
    return row


def _add_bias(row: NDArray[np.float32], params: SamplingParams) -> None:
    bias = params.logit_bias
    token_ids = np.fromiter(bias.keys(), dtype=np.int64, count=len(bias))
    if token_ids.min() < 0 or token_ids.max() >= len(row):
        outside = next(i for i in bias if not 0 <= i < len(row))
        raise InvalidRequest(f"token id {outside} is not in 0..{len(row) - 1}", field="logit_bias")
    amounts = np.fromiter(bias.values(), dtype=np.float64, count=len(bias))
    row[token_ids] += amounts.clip(-_LARGEST_BIAS, _LARGEST_BIAS).astype(np.float32)


def _check_finite(top: float) -> None:
    if not math.isfinite(top):
        raise TargetNumerics(
            "a row of logits holds NaN or +inf, or forbids every token",
            cure="the model's weights or its number format are broken; try float32",
        )


def _weights(row: NDArray[np.float32], top: np.float32, temperature: float) -> NDArray[np.float32]:
    """Unnormalised probabilities in float32, 1 for the likeliest. [vocab]."""
    with np.errstate(over="ignore"):  # models mask with the lowest float; less than that is -inf, as meant
        weights = row - top
        if temperature != 1.0:
            weights *= 1.0 / temperature
    np.exp(weights, out=weights)
    return weights


def _softmax(
    row: NDArray[np.float32], top: np.float32, temperature: float, token_ids: NDArray[np.int64] | None
) -> Law:
    """float64 softmax of the surviving logits; tokens whose mass underflows to 0 leave the support."""
    probs = row.astype(np.float64)
    probs -= float(top)
    if temperature != 1.0:
        probs /= temperature
    np.exp(probs, out=probs)
    if token_ids is None:
        token_ids = probs.nonzero()[0]
        if len(token_ids) < len(probs):
            probs = probs[token_ids]
    elif not probs.all():
        kept = probs.nonzero()[0]
        token_ids, probs = token_ids[kept], probs[kept]
    probs /= probs.sum()
    return Law(token_ids, probs)


def largest(values: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Indices of the `k` largest values (`k` at most their number), ascending; surplus ties lose the
    highest."""
    candidates: NDArray[np.int64] | None = None
    if len(values) > _SORT_AT_MOST:
        stride = _stride(len(values))
        sample = np.sort(values[::stride])
        rank = k // stride + 4 * math.isqrt(k // stride) + 4
        if rank < len(sample):
            candidates = (values >= sample[-rank]).nonzero()[0]
            if len(candidates) < k:  # the values have the sample's rhythm
                candidates = None
    if candidates is not None:
        values = values[candidates]
    smallest = np.partition(values, len(values) - k)[len(values) - k]
    kept = _first_at_least(values, smallest, k)
    return kept if candidates is None else candidates[kept]


def _nucleus(weights: NDArray[np.float32], top_p: float, min_p: float) -> NDArray[np.int64]:
    """Indices of the smallest set of largest weights that reaches `top_p` of the sum, less those under
    `min_p`.

    Weights under (1 - top_p) / vocab of the sum cannot matter: together they weigh less than what may be cut.
    """
    if top_p >= 1.0:
        return (weights >= np.float32(min_p)).nonzero()[0]
    total = float(weights.sum())
    goal = top_p * total
    above = weights >= np.float32(max(min_p, 0.999 * (total - goal) / len(weights)))
    if np.count_nonzero(above) > len(weights) // 2:  # so flat a row that gathering the rest would not pay
        kept = _reaching(weights, goal)
        return kept[above[kept]] if min_p > 0.0 else kept
    candidates = above.nonzero()[0]
    return candidates[_reaching(weights[candidates], goal)]


def _reaching(weights: NDArray[np.float32], goal: float) -> NDArray[np.int64]:
    """Indices of the smallest set of largest weights whose sum reaches `goal`; all of them if none does."""
    num_above, window, still_to_reach = 0, weights, goal
    while len(window) > _SORT_AT_MOST:
        narrowed = _narrowed(window, still_to_reach)
        if narrowed is None:
            break
        above, mass_above, window = narrowed
        num_above += above
        still_to_reach -= mass_above
    descending = np.sort(window)[::-1]
    index = int(descending.cumsum(dtype=np.float64).searchsorted(still_to_reach))
    if index >= len(descending):
        return np.arange(len(weights))
    return _first_at_least(weights, descending[index], num_above + index + 1)


def _narrowed(weights: NDArray[np.float32], goal: float) -> tuple[int, float, NDArray[np.float32]] | None:
    """A narrow range of weights that holds the one that reaches `goal`, guessed from a sorted sample and
    checked.

    Returns the number and the mass of the weights above the range and the weights in it; None if the guess
    fails.
    """
    sample = np.sort(weights[:: _stride(len(weights))])[::-1]
    cumulative = sample.cumsum(dtype=np.float64)
    guess = int(cumulative.searchsorted(goal / float(weights.sum()) * cumulative[-1]))
    margin = 2 * math.isqrt(len(sample))
    high, low = sample[max(guess - margin, 0)], sample[min(guess + margin, len(sample) - 1)]
    above = weights > high
    mass_above = float((weights * above).sum())
    window = weights[((weights >= low) ^ above).nonzero()[0]]
    if mass_above < goal <= mass_above + float(window.sum()) and len(window) < len(weights):
        return int(np.count_nonzero(above)), mass_above, window
    return None


def _stride(length: int) -> int:
    """Pace that leaves a sample of some 5 sqrt(length): large enough to aim well, small enough to sort for
    free."""
    return 1 + math.isqrt(length) // 5


def _first_at_least(values: NDArray[Any], smallest: float, num: int) -> NDArray[np.int64]:
    """Indices, ascending, of the `num` values from `smallest` up; surplus ties lose their highest indices."""
    kept = (values >= smallest).nonzero()[0]
    if len(kept) == num:
        return kept
    ties = (values[kept] == smallest).nonzero()[0]
    return np.delete(kept, ties[len(ties) - (len(kept) - num) :])
