"""What every acceptance rule is given and gives back."""

from dataclasses import dataclass
from typing import Protocol

from paceline.common.sampling.law import Law
from paceline.common.sampling.noise import Purpose, gumbel_pick, inverse_cdf, uniform
from paceline.common.sampling.rows import TargetRows
from paceline.common.tokens import Draft, How, Origin, Rule, TokenLogprobs


@dataclass(frozen=True, slots=True)
class Judgement:
    """How far a draft is right, and what the verifier puts after it."""

    num_accepted: int
    """Leading drafted tokens that stand."""
    next_token_id: int | None
    """The verifier's own token after them; None when a fully accepted rejection block says more follows."""
    next_origin: Origin | None
    accepted_node: int | None = None
    """In a tree: index of the last drafted token that stands; None if none does, or for a chain."""
    logprobs: tuple[TokenLogprobs, ...] = ()
    """Of the tokens that stand and the one after them, if they are wanted; no rule reads or sets them."""


class Dice(Protocol):
    """Every random decision a rule may take, at an absolute position. Tests enumerate them; a verifier
    hashes."""

    def pick(self, law: Law, position: int) -> int:
        """A draw from `law` with the noise the drafter shares."""
        ...

    def draw(self, law: Law, position: int) -> int:
        """A draw from `law` that the drafter cannot foresee."""
        ...

    def accepts(self, target_prob: float, draft_prob: float, position: int, sibling: int = 0) -> bool:
        """True with probability min(1, target_prob / draft_prob), independently of `draw` and of the coins of other
        siblings; `sibling` counts those a tree offers for this position."""
        ...


@dataclass(frozen=True, slots=True)
class SeededDice:
    """Dice whose every throw is a pure function of the seed and the position."""

    seed: int

    def pick(self, law: Law, position: int) -> int:
        """See `Dice.pick`."""
        return gumbel_pick(law, self.seed, position)

    def draw(self, law: Law, position: int) -> int:
        """See `Dice.draw`."""
        return inverse_cdf(law, uniform(self.seed, position, Purpose.RECOVER))

    def accepts(self, target_prob: float, draft_prob: float, position: int, sibling: int = 0) -> bool:
        """See `Dice.accepts`. Strict: a token of target probability 0 is never accepted, even by a coin of
        0."""
        return uniform(self.seed, position, Purpose.ACCEPT, sibling) * draft_prob < target_prob


class AcceptanceRule(Protocol):
    """Decides how much of a draft stands. Pure: no clock, no dice of its own."""

    @property
    def name(self) -> Rule:
        """Its name in configs and on the wire."""
        ...

    @property
    def accepts(self) -> frozenset[How]:
        """Ways of choosing drafts that it judges without bias; it refuses all others."""
        ...

    @property
    def judges_trees(self) -> bool:
        """Whether it judges drafts with `parents`; they are refused otherwise."""
        ...

    @property
    def lossless(self) -> bool:
        """Whether the output law is exactly the target's; such rules are put through the exactness proofs."""
        ...

    def judge(self, draft: Draft, rows: TargetRows, dice: Dice) -> Judgement:
        """Judge a checked draft.

        Args:
            draft: The block; token `i` stands at absolute position `draft.base + i`.
            rows: The target's answer, one row per drafted token and one more for the token after them; see
                `TargetRows` for trees.
            dice: Where all randomness comes from.
        """
        ...


def follow(draft: Draft) -> Origin:
    """What the verifier's token after a fully accepted draft is called: filled if there was nothing to
    accept."""
    return Origin.BONUS if len(draft) else Origin.FILLED
