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
        now_s = asyncio.get_running_loop().time()
        self._up, self._down = Direction(shape, "up", now_s), Direction(shape, "down", now_s)
        self._streams: set[_SimulatedStream] = set()

    async def describe(self) -> Description:
        """What the verifier serves; takes a round trip."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._up.arrival(loop.time(), 1) - loop.time())
        await asyncio.sleep(self._down.arrival(loop.time(), 1) - loop.time())
        return self._verifier.describe()

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Stream]:
        """A new stream."""
        if self._up.is_reset(asyncio.get_running_loop().time()):
            raise Unreachable("the link is cut", field="verifier")
        stream = _SimulatedStream(self._verifier, self._up, self._down)
        self._streams.add(stream)
        try:
            yield stream
        finally:
            self._streams.discard(stream)
            await stream.end()

    async def close(self) -> None:
        """Nothing to release."""

    def set_shape(self, shape: LinkShape) -> None:
        """From now on."""
        self._up.shape = self._down.shape = shape

    def cut(self, duration_s: float, kind: CutKind = "stall") -> None:
        """From now on, for so long."""
        now_s = asyncio.get_running_loop().time()
        self._up.cut(now_s, duration_s, kind)
        self._down.cut(now_s, duration_s, kind)
        if kind == "reset":
            for stream in self._streams:
                stream.reset()


class _Line:
    """One way of a stream: what is put comes out later, in order. None ends it."""

    def __init__(self, direction: Direction) -> None:
        self._direction = direction
        self._on_way: deque[tuple[float, bytes | None]] = deque()
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def put(self, data: bytes | None) -> None:
        due_s = self._direction.arrival(self._loop.time(), len(data or b""))
        self._on_way.append((due_s, data))
        self._changed.set()

    def end_now(self) -> None:
        """What is on its way is lost."""
        self._on_way.clear()
        self._on_way.append((self._loop.time(), None))
        self._changed.set()

    async def get(self) -> bytes | None:
        while not self._on_way or self._on_way[0][0] > self._loop.time():
            self._changed.clear()
            wait_s = self._on_way[0][0] - self._loop.time() if self._on_way else None
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait_s)
        return self._on_way.popleft()[1]


class _SimulatedStream:
    def __init__(self, verifier: Verifying, up: Direction, down: Direction) -> None:
        self.traffic = Traffic()
        self._up, self._down = _Line(up), _Line(down)
        self._is_reset = False
        self._pump = asyncio.create_task(self._serve(verifier))

    async def send(self, message: ClientMessage) -> None:
        data = encode_request(message).SerializeToString()
        self.traffic.bytes_up += len(data)
        if not self._is_reset:
            self._up.put(data)

    async def receive(self) -> ServerMessage | None:
        data = await self._down.get()
        if self._is_reset:
            raise Unreachable("the link is cut", field="verifier")
        if data is None:
            return None
        self.traffic.bytes_down += len(data)
        return decode_response(pb.DecodeResponse.FromString(data))

    def reset(self) -> None:
        """Both ends lose the stream at once."""
        self._is_reset = True
        self._up.end_now()
        self._down.end_now()

    async def end(self) -> None:
        self._up.put(None)
        await asyncio.wait({self._pump})

    async def _serve(self, verifier: Verifying) -> None:
        try:
            async for message in verifier.decode(self._requests()):
                self._down.put(encode_response(message).SerializeToString())
        finally:
            self._down.put(None)

    async def _requests(self) -> AsyncIterator[ClientMessage | PacelineError]:
        while (data := await self._up.get()) is not None:
            if self._is_reset:
                return
            yield parse_request(data)
