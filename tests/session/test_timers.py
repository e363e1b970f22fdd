"""When a session needs a look though nothing arrives."""

from paceline.cloud.timers import Timers


def test_whoever_leaves_a_session_waiting_is_found_once() -> None:
    """The one that was heard longest ago first; whoever was heard since has time again."""
    timers = Timers(10.0)
    for key, at_s in ((1, 0.0), (2, 1.0), (3, 2.0)):
        timers.is_active(key, at_s)
    assert list(timers.due_s) == [10.0]
    timers.is_active(1, 3.0)
    assert list(timers.due_s) == [11.0]
    assert timers.idle(10.9, ()) == []
    assert timers.idle(12.0, ()) == [2, 3]
    assert timers.idle(12.0, ()) == []
    assert list(timers.due_s) == [13.0]


def test_a_session_that_waits_for_the_verifier_is_not_idle() -> None:
    """Neither in the queue nor while drafts are given time; both have as long again."""
    timers = Timers(10.0)
    timers.is_active(1, 0.0)
    timers.is_active(2, 0.0)
    timers.wait_for_draft(2, 50.0)
    assert timers.idle(10.0, {1}) == []
    assert timers.idle(20.0, ()) == [1]
    assert timers.late_drafts(50.0) == [2]
    assert timers.idle(50.0, ()) == [2]


def test_for_ever_is_for_ever() -> None:
    """Without a limit nobody is idle, and there is nothing to wake up for."""
    timers = Timers(0.0)
    timers.is_active(1, 0.0)
    assert list(timers.due_s) == []
    assert timers.idle(1e9, ()) == []


def test_what_is_forgotten_is_not_looked_at() -> None:
    """A session that is gone has no times."""
    timers = Timers(10.0)
    timers.is_active(1, 0.0)
    timers.wait_for_draft(1, 1.0)
    timers.end_at(1, 2.0)
    assert (timers.ends_s(1), timers.ended(2.0)) == (2.0, [1])
    timers.forget(1)
    assert (list(timers.due_s), timers.ends_s(1)) == ([], None)
    assert (timers.late_drafts(99.0), timers.ended(99.0), timers.idle(99.0, ())) == ([], [], [])
