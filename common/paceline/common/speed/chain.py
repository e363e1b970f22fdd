"""Chains of more than two hops: what each hop costs per token, and whether it pays.

The device writes a token every `draft_s`. When hop `i` contradicts, what was written after the contradiction is lost:
the correction travels down to the device, the next token up again through every hop between. With `m_i` contradictions
by hop `i` per committed token and `D_i` seconds for that journey, passes of the hops on the way included,

    ``seconds per token = draft_s + Σ_i m_i D_i``.

A hop between pays if and only if it lowers the others' terms by more than its own. The sum counts two contradictions
that overlap twice, so it is a little too large; it knows nothing of fill, nor of passes that wait for one another, so a
real stream is a little slower or, far from the target, faster. `Chain.as_costs` gives the same chain to formulas that
do know; `ways.filled_costs` does where relays write on by themselves.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from paceline.common.errors import InvalidRequest
from paceline.common.speed.costs import Costs


@dataclass(frozen=True, slots=True)
class ChainHop:
    """A hop that verifies."""

    name: str
    round_trip_s: float
    """Between it and the hop below, both ways."""
    verify_fixed_s: float
    """Per pass."""
    verify_per_token_s: float
    """Per token in a pass."""
    acceptance: Mapping[str, float] = field(default_factory=dict)
    """For hops below, by name: share of their tokens that stand here."""

    @property
    def pass_s(self) -> float:
        """A pass over one token."""
        return self.verify_fixed_s + self.verify_per_token_s


@dataclass(frozen=True, slots=True)
class Term:
    """One hop's share of the time per token."""

    name: str
    contradictions: float
    """By this hop, per committed token."""
    journey_s: float
    """From a contradiction until this hop has checked the next token from the device."""

    @property
    def seconds(self) -> float:
        """Per committed token."""
        return self.contradictions * self.journey_s


@dataclass(frozen=True, slots=True)
class Chain:
    """A device and the hops above it, the last of which decides."""

    device: str
    draft_s: float
    """Per token the device drafts."""
    hops: tuple[ChainHop, ...]
    """From the device's neighbour to the last; at least one."""

    def __post_init__(self) -> None:
        if not self.hops:
            raise InvalidRequest("a chain needs a hop that verifies", field="hops", cure="add one")

    def acceptance_of(self, index: int) -> float:
        """Share of the tokens from the hop below that stand under hop `index`.

        Raises:
            InvalidRequest: nobody said.
        """
        hop, below = self.hops[index], self.hops[index - 1].name if index else self.device
        if below not in hop.acceptance:
            raise InvalidRequest(
                f"nobody says how much of what {below} writes stands under {hop.name}",
                field="acceptance",
                cure=f"expect: {{acceptance: {{{below}: 0.8}}}} of {hop.name}, or --acceptance {below}@{hop.name}=0.8",
            )
        return hop.acceptance[below]

    def without(self, index: int) -> "Chain":
        """The chain with hop `index` left out; the round trips on both sides of it add up.

        Where nobody said how much of what the hop below writes stands under the hop above, the product of the two steps
        stands in: less than the truth where both err alike.

        Raises:
            InvalidRequest: it is the last hop.
        """
        if index == len(self.hops) - 1:
            raise InvalidRequest(
                "the chain cannot do without its last hop", field="hops", cure="name another"
            )
        hop, above = self.hops[index], self.hops[index + 1]
        below = self.hops[index - 1].name if index else self.device
        guess = (
            {}
            if below in above.acceptance
            else {below: self.acceptance_of(index) * self.acceptance_of(index + 1)}
        )
        joined = replace(
            above,
            round_trip_s=hop.round_trip_s + above.round_trip_s,
            acceptance={**above.acceptance, **guess},
        )
        return replace(self, hops=(*self.hops[:index], joined, *self.hops[index + 2 :]))

    @property
    def terms(self) -> tuple[Term, ...]:
        """Every hop's share of the time per token."""
        terms, journey_s = [], 0.0
        for index, hop in enumerate(self.hops):
            journey_s += hop.round_trip_s + hop.pass_s
            terms.append(Term(hop.name, 1 - self.acceptance_of(index), journey_s))
        return tuple(terms)

    @property
    def seconds_per_token(self) -> float:
        """Of a stream without fill, at best."""
        return self.draft_s + sum(term.seconds for term in self.terms)

    @property
    def as_costs(self) -> Costs:
        """Everything below the last hop as one drafter: as slow as that part of the chain, and as far away."""
        below, target = self.hops[:-1], self.hops[-1]
        return Costs(
            draft_s=self.draft_s + sum(term.seconds for term in self.terms[:-1]),
            verify_fixed_s=target.verify_fixed_s,
            verify_per_token_s=target.verify_per_token_s,
            round_trip_s=target.round_trip_s + sum(hop.round_trip_s + hop.pass_s for hop in below),
            acceptance=self.acceptance_of(len(below)),
        )


@dataclass(frozen=True, slots=True)
class Worth:
    """What a hop between is worth."""

    name: str
    with_s: float
    """Seconds per token of the chain with it, drafting aside."""
    without_s: float
    """The same of the chain without it."""

    @property
    def pays(self) -> bool:
        """Whether it saves more than it costs."""
        return self.with_s < self.without_s


def worth_of(chain: Chain, index: int) -> Worth:
    """Compare a chain with the same one without hop `index`."""
    without = chain.without(index)
    return Worth(
        chain.hops[index].name,
        sum(term.seconds for term in chain.terms),
        sum(term.seconds for term in without.terms),
    )
