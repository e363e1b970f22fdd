"""The n-gram index equals a search of the whole text, and its estimates are what it says."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.common.errors import InvalidRequest
from paceline.common.sampling.choose import Chooser
from paceline.common.tokens import How, Rule, SamplingParams
from paceline.edge.drafters.ngram import NgramDrafter, NgramIndex

CHOOSER = Chooser(Rule.REJECTION, SamplingParams(temperature=1.0), 0, 64)


def brute_force(tokens: list[int], shortest: int, longest: int) -> tuple[int, int]:
    """Longest suffix with an earlier occurrence that has a continuation; the latest such occurrence."""
    for n in range(min(longest, len(tokens) - 1), shortest - 1, -1):
        suffix = tokens[len(tokens) - n :]
        for start in range(len(tokens) - n - 1, -1, -1):
            if tokens[start : start + n] == suffix:
                return n, start + n
    return 0, -1


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(st.one_of(st.integers(0, 2), st.integers(-6, -1)), max_size=60),
    shortest=st.integers(1, 3),
    extra=st.integers(0, 4),
)
def test_index_equals_search_of_the_whole_text(steps: list[int], shortest: int, extra: int) -> None:
    """After any pushes and pops the index finds what a search of the text finds."""
    index = NgramIndex(shortest, shortest + extra)
    tokens: list[int] = []
    for step in steps:
        if step >= 0:
            tokens.append(step)
            index.push(tokens)
        else:
            for _ in range(min(-step, len(tokens))):
                tokens.pop()
                index.pop()
        assert index.find(tokens) == brute_force(tokens, shortest, shortest + extra)


def test_emptied_index_holds_nothing() -> None:
    """Popping everything leaves no memory behind."""
    index = NgramIndex(1, 4)
    tokens: list[int] = []
    for token_id in [1, 2, 1, 2, 3] * 20:
        tokens.append(token_id)
        index.push(tokens)
    for _ in range(len(tokens)):
        index.pop()
    assert not index._last
    assert not index._undo


def test_copies_what_followed_the_longest_match() -> None:
    """A longer match wins over a later one."""
    session = NgramDrafter(min_ngram=1).start([1, 2, 3, 40, 9, 3, 50, 1, 2, 3], CHOOSER)
    assert session.propose(2).token_ids == (40, 9)


def test_latest_of_equal_matches_wins() -> None:
    """Of two equally long matches the later one is copied."""
    session = NgramDrafter(min_ngram=1).start([7, 40, 7, 50, 7], CHOOSER)
    assert session.propose(1).token_ids == (50,)


def test_copying_goes_on_through_a_loop() -> None:
    """A text that repeats is continued for as long as asked."""
    session = NgramDrafter().start([1, 2, 3, 1, 2, 3], CHOOSER)
    assert session.propose(9).token_ids == (1, 2, 3) * 3


def test_nothing_to_copy_proposes_nothing() -> None:
    """Without a repeated suffix there is no proposal, and the estimate is never asked."""
    assert len(NgramDrafter().start([1, 2, 3, 4], CHOOSER).propose(4)) == 0


def test_drafts_are_one_hot_under_any_rule() -> None:
    """Copying is a fixed function of the text, and says so even when the target samples."""
    proposal = NgramDrafter().start([1, 2, 3, 1, 2], CHOOSER).propose(1)
    assert proposal.how is How.ONE_HOT
    assert proposal.laws == ()


def test_estimate_learns_from_the_committed_text() -> None:
    """Where copying has been right the estimate rises towards 1; where it has been wrong it falls."""
    drafter = NgramDrafter(min_ngram=1, max_ngram=1)
    right = drafter.start([1, 2] * 20, CHOOSER).propose(1).probs[0]
    unseen = drafter.start([1, 2, 1], CHOOSER).propose(1).probs[0]
    wrong = drafter.start([1, 2, 1, 3, 1, 4, 1, 5, 1, 6, 1], CHOOSER).propose(1).probs[0]
    assert wrong < unseen < right
    assert right > 0.9
    assert wrong < 0.4


def test_own_drafts_teach_nothing_until_committed() -> None:
    """A session that writes on and on does not talk itself into confidence."""
    session = NgramDrafter(min_ngram=2, max_ngram=2).start([1, 2, 3, 1, 2], CHOOSER)
    probs = session.propose(30).probs
    assert probs == (probs[0],) * 30
    session.observe(5, [3, 1, 2, 3, 1, 2])
    assert session.propose(1).probs[0] > probs[0]


def test_corrected_commits_are_unlearned() -> None:
    """If the committed text is replaced, what was learned from it goes too."""
    drafter = NgramDrafter(min_ngram=1)
    session = drafter.start([1, 2, 3, 1], CHOOSER)
    session.observe(4, [2, 3, 1, 2])
    session.observe(4, [9, 3, 1, 2])
    fresh = drafter.start([1, 2, 3, 1], CHOOSER)
    fresh.observe(4, [9, 3, 1, 2])
    assert session.propose(3) == fresh.propose(3)


def test_senseless_lengths_are_refused() -> None:
    """The shortest match must be positive and not above the longest."""
    for shortest, longest in ((0, 3), (4, 3)):
        with pytest.raises(InvalidRequest, match="min"):
            NgramDrafter(min_ngram=shortest, max_ngram=longest)
