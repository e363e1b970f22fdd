"""The horizontal cascade: the first tokens of a block from the best drafter, the later ones from cheaper ones.

A token late in a block counts only if all before it stand, so it is worth less time. A tier that has nothing to say
leaves its place to the next. Which tier writes depends on the place in the block and on what could be copied, never
on the value of a token that is then dropped, so every rule stays exact (methods E11).

Reference: Cascade Speculative Drafting, arXiv:2312.11462.
"""

from collections.abc import Sequence

from paceline.common.drafter import Drafter, DraftSession, KeepGoing, Proposal
from paceline.common.errors import InvalidRequest
from paceline.common.sampling.choose import Chooser
from paceline.common.tokens import How
from paceline.edge.drafters.combined import CombinedDrafter, CombinedSession


class _Listener:
    """Passes `keep_going` on and remembers the last answer."""

    def __init__(self, keep_going: KeepGoing) -> None:
        self._keep_going = keep_going
        self.goes_on = True

    def __call__(self, prob: float) -> bool:
        self.goes_on = self._keep_going(prob)
        return self.goes_on


class CascadeSession(CombinedSession):
    """A text whose every block is written by one tier after the other."""

    def __init__(self, sessions: Sequence[DraftSession], shares: Sequence[int | None], how: How) -> None:
        super().__init__(sessions, how)
        self._shares = shares

    def _write(self, limit: int, keep_going: KeepGoing) -> list[Proposal]:
        parts: list[Proposal] = []
        listener = _Listener(keep_going)
        for session, share in zip(self._sessions, self._shares, strict=True):
            part = self._write_with(session, limit if share is None else min(share, limit), listener)
            parts.append(part)
            limit -= len(part)
            if limit == 0 or not listener.goes_on:
                break
        return parts


class CascadeDrafter(CombinedDrafter):
    """Several drafters that each write a part of every block."""

    is_even = False
    """What can be copied, and so how long a block is and takes, depends on the tokens drawn before it in the block."""

    def __init__(self, drafters: Sequence[Drafter], *, tokens: Sequence[int] = ()) -> None:
        """Put drafters in a row.

        Args:
            drafters: the one that writes first, first.
            tokens: most tokens of a block each contributes; the last drafter may be left out, and then writes all
                the rest.
        Raises:
            InvalidRequest: the two do not fit.
        """
        super().__init__("cascade", drafters)
        if not len(drafters) - 1 <= len(tokens) <= len(drafters):
            raise InvalidRequest(
                f"{len(tokens)} numbers do not share a block between {len(drafters)} drafters",
                field="drafter.tokens",
                cure="one per drafter; the last may be left out and writes the rest",
            )
        if any(count < 1 for count in tokens):
            raise InvalidRequest(
                "a drafter that writes nothing is none", field="drafter.tokens", cure="leave it out"
            )
        self._shares: tuple[int | None, ...] = (*tokens, None)[: len(drafters)]

    def start(self, prompt_token_ids: Sequence[int], chooser: Chooser) -> CascadeSession:
        """Begin a text."""
        return CascadeSession(self._start_all(prompt_token_ids, chooser), self._shares, chooser.how)
