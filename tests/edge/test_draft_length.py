"""Adaptive block lengths against a simulated link and target: no clock, no dice but seeded ones."""

import random
from collections.abc import Callable

import pytest

from paceline.common.drafter import always
from paceline.edge.draft_length import (
    AdaptiveLength,
    Calibration,
    DraftLength,
    FixedLength,
    Plan,
    draft_length,
)
from paceline.edge.request import Round

Confidence = Callable[[random.Random], float]


class World:
    """A stationary pair: each drafted token has a confidence, and stands with that probability."""

    def __init__(
        self,
        confidence: Confidence,
        draft_s: float,
        fixed_s: float,
        per_token_s: float,
        draft_fixed_s: float = 0.0,
    ) -> None:
        self.confidence = confidence
        self.draft_s = draft_s
        self.draft_fixed_s = draft_fixed_s
        self.fixed_s = fixed_s
        self.per_token_s = per_token_s

    def seconds_per_token(self, policy: DraftLength, num_rounds: int = 3000, skip: int = 300) -> float:
        """Simulated cost of a committed token, after some rounds to learn in."""
        dice, tokens, seconds = random.Random(7), 0, 0.0
        for index in range(num_rounds):
            probs = self._draft(policy.plan(), dice)
            num_accepted = next((i for i, prob in enumerate(probs) if dice.random() >= prob), len(probs))
            draft_s = self.draft_fixed_s + self.draft_s * len(probs)
            round_s = self.fixed_s + self.per_token_s * (len(probs) + 1)
            policy.observe(Round(len(probs), num_accepted, draft_s, round_s, round_s, 0.0), tuple(probs))
            if index >= skip:
                tokens += num_accepted + 1
                seconds += draft_s + round_s
        return seconds / tokens

    def _draft(self, plan: Plan, dice: random.Random) -> list[float]:
        probs: list[float] = []
        while len(probs) < plan.limit:
            probs.append(self.confidence(dice))
            if not plan.keep_going(probs[-1]):
                break
        return probs


def constant(value: float) -> Confidence:
    """Every token is as likely to stand as every other."""
    return lambda dice: value


def mixed(dice: random.Random) -> float:
    """Mostly sure, sometimes not at all, as language is."""
    return 0.97 if dice.random() < 0.75 else 0.35


@pytest.mark.parametrize(
    ("confidence", "draft_s", "fixed_s", "per_token_s"),
    [
        pytest.param(constant(0.9), 0.001, 0.030, 0.0002, id="good and cheap"),
        pytest.param(constant(0.7), 0.004, 0.030, 0.0002, id="middling"),
        pytest.param(constant(0.5), 0.010, 0.030, 0.0002, id="poor"),
        pytest.param(constant(0.8), 0.010, 0.130, 0.0002, id="far away"),
        pytest.param(mixed, 0.002, 0.030, 0.0005, id="mixed"),
    ],
)
def test_adaptive_is_close_to_the_best_fixed_length(
    confidence: Confidence, draft_s: float, fixed_s: float, per_token_s: float
) -> None:
    """On a stationary pair the adaptive policy costs at most a tenth more than the best fixed length."""
    world = World(confidence, draft_s, fixed_s, per_token_s)
    best = min(
        world.seconds_per_token(FixedLength(length), 1500)
        for length in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32)
    )
    assert world.seconds_per_token(AdaptiveLength()) <= 1.10 * best


def test_adaptive_underrates_costly_rows_by_a_bounded_amount() -> None:
    """Where rows are dear and lengths hardly vary, their price is hard to see; the loss stays under a third."""
    world = World(constant(0.8), 0.002, 0.010, 0.004)
    best = min(world.seconds_per_token(FixedLength(length), 1500) for length in range(1, 9))
    assert world.seconds_per_token(AdaptiveLength()) <= 1.33 * best


def test_adaptive_prices_costly_rows_by_what_the_verifier_says() -> None:
    """Told what a row costs the verifier, the adaptive policy is within a tenth of the best there too."""
    world = World(constant(0.8), 0.002, 0.010, 0.004)
    best = min(world.seconds_per_token(FixedLength(length), 1500) for length in range(1, 9))
    told = AdaptiveLength()
    told.believe(world.per_token_s)
    assert world.seconds_per_token(told) <= 1.10 * best


