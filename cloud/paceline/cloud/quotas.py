"""How much of a verifier one tenant may take. Pure: whoever asks brings the time.

Sessions and opens beyond a quota are refused, with a time to come back. Positions and bytes are known only once they
are spent, so their buckets may be overdrawn; a tenant in debt waits until it is paid. Its texts are slowed, not broken.
"""

from collections import Counter
from dataclasses import dataclass, fields

from paceline.common.errors import Busy

BURST_S = 1.0
"""What a bucket holds: so many seconds of its rate, and at least one."""
SOONEST_S = 0.1
"""Nobody is told to come back sooner."""
DEEP_DEBT_S = 1.0
"""A tenant with so much to wait for already gets no new sessions."""
_PAID = 1e-9
"""Less debt than that is rounding."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What one tenant may take; None is no bound."""

    max_sessions: int | None = None
    """Sessions at a time."""
    positions_per_s: float | None = None
    """Positions run through the target: prompts, drafts (accepted or not) and the verifier's own tokens."""
    bytes_per_s: float | None = None
    """Payload of its streams, both ways together."""
    opens_per_s: float | None = None
    """Attempts to open a session."""


UNLIMITED = Quota()
QUOTA_KEYS = tuple(field.name for field in fields(Quota))


class TokenBucket:
    """Fills at a rate, holds `BURST_S` seconds of it (at least one), and may be overdrawn.

    Args:
        rate: per second.
        now_s: the bucket is full then.
    """

    def __init__(self, rate: float, now_s: float) -> None:
        self._rate = rate
        self._burst = max(rate * BURST_S, 1.0)
        self._level = self._burst
        self._at_s = now_s

    def spend(self, amount: float, now_s: float) -> None:
        """Take so much out, whether it is there or not."""
        self._level = self._filled(now_s) - amount
        self._at_s = now_s

    def wait_s(self, now_s: float, amount: float = 0.0) -> float:
        """Seconds until so much is there; 0 waits for debts to be paid."""
        missing = amount - self._filled(now_s)
        return missing / self._rate if missing > _PAID else 0.0

    def is_full(self, now_s: float) -> bool:
        """Whether nothing of it is spent."""
        return self._filled(now_s) >= self._burst

    def _filled(self, now_s: float) -> float:
        return min(self._level + (now_s - self._at_s) * self._rate, self._burst)


class Buckets:
    """A bucket for each tenant that has spent something lately; a full one is as good as none."""

    def __init__(self) -> None:
        self._buckets: dict[str, TokenBucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def spend(self, tenant: str, rate: float | None, amount: float, now_s: float) -> None:
        """Take so much out of a tenant's; nothing happens where there is no bound."""
        if rate is None:
            return
        if tenant not in self._buckets:
            self._buckets = {
                name: bucket for name, bucket in self._buckets.items() if not bucket.is_full(now_s)
            }
            self._buckets[tenant] = TokenBucket(rate, now_s)
        self._buckets[tenant].spend(amount, now_s)

    def wait_s(self, tenant: str, now_s: float, amount: float = 0.0) -> float:
        """See `TokenBucket`."""
        bucket = self._buckets.get(tenant)
        return bucket.wait_s(now_s, amount) if bucket is not None else 0.0

    def in_debt(self, now_s: float) -> dict[str, float]:
        """Tenants that have overdrawn, and when it will be paid."""
        waits = ((tenant, bucket.wait_s(now_s)) for tenant, bucket in self._buckets.items())
        return {tenant: now_s + wait_s for tenant, wait_s in waits if wait_s > 0}


class Quotas:
    """What every tenant has taken of a desk. Bytes are counted where they pass, in the service."""

    def __init__(self) -> None:
        self._num_sessions: Counter[str] = Counter()
        self._opens = Buckets()
        self._positions = Buckets()

    def check_open(
        self, tenant: str, quota: Quota, now_s: float, *, has_begun: bool, session_s: float
    ) -> None:
        """An attempt to open a session, which counts.

        Args:
            has_begun: the text goes on after a lost connection; debts pace it but do not keep it out.
            session_s: how long until one of so many sessions as this tenant has is likely to end.
        Raises:
            Busy: names the quota, and says when to come back.
        """
        wait_s = self._opens.wait_s(tenant, now_s, 1.0)
        if quota.opens_per_s is not None and wait_s > 0:
            raise _beyond(tenant, "opens_per_s", f"more than {quota.opens_per_s:g} opens a second", wait_s)
        self._opens.spend(tenant, quota.opens_per_s, 1.0, now_s)
        self.check_sessions(tenant, quota, self._num_sessions[tenant], session_s)
        debt_s = self._positions.wait_s(tenant, now_s)
        if debt_s > DEEP_DEBT_S and not has_begun:
            what = f"more than {quota.positions_per_s:g} positions a second"
            raise _beyond(tenant, "positions_per_s", what, debt_s)

    def check_sessions(self, tenant: str, quota: Quota, num_sessions: int, session_s: float) -> None:
        """The part of `check_open` that any thread may ask.

        Raises:
            Busy: that many are all the tenant may have.
        """
        if quota.max_sessions is not None and num_sessions >= quota.max_sessions:
            raise _beyond(tenant, "max_sessions", f"all {quota.max_sessions} sessions are taken", session_s)

    def num_sessions(self, tenant: str) -> int:
        """Live sessions of a tenant."""
        return self._num_sessions[tenant]

    def opened(self, tenant: str) -> None:
        """A session of this tenant's was admitted."""
        self._num_sessions[tenant] += 1

    def closed(self, tenant: str) -> None:
        """One is over."""
        self._num_sessions[tenant] -= 1
        if not self._num_sessions[tenant]:
            del self._num_sessions[tenant]

    def ran(self, tenant: str, quota: Quota, num_positions: int, now_s: float) -> None:
        """So many positions go through the target for this tenant."""
        self._positions.spend(tenant, quota.positions_per_s, num_positions, now_s)

    def paced(self, now_s: float) -> dict[str, float]:
        """Tenants whose sessions have to wait, and until when."""
        return self._positions.in_debt(now_s)


def _beyond(tenant: str, field: str, what: str, retry_after_s: float) -> Busy:
    who = f"tenant {tenant}" if tenant else "callers without a tenant"
    return Busy(
        f"the quota of {who} is used up: {what}",
        field=field,
        cure="retry",
        retry_after_s=max(retry_after_s, SOONEST_S),
    )
