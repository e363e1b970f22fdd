"""What drafters made of several drafters share: their sessions all follow one text, whoever writes it.

Deterministic drafters (copying) and drafters with a law (models) may meet in one text. Under rejection every token
needs the law it was drawn from, and a token that was copied has one too: all the weight on itself. So a combined
drafter says the chooser's `how` throughout, blocks of one session never differ in it, and a copied token travels as
a law of one token, which is exact (proved in tests/acceptance/test_exactness.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from paceline.common.drafter import Drafter, DraftSession, KeepGoing, Proposal, always
from paceline.common.errors import InvalidRequest
from paceline.common.sampling.choose import Chooser
from paceline.common.sampling.quantised import LATTICE, QuantisedLaw
from paceline.common.tokens import How


def join(base: int, parts: Iterable[Proposal], how: How) -> Proposal:
    """Proposals that continue each other, as one.

    Args:
        base: where the first begins.
        how: the chooser's; it holds for tokens that left nothing to choose as well.
    """
    parts = list(parts)
    return Proposal(
        base=base,
        token_ids=tuple(token_id for part in parts for token_id in part.token_ids),
        probs=tuple(prob for part in parts for prob in part.probs),
        how=how,
        laws=tuple(law for part in parts for law in laws_of(part)) if how is How.SAMPLED else (),
    )


def laws_of(part: Proposal) -> tuple[QuantisedLaw, ...]:
    """The law of every token of a proposal; one that left nothing to choose has all the weight on itself."""
    if part.how is How.SAMPLED:
        return part.laws
    return tuple(QuantisedLaw((token_id,), (LATTICE,)) for token_id in part.token_ids)


class CombinedSession(ABC):
    """A `DraftSession` that writes with others; a subclass supplies `_write`."""

    def __init__(self, sessions: Sequence[DraftSession], how: How) -> None:
        self._sessions = sessions
        self._how = how
        self._is_closed = False

    @property
    def length(self) -> int:
        """Tokens in the text: prompt, committed and drafted."""
        return self._sessions[0].length

    def propose(self, limit: int, keep_going: KeepGoing = always) -> Proposal:
        """Write up to `limit` further tokens; see `DraftSession.propose`."""
        if self._is_closed:
            raise ValueError("the draft session is closed")
        base = self.length
        try:
            parts = self._write(limit, keep_going)
        except BaseException:
            self.follow(base, ())  # nobody will ever hear of what was written before the failure
            raise
        return join(base, parts, self._how)

    @abstractmethod
    def _write(self, limit: int, keep_going: KeepGoing) -> list[Proposal]:
        """Proposals that continue each other, made by `_write_with`."""

    def _write_with(self, writer: DraftSession, limit: int, keep_going: KeepGoing) -> Proposal:
        """Let one session write, and the others follow."""
        part = writer.propose(limit, keep_going)
        for session in self._sessions:
            if session is not writer:
                session.follow(part.base, part.token_ids)
        return part

    def observe(self, position: int, token_ids: Sequence[int]) -> int:
        """Learn the committed text from `position` on; see `DraftSession.observe`."""
        num_agreed = 0
        for session in self._sessions:
            num_agreed = session.observe(position, token_ids)
        return num_agreed

    def follow(self, position: int, token_ids: Sequence[int]) -> None:
        """Go on after another drafter's tokens; see `DraftSession.follow`."""
        for session in self._sessions:
            session.follow(position, token_ids)

    def close(self) -> None:
        """Free what every session holds."""
        self._is_closed = True
        for session in self._sessions:
            session.close()


class CombinedDrafter(ABC):
    """A drafter made of several; a subclass supplies `start`."""

    def __init__(self, kind: str, drafters: Sequence[Drafter]) -> None:
        if not drafters:
            raise InvalidRequest("is empty", field="drafter.drafters", cure="name at least one drafter")
        self._kind = kind
        self._drafters = tuple(drafters)

    @property
    def name(self) -> str:
        """Short name for logs and metrics."""
        return f"{self._kind}({','.join(drafter.name for drafter in self._drafters)})"

    @property
    def vocab_size(self) -> int | None:
        """Of the drafter that can write most; None if all only copy ids they have seen."""
        return max((size for drafter in self._drafters if (size := drafter.vocab_size)), default=None)

    @abstractmethod
    def start(self, prompt_token_ids: Sequence[int], chooser: Chooser) -> CombinedSession:
        """Begin a text."""

    def _start_all(self, prompt_token_ids: Sequence[int], chooser: Chooser) -> list[DraftSession]:
        return [drafter.start(prompt_token_ids, chooser) for drafter in self._drafters]
