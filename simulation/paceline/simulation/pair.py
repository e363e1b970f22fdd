"""A drafter and a target to order: given costs and a given acceptance, on a virtual clock. The rest is the real code:
client, controller, sessions, codec, scheduler, fill.

The target's greedy text is a hash of position and seed. The drafter writes the same token or a wrong one, by an
`Agreement`: with a given probability, decided by another hash, independently from token to token, as the formulas of
`paceline.common.speed` have it; or as a real drafter was recorded to.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

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
Agreement = Callable[[int, int], tuple[float, bool]]
"""Given a text's seed and a position: the draft's probability there, and whether it is what the target writes."""
_MASK = (1 << 64) - 1


def _hash(*values: int) -> int:
    """64 bits in which neighbouring values show no pattern: SplitMix64's steps over all of them."""
    state = 0
    for value in values:
        state = (state ^ value) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


Spelling = Callable[[int], int]
"""A model's likeliest token at each position."""


def hashed(seed: int) -> Spelling:
    """A hash of the position: the last hop's."""
    return lambda position: _hash(seed, position) % VOCAB_SIZE


def coins(seed: int, acceptance: float) -> Agreement:
    """Agreement at that share of positions, picked by a hash."""
    return lambda _, position: (acceptance, _hash(seed + 1, position) < acceptance * (_MASK + 1))


class CoinTarget:
    """An engine that writes by a spelling. A step takes no time; `VirtualRunner` lets it."""

    vocab_size = VOCAB_SIZE
    max_context = 1 << 20
    capacity_tokens = 1 << 30
    page_size = 16
    takes_trees = False

    def __init__(self, spelling: Spelling) -> None:
        self._spelling = spelling
        self.steps = 0

    def step(self, rows: Sequence[Row]) -> list[NumpyLogitRows]:
        """See `TargetEngine`."""
        self.steps += 1
        return [self._logits(row) for row in rows]

    def _logits(self, row: Row) -> NumpyLogitRows:
        length = row.past_length + len(row.token_ids)
        logits = np.zeros((row.num_logits, VOCAB_SIZE), np.float32)
        for index in range(row.num_logits):
            logits[index, self._spelling(length - row.num_logits + 1 + index)] = 9.0
        return NumpyLogitRows(logits)

    def release(self, key: int) -> None:
        """Nothing is kept."""

    def cached_tokens(self) -> int:
        """None."""
        return 0

    def check_integrity(self) -> None:
        """Nothing to check."""


class CoinDrafter:
    """Agrees with a target of this spelling where asked."""

    name = "coin"
    vocab_size = VOCAB_SIZE

    def __init__(self, spelling: Spelling, agreement: Agreement) -> None:
        self._spelling = spelling
        self._agreement = agreement

    def start(self, prompt_token_ids: Sequence[int], chooser: Chooser) -> "_CoinSession":
        """See `Drafter`."""
        return _CoinSession(self._spelling, partial(self._agreement, chooser.seed), list(prompt_token_ids))


class _CoinSession:
    def __init__(
        self, spelling: Spelling, agreement: Callable[[int], tuple[float, bool]], text: list[int]
    ) -> None:
        self._spelling = spelling
        self._agreement = agreement
        self._text = text

    @property
    def length(self) -> int:
        return len(self._text)

    def propose(self, limit: int, keep_going: KeepGoing = always) -> Proposal:
        base, probs = len(self._text), []
        for position in range(base, base + limit):
            right = self._spelling(position)
            prob, stands = self._agreement(position)
            self._text.append(right if stands else (right + 1) % VOCAB_SIZE)
            probs.append(prob)
            if not keep_going(prob):
                break
        return Proposal(base, tuple(self._text[base:]), tuple(probs), How.ONE_HOT)

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

    def follow(self, position: int, token_ids: Sequence[int]) -> None:
        self._text[position:] = token_ids

    def close(self) -> None:
        """Nothing is held."""


class VirtualWorker:
    """Drafts at once; the time it would take passes on the event loop's clock.

    Args:
        draft_s: seconds per token.
        block_s: seconds per block on top.
    """

    def __init__(self, draft_s: float, block_s: float = 0.0) -> None:
        self._draft_s = draft_s
        self._block_s = block_s

    async def propose(self, work: Callable[[], Proposal]) -> tuple[Proposal, float]:
        """See `DraftWorker`."""
        proposal = work()
        seconds = self._block_s + self._draft_s * len(proposal)
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

    @property
    def turn_s(self) -> float:
        """See `Runner`. Nothing hangs here."""
        return 0.0

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


def coin_verifier(
    spelling: Spelling, fixed_s: float, per_token_s: float, config: VerifierConfig | None = None
) -> Verifier:
    """A verifier whose steps take `fixed_s` and `per_token_s` for each token, on the running loop's clock."""

    def step_s(num_tokens: int) -> float:
        return fixed_s + per_token_s * num_tokens

    info = TargetInfo("coin", "simulation")
    return Verifier(CoinTarget(spelling), info, config or VerifierConfig(), runner=VirtualRunner(step_s))


@asynccontextmanager
async def simulated(
    costs: Costs,
    shape: LinkShape | None = None,
    seed: int = 0,
    *,
    agreement: Agreement | None = None,
    draft_block_s: float = 0.0,
) -> AsyncIterator[tuple[Client, SimulatedHop]]:
    """A client and its link to a verifier with these costs; on a virtual loop nothing of it takes real time.

    Args:
        shape: of the link, if it is to have more than the costs' round trip.
        agreement: where the drafter is right; None: as often as the costs say, at random.
        draft_block_s: what a block costs the drafter on top of its tokens.
    """

    verifier = coin_verifier(hashed(seed), costs.verify_fixed_s, costs.verify_per_token_s)
    verifier.start()
    hop = SimulatedHop(verifier, shape or LinkShape(costs.round_trip_s))
    drafter = CoinDrafter(hashed(seed), agreement or coins(seed, costs.acceptance))
    client = Client(hop, drafter, worker=VirtualWorker(costs.draft_s, draft_block_s))
    try:
        await client.connect()
        yield client, hop
    finally:
        await client.close()
        verifier.stop()
