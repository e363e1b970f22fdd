"""How long a client waits before it asks once more."""

from hypothesis import given
from hypothesis import strategies as st

from paceline.edge.attempts import FIRST_PAUSE_S, JITTER, LONGEST_PAUSE_S, Attempts


@given(retry_after_s=st.floats(0, 100), name=st.text(max_size=5))
def test_nobody_comes_back_sooner_than_told_nor_much_later(retry_after_s: float, name: str) -> None:
    """What the verifier asked for, and up to a quarter more; its own pause where that is longer."""
    attempts = Attempts(name)
    for _ in range(20):
        pause_s = attempts.pause_s(retry_after_s)
        assert retry_after_s <= pause_s <= max(retry_after_s * (1 + JITTER), LONGEST_PAUSE_S)


def test_pauses_double_until_the_text_gets_on() -> None:
    """From 50 ms to a second; then from the beginning."""
    attempts = Attempts("text")
    pauses_s = [attempts.pause_s(0.0) for _ in range(7)]
    assert pauses_s == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    attempts.begin_anew()
    assert attempts.pause_s(0.0) == FIRST_PAUSE_S


def test_texts_that_were_told_the_same_come_at_different_times() -> None:
    """The jitter is the text's own, and the same whenever it is written."""
    pauses_s = [Attempts(name).pause_s(4.0) for name in ("a", "b", "c", "a")]
    assert len(set(pauses_s)) == 3
    assert pauses_s[0] == pauses_s[3]
