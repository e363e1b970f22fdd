"""What model sessions do at the edges: full contexts, unknown tokens, failures, reused caches."""

from collections.abc import Sequence

import numpy as np
import pytest

from paceline.common.errors import InvalidRequest, TargetNumerics
from paceline.common.sampling.choose import Chooser
from paceline.common.tokens import Rule, SamplingParams
from paceline.edge.drafters.model import Logits, ModelDrafter
from paceline.edge.drafters.ngram import NgramDrafter
from paceline.edge.drafters.table import TableDrafter, TableRunner

GREEDY = Chooser(Rule.GREEDY, SamplingParams(), 0, 64)


class _CountingRunner(TableRunner):
    """Remembers what it was asked to consume."""

    def __init__(self) -> None:
        super().__init__(TableDrafter())
        self.calls: list[tuple[int, list[int]]] = []
        self.is_closed = False
        self.fails = False

    def forward(self, past_length: int, token_ids: Sequence[int]) -> Logits:
        self.calls.append((past_length, list(token_ids)))
        logits = super().forward(past_length, token_ids)
        return np.full_like(logits, np.nan) if self.fails else logits

    def close(self) -> None:
        super().close()
        self.is_closed = True


class _CountingDrafter(ModelDrafter):
    def __init__(self) -> None:
        self.runners: list[_CountingRunner] = []
        super().__init__("counting", self._make, 64)

    def _make(self) -> _CountingRunner:
        self.runners.append(_CountingRunner())
        return self.runners[-1]


def test_each_token_is_consumed_once() -> None:
    """Writing on feeds the model one token at a time and the prompt once."""
    drafter = _CountingDrafter()
    session = drafter.start([5, 6, 7], GREEDY)
    written = session.propose(3).token_ids
    assert drafter.runners[0].calls == [(0, [5, 6, 7]), (3, [written[0]]), (4, [written[1]])]


def test_full_acceptance_feeds_last_draft_and_bonus() -> None:
    """After full acceptance the model is fed what it never consumed: its last draft and the bonus (E6)."""
    drafter = _CountingDrafter()
    session = drafter.start([5, 6, 7], GREEDY)
    written = session.propose(3).token_ids
    session.observe(3, [*written, 9])
    session.propose(1)
    assert drafter.runners[0].calls[-1] == (5, [written[2], 9])


def test_rejection_feeds_the_correction_alone() -> None:
    """After a rejection the model is fed the correction, at a smaller past."""
    drafter = _CountingDrafter()
    session = drafter.start([5, 6, 7], GREEDY)
    written = session.propose(4).token_ids
    wrong = (written[1] + 1) % 64
    session.observe(3, [written[0], wrong])
    session.propose(1)
    assert drafter.runners[0].calls[-1] == (4, [wrong])


def test_next_session_reuses_the_shared_beginning() -> None:
    """A session that begins like the one closed before computes only what is new."""
    drafter = _CountingDrafter()
    session = drafter.start([5, 6, 7], GREEDY)
    written = session.propose(3).token_ids
    session.close()
    following = drafter.start([5, 6, 7, *written[:2], 40, 41], GREEDY)
    following.propose(1)
    assert len(drafter.runners) == 1
    assert drafter.runners[0].calls[-1] == (5, [40, 41])


def test_same_prompt_again_computes_its_last_token() -> None:
    """A session with the same prompt feeds the prompt's last token anew, for its logits are needed."""
    drafter = _CountingDrafter()
    for _ in range(2):
        session = drafter.start([5, 6, 7], GREEDY)
        session.propose(1)
        session.close()
    assert drafter.runners[0].calls == [(0, [5, 6, 7]), (2, [7])]


def test_at_most_one_idle_cache_is_kept() -> None:
    """When many sessions close, one cache stays and the others are freed."""
    drafter = _CountingDrafter()
    sessions = [drafter.start([5, 6, 7], GREEDY) for _ in range(4)]
    for session in sessions:
        session.close()
        session.close()
    assert [runner.is_closed for runner in drafter.runners] == [True, True, True, False]


def test_context_that_is_full_proposes_nothing() -> None:
    """The last proposed token is the one after a full context; then the session is silent, not broken."""
    drafter = TableDrafter(max_length=8)
    session = drafter.start([1, 2, 3, 4, 5], GREEDY)
    assert len(session.propose(10)) == 4
    assert len(session.propose(10)) == 0
    session.observe(session.length, [7])
    assert len(session.propose(1)) == 0
    assert len(drafter.start(list(range(9)), GREEDY).propose(1)) == 0


def test_token_the_model_does_not_know_silences_it() -> None:
    """Text the drafter's vocabulary cannot express proposes nothing until it is gone."""
    session = TableDrafter().start([1, 2], GREEDY)
    session.observe(2, [64])
    assert len(session.propose(3)) == 0
    session.observe(2, [63])
    assert len(session.propose(3)) == 3
    assert len(TableDrafter().start([1, 900], GREEDY).propose(3)) == 0


def test_empty_prompt_is_refused() -> None:
    """A text must begin with at least one token."""
    for drafter in (TableDrafter(), NgramDrafter()):
        with pytest.raises(InvalidRequest, match="no tokens"):
            drafter.start([], GREEDY)


def test_failing_model_leaves_the_text_as_it_was() -> None:
    """When the model breaks mid-block, tokens nobody heard of are forgotten."""
    drafter = _CountingDrafter()
    session = drafter.start([5, 6, 7], GREEDY)
    runner = drafter.runners[0]

    def break_after_two(_prob: float) -> bool:
        runner.fails = len(runner.calls) >= 2
        return True

    with pytest.raises(TargetNumerics):
        session.propose(8, break_after_two)
    assert session.length == 3
    runner.fails = False
    expected = TableDrafter().start([5, 6, 7], GREEDY).propose(4)
    assert session.propose(4).token_ids == expected.token_ids


def test_corrections_may_replace_earlier_committed_text() -> None:
    """What `observe` says last is the text; only the prompt cannot change."""
    session = TableDrafter().start([1, 2], GREEDY)
    session.observe(2, [3, 4, 5])
    assert session.observe(2, [3, 9]) == 1
    assert session.length == 4
    with pytest.raises(ValueError, match="prompt"):
        session.observe(1, [7])


def test_limit_below_one_proposes_nothing() -> None:
    """A limit of zero or less writes nothing."""
    session = TableDrafter().start([1, 2], GREEDY)
    assert len(session.propose(0)) == len(session.propose(-3)) == 0
