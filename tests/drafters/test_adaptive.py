"""The choice by record: what a block is credited with, how the record is kept, and how far behind the best it stays."""

import random
from collections.abc import Callable, Sequence
from itertools import count, pairwise

import pytest

from paceline.common.drafter import DraftSession
from paceline.common.sampling.choose import Choice, Chooser
from paceline.common.tokens import How, Rule, SamplingParams
from paceline.edge.drafters.adaptive import AdaptiveDrafter, AdaptiveSession
from paceline.edge.drafters.bandit import DiscountedUcb
from paceline.edge.drafters.ngram import NgramDrafter
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.drafters.text import TextSession

CHOOSER = Chooser(Rule.GREEDY, SamplingParams(), 0, 64)
PROMPT = (1, 2, 3)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


# --- the bandit -------------------------------------------------------------------------------------------------------


def test_arms_never_pulled_lead_in_their_order() -> None:
    """Every arm is tried once, the first first."""
    bandit = DiscountedUcb(3)
    assert bandit.ranking() == [0, 1, 2]
    bandit.learn(0, 9, 1.0)
    assert bandit.ranking() == [1, 2, 0]


def test_the_mean_is_tokens_over_seconds_not_the_mean_of_rates() -> None:
    """A short lucky block does not outweigh a long one: 1 in 1 s and 1 in 9 s are 0.2 a second, not 0.56."""
    bandit = DiscountedUcb(2, discount=1.0, exploration=0.0)
    bandit.learn(0, 1, 1.0)
    bandit.learn(0, 1, 9.0)
    bandit.learn(1, 3, 10.0)
    assert bandit.ranking() == [1, 0]


def test_an_arm_left_alone_is_tried_again() -> None:
    """The record of an arm that is not pulled fades, until it may be better than it looks."""
    bandit = DiscountedUcb(2, discount=0.9, exploration=0.1)
    bandit.learn(0, 10, 1.0)
    bandit.learn(1, 5, 1.0)
    pulls = []
    for _ in range(200):
        arm = bandit.ranking()[0]
        pulls.append(arm)
        bandit.learn(arm, (10, 5)[arm], 1.0)
    assert 2 <= pulls.count(1) <= 20
    assert all(later - earlier > 5 for earlier, later in pairwise([i for i, arm in enumerate(pulls) if arm]))


def test_without_a_discount_or_exploration_the_formula_is_that_of_ucb() -> None:
    """With discount 1 the padding is 2 B sqrt(log(n) / 2 N)."""
    bandit = DiscountedUcb(2, discount=1.0, exploration=0.5)
    for arm, tokens in ((0, 4), (0, 4), (0, 4), (1, 2)):
        bandit.learn(arm, tokens, 1.0)
    assert bandit._scores() == pytest.approx([4.0 + 4.0 * 0.4807, 2.0 + 4.0 * 0.8326], abs=1e-3)


def test_a_copy_is_continued_apart() -> None:
    """What a copy learns the original does not know."""
    bandit = DiscountedUcb(2)
    bandit.copy().learn(0, 1, 1.0)
    assert bandit.ranking() == [0, 1]


# --- what a block is credited with ------------------------------------------------------------------------------------


class Ledger(DiscountedUcb):
    """A record that keeps what it is told, and always asks for its first arm."""

    def __init__(self) -> None:
        super().__init__(2, exploration=0.0)
        self.entries: list[tuple[int, float]] = []

    def learn(self, arm: int, num_tokens: int, seconds: float) -> None:
        """Note it."""
        self.entries.append((num_tokens, seconds))

    def copy(self) -> "Ledger":
        """The same one."""
        return self


def session_of(ledger: Ledger, clock: Clock) -> AdaptiveSession:
    """A session whose blocks of four the ledger hears of."""
    return AdaptiveDrafter([TableDrafter()], lengths=[4], record=ledger, clock=clock).start(PROMPT, CHOOSER)


