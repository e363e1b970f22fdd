"""A link to order between two real processes: a TCP proxy that delays, stalls and cuts.

    python -m paceline.simulation.proxy --target 127.0.0.1:7443 --shape rtt=100ms,jitter=5ms

It prints where it listens. Lines on its standard input change the link while it runs: a shape; `cut=5s` (nothing
passes, nothing is lost); `reset=5s` (connections break, new ones are refused); `stats` (one JSON line with the bytes).
"""

import argparse
import asyncio
import json
import queue
import socket
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import IO, Any

from paceline.common.errors import PacelineError, Unreachable
from paceline.common.hops.grpc import check_address
from paceline.simulation.link import CutKind, Direction, LinkShape

READY_PREFIX = "paceline link ready on "
_CHUNK_BYTES = 65_536
_MAX_BUFFERED = 16 << 20
_RST = struct.pack("ii", 1, 0)
_START_S = 30.0


@dataclass(slots=True)
class Stats:
    """What crossed."""

    bytes_up: int = 0
    bytes_down: int = 0
    connections: int = 0


class _Pump(asyncio.Protocol):
    """One end of a connection: what it receives leaves at the other end, later."""

    def __init__(
        self, proxy: "Proxy", direction: Direction, *, is_up: bool, far: "_Pump | None" = None
    ) -> None:
        self._proxy = proxy
        self._direction = direction
        self._is_up = is_up
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.far = far

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        raw: socket.socket = transport.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._proxy.ends.add(self)

    def data_received(self, data: bytes) -> None:
        stats = self._proxy.stats
        if self._is_up:
            stats.bytes_up += len(data)
        else:
            stats.bytes_down += len(data)
        self._push(data)

    def eof_received(self) -> bool:
        self._push(b"")
        return True  # the other direction may still have something to say

    def connection_lost(self, _error: Exception | None) -> None:
        self._proxy.ends.discard(self)
        if self.far is not None and self.far.transport is not None and not self._waiting:
            self.far.transport.close()

    def _push(self, data: bytes) -> None:
        now_s = self._loop.time()
        due_s = self._direction.arrival(now_s, len(data))
        if not self._waiting and due_s <= now_s and self.far is not None:
            self._deliver(data)
            return
        self._waiting.append((due_s, data))
        if self._timer is None:
            self._timer = self._loop.call_at(due_s, self.release)
        if sum(len(part) for _, part in self._waiting) > _MAX_BUFFERED and self.transport is not None:
            self.transport.pause_reading()

    def release(self) -> None:
        """Hand on what is due."""
        self._timer = None
        if self.far is None:
            return  # still dialling; called again once that is done
        while self._waiting and self._waiting[0][0] <= self._loop.time() + 2e-5:
            self._deliver(self._waiting.popleft()[1])
        if self._waiting:
            self._timer = self._loop.call_at(self._waiting[0][0], self.release)
        elif self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def _deliver(self, data: bytes) -> None:
        far = self.far.transport if self.far is not None else None
        if far is None or far.is_closing():
            return
        if data:
            far.write(data)
        elif far.can_write_eof():
            with suppress(OSError):
                far.write_eof()

    def reset(self) -> None:
        """Break the connection without a goodbye."""
        if self._timer is not None:
            self._timer.cancel()
        self._waiting.clear()
        if self.transport is not None:
            raw: Any = self.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
            self.transport.abort()


