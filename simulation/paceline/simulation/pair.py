"""A drafter and a target to order: given costs and a given acceptance, on a virtual clock. The rest is the real code:
client, controller, sessions, codec, scheduler, fill.

The target's greedy text is a hash of position and seed; the drafter writes the same token with probability
`acceptance`, decided by another hash, and a wrong one otherwise. So acceptance is independent from token to
token, as the formulas of `paceline.common.speed` have it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import numpy as np

from paceline.cloud.config import VerifierConfig
from paceline.cloud.desk import Desk
from paceline.cloud.engine.base import Row
from paceline.cloud.verifier import TargetInfo, Verifier
from paceline.common.drafter import KeepGoing, Proposal, always
from paceline.common.sampling.choose import Chooser
from paceline.common.sampling.rows import NumpyLogitRows
from paceline.common.speed.costs import Costs
from paceline.common.tokens import How
from paceline.edge.client import Client
from paceline.simulation.hop import SimulatedHop
from paceline.simulation.link import LinkShape

VOCAB_SIZE = 61
_MIX = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def _hash(*values: int) -> int:
    state = 0
    for value in values:
        state = ((state ^ value) * _MIX + 0x632BE59BD9B4E019) & _MASK
        state ^= state >> 29
    return state


def _token(seed: int, position: int) -> int:
    return _hash(seed, position) % VOCAB_SIZE


class CoinTarget:
    """An engine whose likeliest token is a hash of the position. A step takes no time; `VirtualRunner` lets it."""

    vocab_size = VOCAB_SIZE
    max_context = 1 << 20
    capacity_tokens = 1 << 30
    page_size = 16
    takes_trees = False

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.steps = 0

    def step(self, rows: Sequence[Row]) -> list[NumpyLogitRows]:
        """See `TargetEngine`."""
        self.steps += 1
        return [self._logits(row) for row in rows]

    def _logits(self, row: Row) -> NumpyLogitRows:
        length = row.past_length + len(row.token_ids)
        logits = np.zeros((row.num_logits, VOCAB_SIZE), np.float32)
        for index in range(row.num_logits):
            logits[index, _token(self._seed, length - row.num_logits + 1 + index)] = 9.0
        return NumpyLogitRows(logits)

    def release(self, key: int) -> None:
        """Nothing is kept."""

    def cached_tokens(self) -> int:
        """None."""
        return 0

    def check_integrity(self) -> None:
        """Nothing to check."""


class CoinDrafter:
    """Agrees with a `CoinTarget` of the same seed as often as asked.

    Args:
        acceptance: share of tokens that stand.
    """

    name = "coin"
    vocab_size = VOCAB_SIZE

    def __init__(self, seed: int, acceptance: float) -> None:
        self._seed = seed
        self._acceptance = acceptance

    def start(self, prompt_token_ids: Sequence[int], chooser: Chooser) -> "_CoinSession":
        """See `Drafter`."""
        return _CoinSession(self._seed, self._acceptance, list(prompt_token_ids))


class _CoinSession:
    def __init__(self, seed: int, acceptance: float, text: list[int]) -> None:
        self._seed = seed
        self._acceptance = acceptance
        self._text = text

    @property
    def length(self) -> int:
        return len(self._text)

    def propose(self, limit: int, keep_going: KeepGoing = always) -> Proposal:
        base = len(self._text)
        for _ in range(limit):
            position = len(self._text)
            right = _token(self._seed, position)
            stands = _hash(self._seed + 1, position) < self._acceptance * (_MASK + 1)
            self._text.append(right if stands else (right + 1) % VOCAB_SIZE)
            if not keep_going(self._acceptance):
                break
        token_ids = tuple(self._text[base:])
        return Proposal(base, token_ids, (self._acceptance,) * len(token_ids), How.ONE_HOT)

    def observe(self, position: int, token_ids: Sequence[int]) -> int:
        known = 0
        for offset, token_id in enumerate(token_ids):
            at = position + offset
            if at < len(self._text) and self._text[at] == token_id:
                known += 1
                continue
            del self._text[at:]
            self._text.append(token_id)
        return known

    def close(self) -> None:
        """Nothing is held."""


class VirtualWorker:
    """Drafts at once; the time it would take passes on the event loop's clock."""

    def __init__(self, draft_s: float) -> None:
        self._draft_s = draft_s

    async def propose(self, work: Callable[[], Proposal]) -> tuple[Proposal, float]:
        """See `DraftWorker`."""
        proposal = work()
        seconds = self._draft_s * len(proposal)
        await asyncio.sleep(seconds)
        return proposal, seconds

    def post(self, work: Callable[[], None]) -> None:
        """See `DraftWorker`."""
        work()

    def stop(self) -> None:
        """See `DraftWorker`."""


class VirtualRunner:
    """Drives a desk on the event loop; a step takes what the costs say.

    Args:
        step_s: seconds of a step over so many tokens.
    """

    def __init__(self, step_s: Callable[[int], float]) -> None:
        loop = asyncio.get_running_loop()
        self.clock: Callable[[], float] = loop.time
        self._loop = loop
        self._step_s = step_s
        self._tasks: list[Callable[[], None]] = []
        self._wake = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    def start(self, desk: Desk) -> None:
        """See `Runner`."""
        self._running = self._loop.create_task(self._run(desk))

    def submit(self, task: Callable[[], None]) -> None:
        """See `Runner`."""
        self._tasks.append(task)
        self._wake.set()

    def stop(self) -> None:
        """See `Runner`."""
        if self._running is not None:
            self._running.cancel()

    async def _run(self, desk: Desk) -> None:
        while True:
            await self._until_due(desk)
            while self._tasks:
                self._tasks.pop(0)()
            planned = desk.plan()
            if not planned:
                continue
            began_s = self.clock()
            logits = desk.run(planned)
            await asyncio.sleep(self._step_s(sum(len(part.work.token_ids) for part in planned)))
            if logits is not None:
                desk.finish(planned, logits, began_s)

    async def _until_due(self, desk: Desk) -> None:
        due_s = desk.next_due_s
        if self._tasks or (due_s is not None and due_s <= self.clock()):
            return
        self._wake.clear()
        timer = self._loop.call_at(due_s, self._wake.set) if due_s is not None else None
        await self._wake.wait()
        if timer is not None:
            timer.cancel()


@asynccontextmanager
async def simulated(
    costs: Costs, shape: LinkShape | None = None, seed: int = 0
) -> AsyncIterator[tuple[Client, SimulatedHop]]:
    """A client and its link to a verifier with these costs; on a virtual loop nothing of it takes real time."""

    def step_s(num_tokens: int) -> float:
        return costs.verify_fixed_s + costs.verify_per_token_s * num_tokens

    verifier = Verifier(
        CoinTarget(seed), TargetInfo("coin", "simulation"), VerifierConfig(), runner=VirtualRunner(step_s)
    )
    verifier.start()
    hop = SimulatedHop(verifier, shape or LinkShape(costs.round_trip_s))
    client = Client(hop, CoinDrafter(seed, costs.acceptance), worker=VirtualWorker(costs.draft_s))
    try:
        await client.connect()
        yield client, hop
    finally:
        await client.close()
        verifier.stop()
