"""Choosing by record: discounted UCB, for rewards whose law drifts.

Garivier and Moulines, "On Upper-Confidence Bound Policies for Non-Stationary Bandit Problems", arXiv:0805.3415,
section 3.1: after every pull all sums are multiplied by `discount`; with N the discounted number of an arm's pulls
and n that of all pulls, the arm of the largest

    mean + 2 B sqrt(xi log(n) / N)

is pulled next, where B bounds the rewards and xi = 1/2 here. Two things differ. A pull here is a block, which takes a
time of its own, and what is to be large is tokens per second over many blocks; so the mean is the ratio of the
discounted sums of tokens and of seconds (renewal reward), not the mean of the blocks' rates, which favours short
blocks. And rates have no bound, so B is a fraction, `exploration`, of the best arm's mean.
"""

import math
from collections.abc import Sequence

_XI = 0.5


class DiscountedUcb:
    """The record of some arms, and their order of merit. Pure: no clock, no dice."""

    def __init__(self, num_arms: int, *, discount: float = 0.97, exploration: float = 0.05) -> None:
        """Begin without a record.

        Args:
            num_arms: how many there are to choose from.
            discount: weight of a block one block later; 0.97 remembers about 33 blocks.
            exploration: how much better than its record an arm may be, as a fraction of the best rate.
        """
        self._discount = discount
        self._exploration = exploration
        self._tokens = [0.0] * num_arms
        self._seconds = [0.0] * num_arms
        self._pulls = [0.0] * num_arms

    def learn(self, arm: int, num_tokens: int, seconds: float) -> None:
        """A block of `arm` brought `num_tokens` committed tokens and took `seconds`, above 0."""
        for sums in (self._tokens, self._seconds, self._pulls):
            sums[:] = [value * self._discount for value in sums]
        self._tokens[arm] += num_tokens
        self._seconds[arm] += seconds
        self._pulls[arm] += 1.0

    def ranking(self) -> list[int]:
        """Arms, the one to pull first; those never pulled lead, and of equals the first."""
        scores = self._scores()
        return sorted(range(len(scores)), key=lambda arm: -scores[arm])

    def copy(self) -> "DiscountedUcb":
        """The same record, to be continued apart."""
        twin = DiscountedUcb(0, discount=self._discount, exploration=self._exploration)
        twin._tokens, twin._seconds, twin._pulls = self._tokens[:], self._seconds[:], self._pulls[:]
        return twin

    def _scores(self) -> Sequence[float]:
        means = [
            tokens / seconds if pulls else 0.0
            for tokens, seconds, pulls in zip(self._tokens, self._seconds, self._pulls, strict=True)
        ]
        bound = self._exploration * max(means)
        log_all = math.log(max(sum(self._pulls), 1.0))
        return [
            mean + 2.0 * bound * math.sqrt(_XI * log_all / pulls) if pulls else math.inf
            for mean, pulls in zip(means, self._pulls, strict=True)
        ]
