"""Who runs in the next engine step: fairness, budgets, and long prompts."""

from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.cloud.scheduler import Planned, Scheduler
from paceline.common.acceptance import Judgement
from paceline.common.messages import FillPolicy, Open
from paceline.common.session import Limits, VerifierSession
from paceline.common.tokens import Draft, How, Origin

LIMITS = Limits(vocab_size=100, max_context=10_000)


def session(
    num_prompt: int, fill: FillPolicy = FillPolicy.UNLIMITED, max_new_tokens: int = 1000
) -> VerifierSession:
    """A live session with a prompt of that length."""
    opened = VerifierSession(Open((1,) * num_prompt, max_new_tokens, fill=fill), LIMITS)
    opened.opened()
    return opened


def finish(sessions: dict[int, VerifierSession], planned: list[Planned]) -> None:
    """The engine ran it; nothing was accepted."""
    for part in planned:
        if part.work.draft is None:
            sessions[part.key].on_prefilled(part.work)
        else:
            sessions[part.key].on_judged(part.work, Judgement(0, 2, Origin.RECOVERED))


def draft_for(live: VerifierSession, count: int) -> Draft:
    """A block of that length for its text."""
    length = len(live.text)
    return Draft(length, live.text.hash_at(length), (3,) * count, (0.5,) * count, How.ONE_HOT)


@settings(deadline=None, max_examples=100)
@given(
    blocks=st.lists(st.integers(0, 20), min_size=2, max_size=12),
    budget=st.integers(1, 40),
    rounds=st.integers(1, 12),
)
def test_nobody_is_overtaken(blocks: list[int], budget: int, rounds: int) -> None:
    """While a session waits, no session that queued after it is served before it."""
    sessions = {key: session(1) for key in range(len(blocks))}
    scheduler, arrivals, queued_at = Scheduler(budget, 256), 0, {}
    for key in sessions:
        scheduler.add(key)
        arrivals += 1
        queued_at[key] = arrivals
    for _ in range(rounds):
        for key, live in sessions.items():
            if not live._waiting:
                live.on_draft(draft_for(live, blocks[key]))
        planned = scheduler.plan(sessions)
        served = {part.key for part in planned}
        assert planned
        waiting = [queued_at[key] for key in sessions if key not in served]
        assert all(queued_at[key] < min(waiting, default=arrivals + 1) for key in served)
        finish(sessions, planned)
        for part in planned:
            scheduler.add(part.key)
            arrivals += 1
            queued_at[part.key] = arrivals


@settings(deadline=None, max_examples=50)
@given(
    prompts=st.lists(st.integers(2, 400), min_size=1, max_size=6),
    num_writing=st.integers(1, 6),
    chunk=st.integers(8, 64),
)
def test_prompts_delay_generations_by_at_most_one_chunk(
    prompts: list[int], num_writing: int, chunk: int
) -> None:
    """Every session that generates is in every step, which holds at most one chunk of prompts."""
    sessions = {key: session(1) for key in range(num_writing)}
    sessions |= {100 + index: session(length) for index, length in enumerate(prompts)}
    scheduler = Scheduler(1024, chunk)
    for key in reversed(sessions):
        scheduler.add(key)
    steps = 0
    while any(live.num_uncached > 0 for live in sessions.values()):
        planned = scheduler.plan(sessions)
        prompt_tokens = sum(
            len(part.work.token_ids) - (part.work.num_logits if part.work.draft is not None else 0)
            for part in planned
            if part.key >= 100
        )
        assert prompt_tokens <= chunk
        assert {part.key for part in planned} >= set(range(num_writing))
        finish(sessions, planned)
        for part in planned:
            scheduler.add(part.key)
        steps += 1
        assert steps < 1000


def test_a_step_is_filled_to_its_budget() -> None:
    """A step takes the queue in order while there is room, and always at least one."""
    sessions = {key: session(1) for key in range(5)}
    for live in sessions.values():
        live.on_draft(draft_for(live, 9))
    scheduler = Scheduler(30, 256)
    for key in sessions:
        scheduler.add(key)
    assert [part.key for part in scheduler.plan(sessions)] == [0, 1, 2]
    assert [part.key for part in scheduler.plan(sessions)] == [3, 4]
    small = Scheduler(3, 256)
    small.add(0)
    assert [part.key for part in small.plan(sessions)] == [0]


def test_idle_and_gone_sessions_leave_the_queue() -> None:
    """Whoever has nothing to do, or is no longer there, is not asked again until it is added."""
    sessions = {0: session(1, FillPolicy.OFF), 1: session(1)}
    scheduler = Scheduler(100, 100)
    for key in (0, 1, 2, 2):
        scheduler.add(key)
    assert len(scheduler) == 3
    assert [part.key for part in scheduler.plan(sessions)] == [1]
    assert len(scheduler) == 0
    assert scheduler.plan(sessions) == []


def test_prompts_take_turns() -> None:
    """Two long prompts advance chunk by chunk, in turn."""
    sessions = {0: session(60), 1: session(60)}
    scheduler = Scheduler(1024, 16)
    scheduler.add(0)
    scheduler.add(1)
    order = []
    for _ in range(6):
        planned = scheduler.plan(sessions)
        order += [part.key for part in planned]
        finish(sessions, planned)
        for part in planned:
            scheduler.add(part.key)
    assert order == [0, 1, 0, 1, 0, 1]
