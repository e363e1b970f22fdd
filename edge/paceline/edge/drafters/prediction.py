"""The caller's own guess of the text, drafted wherever the text follows it.

A prediction is copied from its beginning. Once the text departs from it, copying goes on where the last tokens of the
text stand in the prediction, looked for after the place that was left; until then the inner drafter writes, if there is
one. What is proposed is a fixed function of the text, so it is exact under every rule (How.ONE_HOT).
"""

from collections.abc import Sequence

from paceline.common.drafter import Drafter, KeepGoing, Proposal
from paceline.common.sampling.choose import Choice, Chooser
from paceline.common.tokens import How
from paceline.edge.drafters.combined import CombinedDrafter, CombinedSession
from paceline.edge.drafters.text import TextSession

_LEAST_MATCH = 3
"""Tokens that must agree before copying is taken up again."""
_FOLLOWED, _RESUMED = 0.95, 0.8
"""Chances that the next token stands: while nothing has departed from the prediction, and after."""


class Alignment:
    """Where in a prediction a text stands.

    Args:
        prediction_token_ids: what is expected.
    """

    def __init__(self, prediction_token_ids: Sequence[int]) -> None:
        self._expected = tuple(prediction_token_ids)
        self._places: dict[tuple[int, ...], list[int]] = {}
        for end in range(_LEAST_MATCH, len(self._expected)):
            gram = self._expected[end - _LEAST_MATCH : end]
            self._places.setdefault(gram, []).append(end)

    def start(self) -> int | None:
        """Before the first token."""
        return 0 if self._expected else None

    def next_token(self, place: int | None) -> int | None:
        """What is expected at a place; None where nothing is."""
        return None if place is None or place >= len(self._expected) else self._expected[place]

    def after(self, place: int | None, last_tokens: Sequence[int]) -> int | None:
        """The place after one more token.

        Args:
            place: before that token; None if the text had departed.
            last_tokens: the text's last ones, that token included.
        """
        if place is not None and self.next_token(place) == last_tokens[-1]:
            return place + 1
        found = self._places.get(tuple(last_tokens[-_LEAST_MATCH:]), ())
        later = (one for one in found if place is None or one > place)
        return next(later, found[0] if found else None)


def count_accepted(prediction_token_ids: Sequence[int], token_ids: Sequence[int]) -> int:
    """Tokens of a text that were expected where they stand."""
    alignment = Alignment(prediction_token_ids)
    place, num_accepted = alignment.start(), 0
    for end, token_id in enumerate(token_ids, 1):
        num_accepted += alignment.next_token(place) == token_id
        place = alignment.after(place, token_ids[max(end - _LEAST_MATCH, 0) : end])
    return num_accepted


class PredictionSession(TextSession):
    """A text continued from a prediction."""

    def __init__(self, prompt_token_ids: Sequence[int], alignment: Alignment) -> None:
        super().__init__(prompt_token_ids, How.ONE_HOT)
        self._alignment = alignment
        self._places = [alignment.start()]
        """Before each generated token, and before the next."""

    def _next(self) -> Choice | None:
        token_id = self._alignment.next_token(self._places[-1])
        if token_id is None:
            return None
        prob = _FOLLOWED if self._places[-1] == len(self._places) - 1 else _RESUMED
        return Choice(token_id=token_id, prob=prob, law=None)

    def _appended(self, token_id: int) -> None:
        generated = self._tokens[max(self._num_prompt, len(self._tokens) - _LEAST_MATCH) :]
        self._places.append(self._alignment.after(self._places[-1], generated))

    def _truncated(self, length: int) -> None:
        del self._places[length - self._num_prompt + 1 :]


class PredictionDrafter:
    """Copies from one prediction; made for one text.

    Args:
        prediction_token_ids: what the caller expects the text to be.
    """

    def __init__(self, prediction_token_ids: Sequence[int]) -> None:
        self._alignment = Alignment(prediction_token_ids)

    @property
    def name(self) -> str:
        """Short name for logs and metrics."""
        return "prediction"

    @property
    def vocab_size(self) -> int | None:
        """None: it only copies ids it was given."""
        return None

    def start(self, prompt_token_ids: Sequence[int], chooser: Chooser) -> PredictionSession:
        """Begin a text; the chooser is not asked, because copying leaves nothing to choose."""
        return PredictionSession(prompt_token_ids, self._alignment)


class _FirstToSpeak(CombinedSession):
    def _write(self, limit: int, keep_going: KeepGoing) -> list[Proposal]:
        for session in self._sessions:
            part = self._write_with(session, limit, keep_going)
            if len(part):
                return [part]
        return [part]


class _PredictedDrafter(CombinedDrafter):
    """A block is the prediction's where it has something to say, else the inner drafter's."""

    is_even = False
    """A copied block takes less time."""

    def start(self, prompt_token_ids: Sequence[int], chooser: Chooser) -> _FirstToSpeak:
        """Begin a text."""
        return _FirstToSpeak(self._start_all(prompt_token_ids, chooser), chooser.how)


def predicted(drafter: Drafter | None, prediction_token_ids: Sequence[int]) -> Drafter | None:
    """The drafter for a text with a prediction; the one given, if there is none."""
    if not prediction_token_ids:
        return drafter
    copying = PredictionDrafter(prediction_token_ids)
    return copying if drafter is None else _PredictedDrafter("predicted", (copying, drafter))
