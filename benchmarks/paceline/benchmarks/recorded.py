"""Drafts recorded once and replayed: the same blocks at no cost, so that a verifier can be loaded by one machine."""

from collections.abc import Sequence

from paceline.common.drafter import Drafter, DraftSession, KeepGoing, Proposal, always
from paceline.common.sampling.choose import Chooser


class RecordedDrafts:
    """What a drafter proposed, by prompt and position.

    Under the greedy and coupled rules the text does not depend on the drafts, so for a fixed block length a replay
    meets the same positions.
    """

    def __init__(self) -> None:
        self.proposals: dict[tuple[int, ...], dict[int, Proposal]] = {}

    def record(self, drafter: Drafter) -> "Drafter":
        """The drafter, with its proposals written down."""
        return _Recording(drafter, self)

    def replay(self) -> "Drafter":
        """A drafter that proposes what was written down, and nothing elsewhere."""
        return _Replaying(self)


class _Recording:
    def __init__(self, drafter: Drafter, drafts: RecordedDrafts) -> None:
        self._drafter = drafter
        self._drafts = drafts

    @property
    def name(self) -> str:
        return self._drafter.name

    @property
    def vocab_size(self) -> int | None:
        return self._drafter.vocab_size

    def start(self, prompt_token_ids: Sequence[int], chooser: Chooser) -> DraftSession:
        session = self._drafter.start(prompt_token_ids, chooser)
        return _RecordingSession(session, self._drafts.proposals.setdefault(tuple(prompt_token_ids), {}))


class _RecordingSession:
    def __init__(self, session: DraftSession, proposals: dict[int, Proposal]) -> None:
        self._session = session
        self._proposals = proposals

    @property
    def length(self) -> int:
        return self._session.length

    def propose(self, limit: int, keep_going: KeepGoing = always) -> Proposal:
        proposal = self._session.propose(limit, keep_going)
        self._proposals[proposal.base] = proposal
        return proposal

    def observe(self, position: int, token_ids: Sequence[int]) -> int:
        return self._session.observe(position, token_ids)

    def follow(self, position: int, token_ids: Sequence[int]) -> None:
        self._session.follow(position, token_ids)

    def close(self) -> None:
        self._session.close()


class _Replaying:
    def __init__(self, drafts: RecordedDrafts) -> None:
        self._drafts = drafts

    @property
    def name(self) -> str:
        return "recorded"

    @property
    def vocab_size(self) -> int | None:
        return None

    def start(self, prompt_token_ids: Sequence[int], chooser: Chooser) -> DraftSession:
        proposals = self._drafts.proposals.get(tuple(prompt_token_ids), {})
        return _ReplayingSession(len(prompt_token_ids), chooser, proposals)


class _ReplayingSession:
    def __init__(self, length: int, chooser: Chooser, proposals: dict[int, Proposal]) -> None:
        self._length = length
        self._chooser = chooser
        self._proposals = proposals

    @property
    def length(self) -> int:
        return self._length

    def propose(self, limit: int, keep_going: KeepGoing = always) -> Proposal:
        proposal = self._proposals.get(self._length)
        if proposal is None or len(proposal) > limit:
            return Proposal(self._length, (), (), self._chooser.how)
        self._length += len(proposal)
        return proposal

    def observe(self, position: int, token_ids: Sequence[int]) -> int:
        self._length = position + len(token_ids)
        return len(token_ids)

    def follow(self, position: int, token_ids: Sequence[int]) -> None:
        self._length = position + len(token_ids)

    def close(self) -> None:
        """Nothing is held."""
