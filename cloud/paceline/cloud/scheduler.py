"""Which sessions run in the next engine step. Plain Python: no torch, no grpc, no clock.

Whoever has something to do waits in one queue, first come first served, and rejoins it at the end. A step takes the
queue in order until one does not fit, who is then first in the next; so nobody is overtaken. The one exception:
prompts share a chunk per step, and whoever waits for a share of it lets those pass who need none. So a prompt is never
overtaken by a prompt, and delays a generation by no more than one chunk.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from paceline.common.session import VerifierSession, Work
from paceline.common.tokens import Draft


@dataclass(frozen=True, slots=True)
class Planned:
    """One session's part of a step."""

    key: int
    work: Work


class Scheduler:
    """A fair queue of sessions.

    Args:
        max_step_tokens: tokens in one step, over all sessions.
        prefill_chunk_tokens: prompt tokens in one step.
    """

    def __init__(self, max_step_tokens: int, prefill_chunk_tokens: int) -> None:
        self._max_step_tokens = max_step_tokens
        self._prefill_chunk_tokens = prefill_chunk_tokens
        self._queue: deque[int] = deque()
        self._queued: set[int] = set()

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, key: int) -> None:
        """A session may have something to do. Harmless if it is queued already."""
        if key not in self._queued:
            self._queued.add(key)
            self._queue.append(key)

    def plan(
        self, sessions: Mapping[int, VerifierSession], own_draft: Callable[[int], Draft | None] | None = None
    ) -> list[Planned]:
        """Take sessions off the queue until the step is full. Those with nothing to do leave it; those for whom there
        is no room keep their place.

        Args:
            own_draft: what a session goes on with while its client's drafts are not there.
        """
        room, prefill_room = self._max_step_tokens, self._prefill_chunk_tokens
        planned: list[Planned] = []
        passed: list[int] = []
        while self._queue and room > 0:
            key = self._queue.popleft()
            session = sessions.get(key)
            num_uncached = session.num_uncached if session is not None else 0
            if num_uncached > 0 and prefill_room <= 0:
                passed.append(key)
                continue
            ask = partial(own_draft, key) if own_draft is not None else None
            work = session.next_work(prefill_room, ask) if session is not None else None
            if work is not None and planned and len(work.token_ids) > room:
                passed.append(key)
                break
            self._queued.discard(key)
            if work is not None:
                planned.append(Planned(key, work))
                room -= len(work.token_ids)
                prefill_room -= min(
                    num_uncached, prefill_room
                )  # a longer prompt got a chunk of what was left
        self._queue.extendleft(reversed(passed))
        return planned
