"""A link to order within one process, on whatever clock the event loop has."""

import asyncio
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import Context, copy_context
from typing import Literal

from paceline.cloud.identity import Caller, current_caller
from paceline.common.codec import RequestWriter, ResponseWriter, parse_request, parse_response
from paceline.common.errors import PacelineError, Unreachable
from paceline.common.hops.base import Stream, Traffic, Verifying
from paceline.common.messages import ClientMessage, Description, ServerMessage
from paceline.simulation.link import CutKind, Direction, LinkShape

Way = Literal["up", "down"]
End = Literal["edge", "verifier"]


class SimulatedHop:
    """Connects an edge to a verifier object over a shaped link; messages pass through their wire form.

    Args:
        verifier: who answers.
        shape: of the link, for all streams together.
        lag_s: each way of a stream takes up to so much longer than another's, so that what two streams say may change
            places; within one all stays in order.
        caller: who the verifier is called by; None: whoever calls this link.
    """

    def __init__(
        self, verifier: Verifying, shape: LinkShape, lag_s: float = 0.0, caller: Caller | None = None
    ) -> None:
        self._verifier = verifier
        self._caller = caller
        self._lag_s = lag_s
        self._dice = random.Random(f"{shape.seed} lag")
        self._loop = asyncio.get_running_loop()
        now_s = self._loop.time()
        self._up, self._down = Direction(shape, "up", now_s), Direction(shape, "down", now_s)
        self.num_broken = 0
        """Streams that broke off, so far."""
        self._until_cut = math.inf
        """Messages that may still come down before the link breaks by itself, and for how long it then does."""
        self._cut_s = 0.0
        self._streams: dict[_SimulatedStream, None] = {}
        """In the order of their beginnings: what breaks together breaks in the same order in every run."""
        self._serving: set[asyncio.Task[None]] = set()
        self._resets: list[asyncio.TimerHandle] = []
        self._plan_resets(shape)

    async def describe(self) -> Description:
        """What the verifier serves; takes a round trip.

        Raises:
            Unreachable: connections are refused just now.
        """
        self._require_link()
        for way in (self._up, self._down):
            line = _Line(way)
            line.put(b"")
            await line.get()
        self._require_link()
        return self._verifier.describe()

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Stream]:
        """A new stream. Leaving it takes no time; the verifier hears of it when the link lets it."""
        self._require_link()
        stream = self._begin()
        self._streams[stream] = None
        try:
            yield stream
        finally:
            self._streams.pop(stream, None)
            stream.end()

    def _begin(self, context: Context | None = None) -> "_SimulatedStream":
        lags_s = (self._dice.uniform(0, self._lag_s), self._dice.uniform(0, self._lag_s))
        up, down = _Line(self._up, lags_s[0]), _Line(self._down, lags_s[1])
        context = context or copy_context()
        if self._caller is not None:
            context.run(current_caller.set, self._caller)
        stream = _SimulatedStream(self._verifier, up, down, self._on_receive, context)
        self._serving.add(stream.serving)
        stream.serving.add_done_callback(self._serving.discard)
        return stream

    async def close(self) -> None:
        """Wait until the verifier knows that every stream is over."""
        for timer in self._resets:
            timer.cancel()
        if self._serving:
            await asyncio.wait(self._serving)

    def set_shape(self, shape: LinkShape) -> None:
        """From now on."""
        self._up.change(shape, self._loop.time())
        self._down.change(shape, self._loop.time())
        self._plan_resets(shape)

    def cut(self, duration_s: float, kind: CutKind = "stall", ways: tuple[Way, ...] = ("up", "down")) -> None:
        """From now on, for so long; a reset always cuts both ways."""
        now_s = self._loop.time()
        if "up" in ways or kind == "reset":
            self._up.cut(now_s, duration_s, kind)
        if "down" in ways or kind == "reset":
            self._down.cut(now_s, duration_s, kind)
        if kind == "reset":
            self._reset()

    def cut_after(self, num_messages: int, duration_s: float) -> None:
        """Reset the link for so long once so many more messages have come down, even where the next is here already."""
        self._until_cut, self._cut_s = num_messages, duration_s

    def _on_receive(self) -> None:
        """Somebody asks for the next message."""
        if self._until_cut <= 0:
            self._until_cut = math.inf
            self.cut(self._cut_s, "reset")
        self._until_cut -= 1

    def half_open(self, deaf: End, notice_s: float) -> None:
        """Break every stream for one end alone; the other end takes it for live until it notices. What is on its way to
        that end still arrives."""
        for stream in self._streams:
            self.num_broken += stream.half_open(deaf)
            self._loop.call_later(notice_s, stream.reset)

    def repeat(self, hold_s: float) -> None:
        """What each live stream has sent arrives once more, as a stream of its own whose answers nobody hears; as where
        a transport tries again by itself."""
        for stream in self._streams:
            copy = self._begin(stream.context)
            for data in stream.sent:
                copy.put(data)
            self._loop.call_later(hold_s, copy.reset)

    def _plan_resets(self, shape: LinkShape) -> None:
        for cut in shape.cuts:
            if cut.kind == "reset":
                self._resets.append(self._loop.call_later(cut.at_s, self._reset))

    def _reset(self) -> None:
        for stream in self._streams:
            self.num_broken += stream.reset()

    def _require_link(self) -> None:
        if self._up.is_reset(self._loop.time()):
            raise _cut_off()


