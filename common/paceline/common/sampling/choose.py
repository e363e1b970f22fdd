"""The drafter's side: which token to propose, and what to say about how it was chosen."""

from copy import copy
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from paceline.common.errors import TargetNumerics
from paceline.common.sampling.history import History
from paceline.common.sampling.law import Law, checked_argmax, processed_logits, target_law
from paceline.common.sampling.noise import Purpose, gumbel_pick, uniform
from paceline.common.sampling.quantised import QuantisedLaw, quantise, sample
from paceline.common.tokens import How, Rule, SamplingParams

_HOW = {
    Rule.GREEDY: How.ONE_HOT,
    Rule.ONE_HOT: How.ONE_HOT,
    Rule.COUPLED: How.SHARED_NOISE,
    Rule.REJECTION: How.SAMPLED,
}


@dataclass(frozen=True, slots=True)
class Choice:
    """One drafted token."""

    token_id: int
    prob: float
    """The draft model's probability for it: the confidence a controller may read."""
    law: QuantisedLaw | None
    """The law it was drawn from; only under rejection."""


class Chooser:
    """Turns the draft model's rows into proposals that the given rule can judge without bias.

    Stateless: the same row at the same position gives the same choice, so a drafter may be rolled back
    freely.
    """

    def __init__(self, rule: Rule, params: SamplingParams, seed: int, vocab_size: int) -> None:
        self._rule = rule
        self._params = params
        self.seed = seed
        self._vocab_size = vocab_size
        self._sibling: int | None = None

    def for_sibling(self, sibling: int) -> Self:
        """The same choices for another drafter of the same text: what it draws in private is its own.

        Args:
            sibling: Its place in the fixed order of the drafters, below 256; 0 draws what a lone drafter draws.
        """
        other = copy(self)
        # Where drafters are made of drafters, places are told apart level by level.
        other._sibling = sibling if self._sibling is None else 256 * (self._sibling + 1) + sibling
        return other

    @property
    def how(self) -> How:
        """What to write on every draft made from these choices."""
        return _HOW[self._rule]

    def apart(self) -> "Chooser":
        """An equal chooser for guesses that are never proposed: another model's choice stands in their place."""
        return Chooser(self._rule, self._params, self.seed, self._vocab_size)

    def choose(self, logits: NDArray[np.float32], position: int, history: History) -> Choice:
        """Propose the token at `position`.

        Args:
            logits: The draft model's row, float32 [at least vocab_size]; rows beyond the target's vocabulary
            are
                never chosen.
            position: Absolute index the token would have.
            history: The tokens before it, drafted ones included.
        Raises:
            TargetNumerics: the draft model's row holds NaN or infinity; the message names the draft model.
        """
        row = logits[: self._vocab_size]
        try:
            return self._choose(row, position, history)
        except TargetNumerics as error:
            raise TargetNumerics(
                f"the draft model failed at position {position}: {error.message}",
                field="draft model",
                cure="go on without drafts; export the draft model again, or choose another",
            ) from error

    def _choose(self, row: NDArray[np.float32], position: int, history: History) -> Choice:
        if self._rule is Rule.REJECTION:
            law = quantise(target_law(row, self._params, history))
            token_id = sample(law, uniform(self.seed, position, Purpose.DRAFT, self._sibling or 0))
            return Choice(token_id, law.prob(token_id), law)
        if self._params.is_greedy:
            return self._greedy(row, history)
        target = target_law(row, self._params, history)
        if self._rule is Rule.COUPLED:
            token_id = gumbel_pick(target, self.seed, position)
            return Choice(token_id, target.prob(token_id), None)
        return _likeliest(target)

    def _greedy(self, row: NDArray[np.float32], history: History) -> Choice:
        """Argmax; its probability is the softmax at temperature 1, for at temperature 0 it would always be
        1."""
        row = processed_logits(row, self._params, history)
        token_id = checked_argmax(row)
        return Choice(token_id, 1.0 / float(np.exp(row - row[token_id]).sum()), None)


def _likeliest(law: Law) -> Choice:
    index = int(law.probs.argmax())
    return Choice(int(law.token_ids[index]), float(law.probs[index]), None)
