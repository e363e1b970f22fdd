"""A law small enough to travel: a few tokens with whole-number weights that sum to `LATTICE`.

The drafter makes its law sparse and quantised *first* and draws from the result, so what it sends is exactly
the law it drew from and rejection stays exact (methods 6.1, scheme 3). The other order is biased: mean total
variation 0.05.

On the wire a law of ten tokens is at most ten ids of three bytes and ten weights of two: 50 bytes.
"""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from paceline.common.errors import BadDraft
from paceline.common.sampling.law import Law, largest

LATTICE = 1024
"""Sum of all weights; a power of two, so every probability is an exact float."""


@dataclass(frozen=True, slots=True)
class QuantisedLaw:
    """A sparse law in units of 1/LATTICE."""

    token_ids: tuple[int, ...]
    """Unique; ascending when made by `quantise`."""
    weights: tuple[int, ...]
    """Positive, one per token, summing to LATTICE."""

    def prob(self, token_id: int) -> float:
        """Probability of one token; 0.0 outside the support."""
        for candidate, weight in zip(self.token_ids, self.weights, strict=True):
            if candidate == token_id:
                return weight / LATTICE
        return 0.0

    def as_law(self) -> Law:
        """The same distribution with float probabilities."""
        token_ids = np.array(self.token_ids, dtype=np.int64)
        probs = np.array(self.weights, dtype=np.float64) / LATTICE
        order = token_ids.argsort()
        return Law(token_ids[order], probs[order])


def quantise(law: Law, max_tokens: int = 10) -> QuantisedLaw:
    """Keep the `max_tokens` likeliest tokens, renormalise, and round by largest remainder; weight 0 drops
    out.

    Ties go to the lowest token id, so both the choice and the rounding are a function of the law alone.
    """
    token_ids, probs = law.token_ids, law.probs
    if len(probs) > max_tokens:
        kept = largest(probs, max_tokens)
        token_ids, probs = token_ids[kept], probs[kept]
    shares = probs * (LATTICE / probs.sum())
    weights = np.floor(shares).astype(np.int64)
    missing = LATTICE - int(weights.sum())
    weights[np.argsort(weights - shares, kind="stable")[:missing]] += 1
    kept = weights.nonzero()[0]
    return QuantisedLaw(tuple(token_ids[kept].tolist()), tuple(weights[kept].tolist()))


def sample(law: QuantisedLaw, u: float) -> int:
    """The token whose stretch of the cumulative weights holds `u * LATTICE`, for `u` in [0, 1)."""
    return law.token_ids[bisect_right(list(accumulate(law.weights)), u * LATTICE)]


def check_quantised(law: QuantisedLaw, vocab_size: int | None = None) -> None:
    """Refuse a law from outside that is no law.

    Args:
        law: What arrived; its fields may hold anything.
        vocab_size: Upper bound of token ids; None leaves the range unchecked.
    Raises:
        BadDraft: names the first thing that is wrong.
    """
    problem = _problem(law, vocab_size)
    if problem:
        raise BadDraft(problem, field="laws", cure="send the quantised law the token was drawn from")


def _problem(law: QuantisedLaw, vocab_size: int | None) -> str:
    largest = (1 << 32) - 1 if vocab_size is None else vocab_size - 1
    if len(law.token_ids) != len(law.weights):
        return f"a law has {len(law.token_ids)} token ids but {len(law.weights)} weights"
    if not law.token_ids:
        return "a law is empty"
    for token_id, weight in zip(law.token_ids, law.weights, strict=True):
        if not isinstance(token_id, int) or not 0 <= token_id <= largest:
            return f"token id {token_id} of a law is not a whole number in 0..{largest}"
        if not isinstance(weight, int) or weight <= 0:
            return f"weight {weight} of token {token_id} is not a positive whole number"
    if len(set(law.token_ids)) != len(law.token_ids):
        return "a law names a token twice"
    if sum(law.weights) != LATTICE:
        return f"the weights of a law sum to {sum(law.weights)}, not to {LATTICE}"
    return ""
