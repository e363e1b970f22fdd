"""Token buckets, quotas, and what a refused client is told."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.cloud.admission import LONGEST_S, SHORTEST_S, UNKNOWN_S, Admission, Turnover
from paceline.cloud.config import AccessConfig, VerifierConfig
from paceline.cloud.engine.table import TableEngine
from paceline.cloud.quotas import BURST_S, UNLIMITED, Buckets, Quota, Quotas, TokenBucket
from paceline.common.cost import CostLine
from paceline.common.errors import Busy
from paceline.common.session import Limits

LIMITS = Limits(vocab_size=64, max_context=1024)


@settings(deadline=None)
@given(
    rate=st.floats(0.5, 1000),
    amounts=st.lists(st.floats(0.1, 500), min_size=1, max_size=40),
    pauses=st.lists(st.floats(0, 2), min_size=40, max_size=40),
)
def test_a_bucket_lets_through_its_rate_and_one_burst(
    rate: float, amounts: list[float], pauses: list[float]
) -> None:
    """Whoever waits until debts are paid gets no more than the rate, one burst, and the last thing taken."""
    bucket, now_s, spent = TokenBucket(rate, 0.0), 0.0, 0.0
    for amount, pause_s in zip(amounts, pauses, strict=False):
        now_s += pause_s + bucket.wait_s(now_s + pause_s)
        assert spent <= max(rate * BURST_S, 1.0) + rate * now_s + 1e-6
        bucket.spend(amount, now_s)
        spent += amount


def test_a_debt_is_paid_and_no_more() -> None:
    """A bucket that was overdrawn is free again exactly when the rate has paid for it."""
    bucket = TokenBucket(10.0, 0.0)
    bucket.spend(30.0, 0.0)
    assert bucket.wait_s(0.0) == pytest.approx(2.0)
    assert bucket.wait_s(2.0) == 0.0
    assert bucket.wait_s(2.0, 1.0) == pytest.approx(0.1)
    assert not bucket.is_full(2.9)
    assert bucket.is_full(3.0)
    bucket.spend(15.0, 1000.0)
    assert bucket.wait_s(1000.0) == pytest.approx(0.5), (
        "a bucket holds one second's worth, however long it was left"
    )


def test_buckets_of_tenants_that_left_are_dropped() -> None:
    """However many tenants there were, only those are remembered who have spent lately."""
    buckets = Buckets()
    for number in range(1000):
        buckets.spend(f"tenant-{number}", 10.0, 5.0, float(number))
    assert len(buckets) == 1
    buckets.spend("in debt", 1.0, 100.0, 1000.0)
    buckets.spend("new", 1.0, 1.0, 1050.0)
    assert buckets.in_debt(1050.0) == {"in debt": pytest.approx(1099.0)}


def opened(quotas: Quotas, quota: Quota, now_s: float = 0.0, *, has_begun: bool = False) -> None:
    """One more session of tenant `acme`."""
    quotas.check_open("acme", quota, now_s, has_begun=has_begun, session_s=3.0)
    quotas.opened("acme")


def test_a_session_beyond_the_quota_is_refused_until_one_ends() -> None:
    """The refusal names the quota and the tenant, and says when one is likely to end; others are not affected."""
    quotas, quota = Quotas(), Quota(max_sessions=2)
    opened(quotas, quota)
    opened(quotas, quota)
    with pytest.raises(Busy, match="acme is used up: all 2 sessions") as refused:
        opened(quotas, quota)
    assert (refused.value.field, refused.value.retry_after_s) == ("max_sessions", 3.0)
    quotas.check_open("other", quota, 0.0, has_begun=False, session_s=3.0)
    quotas.closed("acme")
    opened(quotas, quota)


def test_opens_are_counted_as_attempts() -> None:
    """A burst of one second's opens, then one each time the bucket has one; what it refuses does not count."""
    quotas, quota = Quotas(), Quota(opens_per_s=2.0)
    opened(quotas, quota)
    opened(quotas, quota)
    for _ in range(5):
        with pytest.raises(Busy, match="2 opens a second") as refused:
            opened(quotas, quota)
    assert refused.value.retry_after_s == pytest.approx(0.5)
    opened(quotas, quota, 0.5)