class Proxy:
    """Passes connections on to `target` over a shaped link.

    Args:
        target: `HOST:PORT`.
        shape: of the link, for all connections together.
    """

    def __init__(self, target: str, shape: LinkShape) -> None:
        check_address(target, "target")
        self.stats = Stats()
        self.ends: set[_Pump] = set()
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        now_s = asyncio.get_running_loop().time()
        self._up, self._down = Direction(shape, "up", now_s), Direction(shape, "down", now_s)
        self._dialling: set[asyncio.Task[None]] = set()

    async def listen(self) -> tuple[asyncio.Server, str]:
        """Start; the server and its address."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(self._accept, "127.0.0.1", 0)
        return server, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def set_shape(self, shape: LinkShape) -> None:
        """From now on."""
        self._up.shape = self._down.shape = shape

    def cut(self, duration_s: float, kind: CutKind) -> None:
        """From now on, for so long."""
        now_s = asyncio.get_running_loop().time()
        self._up.cut(now_s, duration_s, kind)
        self._down.cut(now_s, duration_s, kind)
        if kind == "reset":
            for end in list(self.ends):
                end.reset()

    def _accept(self) -> asyncio.Protocol:
        near = _Pump(self, self._up, is_up=True)
        task = asyncio.get_running_loop().create_task(self._dial(near))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)
        return near

    async def _dial(self, near: _Pump) -> None:
        loop = asyncio.get_running_loop()
        if self._up.is_reset(loop.time()):
            await asyncio.sleep(0)
            near.reset()
            return
        self.stats.connections += 1
        try:
            _, far = await loop.create_connection(
                lambda: _Pump(self, self._down, is_up=False, far=near), *self._target
            )
        except OSError:
            near.reset()
            return
        near.far = far
        if near.transport is None or near.transport.is_closing():
            far.reset()
        else:
            near.release()


async def _main(target: str, shape: LinkShape) -> None:
    proxy = Proxy(target, shape)
    server, address = await proxy.listen()
    print(f"{READY_PREFIX}{address}", flush=True)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    threading.Thread(target=_read_commands, args=(loop, proxy, ended), daemon=True).start()
    async with server:
        await ended.wait()


def _read_commands(loop: asyncio.AbstractEventLoop, proxy: Proxy, ended: asyncio.Event) -> None:
    for line in sys.stdin:
        loop.call_soon_threadsafe(_obey, proxy, line.strip())
    loop.call_soon_threadsafe(ended.set)


def _obey(proxy: Proxy, line: str) -> None:
    if line == "stats":
        print(json.dumps(asdict(proxy.stats)), flush=True)
        return
    try:
        shape = LinkShape.parse(line)
    except PacelineError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return
    if shape.cuts:
        for cut in shape.cuts:
            proxy.cut(cut.duration_s, cut.kind)
    else:
        proxy.set_shape(shape)


class ShapedLink:
    """A running proxy process."""

    def __init__(self, address: str, process: "subprocess.Popen[str]", lines: "queue.Queue[str]") -> None:
        self.address = address
        self._process = process
        self._lines = lines

    def set_shape(self, text: str) -> None:
        """Change the link; see `LinkShape.parse`."""
        LinkShape.parse(text)
        self._say(text)

    def cut(self, seconds: float, kind: CutKind = "stall") -> None:
        """Cut it from now on."""
        self._say(f"{'cut' if kind == 'stall' else 'reset'}={seconds}s")

    def stats(self) -> Stats:
        """What has crossed so far."""
        self._say("stats")
        return Stats(**json.loads(self._lines.get(timeout=_START_S)))

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None, "it was asked for"
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()


@contextmanager
def shaped_link(target: str, shape: str = "rtt=0ms") -> Iterator[ShapedLink]:
    """Run a proxy in a process of its own until the context is left.

    Raises:
        InvalidRequest: the shape or the target is malformed.
        Unreachable: it did not start.
    """
    LinkShape.parse(shape)
    check_address(target, "target")
    command = [sys.executable, "-m", "paceline.simulation.proxy", "--target", target, "--shape", shape]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    lines: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(target=_forward, args=(process.stdout, lines), daemon=True)
    reader.start()
    try:
        ready = lines.get(timeout=_START_S)
        if not ready.startswith(READY_PREFIX):
            raise Unreachable("the link process did not start", field="link")
        yield ShapedLink(ready.removeprefix(READY_PREFIX).strip(), process, lines)
    finally:
        process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(5)
        process.stdout.close()


def _forward(stdout: IO[str], lines: "queue.Queue[str]") -> None:
    for line in stdout:
        lines.put(line)
    lines.put("")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="A TCP proxy over a shaped link.")
    parser.add_argument("--target", required=True, help="HOST:PORT")
    parser.add_argument("--shape", default="rtt=0ms", help="rtt=100ms,jitter=10ms,bandwidth=10mbit,…")
    arguments = parser.parse_args()
    try:
        asyncio.run(_main(arguments.target, LinkShape.parse(arguments.shape)))
    except PacelineError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