def _cut_off() -> Unreachable:
    return Unreachable("the link is cut", field="verifier", cure="try again later")


class _Line:
    """One way of a stream: what is put comes out later, in order. None ends it."""

    def __init__(self, direction: Direction, lag_s: float = 0.0) -> None:
        self._direction = direction
        self._lag_s = lag_s
        self._on_way: deque[tuple[float, bytes | None]] = deque()
        self._changed = asyncio.Event()
        self._is_ended = self._is_mute = False
        self._loop = asyncio.get_running_loop()

    def put(self, data: bytes | None) -> None:
        """Send it; after `end_now` or `mute` it is lost."""
        if self._is_mute:
            return
        due_s = self._direction.arrival(self._loop.time(), len(data or b"")) + self._lag_s
        self._on_way.append((due_s, data))
        self._changed.set()

    def mute(self) -> None:
        """What is sent from now on is lost; what is on its way arrives."""
        self._is_mute = True

    def end_now(self) -> None:
        """What is on its way is lost."""
        self._is_ended = True
        self._changed.set()

    async def get(self) -> bytes | None:
        """The next one that is due; None for ever once the line was ended."""
        while not self._is_ended:
            wait_s = None
            if self._on_way:
                now_s = self._loop.time()
                wait_s = self._direction.held_until(max(now_s, self._on_way[0][0])) - now_s
                if wait_s <= 0:
                    return self._on_way.popleft()[1]
            self._changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait_s)
        return None


class _SimulatedStream:
    def __init__(
        self,
        verifier: Verifying,
        up: _Line,
        down: _Line,
        on_receive: Callable[[], None],
        context: Context,
    ) -> None:
        self.traffic = Traffic()
        self.sent: list[bytes] = []
        """What this side has sent."""
        self._writer = RequestWriter()
        self._up, self._down = up, down
        self._on_receive = on_receive
        self._is_broken = self._is_reset = False
        self.context = context.copy()
        """Whose stream it is, for the verifier."""
        self.serving = asyncio.create_task(self._serve(verifier), context=self.context)

    async def send(self, message: ClientMessage) -> None:
        data = self._writer.write(message)
        self.traffic.bytes_up += len(data)
        self.put(data)  # into the void after a reset, as with gRPC: `receive` says that the link is gone

    async def receive(self) -> ServerMessage | None:
        self._on_receive()
        data = await self._down.get()
        if self._is_reset:
            raise _cut_off()
        if data is None:
            await self.serving  # a verifier that failed is no quiet end
            return None
        self.traffic.bytes_down += len(data)
        return parse_response(data)

    def put(self, data: bytes) -> None:
        """Send a message as it is."""
        self.sent.append(data)
        self._up.put(data)

    def reset(self) -> bool:
        """Both ends lose the stream at once; whether it was whole until now."""
        was_whole = not self._is_broken
        self._is_broken = self._is_reset = True
        self._up.end_now()
        self._down.end_now()
        return was_whole

    def half_open(self, deaf: End) -> bool:
        """One end loses the stream, the other has yet to notice; whether it was whole until now."""
        if self._is_broken:
            return False
        self._is_broken = True
        if deaf == "verifier":
            self._up.mute()
            self._is_reset = True
            self._down.end_now()
        else:
            self._down.mute()
            self._up.end_now()
        return True

    def end(self) -> None:
        """Nobody is interested any more."""
        self._up.put(None)

    async def _serve(self, verifier: Verifying) -> None:
        writer = ResponseWriter()
        try:
            async for message in verifier.decode(self._requests()):
                for data in writer.write(message):
                    self._down.put(data)
        finally:
            self._down.put(None)

    async def _requests(self) -> AsyncIterator[ClientMessage | PacelineError]:
        while (data := await self._up.get()) is not None:
            yield parse_request(data)
