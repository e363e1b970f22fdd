"""Which sessions run in the next engine step. Plain Python: no torch, no grpc, no clock.

Tenants share the target evenly, by tokens: a step takes from whoever has been served least, as long as there is room. A
tenant that had nothing to do saves nothing up: it begins where the others are.

Within a tenant there is one queue, first come first served, and who was served rejoins it at the end; only texts that
would miss their deadline go first, the earliest deadline first. A step takes the queue in order until one does not fit,
who is then first in the next; so nobody is overtaken. The one exception: prompts share a chunk per step, and whoever
waits for a share of it lets those pass who need none. So a prompt is never overtaken by a prompt, and delays a
generation by no more than one chunk.
"""

import math
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count

from paceline.common.session import VerifierSession, Work
from paceline.common.tokens import Draft

_Entry = tuple[float, int, int]
"""Deadline, if it would be missed; number of arrival; session. Smallest first."""


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
        self._arrivals = count()
        self._queues: dict[str, list[_Entry]] = {}
        """Of tenants with somebody waiting."""
        self._queued: set[int] = set()
        self._served: dict[str, int] = {}
        """Tokens per tenant, counted so that whoever comes anew begins at `_reached`."""
        self._reached = 0
        """What whoever was served last had been served before."""
        self._in_turn: frozenset[str] = frozenset()
        """Tenants that had somebody waiting at the last step."""

    def __len__(self) -> int:
        return len(self._queued)

    def __contains__(self, key: object) -> bool:
        return key in self._queued

    @property
    def tenants(self) -> Iterator[str]:
        """Those with somebody waiting."""
        return iter(self._queues)

    def add(self, key: int, tenant: str = "", due_s: float | None = None) -> None:
        """A session may have something to do. Harmless if it is queued already.

        Args:
            due_s: its deadline, if it would miss it in its turn.
        """
        if key not in self._queued:
            self._queued.add(key)
            entry = (math.inf if due_s is None else due_s, next(self._arrivals), key)
            heappush(self._queues.setdefault(tenant, []), entry)

    def plan(
        self,
        sessions: Mapping[int, VerifierSession],
        own_draft: Callable[[int], Draft | None] | None = None,
        held: Container[str] = (),
    ) -> list[Planned]:
        """Take sessions off the queue until the step is full. Those with nothing to do leave it; those for whom there
        is no room keep their place.

        Args:
            own_draft: what a session goes on with while its client's drafts are not there.
            held: tenants that have to wait.
        """
        turns = self._turns(held)
        room, prefill_room = self._max_step_tokens, self._prefill_chunk_tokens
        planned: list[Planned] = []
        passed: list[tuple[str, _Entry]] = []
        while turns and room > 0:
            _, _, tenant = heappop(turns)
            entry = heappop(self._queues[tenant])
            key = entry[-1]
            session = sessions.get(key)
            num_uncached = session.num_uncached if session is not None else 0
            if num_uncached > 0 and prefill_room <= 0:
                passed.append((tenant, entry))
                self._take_turn(turns, tenant)
                continue
            ask = partial(own_draft, key) if own_draft is not None else None
            work = session.next_work(prefill_room, ask) if session is not None else None
            if work is not None and planned and len(work.token_ids) > room:
                passed.append((tenant, entry))
                break
            self._queued.discard(key)
            if work is not None:
                planned.append(Planned(key, work))
                room -= len(work.token_ids)
                # a longer prompt got a chunk of what was left
                prefill_room -= min(num_uncached, prefill_room)
                self._reached = max(self._reached, self._served[tenant])
                self._served[tenant] += len(work.token_ids)
            self._take_turn(turns, tenant)
        for tenant, entry in passed:
            heappush(self._queues[tenant], entry)
        self._queues = {tenant: queue for tenant, queue in self._queues.items() if queue}
        if not self._queues:  # whoever wanted anything got it: nobody is ahead of anybody
            self._reached = max((*self._served.values(), self._reached))
        return planned

    def _turns(self, held: Container[str]) -> list[tuple[int, int, str]]:
        """Whose turn it is, the least served first."""
        ready = frozenset(tenant for tenant in self._queues if tenant not in held)
        for tenant in ready:
            if tenant not in self._in_turn:
                self._served[tenant] = max(self._served.get(tenant, 0), self._reached)
        self._in_turn = ready
        # Of those who are away only what they are ahead by matters, and only while somebody else is here.
        self._served = {
            tenant: served
            for tenant, served in self._served.items()
            if tenant in ready or (ready and served > self._reached)
        }
        turns = [(self._served[tenant], self._queues[tenant][0][1], tenant) for tenant in ready]
        heapify(turns)
        return turns

    def _take_turn(self, turns: list[tuple[int, int, str]], tenant: str) -> None:
        """Another one, if somebody of the tenant's still waits."""
        if queue := self._queues[tenant]:
            heappush(turns, (self._served[tenant], queue[0][1], tenant))
