"""A link to order within one process, on whatever clock the event loop has."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from paceline.common.codec import decode_response, encode_request, encode_response, parse_request
from paceline.common.errors import PacelineError, Unreachable
from paceline.common.hops.base import Stream, Traffic, Verifying
from paceline.common.messages import ClientMessage, Description, ServerMessage
from paceline.simulation.link import CutKind, Direction, LinkShape
from paceline.v1 import verifier_pb2 as pb


class SimulatedHop:
    """Connects an edge to a verifier object over a shaped link; messages pass through their wire form.

    Args:
        verifier: who answers.
        shape: of the link, for all streams together.
    """

    def __init__(self, verifier: Verifying, shape: LinkShape) -> None:
        self._verifier = verifier
        self._loop = asyncio.get_running_loop()
        now_s = self._loop.time()
        self._up, self._down = Direction(shape, "up", now_s), Direction(shape, "down", now_s)
        self._streams: set[_SimulatedStream] = set()
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
        stream = _SimulatedStream(self._verifier, self._up, self._down)
        self._streams.add(stream)
        self._serving.add(stream.serving)
        stream.serving.add_done_callback(self._serving.discard)
        try:
            yield stream
        finally:
            self._streams.discard(stream)
            stream.end()

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

    def cut(self, duration_s: float, kind: CutKind = "stall") -> None:
        """From now on, for so long."""
        self._up.cut(self._loop.time(), duration_s, kind)
        self._down.cut(self._loop.time(), duration_s, kind)
        if kind == "reset":
            self._reset()

    def _plan_resets(self, shape: LinkShape) -> None:
        for cut in shape.cuts:
            if cut.kind == "reset":
                self._resets.append(self._loop.call_later(cut.at_s, self._reset))

    def _reset(self) -> None:
        for stream in self._streams:
            stream.reset()

    def _require_link(self) -> None:
        if self._up.is_reset(self._loop.time()):
            raise _cut_off()


def _cut_off() -> Unreachable:
    return Unreachable("the link is cut", field="verifier", cure="try again later")


class _Line:
    """One way of a stream: what is put comes out later, in order. None ends it."""

    def __init__(self, direction: Direction) -> None:
        self._direction = direction
        self._on_way: deque[tuple[float, bytes | None]] = deque()
        self._changed = asyncio.Event()
        self._is_ended = False
        self._loop = asyncio.get_running_loop()

    def put(self, data: bytes | None) -> None:
        """Send it; after `end_now` it is lost."""
        due_s = self._direction.arrival(self._loop.time(), len(data or b""))
        self._on_way.append((due_s, data))
        self._changed.set()

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
    def __init__(self, verifier: Verifying, up: Direction, down: Direction) -> None:
        self.traffic = Traffic()
        self._up, self._down = _Line(up), _Line(down)
        self._is_reset = False
        self.serving = asyncio.create_task(self._serve(verifier))

    async def send(self, message: ClientMessage) -> None:
        data = encode_request(message).SerializeToString()
        self.traffic.bytes_up += len(data)
        self._up.put(data)  # into the void after a reset, as with gRPC: `receive` says that the link is gone

    async def receive(self) -> ServerMessage | None:
        data = await self._down.get()
        if self._is_reset:
            raise _cut_off()
        if data is None:
            await self.serving  # a verifier that failed is no quiet end
            return None
        self.traffic.bytes_down += len(data)
        return decode_response(pb.DecodeResponse.FromString(data))

    def reset(self) -> None:
        """Both ends lose the stream at once."""
        self._is_reset = True
        self._up.end_now()
        self._down.end_now()

    def end(self) -> None:
        """Nobody is interested any more."""
        self._up.put(None)

    async def _serve(self, verifier: Verifying) -> None:
        try:
            async for message in verifier.decode(self._requests()):
                self._down.put(encode_response(message).SerializeToString())
        finally:
            self._down.put(None)

    async def _requests(self) -> AsyncIterator[ClientMessage | PacelineError]:
        while (data := await self._up.get()) is not None:
            yield parse_request(data)
