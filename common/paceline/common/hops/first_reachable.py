"""One hop made of several: the first that answers, in order of preference.

A chain re-forms by it. Where a middle hop is away its lower neighbour opens the next stream at the hop beyond, and goes
back to the middle one with a later stream, once that answers again. A stream that is open stays where it is.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from paceline.common.errors import NotTrusted, PacelineError, Status, Unreachable
from paceline.common.hops.base import Hop, Stream
from paceline.common.hops.grpc import PEER_TIMEOUT_S, GrpcHop
from paceline.common.hops.security import Calling
from paceline.common.messages import (
    ClientMessage,
    Close,
    Description,
    Draining,
    ErrorMessage,
    Finished,
    ServerMessage,
)

CONNECT_TIMEOUT_S = 1.0
"""How long one of several hops may take to answer before the next is asked."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0


@dataclass(slots=True)
class _Candidate:
    name: str
    hop: Hop
    is_known: bool = False
    """It answered, and nothing has gone wrong since: the next stream need not ask first."""
    pause_s: float = 0.0
    """How long it is left alone after the last failure; doubles with each."""
    due_s: float = 0.0
    """When it may be asked again."""
    distrust: NotTrusted | None = None
    """Why it was not connected to, if certificates are why."""

    def failed(self, now_s: float) -> None:
        self.is_known = False
        if self.due_s <= now_s:  # else it is the same failure, as another stream sees it
            self.pause_s = min(max(2 * self.pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
            self.due_s = now_s + self.pause_s

    def answered(self) -> None:
        self.is_known = True
        self.pause_s = self.due_s = 0.0
        self.distrust = None


class FirstReachable:
    """Several verifiers behind one face.

    Args:
        hops: name (for messages) to hop, the best first.
        connect_timeout_s: how long each may take to answer.
        clock: seconds; the event loop's unless something else is given.
    """

    def __init__(
        self,
        hops: Mapping[str, Hop],
        *,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._candidates = [_Candidate(name, hop) for name, hop in hops.items()]
        self._connect_timeout_s = connect_timeout_s
        self._clock = clock or (lambda: asyncio.get_running_loop().time())

    async def describe(self) -> Description:
        """What the first that answers serves."""
        for candidate in self._in_order():
            if (description := await self._ask(candidate)) is not None:
                return description
        raise self._nobody()

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Stream]:
        """A new stream of the first that answers.

        Raises:
            Unreachable: none does; names all of them.
        """
        candidate = await self._first()
        try:
            async with candidate.hop.stream() as stream:
                yield _Watched(stream, candidate, self._clock)
        except Unreachable:
            candidate.is_known = False  # also where it breaks before anything can be received
            raise

    async def close(self) -> None:
        """Close every one."""
        await asyncio.gather(*(candidate.hop.close() for candidate in self._candidates))

    def _in_order(self) -> list[_Candidate]:
        """The best first; after them those that failed lately, who are asked only if no other answers."""
        now_s = self._clock()
        return sorted(self._candidates, key=lambda one: one.due_s > now_s)

    async def _first(self) -> _Candidate:
        for candidate in self._in_order():
            if candidate.is_known or await self._ask(candidate) is not None:
                return candidate
        raise self._nobody()

    async def _ask(self, candidate: _Candidate) -> Description | None:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                description = await candidate.hop.describe()
        except (TimeoutError, Unreachable) as error:
            candidate.distrust = error if isinstance(error, NotTrusted) else None
            candidate.failed(self._clock())
            return None
        candidate.answered()
        return description

    def _nobody(self) -> Unreachable:
        distrusted = next((one.distrust for one in self._candidates if one.distrust is not None), None)
        return distrusted or Unreachable(
            f"no verifier answers at {', '.join(one.name for one in self._candidates)}",
            field="verifier",
            cure="start one with `paceline cloud serve`, or check the addresses",
        )


class _Watched:
    """A stream that tells how its hop is doing."""

    def __init__(self, stream: Stream, candidate: _Candidate, clock: Callable[[], float]) -> None:
        self.traffic = stream.traffic
        self._stream = stream
        self._candidate = candidate
        self._clock = clock
        self._is_finished = False

    async def send(self, message: ClientMessage) -> None:
        self._is_finished |= isinstance(message, Close)  # the end that follows was asked for
        await self._stream.send(message)

    async def receive(self) -> ServerMessage | None:
        try:
            message = await self._stream.receive()
        except PacelineError:
            self._candidate.is_known = False
            raise
        if message is None:
            self._candidate.is_known &= self._is_finished
        elif isinstance(message, Finished):
            self._is_finished = True
        elif _goes_away(message):
            self._candidate.failed(self._clock())
        return message


def _goes_away(message: ServerMessage) -> bool:
    """Whether the hop still answers, but serves nobody new: it drains, or cannot reach its own upstream."""
    if isinstance(message, ErrorMessage):
        return message.fatal and message.status is Status.UNAVAILABLE
    return isinstance(message, Draining)


def connect_to(
    addresses: Sequence[str], calling: Calling | None = None, peer_timeout_s: float = PEER_TIMEOUT_S
) -> Hop:
    """The hop at these addresses, the best first.

    Args:
        calling: who this side is, towards each of them.
        peer_timeout_s: how long one that has frozen goes unnoticed at most.
    Raises:
        InvalidRequest: one of them is not HOST:PORT, the time is out of range, or a file is unusable.
    """
    hops = {one: GrpcHop(one, calling=calling, peer_timeout_s=peer_timeout_s) for one in addresses}
    return hops[addresses[0]] if len(hops) == 1 else FirstReachable(hops)