def test_a_round_is_credited_with_all_it_committed_and_all_it_took() -> None:
    """Accepted tokens and the verifier's own count, and the time runs until the next block begins."""
    ledger, clock = Ledger(), Clock()
    session = session_of(ledger, clock)
    drafts = session.propose(4).token_ids
    clock.now_s = 2.0
    session.observe(3, [*drafts, 9])
    assert ledger.entries == []
    drafts = session.propose(4).token_ids
    clock.now_s = 5.0
    session.observe(8, [*drafts[:2], (drafts[2] + 1) % 64])
    session.propose(4)
    assert ledger.entries == [(5, 2.0), (3, 3.0)]


def test_blocks_in_flight_are_credited_by_place() -> None:
    """With several blocks out, each gets the tokens of its own places, and one behind a contradiction nothing."""
    ledger, clock = Ledger(), Clock()
    session = session_of(ledger, clock)
    drafts = []
    for _ in range(3):
        drafts += session.propose(4).token_ids
        clock.now_s += 1.0
    session.observe(3, drafts[:5])
    assert (session.propose(0), ledger.entries)[1] == []
    session.observe(8, [drafts[5], (drafts[6] + 1) % 64])
    clock.now_s += 4.0
    session.propose(4)
    assert ledger.entries == [(4, 1.0), (3, 1.0), (0, 5.0)]


def test_hearing_it_twice_counts_once() -> None:
    """Duplicates and late notes of a commit add nothing."""
    ledger, clock = Ledger(), Clock()
    session = session_of(ledger, clock)
    drafts = session.propose(4).token_ids
    clock.now_s = 1.0
    for end in (2, 2, 4, 3, 4):
        session.observe(3, drafts[:end])
    session.propose(4)
    assert ledger.entries == [(4, 1.0)]


def test_withdrawn_blocks_are_not_judged() -> None:
    """A block that another drafter's text replaced is no evidence for or against its arm."""
    ledger, clock = Ledger(), Clock()
    session = session_of(ledger, clock)
    session.propose(4)
    session.follow(3, [5, 6])
    session.observe(3, [5, 6, 7])
    clock.now_s = 1.0
    session.propose(4)
    assert ledger.entries == []


def test_a_drafter_with_nothing_to_say_is_passed_over() -> None:
    """The block goes to the next in the order, and the record says nothing of the one that was silent."""
    ledger, clock = Ledger(), Clock()
    silent_first = AdaptiveDrafter([NgramDrafter(), TableDrafter()], lengths=[4], record=ledger, clock=clock)
    session = silent_first.start(PROMPT, CHOOSER)
    assert session.propose(9).token_ids == TableDrafter().start(PROMPT, CHOOSER).propose(4).token_ids
    assert [block.arm for block in session._blocks] == [1]


def test_the_next_text_starts_with_the_record_of_the_last() -> None:
    """A closed session leaves what it learned; open ones do not touch each other."""
    ticks = count()
    drafter = AdaptiveDrafter([TableDrafter(), TableDrafter()], lengths=[4], clock=lambda: float(next(ticks)))
    first, second = drafter.start(PROMPT, CHOOSER), drafter.start(PROMPT, CHOOSER)
    session: AdaptiveSession
    for session in (first, second):
        session.observe(3, session.propose(4).token_ids)
        session.propose(1)
        assert [block.arm for block in session._blocks] == [1]
    first.close()
    first.close()
    assert drafter.start(PROMPT, CHOOSER)._record.ranking()[0] == 1


# --- regret -----------------------------------------------------------------------------------------------------------

NUM_TOKENS = 6000
REGIME = 1000
"""Committed tokens after which the environment changes."""
VERIFY_S, VERIFY_TOKEN_S = 0.020, 0.0005


class Scripted:
    """A drafter that takes time and is right as often as the regime says."""

    vocab_size = 64

    def __init__(self, name: str, token_s: float, chances: Sequence[float], clock: Clock) -> None:
        self.name = name
        self.token_s = token_s
        self.chances = chances
        self.clock = clock

    def start(self, prompt_token_ids: Sequence[int], chooser: Chooser) -> DraftSession:
        """See `Drafter`."""
        return ScriptedSession(self, prompt_token_ids)


