"""Several drafters for one text: each proposes a chain, and the verifier is sent the tree they form.

Under the rules that match (greedy, coupled, one-hot) equal tokens are merged; any tree is exact, so the likeliest path
may come first. Under rejection nothing that was drawn may be merged, moved or left out for its value (methods E11):
each drafter's chain stays a chain of its own, with its own laws and its own private numbers, in the order in which the
drafters were named.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from paceline.common.drafter import Branches, Drafter, DraftSession, KeepGoing, Proposal, always
from paceline.common.errors import InvalidRequest
from paceline.common.sampling.choose import Chooser
from paceline.common.sampling.quantised import LATTICE, QuantisedLaw
from paceline.common.tokens import How
from paceline.common.trees import ROOT, principal_length
from paceline.edge.drafters import load_drafter
from paceline.edge.drafters.text import common_length

Combine = Callable[[Sequence[Proposal]], Proposal]
"""What several proposals for one text are together; there is at least one, and none is empty."""


@dataclass(slots=True)
class _Node:
    prob: float = 0.0
    children: "dict[int, _Node]" = field(default_factory=dict)


def union(proposals: Sequence[Proposal]) -> Proposal:
    """All chains as one trie: equal tokens after equal tokens are one node, likelier children come first.

    The result does not depend on the order of the proposals. It is exact under any rule that matches; under rejection
    it would be biased, for whether two sampled tokens are equal depends on their values.

    Reference: methods 6.3; Miao et al. (SpecInfer), arXiv:2305.09781.
    """
    if any(one.how is How.SAMPLED for one in proposals):
        raise ValueError("sampled tokens cannot be merged: whether two are equal depends on their values")
    root = _Node()
    for proposal in proposals:
        node = root
        for token_id, prob in zip(proposal.token_ids, proposal.probs, strict=True):
            node = node.children.setdefault(token_id, _Node())
            node.prob = max(node.prob, prob)
    parents, token_ids, probs = zip(*_flattened(root), strict=True)
    is_one_hot = all(one.how is How.ONE_HOT for one in proposals)
    how = How.ONE_HOT if is_one_hot else How.SHARED_NOISE
    first = principal_length(parents)
    branches = Branches(parents[first:], token_ids[first:], probs[first:])
    return Proposal(proposals[0].base, token_ids[:first], probs[:first], how, branches=branches)


def _flattened(root: _Node) -> Iterator[tuple[int, int, float]]:
    """Parent, token and probability of every node, each path before the next, likelier children first."""
    waiting = [(ROOT, token_id, node) for token_id, node in _by_likelihood(root)]
    number = 0
    while waiting:
        parent, token_id, node = waiting.pop()
        yield parent, token_id, node.prob
        waiting += [(number, child_id, child) for child_id, child in _by_likelihood(node)]
        number += 1


def _by_likelihood(node: _Node) -> list[tuple[int, _Node]]:
    """Children, the likeliest last, ready to be popped; ties go to the lowest token id."""
    return sorted(node.children.items(), key=lambda item: (item[1].prob, -item[0]))


def in_order(proposals: Sequence[Proposal]) -> Proposal:
    """Each chain beside the others, the first one first; a token that was not drawn has a law of its own alone.

    Exact under rejection, whatever the laws: siblings are independent, their order is fixed, and whether one is offered
    depends on none that comes after it. Where nothing was sampled equal tokens are merged as in `union`.
    """
    if all(one.how is not How.SAMPLED for one in proposals):
        return union(proposals)
    first, *others = proposals
    parents: list[int] = []
    for other in others:
        start = len(first) + len(parents)
        parents += [ROOT, *range(start, start + len(other) - 1)]
    branches = Branches(
        parents=tuple(parents),
        token_ids=tuple(token_id for other in others for token_id in other.token_ids),
        probs=tuple(prob for other in others for prob in other.probs),
        laws=tuple(law for other in others for law in _laws(other)),
    )
    return Proposal(first.base, first.token_ids, first.probs, How.SAMPLED, _laws(first), branches)


def _laws(proposal: Proposal) -> tuple[QuantisedLaw, ...]:
    return proposal.laws or tuple(QuantisedLaw((token_id,), (LATTICE,)) for token_id in proposal.token_ids)


class TreeSession:
    """One text that several drafters write; the first path of the tree is its continuation.

    Args:
        prompt_token_ids: its beginning.
        starts: each makes one drafter's session for it.
        combine: what their proposals are together.
        how: of a proposal that is empty.
    """

    def __init__(
        self,
        prompt_token_ids: Sequence[int],
        starts: Sequence[Callable[[], DraftSession]],
        combine: Combine,
        how: How,
    ) -> None:
        self._tokens = list(prompt_token_ids)
        self._num_prompt = self._num_told = len(self._tokens)
        self._starts = starts
        self._sessions = [start() for start in starts]
        self._combine = combine
        self._how = how
        self._is_closed = False

    @property
    def length(self) -> int:
        """Tokens in the text: prompt, committed, and the first path drafted."""
        return len(self._tokens)

    def propose(self, limit: int, keep_going: KeepGoing = always) -> Proposal:
        """Write up to `limit` further tokens deep; see `DraftSession.propose`.

        The first drafter that has something to say decides how deep the others may go.
        """
        self._require_open()
        self._tell()
        base = len(self._tokens)
        proposals: list[Proposal] = []
        for session in self._sessions:
            proposal = session.propose(limit, keep_going)
            if len(proposal) and proposal.base == base:
                proposals.append(proposal)
                limit, keep_going = min(limit, len(proposals[0])), always
        if not proposals:
            return Proposal(base, (), (), self._how)
        combined = self._combine(proposals)
        self._tokens.extend(combined.token_ids)
        return combined

    def observe(self, position: int, token_ids: Sequence[int]) -> int:
        """Learn the committed text from `position` on; see `DraftSession.observe`. The drafters hear of it when they
        are asked next."""
        self._require_open()
        if not 0 <= position <= len(self._tokens):
            raise ValueError(f"position {position} leaves a gap after {len(self._tokens)} tokens")
        committed = list(token_ids)
        num_agreed = common_length(self._tokens[position : position + len(committed)], committed)
        end_of_agreement = position + num_agreed
        if num_agreed < len(committed):
            if end_of_agreement < self._num_prompt:
                raise ValueError(f"token {end_of_agreement} belongs to the prompt and cannot change")
            self._tokens[end_of_agreement:] = committed[num_agreed:]
            self._num_told = min(self._num_told, end_of_agreement)
        return num_agreed

    def close(self) -> None:
        """Close every drafter's session."""
        self._is_closed = True
        for session in self._sessions:
            session.close()

    def _tell(self) -> None:
        """Bring every drafter to the text; one whose own draft agrees with it and goes on begins anew."""
        for place, start in enumerate(self._starts):
            self._sessions[place].observe(self._num_told, self._tokens[self._num_told :])
            if self._sessions[place].length > len(self._tokens):
                self._sessions[place].close()
                self._sessions[place] = start()
                self._sessions[place].observe(self._num_prompt, self._tokens[self._num_prompt :])
        self._num_told = len(self._tokens)

    def _require_open(self) -> None:
        if self._is_closed:
            raise ValueError("the draft session is closed")


