"""The one seam between whatever writes ahead and the rest of the edge: `Drafter` makes a `DraftSession`.

A session holds one text: the prompt, what the verifier committed, and the session's own drafts after it.
`propose` writes on; `observe` tells what the committed text is. Both are addressed by absolute position and
by content, never by "the last block", so repeating, delaying or skipping a call cannot put a session out of
step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from paceline.common.sampling.choose import Chooser
from paceline.common.sampling.quantised import QuantisedLaw
from paceline.common.tokens import How

KeepGoing = Callable[[float], bool]
"""Told the draft probability of the token just written; False ends the block after that token (it is kept:
methods E11 forbids dropping a sampled token for its value)."""


def always(_prob: float) -> bool:
    """Never stop before the limit."""
    return True


@dataclass(frozen=True, slots=True)
class Branches:
    """What a drafter proposes beside a chain: the rest of a tree (`paceline.common.trees`) that begins with the chain.

    Whoever has no use for a tree leaves them out; the chain alone is as exact.
    """

    parents: tuple[int, ...] = ()
    """One per token; indices count the chain's tokens first, then these."""
    token_ids: tuple[int, ...] = ()
    probs: tuple[float, ...] = ()
    laws: tuple[QuantisedLaw, ...] = ()
    """One per token where the proposal has laws."""

    def leading(self, num_tokens: int) -> "Branches":
        """The first tokens; which they are never depends on later ones."""
        kept = slice(max(num_tokens, 0))
        return Branches(self.parents[kept], self.token_ids[kept], self.probs[kept], self.laws[kept])


@dataclass(frozen=True, slots=True)
class Proposal:
    """What one `propose` wrote, continuing the session's own text."""

    base: int
    """Absolute position of the first token; the session's length before the call."""
    token_ids: tuple[int, ...]
    probs: tuple[float, ...]
    """Each token's probability under the law it was chosen from, or an honest estimate where there is no
    law."""
    how: How
    laws: tuple[QuantisedLaw, ...] = ()
    """One law per token when `how` is SAMPLED, else empty."""
    branches: Branches = Branches()
    """Alternatives beside it, of drafters that propose trees."""

    def __len__(self) -> int:
        return len(self.token_ids)


class DraftSession(Protocol):
    """One text being written ahead. Used by one thread at a time."""

    @property
    def length(self) -> int:
        """Tokens in the session's text: prompt, committed and drafted."""
        ...

    def propose(self, limit: int, keep_going: KeepGoing = always) -> Proposal:
        """Write up to `limit` further tokens after the session's own text.

        Called again without `observe` it simply writes on. May write fewer tokens, or none (context full,
        nothing to copy). If it raises (the model is broken), the text is as before.
        """
        ...

    def observe(self, position: int, token_ids: Sequence[int]) -> int:
        """Learn that the committed text from absolute `position` on is `token_ids`.

        The text is cut at the first difference and what it lacks is appended; drafts beyond what agrees stay.
        A duplicate or late call changes nothing.

        Returns:
            How many of `token_ids` the session had written already.
        Raises:
            ValueError: `position` leaves a gap after the session's text, the prompt would change, or the
                session is closed. The session's text is as before.
        """
        ...

    def follow(self, position: int, token_ids: Sequence[int]) -> None:
        """Take over another drafter's text: from absolute `position` on it is `token_ids`, and ends there.

        They are drafts, not commits: nothing is learned from them, and what the session wrote itself from
        `position` on is gone. With no tokens it only cuts.

        Raises:
            ValueError: `position` leaves a gap after the session's text or lies in the prompt, or the session
                is closed. The session's text is as before.
        """
        ...

    def close(self) -> None:
        """Free what the session holds. Closing twice is harmless; anything else afterwards is a
        ValueError."""
        ...


class Drafter(Protocol):
    """Loaded once per process; makes any number of independent sessions."""

    @property
    def name(self) -> str:
        """Short name for logs and metrics."""
        ...

    @property
    def vocab_size(self) -> int | None:
        """Number of token ids it can write; None if it only copies ids it has seen."""
        ...

    def start(self, prompt_token_ids: Sequence[int], chooser: Chooser) -> DraftSession:
        """Begin a text.

        Raises:
            InvalidRequest: the prompt is empty. A text beyond the drafter's context or vocabulary is no
                error: the session proposes nothing and the verifier writes alone.
        """
        ...


def is_even(drafter: Drafter) -> bool:
    """Whether the length and the time of a block have nothing to do with the tokens in it.

    Where they have, an attribute `is_even` of False says so: under rejection such blocks must not race with a verifier
    that writes on by itself, for who comes first would depend on what was drawn (methods E11).
    """
    return bool(getattr(drafter, "is_even", True))
