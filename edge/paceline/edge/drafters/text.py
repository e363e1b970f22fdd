"""What every draft session shares: one text, cut and extended by content."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from paceline.common.drafter import KeepGoing, Proposal, always
from paceline.common.errors import InvalidRequest
from paceline.common.sampling.choose import Choice
from paceline.common.sampling.history import History
from paceline.common.tokens import How


class TextSession(ABC):
    """A `DraftSession` but for where the next token comes from.

    A subclass supplies `_next`; if it keeps anything beside the text it also overrides `_appended` and
    `_truncated`.
    """

    def __init__(self, prompt_token_ids: Sequence[int], how: How) -> None:
        self._how = how
        self._tokens = list(prompt_token_ids)
        if not self._tokens:
            raise InvalidRequest("the prompt has no tokens", field="prompt", cure="send at least one token")
        self._num_prompt = len(self._tokens)
        self._history = History(self._tokens)
        self._is_closed = False

    @property
    def length(self) -> int:
        """Tokens in the text: prompt, committed and drafted."""
        return len(self._tokens)

    def propose(self, limit: int, keep_going: KeepGoing = always) -> Proposal:
        """Write up to `limit` further tokens; see `DraftSession.propose`."""
        self._require_open()
        base = len(self._tokens)
        try:
            chosen = self._write(limit, keep_going)
        except BaseException:
            self._truncate(base)  # nobody will ever hear of what was written before the failure
            raise
        return Proposal(
            base=base,
            token_ids=tuple(choice.token_id for choice in chosen),
            probs=tuple(choice.prob for choice in chosen),
            how=self._how,
            laws=tuple(choice.law for choice in chosen if choice.law is not None),
        )

    def observe(self, position: int, token_ids: Sequence[int]) -> int:
        """Learn the committed text from `position` on; see `DraftSession.observe`."""
        self._require_open()
        if not 0 <= position <= len(self._tokens):
            raise ValueError(f"position {position} leaves a gap after {len(self._tokens)} tokens")
        committed = list(token_ids)
        num_agreed = common_length(self._tokens[position : position + len(committed)], committed)
        end_of_agreement = position + num_agreed
        if num_agreed < len(committed):
            if end_of_agreement < self._num_prompt:
                raise ValueError(f"token {end_of_agreement} belongs to the prompt and cannot change")
            self._truncate(end_of_agreement)
            for token_id in committed[num_agreed:]:
                self._append(token_id)
        self._committed(position + len(committed))
        return num_agreed

    def follow(self, position: int, token_ids: Sequence[int]) -> None:
        """Go on after another drafter's tokens; see `DraftSession.follow`."""
        self._require_open()
        if not self._num_prompt <= position <= len(self._tokens):
            raise ValueError(f"position {position} is not in {self._num_prompt}..{len(self._tokens)}")
        self._truncate(position)
        for token_id in token_ids:
            self._append(token_id)

    def close(self) -> None:
        """Refuse any further use; a subclass also frees its buffers."""
        self._is_closed = True

    def _write(self, limit: int, keep_going: KeepGoing) -> list[Choice]:
        chosen: list[Choice] = []
        while len(chosen) < limit:
            choice = self._next()
            if choice is None:
                break
            self._append(choice.token_id)
            chosen.append(choice)
            if not keep_going(choice.prob):
                break
        return chosen

    @abstractmethod
    def _next(self) -> Choice | None:
        """Choose the token after the text, or None if there is nothing to say."""

    def _appended(self, token_id: int) -> None:
        """The text has just grown by `token_id`."""
        return

    def _truncated(self, length: int) -> None:
        """The text is about to be cut to `length` tokens."""
        return

    def _committed(self, length: int) -> None:
        """The first `length` tokens of the text are known to be committed."""
        return

    def _append(self, token_id: int) -> None:
        self._tokens.append(token_id)
        self._history.push(token_id)
        self._appended(token_id)

    def _truncate(self, length: int) -> None:
        if length == len(self._tokens):
            return
        self._truncated(length)
        del self._tokens[length:]
        self._history.truncate(length - self._num_prompt)

    def _require_open(self) -> None:
        if self._is_closed:
            raise ValueError("the draft session is closed")


def common_length(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """Number of leading tokens two texts share."""
    for index, (own, other) in enumerate(zip(ours, theirs, strict=False)):
        if own != other:
            return index
    return min(len(ours), len(theirs))