def test_the_price_of_a_block_is_not_laid_on_its_tokens() -> None:
    """Where every block costs its drafter something besides its tokens, short blocks do not perpetuate themselves."""
    world = World(constant(0.95), 0.0002, 0.010, 0.0002, draft_fixed_s=0.015)
    best = min(world.seconds_per_token(FixedLength(length), 1500) for length in (8, 12, 16, 24, 32))
    policy = AdaptiveLength()
    for drafted in (4, 4, *[1] * 60):
        draft_s, round_s = world.draft_fixed_s + drafted * world.draft_s, 0.010
        policy.observe(Round(drafted, drafted, draft_s, round_s, round_s, 0.0), (0.95,) * drafted)
    assert world.seconds_per_token(policy, num_rounds=200, skip=20) <= 1.10 * best


def test_adaptive_uses_confidence_that_fixed_lengths_cannot() -> None:
    """Where confidence tells good tokens from bad ones, stopping early beats every fixed length."""
    world = World(mixed, 0.006, 0.030, 0.0005)
    best = min(world.seconds_per_token(FixedLength(length), 1500) for length in range(1, 17))
    assert world.seconds_per_token(AdaptiveLength()) < best


def test_adaptive_drafts_little_when_nothing_stands() -> None:
    """With a drafter that is always wrong and costly, blocks shrink to a token or two."""
    policy = AdaptiveLength()
    World(constant(0.02), 0.02, 0.03, 0.001).seconds_per_token(policy, 500)
    assert not policy.plan().keep_going(0.02)


def test_adaptive_starts_before_it_has_measured_anything() -> None:
    """The first block has a fixed, modest length."""
    plan = AdaptiveLength().plan()
    assert 1 <= plan.limit <= 8
    assert plan.keep_going is always


def test_blocks_without_drafts_teach_nothing_wrong() -> None:
    """A drafter with nothing to say does not break the averages."""
    policy = AdaptiveLength()
    for _ in range(50):
        policy.observe(Round(0, 0, 0.0, 0.03, 0.03, 0.0), ())
    assert policy.plan().limit >= 1


def test_a_plan_depends_on_kept_tokens_only() -> None:
    """Two identical plans ask the same questions and stop at the same place."""
    policy = AdaptiveLength()
    World(constant(0.8), 0.004, 0.03, 0.001).seconds_per_token(policy, 200, 0)
    answers = [
        [plan.keep_going(prob) for prob in (0.9, 0.8, 0.5, 0.3, 0.1)]
        for plan in (policy.plan(), policy.plan())
    ]
    assert answers[0] == answers[1]
    assert answers[0] == sorted(answers[0], reverse=True)


def test_calibration_takes_the_draft_at_its_word_at_first() -> None:
    """Before anything is judged a probability is its own estimate, within its bucket."""
    calibration = Calibration()
    for prob in (0.01, 0.15, 0.45, 0.85, 0.99, 1.0, 0.0):
        assert abs(calibration.chance(prob) - prob) <= 0.06


def test_calibration_learns_what_confidence_is_worth() -> None:
    """A drafter that is sure and half wrong is believed by half."""
    calibration, dice = Calibration(), random.Random(3)
    for _ in range(4000):
        calibration.observe(0.99, dice.random() < 0.5)
    assert calibration.chance(0.99) == pytest.approx(0.5, abs=0.03)
    assert calibration.chance(0.15) == pytest.approx(0.15, abs=0.06)
    assert calibration.mean == pytest.approx(0.5, abs=0.2)


def test_fixed_length_never_changes() -> None:
    """A fixed length is what was configured, whatever happens."""
    policy = draft_length(5)
    assert isinstance(policy, FixedLength)
    policy.observe(Round(5, 0, 1.0, 1.0, 1.0, 0.0), (0.1,) * 5)
    assert policy.plan() == Plan(5)
    assert isinstance(draft_length(None), AdaptiveLength)