def test_a_tenant_deep_in_debt_gets_nothing_new() -> None:
    """Debts pace what is live at once, and keep out what is new once they are deep; a text that has begun gets in."""
    quotas, quota = Quotas(), Quota(positions_per_s=100.0)
    quotas.ran("acme", quota, 150, 0.0)
    assert quotas.paced(0.0) == {"acme": pytest.approx(0.5)}
    opened(quotas, quota)
    quotas.ran("acme", quota, 200, 0.0)
    with pytest.raises(Busy, match="100 positions a second") as refused:
        opened(quotas, quota)
    assert refused.value.retry_after_s == pytest.approx(2.5)
    opened(quotas, quota, has_begun=True)
    opened(quotas, quota, 2.5)
    assert quotas.paced(2.5) == {}
    quotas.ran("acme", UNLIMITED, 10_000, 2.5)
    assert quotas.paced(2.5) == {}


def test_whoever_is_not_named_has_everybodys_quota() -> None:
    """A tenant's own quota replaces everybody's; without either there is none."""
    access = AccessConfig(quotas={"*": Quota(max_sessions=1), "acme": Quota(opens_per_s=3.0)})
    assert access.quota_of("acme") == Quota(opens_per_s=3.0)
    assert access.quota_of("") == access.quota_of("lab") == Quota(max_sessions=1)
    assert AccessConfig().quota_of("lab") == UNLIMITED


def test_refused_clients_are_told_different_places() -> None:
    """Four sessions of eight seconds end every two; each refused client is told the next end nobody was told of, and
    none more than the longest time."""
    turnover = Turnover()
    assert turnover.until(4) == UNKNOWN_S
    turnover.ended(8.0)
    told = [turnover.promise(4, 1, 100.0) for _ in range(6)]
    assert told == pytest.approx([2.0, 4.0, 6.0, 8.0, LONGEST_S, LONGEST_S])
    assert turnover.promise(4, 1, 200.0) == pytest.approx(2.0)
    turnover = Turnover()
    turnover.ended(0.001)
    assert turnover.promise(4, 1, 0.0) == SHORTEST_S


def admission(cost: CostLine, max_round_s: float | None, max_sessions: int = 64) -> Admission:
    """Over an engine with room for everybody."""
    config = VerifierConfig(max_sessions=max_sessions, max_round_s=max_round_s, max_step_tokens=100)
    return Admission(TableEngine(64), LIMITS, config, cost)


def test_no_session_is_taken_that_makes_rounds_too_long() -> None:
    """At 10 ms a step and 1 ms a token, turns of 10 tokens make rounds of 20, 30, 40 ms; the fourth is refused."""
    cost = CostLine()
    cost.fixed_s, cost.per_token_s = 0.010, 0.001
    taken = admission(cost, 0.041)
    for _ in range(200):
        taken.observe_turn(10)
    for key in range(3):
        taken.admit(key, taken.check(100, 0.0), 0.0)
    with pytest.raises(Busy, match="with 4 sessions a round would take 50 ms, the most is 41") as refused:
        taken.check(100, 0.0)
    assert refused.value.field == "max_round_ms"
    taken.free(0, 1.0)
    assert taken.check(100, 1.0) > 0
    unbounded = admission(cost, None)
    for key in range(50):
        unbounded.admit(key, unbounded.check(100, 0.0), 0.0)


def test_somebody_is_always_taken() -> None:
    """Costs that were measured once and are far too high keep nobody out of an idle verifier."""
    cost = CostLine()
    cost.fixed_s = 100.0
    taken = admission(cost, 0.001)
    taken.admit(1, taken.check(100, 0.0), 0.0)
    with pytest.raises(Busy):
        taken.check(100, 0.0)


def test_how_long_sessions_last_says_when_to_come_back() -> None:
    """A full verifier with two sessions of six seconds has a place every three."""
    full = admission(CostLine(), None, max_sessions=2)
    full.admit(0, 10, 0.0)
    full.free(0, 6.0)
    full.admit(1, 10, 6.0)
    full.admit(2, 10, 6.0)
    with pytest.raises(Busy, match="all 2 sessions") as refused:
        full.check(100, 7.0)
    assert refused.value.retry_after_s == pytest.approx(3.0)
