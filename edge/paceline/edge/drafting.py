"""A draft session on its own thread: ONNX Runtime releases the GIL, so the event loop goes on with its I/O."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from paceline.edge.draft_length import Plan
from paceline.edge.drafters.base import Drafter, DraftSession, Proposal
from paceline.edge.request import GenerationRequest


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
        self._unseen: list[tuple[int, tuple[int, ...]]] = []

    async def propose(self, plan: Plan, limit: int) -> tuple[Proposal, float]:
        """The next block, and the seconds it took to write (waiting for the thread excluded)."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._propose, plan, limit)

    def observe(self, position: int, token_ids: tuple[int, ...]) -> None:
        """Note what was committed; the drafter learns of it before its next block."""
        self._unseen.append((position, token_ids))

    def close(self) -> None:
        """Free the drafter's buffers, after whatever it is doing."""
        self._executor.submit(self._close)

    def _propose(self, plan: Plan, limit: int) -> tuple[Proposal, float]:
        began_s = time.perf_counter()
        if self._session is None:
            self._session = self._drafter.start(self._request.prompt_token_ids, self._chooser)
        for position, token_ids in self._unseen:
            self._session.observe(position, token_ids)
        self._unseen.clear()
        proposal = self._session.propose(min(plan.limit, limit), plan.keep_going)
        return proposal, time.perf_counter() - began_s

    def _close(self) -> None:
        if self._session is not None:
            self._session.close()


def warm_up(drafter: Drafter, prompt_token_ids: Sequence[int], request: GenerationRequest, vocab_size: int) -> None:
    """Draft a few tokens once, so that the first measured generation does not pay for lazy initialisation."""
    session = drafter.start(prompt_token_ids, request.chooser(vocab_size))
    session.propose(2)
    session.close()
