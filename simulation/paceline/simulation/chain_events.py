"""A chain of hops as a handful of events: what the formulas for chains are compared with.

Only order and time exist here, no tokens and no protocol. The device writes on without a pause; a hop checks what has
arrived one pass after another; whether a token stands is a coin per position and hop. A contradiction discards what was
written after it: every hop below is told, and until the device's next token arrives, what still comes is stale.
"""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from paceline.common.speed.chain import Chain, ChainHop


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a simulated text came to."""

    seconds_per_token: float
    contradictions: dict[str, float]
    """By each hop, per committed token; those that were overruled meanwhile included."""
    passes_per_token: float
    """Of the last hop."""


@dataclass(slots=True)
class _Checker:
    """A hop at work."""

    hop: ChainHop
    acceptance: float
    due: int = 0
    """Position it checks next."""
    lineage: int = 0
    """Names the last contradiction that what it takes has to follow."""
    upper_lineage: int = 0
    """Names the last contradiction by a hop above, which what it sends on has to follow."""
    waiting: list[tuple[int, int]] = field(default_factory=list)
    is_busy: bool = False
    num_contradictions: int = 0
    num_passes: int = 0


class _Run:
    def __init__(self, chain: Chain, seed: int) -> None:
        self.now_s = 0.0
        self.committed = 0
        self.draft_s = chain.draft_s
        self.checkers = [_Checker(hop, chain.acceptance_of(index)) for index, hop in enumerate(chain.hops)]
        self._dice = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._lineages = count(1)
        self._position = 0
        self._lineage = 0
        self._after(0.0, self._draft)

    def until(self, num_tokens: int) -> None:
        """Let time pass until so many tokens are committed."""
        while self.committed < num_tokens:
            self.now_s, _, event = heapq.heappop(self._events)
            event()

    def _after(self, delay_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_s + delay_s, next(self._order), event))

    def _draft(self) -> None:
        """The device has written a token since it last did, unless it was told to start over meanwhile."""
        lineage = self._lineage

        def written() -> None:
            if self._lineage == lineage:
                self._send(0, [(self._position, lineage)])
                self._position += 1
                self._draft()

        self._after(self.draft_s, written)

    def _send(self, index: int, tokens: list[tuple[int, int]]) -> None:
        def arrived() -> None:
            checker.waiting += tokens
            self._check(index)

        checker = self.checkers[index]
        self._after(checker.hop.round_trip_s / 2, arrived)

    def _check(self, index: int) -> None:
        checker = self.checkers[index]
        checker.waiting = [
            one for one in checker.waiting if one[1] == checker.lineage and one[0] >= checker.due
        ]
        if checker.is_busy or not checker.waiting:
            return
        tokens, checker.waiting = checker.waiting, []
        checker.is_busy = True
        checker.num_passes += 1
        seconds = checker.hop.verify_fixed_s + checker.hop.verify_per_token_s * len(tokens)
        self._after(seconds, lambda: self._checked(index, tokens))

    def _checked(self, index: int, tokens: list[tuple[int, int]]) -> None:
        checker = self.checkers[index]
        checker.is_busy = False
        sent_on = []
        for position, lineage in tokens:
            if lineage != checker.lineage or position != checker.due:
                continue  # overruled while the pass ran
            sent_on.append((position, checker.upper_lineage))
            checker.due += 1
            if self._dice.random() >= checker.acceptance:
                checker.num_contradictions += 1
                self._contradict(index)
                break
        if index + 1 < len(self.checkers):
            self._send(index + 1, sent_on)
        else:
            self.committed = checker.due
        self._check(index)

    def _contradict(self, index: int) -> None:
        """Hop `index` puts its own token in place of the last one it checked; all below start over behind it."""
        checker = self.checkers[index]
        checker.lineage = next(self._lineages)
        self._tell(index - 1, checker.due, checker.lineage, checker.hop.round_trip_s / 2)

    def _tell(self, index: int, position: int, lineage: int, delay_s: float) -> None:
        """The hop below `index + 1` hears that everything from `position` on follows another text."""

        def told() -> None:
            if index < 0:
                self._position, self._lineage = position, lineage
                self._draft()
                return
            checker = self.checkers[index]
            checker.due, checker.lineage, checker.upper_lineage = position, lineage, lineage
            self._tell(index - 1, position, lineage, checker.hop.round_trip_s / 2)

        self._after(delay_s, told)


def simulate_chain(chain: Chain, num_tokens: int, seed: int = 0) -> Outcome:
    """Write so many tokens through a chain, without fill and without a limit to what is under way."""
    run = _Run(chain, seed)
    run.until(num_tokens)
    return Outcome(
        run.now_s / run.committed,
        {one.hop.name: one.num_contradictions / run.committed for one in run.checkers},
        run.checkers[-1].num_passes / run.committed,
    )
