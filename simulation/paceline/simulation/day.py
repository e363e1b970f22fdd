"""A day of requests, drawn by chance: how many sessions live at a time, and how many verifiers that takes."""

import math
from dataclasses import dataclass

import numpy as np

from paceline.common.errors import InvalidRequest
from paceline.common.speed.ways import Way

MAX_REQUESTS = 1_000_000
"""Simulated one by one; of more, a sample is."""
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Demand:
    """Who asks for how much."""

    users: int
    requests_per_day: float
    """Per user."""
    tokens_per_request: int
    target_tokens_per_s: float
    """What a user is to get."""

    def __post_init__(self) -> None:
        for name in ("users", "requests_per_day", "tokens_per_request", "target_tokens_per_s"):
            value = getattr(self, name)
            if not 0 < value < 1e12:
                raise InvalidRequest(f"{value} is not above 0", field=name, cure="give a number above 0")


@dataclass(frozen=True, slots=True)
class Load:
    """A simulated day of one way of generating."""

    requests: int
    """Simulated; with more than a million a day, a sample of the users."""
    peak_sessions: int
    p50_sessions: float
    p99_sessions: float
    verifiers: int
    """Enough for the 99th percentile."""


def simulate_day(way: Way, demand: Demand, seed: int) -> Load:
    """Poisson arrivals over a day that is busiest in the evening; up to a million requests.

    A request lasts as long as its tokens at this way's speed, or at the wanted one if that is lower.
    """
    wanted = demand.users * demand.requests_per_day
    dice = np.random.default_rng(seed)
    count = int(dice.poisson(min(wanted, MAX_REQUESTS)))
    scale = wanted / max(min(wanted, MAX_REQUESTS), 1.0)
    # 1 + 0.8 sin, busiest at 18 o'clock: thinning a uniform day.
    times = dice.uniform(0, _DAY_S, int(count * 2.2) + 16)
    busy = 1 + 0.8 * np.sin(2 * np.pi * (times / _DAY_S - 0.5))
    times = np.sort(times[dice.uniform(0, 1.8, len(times)) < busy][:count])
    lasts = dice.exponential(demand.tokens_per_request, len(times)) / min(
        way.tokens_per_s, demand.target_tokens_per_s
    )
    at = np.arange(0, _DAY_S, 60.0)
    live = np.searchsorted(times, at, side="right") - np.searchsorted(
        np.sort(times + lasts), at, side="right"
    )
    sessions = live * scale
    p99 = float(np.quantile(sessions, 0.99))
    # A session that wants less than the way gives leaves the rest of its passes to others.
    share = min(1.0, demand.target_tokens_per_s / way.tokens_per_s)
    return Load(
        requests=len(times),
        peak_sessions=int(sessions.max()),
        p50_sessions=float(np.quantile(sessions, 0.5)),
        p99_sessions=p99,
        verifiers=max(math.ceil(p99 * share / way.sessions_per_verifier), 1),
    )
