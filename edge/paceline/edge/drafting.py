"""A draft session on its own thread: ONNX Runtime releases the GIL, so the event loop goes on with its I/O."""

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from paceline.common.drafter import Drafter, DraftSession, Proposal
from paceline.edge.draft_length import Plan
from paceline.edge.request import GenerationRequest


@dataclass(frozen=True, slots=True)
class Drafted:
    """A proposal, and what it took."""

    proposal: Proposal
    draft_s: float
    """Seconds of drafting; waiting for the thread is not in it."""
    num_observed: int
    """Notes of commits the drafter had read before it wrote this."""


class Drafting:
    """Runs one generation's drafter in an executor shared by all generations of a process.

    Args:
        drafter: who writes.
        request: what to write.
        vocab_size: of the target; no id at or above it is drafted.
        executor: one thread; drafters are not thread-safe.
    """

    def __init__(
        self, drafter: Drafter, request: GenerationRequest, vocab_size: int, executor: ThreadPoolExecutor
    ) -> None:
        self._drafter = drafter
        self._request = request
        self._chooser = request.chooser(vocab_size)
        self._executor = executor
        self._session: DraftSession | None = None
        self._unseen: deque[tuple[int, tuple[int, ...]]] = deque()
        self._told = 0
        self._num_observed = 0

    async def propose(self, plan: Plan, limit: int) -> Drafted:
        """The next block, at most `limit` tokens."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._propose, plan, limit)

    def observe(self, position: int, token_ids: tuple[int, ...]) -> int:
        """Note what was committed, for the drafter to learn before its next block; returns the number of notes."""
        self._told += 1
        self._unseen.append((position, token_ids))
        return self._told

    def close(self) -> None:
        """Free the drafter's buffers, after whatever it is doing."""
        with suppress(
            RuntimeError
        ):  # a generation left in the middle may outlive its client: nothing to free then
            self._executor.submit(self._close)

    def _propose(self, plan: Plan, limit: int) -> Drafted:
        began_s = time.perf_counter()
        if self._session is None:
            self._session = self._drafter.start(self._request.prompt_token_ids, self._chooser)
        while self._unseen:
            self._session.observe(*self._unseen.popleft())
            self._num_observed += 1
        proposal = self._session.propose(min(plan.limit, limit), plan.keep_going)
        return Drafted(proposal, time.perf_counter() - began_s, self._num_observed)

    def _close(self) -> None:
        if self._session is not None:
            self._session.close()