class SiblingsDrafter:
    """Several drafters in a fixed order.

    Under rejection each one's chain stands beside the others with its own laws; under the rules that match, equal
    tokens are merged as by `UnionDrafter`.
    """

    _kind = "siblings"
    _combine: Combine = staticmethod(in_order)

    def __init__(self, drafters: Sequence[Drafter | Mapping[str, Any]]) -> None:
        """Take the drafters, or load them.

        Args:
            drafters: at least two, in order: each a drafter, or its kind and options by name.
        """
        if len(drafters) < 2:
            raise InvalidRequest(
                f"{len(drafters)} drafters for {self._kind}",
                field="drafter.drafters",
                cure="name two or more",
            )
        self._drafters = [_loaded(one, place) for place, one in enumerate(drafters)]

    @property
    def name(self) -> str:
        """Its kind and those it combines."""
        return f"{self._kind}({', '.join(drafter.name for drafter in self._drafters)})"

    @property
    def vocab_size(self) -> int | None:
        """Of the drafter that knows most ids; None if all only copy."""
        return max((size for one in self._drafters if (size := one.vocab_size) is not None), default=None)

    def start(self, prompt_token_ids: Sequence[int], chooser: Chooser) -> TreeSession:
        """Begin a text with every drafter, each with private numbers of its own."""
        starts = [
            partial(drafter.start, prompt_token_ids, chooser.for_sibling(place))
            for place, drafter in enumerate(self._drafters)
        ]
        return TreeSession(prompt_token_ids, starts, self._combine, chooser.how)


class UnionDrafter(SiblingsDrafter):
    """Several drafters in no order: equal tokens are merged, the likeliest path comes first. Not for rejection."""

    _kind = "union"
    _combine: Combine = staticmethod(union)

    def start(self, prompt_token_ids: Sequence[int], chooser: Chooser) -> TreeSession:
        """See `SiblingsDrafter.start`.

        Raises:
            InvalidRequest: the rule judges by the laws tokens were sampled from.
        """
        if chooser.how is How.SAMPLED:
            raise InvalidRequest(
                "union merges equal tokens, which would bias rejection",
                field="drafter.kind",
                cure="use siblings, or another rule",
            )
        return super().start(prompt_token_ids, chooser)


def _loaded(drafter: Drafter | Mapping[str, Any], place: int) -> Drafter:
    if not isinstance(drafter, Mapping):
        return drafter
    options = dict(drafter)
    if "kind" not in options:
        raise InvalidRequest(
            "a drafter without a kind",
            field=f"drafter.drafters[{place}].kind",
            cure="name one, for example ngram",
        )
    return load_drafter(str(options.pop("kind")), options)
