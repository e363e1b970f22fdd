"""One hop made of several: the first that answers, in order of preference.

A chain re-forms by it. Where a middle hop is away its lower neighbour opens the next stream at the hop beyond, and goes
back to the middle one with a later text, once that answers again. A stream that is open stays where it is.

Several verifiers have the room of all of them: a text that one has no place for is led to the next, and waits only if
all are full, for the one that asks for the shortest time. A text that comes back asks the hop that had it before the
others: its cache may be there. Streams of one text are known by their `SESSION_HEADER`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from paceline.common.errors import Idle, NotTrusted, PacelineError, Status, Unavailable, Unreachable
from paceline.common.hops.base import SESSION_HEADER, Elsewhere, Hop, Stream, stream_headers
from paceline.common.hops.grpc import PEER_TIMEOUT_S, GrpcHop
from paceline.common.hops.security import Calling
from paceline.common.messages import (
    ClientMessage,
    Close,
    Description,
    Draining,
    ErrorMessage,
    Finished,
    Opened,
    ServerMessage,
)
from paceline.common.session.remote import RemoteError

CONNECT_TIMEOUT_S = 1.0
"""How long one of several hops may take to answer before the next is asked."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
_SOONEST_S = 0.001
_IDLE = Idle("").reason
"""A hop that says so is as good as before."""
_MOST_TEXTS = 1024
"""Texts whose hops are remembered; of those that were lost and never came back, the last ones."""


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
    full_until_s: float = 0.0
    """Until then it told some text that it has no place."""
    why: Unreachable | None = None
    """Why it did not serve, where more is known than that nobody answered."""

    def failed(self, now_s: float) -> None:
        self.is_known = False
        if self.due_s <= now_s:  # else it is the same failure, as another stream sees it
            self.pause_s = min(max(2 * self.pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
            self.due_s = now_s + self.pause_s

    def answered(self) -> None:
        self.is_known = True
        self.pause_s = self.due_s = 0.0
        self.why = None


@dataclass(slots=True)
class _Text:
    """What hops said to one text."""

    home: str = ""
    """Who took it last."""
    refusals: dict[str, tuple[float, ErrorMessage]] = field(default_factory=dict)
    """Who had no place for it, and when it may ask there again."""
    is_asking: bool = False
    """It goes from hop to hop, and has not waited since: each is asked once."""

    def begin(self, now_s: float) -> None:
        """A stream is about to be opened."""
        if not self.is_asking:
            self.refusals = {name: one for name, one in self.refusals.items() if one[0] > now_s}
        self.is_asking = False

    def first_place(self, now_s: float) -> ErrorMessage:
        """The refusal that ends first, and in how long."""
        due_s, refusal = min(self.refusals.values(), key=lambda one: one[0])
        return replace(refusal, retry_after_s=max(due_s - now_s, _SOONEST_S))


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
        self._texts: dict[str, _Text] = {}
        """By name, the one begun longest ago first."""
        self._connect_timeout_s = connect_timeout_s
        self.clock = clock or (lambda: asyncio.get_running_loop().time())

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
            RemoteError: none does of those that this text may ask now; the others are full.
        """
        name = dict(stream_headers.get()).get(SESSION_HEADER, "")
        text = self._text(name)
        candidate = await self._first(text)
        try:
            async with candidate.hop.stream() as stream:
                yield _Watched(stream, candidate, self, name, text)
        except Elsewhere:
            raise
        except Unreachable:
            candidate.is_known = False  # also where it breaks before anything can be received
            raise

    async def close(self) -> None:
        """Close every one."""
        await asyncio.gather(*(candidate.hop.close() for candidate in self._candidates))

    def _text(self, name: str) -> _Text:
        if not name:
            return _Text()
        text = self._texts.setdefault(name, _Text())
        text.begin(self.clock())
        if len(self._texts) > _MOST_TEXTS:
            del self._texts[next(iter(self._texts))]
        return text

    def _in_order(self, text: _Text | None = None) -> list[_Candidate]:
        """Whoever had the text, then the best first, then those that were full lately; after them those that failed
        lately, who are asked only if no other answers. Nobody who told this text to come later."""
        now_s, text = self.clock(), text or _Text()
        may_ask = [one for one in self._candidates if one.name not in text.refusals]
        return sorted(
            may_ask, key=lambda one: (one.due_s > now_s, one.name != text.home, one.full_until_s > now_s)
        )

    async def _first(self, text: _Text) -> _Candidate:
        for candidate in self._in_order(text):
            if candidate.is_known or await self._ask(candidate) is not None:
                return candidate
        if text.refusals:
            raise RemoteError(text.first_place(self.clock()))
        raise self._nobody()

    def forget(self, name: str) -> None:
        """This text is over."""
        self._texts.pop(name, None)

    def refused(self, text: _Text, candidate: _Candidate, refusal: ErrorMessage) -> ErrorMessage:
        """A hop has no place for a text: what to tell it if no other hop may have one.

        Raises:
            Elsewhere: one may.
        """
        now_s = self.clock()
        candidate.full_until_s = now_s + refusal.retry_after_s
        text.refusals[candidate.name] = (candidate.full_until_s, refusal)
        if any(one.due_s <= now_s for one in self._in_order(text)):
            text.is_asking = True
            raise Elsewhere(f"{candidate.name} is full", field="verifier", cure="ask another one")
        return text.first_place(now_s)

    async def _ask(self, candidate: _Candidate) -> Description | None:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                description = await candidate.hop.describe()
        except (TimeoutError, Unreachable) as error:
            candidate.why = error if isinstance(error, NotTrusted | Unavailable) else None
            candidate.failed(self.clock())
            return None
        candidate.answered()
        return description

    def _nobody(self) -> Unreachable:
        why = next((one.why for one in self._candidates if one.why is not None), None)
        return why or Unreachable(
            f"no verifier answers at {', '.join(one.name for one in self._candidates)}",
            field="verifier",
            cure="start one with `paceline cloud serve`, or check the addresses",
        )


class _Watched:
    """A stream that tells how its hop is doing."""

    def __init__(
        self, stream: Stream, candidate: _Candidate, hops: FirstReachable, name: str, text: _Text
    ) -> None:
        self.traffic = stream.traffic
        self._stream = stream
        self._candidate = candidate
        self._hops = hops
        self._name = name
        self._text = text
        self._is_finished = False

    async def send(self, message: ClientMessage) -> None:
        if isinstance(message, Close):  # the end that follows was asked for
            self._finish()
        await self._stream.send(message)

    async def receive(self) -> ServerMessage | None:
        try:
            message = await self._stream.receive()
        except PacelineError:
            self._candidate.is_known = False
            raise
        if message is None:
            self._candidate.is_known &= self._is_finished
        elif isinstance(message, Opened):
            self._text.home = self._candidate.name
        elif isinstance(message, Finished):
            self._finish()
        elif _goes_away(message):
            self._candidate.failed(self._hops.clock())
        elif self._name and isinstance(message, ErrorMessage) and message.is_full:
            return self._hops.refused(self._text, self._candidate, message)
        return message

    def _finish(self) -> None:
        self._is_finished = True
        self._hops.forget(self._name)


def _goes_away(message: ServerMessage) -> bool:
    """Whether the hop still answers, but serves nobody new: it drains, or cannot reach its own upstream."""
    if isinstance(message, ErrorMessage):
        return message.fatal and message.status is Status.UNAVAILABLE and message.reason != _IDLE
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
