"""When a verifier waits for a draft, and when it decodes on alone."""

import pytest

from paceline.cloud.fill import Load, Patience

PASS_S = 0.03


def judged(
    wait_s: float, *, num_accepted: int = 2, refuted: bool = True, rounds: int = 60
) -> tuple[Patience, float]:
    """A session whose drafts came so long after each verdict, for a while; and the time of its last verdict."""
    patience, now_s = Patience(), 0.0
    for _ in range(rounds):
        patience.on_commit(now_s, num_accepted + 1, judged=True, num_accepted=num_accepted, refuted=refuted)
        patience.on_draft(now_s + wait_s)
        now_s += wait_s + PASS_S
    patience.on_commit(now_s, num_accepted + 1, judged=True, num_accepted=num_accepted, refuted=refuted)
    return patience, now_s


def waits(patience: Patience, now_s: float) -> bool:
    """Whether it waits now."""
    return patience.fill_at(now_s, PASS_S, Load()) > now_s


def test_who_never_drafted_is_not_waited_for() -> None:
    """The first passes of a session are its verifier's."""
    patience = Patience()
    patience.on_commit(0.0, 1, judged=False, num_accepted=0, refuted=False)
    assert not waits(patience, 0.0)


@pytest.mark.parametrize(
    ("wait_s", "expected"), [(0.005, True), (0.018, True), (0.022, False), (0.05, False)]
)
def test_a_wait_is_worth_the_pass_that_a_draft_saves(wait_s: float, expected: bool) -> None:
    """Two of three drafted tokens stand: up to two thirds of a pass, 20 ms."""
    assert waits(*judged(wait_s)) == expected


def test_after_tokens_of_its_own_a_verifier_waits_less() -> None:
    """The draft on its way may be refuted already."""
    patience, now_s = judged(0.045)
    now_s += PASS_S
    patience.on_commit(now_s, 1, judged=False, num_accepted=0, refuted=False)
    assert not waits(patience, now_s)
    patience, now_s = judged(0.042)
    now_s += PASS_S
    patience.on_commit(now_s, 1, judged=False, num_accepted=0, refuted=False)
    assert waits(patience, now_s)


def test_a_drafter_that_is_never_refuted_in_time_is_not_waited_for() -> None:
    """Its drafts are too short to reach a contradiction: its own pace binds, whoever waits."""
    assert not waits(*judged(0.01, num_accepted=1, refuted=False))


def test_a_draft_that_is_overdue_is_waited_for_once() -> None:
    """When none comes although one was due, none is expected until one comes."""
    patience, now_s = judged(0.01)
    late_s = patience.fill_at(now_s, PASS_S, Load())
    assert now_s + 0.01 <= late_s < now_s + 0.025
    assert not waits(patience, late_s + 0.001)
    assert not waits(patience, now_s + 0.005)
    patience.on_draft(late_s + 0.002)
    patience.on_commit(late_s + 0.2, 3, judged=True, num_accepted=2, refuted=True)
    assert waits(patience, late_s + 0.2)


def test_a_text_that_has_not_begun_yields_to_others_for_a_while_only() -> None:
    """Under load four passes are left to others, counted from when it could first go on, however often it is asked."""
    load = Load()
    for _ in range(100):
        load.observe(2)
    patience = Patience()
    assert patience.fill_at(1.0, PASS_S, load) == 1.0 + 4 * PASS_S
    assert patience.fill_at(1.0 + 3 * PASS_S, PASS_S, load) == 1.0 + 4 * PASS_S
    assert patience.fill_at(1.0 + 4 * PASS_S, PASS_S, load) <= 1.0 + 4 * PASS_S