class ScriptedSession(TextSession):
    """The right token is always 1."""

    def __init__(self, drafter: Scripted, prompt_token_ids: Sequence[int]) -> None:
        super().__init__(prompt_token_ids, How.ONE_HOT)
        self._drafter = drafter

    def _next(self) -> Choice:
        drafter, place = self._drafter, len(self._tokens)
        drafter.clock.now_s += drafter.token_s
        chance = drafter.chances[place // REGIME % len(drafter.chances)]
        is_right = random.Random(f"{drafter.name} {place}").random() < chance
        return Choice(1 if is_right else 2, chance, None)


def rate(
    arms: Sequence[tuple[str, float, Sequence[float]]], lengths: Sequence[int], **record: float
) -> float:
    """Committed tokens per virtual second of a generation in textbook rounds."""
    clock = Clock()
    bandit = DiscountedUcb(len(arms) * len(lengths), **record)  # type: ignore[arg-type]
    drafters = [Scripted(*arm, clock) for arm in arms]
    session = AdaptiveDrafter(drafters, lengths=lengths, record=bandit, clock=clock).start([1], CHOOSER)
    committed = 1
    while committed <= NUM_TOKENS:
        drafts = session.propose(16).token_ids
        clock.now_s += VERIFY_S + VERIFY_TOKEN_S * len(drafts)
        num_right = next((place for place, token_id in enumerate(drafts) if token_id != 1), len(drafts))
        session.observe(committed, [1] * (num_right + 1))
        committed += num_right + 1
    return NUM_TOKENS / clock.now_s


COPIES = ("copies", 0.0001, (0.9, 0.15))
"""Nearly free; right where text repeats, and then not."""
MODEL = ("model", 0.004, (0.75, 0.75))
LENGTHS = (2, 4, 8)


def test_the_choice_beats_every_fixed_arm_of_a_changing_world() -> None:
    """Over six regimes the choice is a quarter faster than the best fixed arm, and half as fast again as the worst."""
    fixed = [rate([arm], [length]) for arm in (COPIES, MODEL) for length in LENGTHS]
    chosen = rate([COPIES, MODEL], LENGTHS)
    assert chosen >= 1.25 * max(fixed)
    assert chosen >= 1.5 * min(fixed)


def test_the_choice_is_near_the_best_arm_of_a_steady_world() -> None:
    """Where nothing changes, looking around costs at most a tenth."""
    steady: list[tuple[str, float, Sequence[float]]] = [("copies", 0.0001, (0.5,)), ("model", 0.004, (0.85,))]
    fixed = [rate([arm], [length]) for arm in steady for length in LENGTHS]
    assert rate(steady, LENGTHS) >= 0.9 * max(fixed)


def test_without_discount_the_same_test_fails() -> None:
    """A record that never fades follows the changes too late to beat a fixed arm by that much."""
    fixed = [rate([arm], [length]) for arm in (COPIES, MODEL) for length in LENGTHS]
    assert rate([COPIES, MODEL], LENGTHS, discount=1.0) < 1.25 * max(fixed)


def tried(make: Callable[[], AdaptiveDrafter]) -> list[int]:
    """The arms of a session's first blocks."""
    session = make().start(PROMPT, CHOOSER)
    arms = []
    for _ in range(8):
        block = session.propose(8)
        arms.append(session._blocks[-1].arm)
        session.observe(block.base, block.token_ids)
    return arms


def test_with_the_same_clock_the_choice_is_the_same() -> None:
    """There is no die in it: the same past gives the same arm."""

    def make() -> AdaptiveDrafter:
        ticks = count()
        return AdaptiveDrafter([TableDrafter(), TableDrafter(own_seed=5)], clock=lambda: float(next(ticks)))

    assert tried(make) == tried(make)
    assert set(tried(make)) == set(range(6))
