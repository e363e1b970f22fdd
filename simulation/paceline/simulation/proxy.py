"""A link to order between two real processes: a TCP proxy that delays, stalls and cuts.

    python -m paceline.simulation.proxy --target 127.0.0.1:7443 --shape rtt=100ms,jitter=5ms

It prints where it listens. Lines on its standard input change the link while it runs: a shape; `cut=5s` (nothing
passes, nothing is lost); `reset=5s` (connections break, new ones are refused), both also `…@3s`, which is from now on;
`stats`. Each is answered by one line: `ok`, `error: …`, or the JSON of `Stats`. At the end of the input it ends.

A connection is accepted at once, without the round trip that a handshake takes; what is sent over it is delayed.
"""

import argparse
import asyncio
import json
import queue
import selectors
import socket
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import IO, Literal

from paceline.common.errors import InvalidRequest, PacelineError, Unreachable
from paceline.common.hops.grpc import check_address
from paceline.simulation.link import Cut, CutKind, Direction, LinkShape

READY_PREFIX = "paceline link ready on "
_CHUNK_BYTES = 65_536
_MAX_BUFFERED = 16 << 20
_RST = struct.pack("ii", 1, 0)
_TIMER_S = 2e-5
"""What is due sooner than this is due: no timer is more accurate."""
_START_S = 30.0
BreakKind = Literal["reset", "swallow", "swallow up", "swallow down"]
"""`reset`: both ends are told. Else nobody is: what is sent vanishes, one way or both."""


@dataclass(slots=True)
class Stats:
    """What crossed."""

    bytes_up: int = 0
    bytes_down: int = 0
    connections: int = 0


