"""What stands beyond the committed text: a relay's opinion, and drafted tokens that nobody has judged yet. Pure."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from paceline.common.drafter import Branches, Proposal
from paceline.common.prefix import Prefix
from paceline.common.sampling.quantised import QuantisedLaw
from paceline.common.tokens import How


@dataclass(frozen=True, slots=True)
class Settled:
    """What the next hop said about the tail."""

    judged: tuple[tuple[float, bool], ...]
    """Draft probability of each drafted token that was spoken about, and whether it stands; ends with the first that
    does not."""
    refuted_at: int | None
    """Absolute position from which on this side had another text; what followed there is gone. None: nowhere."""


class Tail:
    """The committed text, what the next hop puts after it, and the drafts after that. `follow` follows the next hop,
    `extend` the drafter.

    Args:
        token_ids: committed so far, prompt included.
    """

    def __init__(self, token_ids: Iterable[int]) -> None:
        self.text = Prefix(token_ids)
        self.committed = len(self.text)
        """Length of the committed text."""
        self.how = How.ONE_HOT
        self._probs: deque[float] = deque()
        self._laws: deque[QuantisedLaw] = deque()
        self._tree = Proposal(0, (), (), self.how)
        """The proposal written last onto the committed text itself."""

    def __len__(self) -> int:
        """Drafted tokens."""
        return len(self._probs)

    @property
    def known(self) -> int:
        """Length of the text as the next hop has it: the committed one, and a relay's own opinion after it."""
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

    def follow(self, position: int, token_ids: Sequence[int], *, is_final: bool) -> Settled:
        """The next hop's text from `position` on is `token_ids`; committed, if that is final."""
        judged: list[tuple[float, bool]] = []
        refuted_at: int | None = None
        for at, token_id in enumerate(token_ids, position):
            is_drafted = at >= self.known
            stands = at < len(self.text) and self.text[at] == token_id
            if is_drafted and self._probs:
                judged.append((self._probs.popleft(), stands))
                if self._laws:
                    self._laws.popleft()
            if not stands:
                if at < len(self.text):
                    refuted_at = at
                    self.cut(at)
                self.text.append(token_id)
        if is_final:
            self.committed = position + len(token_ids)
        return Settled(tuple(judged), refuted_at)

    def cut(self, length: int) -> None:
        """Forget the drafts, and what is known from absolute position `length` on."""
        self._probs.clear()
        self._laws.clear()
        self.text.truncate(length)

    def piece(self, start: int, end: int) -> Proposal:
        """The drafted tokens from absolute position `start` up to `end`; with their branches, if they are one whole
        proposal right after the committed text."""
        tree = self._tree
        is_whole = tree.base == start == self.committed == self.known and len(tree) == end - start
        indices = range(start - self.known, end - self.known)
        return Proposal(
            base=start,
            token_ids=tuple(self.text[start:end]),
            probs=tuple(self._probs[index] for index in indices),
            how=self.how,
            laws=tuple(self._laws[index] for index in indices) if self._laws else (),
            branches=tree.branches if is_whole else Branches(),
        )
