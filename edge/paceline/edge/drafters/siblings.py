"""Several drafters for one text: each proposes a chain, and the verifier is sent the tree they form.

Under the rules that match (greedy, coupled, one-hot) equal tokens are merged; any tree is exact, so the likeliest path
may come first. Under rejection nothing that was drawn may be merged, moved or left out for its value (methods E11):
each drafter's chain stays a chain of its own, with its own laws and its own private numbers, in the order in which the
drafters were named.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from paceline.common.drafter import Branches, Drafter, DraftSession, KeepGoing, Proposal, always
from paceline.common.errors import InvalidRequest
from paceline.common.sampling.choose import Chooser
from paceline.common.tokens import How
from paceline.common.trees import ROOT, principal_length
from paceline.edge.drafters.combined import CombinedDrafter, CombinedSession, laws_of
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
    depends on none that comes after it.
    """
    first, *others = proposals
    parents: list[int] = []
    for other in others:
        start = len(first) + len(parents)
        parents += [ROOT, *range(start, start + len(other) - 1)]
    branches = Branches(
        parents=tuple(parents),
        token_ids=tuple(token_id for other in others for token_id in other.token_ids),
        probs=tuple(prob for other in others for prob in other.probs),
        laws=tuple(law for other in others for law in laws_of(other)),
    )
    return Proposal(first.base, first.token_ids, first.probs, How.SAMPLED, laws_of(first), branches)


class TreeSession(CombinedSession):
    """One text that several drafters write at once; the first path of the tree is its continuation.

    Args:
        sessions: of the drafters, in order.
        how: the chooser's.
    """

    def __init__(self, sessions: Sequence[DraftSession], how: How) -> None:
        super().__init__(sessions, how)
        self._combine: Combine = in_order if how is How.SAMPLED else union
        self._branches = Branches()

    def propose(self, limit: int, keep_going: KeepGoing = always) -> Proposal:
        """Write up to `limit` tokens deep; see `DraftSession.propose`.

        The first drafter that has something to say decides how deep the others may go.
        """
        return replace(super().propose(limit, keep_going), branches=self._branches)

    def _write(self, limit: int, keep_going: KeepGoing) -> list[Proposal]:
        base, proposals = self.length, []
        for session in self._sessions:
            proposals.append(session.propose(limit, keep_going))
            if len(proposals[-1]):
                limit, keep_going = min(limit, len(proposals[-1])), always
        written = [one for one in proposals if len(one)]
        tree = self._combine(written) if written else proposals[0]
        self._branches = tree.branches
        for session, own in zip(self._sessions, proposals, strict=True):
            num_agreed = common_length(own.token_ids, tree.token_ids)
            session.follow(base + num_agreed, tree.token_ids[num_agreed:])
        return [tree]


class SiblingsDrafter(CombinedDrafter):
    """Several drafters in a fixed order.

    Under rejection each one's chain stands beside the others with its own laws; under the rules that match, equal
    tokens are merged as by `UnionDrafter`.
    """

    is_even = False
    """Who has something to say, and so how long a block takes, depends on the tokens drawn before it."""

    kind = "siblings"

    def __init__(self, drafters: Sequence[Drafter]) -> None:
        """Put drafters in order.

        Args:
            drafters: at least two; the best first.
        """
        if len(drafters) == 1:
            raise InvalidRequest("names one drafter", field="drafter.drafters", cure="name two or more")
        super().__init__(self.kind, drafters)

    def start(self, prompt_token_ids: Sequence[int], chooser: Chooser) -> TreeSession:
        """Begin a text with every drafter, each with private numbers of its own."""
        sessions = [
            drafter.start(prompt_token_ids, chooser.for_sibling(place))
            for place, drafter in enumerate(self._drafters)
        ]
        return TreeSession(sessions, chooser.how)


class UnionDrafter(SiblingsDrafter):
    """Several drafters in no order: equal tokens are merged, the likeliest path comes first. Not for rejection."""

    kind = "union"

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