class _End(asyncio.Protocol):
    """One end of a connection: what it receives leaves at the far end, later.

    Its queue holds bytes, b"" for the end of what it sends, and None for the loss of the connection.
    """

    def __init__(self, proxy: "Proxy", direction: Direction, *, is_up: bool) -> None:
        self._proxy = proxy
        self._direction = direction
        self._is_up = is_up
        self._waiting: deque[tuple[float, bytes | None]] = deque()
        self._num_waiting_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._has_sent_all = False
        self._is_full = False
        self.is_swallowed = False
        """What it sends vanishes."""
        self.is_doomed = False
        """Reset, or to be as soon as the far end is there and has what came before."""
        self.transport: asyncio.Transport | None = None
        self.far: _End | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._proxy.ends.add(self)

    def data_received(self, data: bytes) -> None:
        self._proxy.count(len(data), is_up=self._is_up)
        while data and not (self.is_swallowed or self.is_doomed):
            passing = data[: self._proxy.num_passing(len(data))]
            self._push(passing)
            data = data[len(passing) :]
            self._proxy.break_if_due()

    def eof_received(self) -> bool:
        self._has_sent_all = True
        self._push(b"")
        return True  # the other direction may still have something to say

    def connection_lost(self, _error: Exception | None) -> None:
        self._proxy.ends.discard(self)
        self._push(None)

    def pause_writing(self) -> None:
        self._is_full = True
        if self.far is not None:
            self.far.regulate()

    def resume_writing(self) -> None:
        self._is_full = False
        if self.far is not None:
            self.far.regulate()

    def regulate(self) -> None:
        """Read on only while there is room for it."""
        if self.transport is None or self._has_sent_all:
            return
        if self._num_waiting_bytes > _MAX_BUFFERED or (self.far is not None and self.far._is_full):
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def _push(self, data: bytes | None) -> None:
        now_s = self._loop.time()
        due_s = self._direction.arrival(now_s, len(data or b""))
        if data and due_s <= now_s and not self._waiting and self.far is not None:
            self.far.deliver(data, may_close=False)
            return
        self._waiting.append((due_s, data))
        self._num_waiting_bytes += len(data or b"")
        if self._timer is None:
            self.release()
        self.regulate()

    def release(self) -> None:
        """Hand on what is due, unless the far end is still being dialled: it asks again once that is done."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and self.far is not None:
            now_s = self._loop.time()
            due_s = self._direction.held_until(max(now_s, self._waiting[0][0]))
            if due_s > now_s + _TIMER_S:
                self._timer = self._loop.call_at(due_s, self.release)
                break
            data = self._waiting.popleft()[1]
            self._num_waiting_bytes -= len(data or b"")
            self.far.deliver(data, may_close=self._has_sent_all and not self._waiting)
        self.regulate()

    def deliver(self, data: bytes | None, *, may_close: bool) -> None:
        """Send what came from the far end. Both ends close once each has said all, or either was lost."""
        if self.transport is None or self.transport.is_closing():
            return
        if data:
            self.transport.write(data)
        elif data is None or (may_close and self._has_sent_all and not self._waiting):
            self.close()
        else:
            with suppress(OSError):
                self.transport.write_eof()

    def close(self) -> None:
        """Close both ends; what they were given to send is still sent."""
        for end in (self, self.far):
            if end is not None and end.transport is not None:
                end.transport.close()

    def break_(self, how: BreakKind) -> None:
        """Break the connection, or this end's part of it."""
        if how != "reset":
            self.is_swallowed |= how in ("swallow", "swallow up" if self._is_up else "swallow down")
        else:
            self.is_doomed = True
            if self.far is not None:
                self.reset()

    def reset(self) -> None:
        """Break the connection without a goodbye."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting.clear()
        self._num_waiting_bytes = 0
        if self.transport is not None and not self.transport.is_closing():
            raw = self.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
            self.transport.abort()


@dataclass(slots=True)
class _Break:
    num_left: int
    how: BreakKind


class Proxy:
    """Passes connections on to `target` over a shaped link.

    Args:
        target: `HOST:PORT`.
        shape: of the link, for all connections together.
    """

    def __init__(self, target: str, shape: LinkShape) -> None:
        check_address(target, "target")
        self.stats = Stats()
        self.ends: set[_End] = set()
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._loop = asyncio.get_running_loop()
        now_s = self._loop.time()
        self._up, self._down = Direction(shape, "up", now_s), Direction(shape, "down", now_s)
        self._plan_resets(shape.cuts)
        self._dialling: set[asyncio.Task[None]] = set()
        self._breaks: deque[_Break] = deque()
        self.num_breaks = 0
        """That were asked for and have come."""

    def count(self, num_bytes: int, *, is_up: bool) -> None:
        """Remember what came."""
        if is_up:
            self.stats.bytes_up += num_bytes
        else:
            self.stats.bytes_down += num_bytes

    def break_after(self, num_bytes: int, how: BreakKind = "reset") -> None:
        """Once so many more bytes have crossed, both ways together, break what is open then. New connections are well.
        Asked for again before that, it is so many bytes after the break before."""
        self._breaks.append(_Break(num_bytes, how))

    def break_no_more(self) -> None:
        """Forget the breaks that have not come."""
        self._breaks.clear()

    def num_passing(self, num_bytes: int) -> int:
        """How many of these bytes come before the next break."""
        if not self._breaks:
            return num_bytes
        passing = min(num_bytes, self._breaks[0].num_left)
        self._breaks[0].num_left -= passing
        return passing

    def break_if_due(self) -> None:
        """Break if enough bytes have crossed."""
        if self._breaks and not self._breaks[0].num_left:
            self.num_breaks += 1
            how = self._breaks.popleft().how
            for end in list(self.ends):
                end.break_(how)

    async def listen(self) -> tuple[asyncio.Server, str]:
        """Start; the server and its address."""
        server = await self._loop.create_server(self._accept, "127.0.0.1", 0)
        return server, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def set_shape(self, shape: LinkShape) -> None:
        """From now on."""
        now_s = self._loop.time()
        self._up.change(shape, now_s)
        self._down.change(shape, now_s)
        self._plan_resets(shape.cuts)

    def cut(self, cuts: tuple[Cut, ...]) -> None:
        """Cut the link, with times from now, and leave its shape as it is."""
        for cut in cuts:
            for way in (self._up, self._down):
                way.cut(self._loop.time() + cut.at_s, cut.duration_s, cut.kind)
        self._plan_resets(cuts)

    def _plan_resets(self, cuts: tuple[Cut, ...]) -> None:
        for cut in cuts:
            if cut.kind == "reset":
                self._loop.call_later(cut.at_s, self._reset)

    def _reset(self) -> None:
        for end in list(self.ends):
            end.reset()

    def _accept(self) -> asyncio.Protocol:
        near = _End(self, self._up, is_up=True)
        task = self._loop.create_task(self._dial(near))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)
        return near

    async def _dial(self, near: _End) -> None:
        if self._up.is_reset(self._loop.time()):
            await asyncio.sleep(0)  # until its socket is there to be reset
            near.reset()
            return
        self.stats.connections += 1
        far = _End(self, self._down, is_up=False)
        try:
            await self._loop.create_connection(lambda: far, *self._target)
        except OSError:
            near.reset()
            return
        near.far, far.far = far, near
        if near.transport is None or near.transport.is_closing():
            far.reset()
            return
        near.release()
        far.release()
        if near.is_doomed:
            near.reset()
            far.reset()


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
        print(f"error: {error}", flush=True)
        return
    if all(part.strip().startswith(("cut=", "reset=")) for part in line.split(",")):
        proxy.cut(shape.cuts)
    else:
        proxy.set_shape(shape)
    print("ok", flush=True)


class ShapedLink:
    """A running proxy process."""

    def __init__(self, address: str, process: "subprocess.Popen[str]", lines: "queue.Queue[str]") -> None:
        self.address = address
        self.pid = process.pid
        self._process = process
        self._lines = lines

    def set_shape(self, text: str) -> None:
        """Change the link, see `LinkShape.parse`; it is changed when this returns.

        Raises:
            InvalidRequest: the text is no shape.
            Unreachable: the process is gone.
        """
        LinkShape.parse(text)
        self._say(text)

    def cut(self, seconds: float, kind: CutKind = "stall") -> None:
        """Cut it from now on; it is cut when this returns."""
        self.set_shape(f"{'cut' if kind == 'stall' else 'reset'}={seconds:f}s")

    def stats(self) -> Stats:
        """What has crossed so far."""
        return Stats(**json.loads(self._say("stats")))

    def _say(self, line: str) -> str:
        assert self._process.stdin is not None, "it was asked for"
        with suppress(BrokenPipeError, ValueError):  # gone, or closed by us: then nobody answers either
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        answer = _next_line(self._lines)
        if answer.startswith("error: "):
            raise InvalidRequest(answer.removeprefix("error: "), field="shape")
        return answer


def _next_line(lines: "queue.Queue[str]") -> str:
    with suppress(queue.Empty):
        if line := lines.get(timeout=_START_S):
            return line.strip()
    raise Unreachable("the link process does not answer", field="link")


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
        address = _next_line(lines).removeprefix(READY_PREFIX)
        yield ShapedLink(address, process, lines)
    finally:
        with suppress(BrokenPipeError):
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


def _loop() -> asyncio.AbstractEventLoop:
    """With `select`, which waits to the microsecond; `epoll` rounds up to the next millisecond, once each way."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="A TCP proxy over a shaped link.")
    parser.add_argument("--target", required=True, help="HOST:PORT")
    parser.add_argument("--shape", default="rtt=0ms", help="rtt=100ms,jitter=10ms,bandwidth=10mbit,…")
    arguments = parser.parse_args()
    try:
        with asyncio.Runner(loop_factory=_loop) as runner:
            runner.run(_main(arguments.target, LinkShape.parse(arguments.shape)))
    except PacelineError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
