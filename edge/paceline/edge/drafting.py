"""Whoever writes ahead of the verifier, as the loop that sends it sees them; and the usual one, a draft session on its
own thread: ONNX Runtime releases the GIL, so the event loop goes on with its I/O.
"""

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from paceline.common.drafter import Drafter, DraftSession, Proposal
from paceline.common.session import Commit
from paceline.edge.draft_length import Plan
from paceline.edge.request import GenerationRequest


class DraftWorker(Protocol):
    """Where drafters run, one piece of work at a time: they are not thread-safe."""

    async def propose(self, work: Callable[[], Proposal]) -> tuple[Proposal, float]:
        """Do it; the result and the seconds it took, waiting for its turn not counted."""

    def post(self, work: Callable[[], None]) -> None:
        """Do it after whatever is under way; nobody waits for it."""

    def stop(self) -> None:
        """Do nothing more."""


class ThreadWorker:
    """One thread, shared by all generations of a client."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="drafter")

    async def propose(self, work: Callable[[], Proposal]) -> tuple[Proposal, float]:
        """See `DraftWorker`."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, _timed, work)

    def post(self, work: Callable[[], None]) -> None:
        """See `DraftWorker`."""
        with suppress(RuntimeError):  # a generation left in the middle may outlive its client
            self._executor.submit(work)

    def stop(self) -> None:
        """See `DraftWorker`."""
        self._executor.shutdown(wait=False)


def _timed(work: Callable[[], Proposal]) -> tuple[Proposal, float]:
    began_s = time.perf_counter()
    return work(), time.perf_counter() - began_s


@dataclass(frozen=True, slots=True)
class Drafted:
    """A proposal, and what it took."""

    proposal: Proposal
    draft_s: float
    """Seconds of drafting; waiting for the thread is not in it."""
    num_observed: int
    """Notes of commits the drafter had read before it wrote this."""


class Drafting(Protocol):
    """Writes one text ahead."""

    async def propose(self, plan: Plan, limit: int) -> Drafted:
        """The next block, at most `limit` tokens."""

    def observe(self, commit: Commit, *, contradicts: bool = False) -> None:
        """Note what the next hop says, to be learnt before the next block.

        Args:
            contradicts: whatever is being drafted right now continues a text that is not to be.
        """

    def is_refuted(self, drafted: Drafted) -> bool:
        """Whether a contradiction was noted that its writer had not read."""

    def begin_anew(self, text: Sequence[int]) -> None:
        """Draft on from this text, prompt included: what was drafted or known beyond it is forgotten."""

    def close(self) -> None:
        """Free what is held; what is being written is cut short."""


class ThreadDrafting:
    """Runs one generation's drafter.

    Args:
        drafter: who writes.
        request: what to write.
        vocab_size: of the target; no id at or above it is drafted.
        worker: where it runs.
    """

    def __init__(
        self, drafter: Drafter, request: GenerationRequest, vocab_size: int, worker: DraftWorker
    ) -> None:
        self._drafter = drafter
        self._request = request
        self._chooser = request.chooser(vocab_size)
        self._worker = worker
        self._session: DraftSession | None = None
        self._unseen: deque[Callable[[DraftSession], object]] = deque()
        self._told = 0
        self._num_observed = 0
        self._refuted_at = 0

    async def propose(self, plan: Plan, limit: int) -> Drafted:
        """See `Drafting`."""
        proposal, draft_s = await self._worker.propose(lambda: self._propose(plan, limit))
        return Drafted(proposal, draft_s, self._num_observed)

    def observe(self, commit: Commit, *, contradicts: bool = False) -> None:
        """See `Drafting`."""
        self._note(lambda session: session.observe(commit.position, commit.token_ids), contradicts)

    def is_refuted(self, drafted: Drafted) -> bool:
        """See `Drafting`."""
        return drafted.num_observed < self._refuted_at

    def begin_anew(self, text: Sequence[int]) -> None:
        """See `Drafting`."""
        self._note(lambda _: self._begin_anew(text), contradicts=True)

    def _note(self, note: Callable[[DraftSession], object], contradicts: bool) -> None:
        self._told += 1
        if contradicts:
            self._refuted_at = self._told
        self._unseen.append(note)

    def close(self) -> None:
        """See `Drafting`."""
        self._refuted_at = sys.maxsize
        self._worker.post(self._close)

    def _propose(self, plan: Plan, limit: int) -> Proposal:
        if self._session is None:
            self._session = self._start(self._request.text)
        while self._unseen:
            self._unseen.popleft()(self._session)
            self._num_observed += 1

        def keep_going(prob: float) -> bool:
            # A refuted block is dropped whole, whatever its tokens are, so cutting it short biases nothing (E11).
            return self._num_observed >= self._refuted_at and plan.keep_going(prob)

        return self._session.propose(min(plan.limit, limit), keep_going)

    def _start(self, text: Sequence[int]) -> DraftSession:
        prompt = self._request.prompt_token_ids
        session = self._drafter.start(prompt, self._chooser)
        if len(text) > len(prompt):
            session.observe(len(prompt), text[len(prompt) :])
        return session

    def _begin_anew(self, text: Sequence[int]) -> None:
        self._close()
        self._session = self._start(text)

    def _close(self) -> None:
        if self._session is not None:
            self._session.close()
