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


# --- tenants and deadlines --------------------------------------------------------------------------------------------


class Served:
    """Sessions of several tenants that always have a block of the same length waiting."""

    def __init__(self, budget: int, blocks: dict[str, list[int]]) -> None:
        self.scheduler = Scheduler(budget, 256)
        self.tenant_of = dict(enumerate(tenant for tenant, sizes in blocks.items() for _ in sizes))
        self.sizes = [size for sizes in blocks.values() for size in sizes]
        self.sessions = {key: session(1, max_new_tokens=9000) for key in self.tenant_of}
        self.tokens = dict.fromkeys(blocks, 0)
        for key in self.sessions:
            self.add(key)

    def add(self, key: int) -> None:
        """Something to do once more."""
        if not self.sessions[key]._waiting:
            self.sessions[key].on_draft(draft_for(self.sessions[key], self.sizes[key]))
        self.scheduler.add(key, self.tenant_of[key])

    def step(self) -> set[str]:
        """One step; whose turn it was."""
        planned = self.scheduler.plan(self.sessions)
        finish(self.sessions, planned)
        for part in planned:
            self.tokens[self.tenant_of[part.key]] += len(part.work.token_ids)
            self.add(part.key)
        return {self.tenant_of[part.key] for part in planned}


@settings(deadline=None, max_examples=50)
@given(
    budget=st.integers(5, 60),
    sizes=st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=4), min_size=2, max_size=4),
)
def test_tenants_share_evenly_by_tokens(budget: int, sizes: list[list[int]]) -> None:
    """Tenants with enough to do for whole steps get the same tokens, up to one step's, however large their blocks."""
    blocks = {f"tenant-{n}": one * (-(-budget // (sum(one) + len(one))) + 1) for n, one in enumerate(sizes)}
    served = Served(budget, blocks)
    for _ in range(40):
        served.step()
        assert max(served.tokens.values()) - min(served.tokens.values()) <= max(budget, 21)


@settings(deadline=None, max_examples=20)
@given(num_greedy=st.integers(2, 60), block=st.integers(0, 9), greedy_block=st.integers(0, 20))
def test_one_session_is_in_every_step_beside_sixty(num_greedy: int, block: int, greedy_block: int) -> None:
    """Whoever asks for less than their share is in every step, whatever another tenant asks for; the rest is filled."""
    served = Served(42, {"greedy": [greedy_block] * num_greedy, "modest": [block]})
    served.step()
    for _ in range(20):
        before = sum(served.tokens.values())
        assert "modest" in served.step()
        left = 42 - (sum(served.tokens.values()) - before)
        assert left <= greedy_block or num_greedy * (greedy_block + 1) + block < 42, "the step is full"


def test_nothing_is_saved_up_while_idle() -> None:
    """A tenant that comes back after a hundred steps has its share, not theirs of before."""
    served = Served(10, {"here": [9] * 3, "back": [9] * 3})
    served.step()
    served.step()
    away = [key for key, tenant in served.tenant_of.items() if tenant == "back"]
    for key in away:
        served.sessions[key].close()
    for _ in range(100):
        served.step()
    for key in away:
        served.sessions[key] = session(1)
        served.add(key)
    turns = [served.step() for _ in range(20)]
    assert turns.count({"here"}) == turns.count({"back"}) == 10


def test_a_tenant_on_hold_keeps_its_place_and_delays_nobody() -> None:
    """While it waits others are served; then its sessions go on in their order, and make up for nothing."""
    served = Served(10, {"held": [9] * 2, "other": [9] * 2})
    for _ in range(30):
        planned = served.scheduler.plan(served.sessions, held={"held"})
        assert [served.tenant_of[part.key] for part in planned] == ["other"]
        finish(served.sessions, planned)
        served.add(planned[0].key)
    assert set(served.scheduler.tenants) == {"held", "other"}
    turns = [served.step() for _ in range(20)]
    assert turns.count({"held"}) == turns.count({"other"}) == 10
    assert served.scheduler.plan(served.sessions, held={"held", "other"}) == []


def test_tenants_that_left_are_forgotten() -> None:
    """Nothing is kept of them, however many there were."""
    scheduler = Scheduler(10, 256)
    for key in range(500):
        scheduler.add(key, f"tenant-{key}")
        assert len(scheduler.plan({key: session(1)})) == 1
        assert len(scheduler._served) <= 2
    scheduler.plan({})
    assert not scheduler._served
    assert not scheduler._queues
    assert len(scheduler) == 0


@settings(deadline=None, max_examples=50)
@given(
    wishes=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 12)), min_size=2, max_size=5),
    spare=st.randoms(),
)
def test_deadlines_are_met_where_they_can_be(wishes: list[tuple[int, int]], spare: object) -> None:
    """One turn a step; whenever all deadlines together leave enough steps, all are met, in whatever order they came."""
    total, texts = 0, []
    for num_turns, slack in sorted(wishes, key=lambda one: one[1]):
        total += num_turns
        texts.append((num_turns, total + slack))
    spare.shuffle(texts)  # type: ignore[attr-defined]
    sessions = {key: session(1) for key in range(len(texts) + 2)}
    left = {key: num_turns for key, (num_turns, _) in enumerate(texts)}
    due = {key: float(due) for key, (_, due) in enumerate(texts)}
    scheduler = Scheduler(1, 256)
    for key in reversed(sessions):
        scheduler.add(key, due_s=due.get(key))
    for step in range(1, total + 1):
        (part,) = scheduler.plan(sessions)
        finish(sessions, [part])
        assert part.key in left, "whoever has no deadline waits"
        left[part.key] -= 1
        assert left[part.key] or step <= due[part.key]
        if left[part.key]:
            scheduler.add(part.key, due_s=due[part.key])
        else:
            del left[part.key]
    assert not left


def test_deadlines_take_nothing_from_other_tenants() -> None:
    """A tenant whose every text is late gets its share and no more."""
    served = Served(10, {"late": [9] * 4, "calm": [9] * 4})
    turns = []
    for step in range(20):
        (part,) = served.scheduler.plan(served.sessions)
        finish(served.sessions, [part])
        tenant = served.tenant_of[part.key]
        turns.append(tenant)
        served.sessions[part.key].on_draft(draft_for(served.sessions[part.key], 9))
        served.scheduler.add(part.key, tenant, due_s=float(step) if tenant == "late" else None)
    assert turns.count("late") == turns.count("calm") == 10
