"""What this side has written beyond the committed text: drafted tokens that no verdict has settled yet. Pure."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from paceline.common.drafter import Branches, Proposal
from paceline.common.prefix import Prefix
from paceline.common.sampling.quantised import QuantisedLaw
from paceline.common.tokens import How


@dataclass(frozen=True, slots=True)
class Settled:
    """What committed tokens said about the tail."""

    judged: tuple[tuple[float, bool], ...]
    """Draft probability of each drafted token that was spoken about, and whether it stands; ends with the first that
    does not."""
    contradicted: bool
    """The rest of the tail is gone: it continued what the text is not."""


class Tail:
    """The committed text and the drafts after it. `commit` follows the verifier, `extend` the drafter.

    Args:
        token_ids: committed so far, prompt included.
    """

    def __init__(self, token_ids: Iterable[int]) -> None:
        self.text = Prefix(token_ids)
        self.how = How.ONE_HOT
        self._probs: deque[float] = deque()
        self._laws: deque[QuantisedLaw] = deque()
        self._tree: Proposal | None = None
        """The proposal written last onto the committed text itself."""

    def __len__(self) -> int:
        """Drafted tokens."""
        return len(self._probs)

    @property
    def committed(self) -> int:
        """Length of the committed text."""
        return len(self.text) - len(self._probs)

    @property
    def probs(self) -> Sequence[float]:
        """Draft probabilities of the drafted tokens, in order."""
        return self._probs

    def extend(self, proposal: Proposal) -> int:
        """Append what a proposal says beyond the tail's end; the number of tokens added.

        Verdicts may have overtaken the drafter while it wrote: a proposal that differs from the text where they overlap
        continues another text and adds nothing.
        """
        overlap = len(self.text) - proposal.base
        if overlap < 0 or any(
            self.text[proposal.base + index] != token_id
            for index, token_id in enumerate(proposal.token_ids[:overlap])
        ):
            return 0
        self.how = proposal.how
        if proposal.base == self.committed:
            self._tree = proposal
        self.text.extend(proposal.token_ids[overlap:])
        self._probs.extend(proposal.probs[overlap:])
        self._laws.extend(proposal.laws[overlap:])
        return max(len(proposal) - overlap, 0)

    def commit(self, token_ids: Sequence[int]) -> Settled:
        """Follow the verifier: `token_ids` come next in the committed text."""
        judged: list[tuple[float, bool]] = []
        contradicted = False
        for token_id in token_ids:
            if not self._probs:
                self.text.append(token_id)
                continue
            position = self.committed
            stands = self.text[position] == token_id
            judged.append((self._probs.popleft(), stands))
            if self._laws:
                self._laws.popleft()
            if not stands:
                contradicted = True
                self._probs.clear()
                self._laws.clear()
                self.text.truncate(position)
                self.text.append(token_id)
        return Settled(tuple(judged), contradicted)

    def piece(self, start: int, end: int) -> Proposal:
        """The drafted tokens from absolute position `start` up to `end`; with their branches, if they are one whole
        proposal right after the committed text."""
        tree = self._tree
        is_whole = tree is not None and tree.base == start == self.committed and len(tree) == end - start
        first, last = start - self.committed, end - self.committed
        indices = range(first, last)
        return Proposal(
            base=start,
            token_ids=tuple(self.text[start:end]),
            probs=tuple(self._probs[index] for index in indices),
            how=self.how,
            laws=tuple(self._laws[index] for index in indices) if self._laws else (),
            branches=tree.branches if tree is not None and is_whole else Branches(),
        )
