"""The proxy process: real bytes over a link to order."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from paceline.common.errors import InvalidRequest, Unreachable
from paceline.simulation.proxy import ShapedLink, shaped_link

PATIENCE_S = 60.0


def _echo(connection: socket.socket) -> None:
    with connection:
        try:
            while data := connection.recv(65_536):
                connection.sendall(data)
        except OSError:
            return  # reset, which some tests are about


def _accept(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return  # closed at the end of the test
        threading.Thread(target=_echo, args=(connection,), daemon=True).start()


@pytest.fixture
def echo() -> Iterator[str]:
    """The address of a server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepting = threading.Thread(target=_accept, args=(server,), daemon=True)
        accepting.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        accepting.join(PATIENCE_S)


def dial(link: ShapedLink) -> socket.socket:
    """A connection over the link."""
    host, _, port = link.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE_S)


def exchange(connection: socket.socket, data: bytes) -> bytes:
    """What comes back for it, the connection being ours alone."""
    sender = threading.Thread(target=connection.sendall, args=(data,))
    sender.start()
    back = bytearray()
    while len(back) < len(data) and (part := connection.recv(1 << 20)):
        back += part
    sender.join(PATIENCE_S)
    return bytes(back)


def ping_s(connection: socket.socket) -> float:
    """Seconds of one small exchange."""
    began_s = time.perf_counter()
    connection.sendall(b"ping")
    assert connection.recv(100) == b"ping"
    return time.perf_counter() - began_s


@pytest.mark.parametrize("shape", ["rtt=0ms", "rtt=20ms,jitter=5ms,stall=20ms/100ms,bandwidth=1gbit,seed=4"])
def test_every_byte_crosses_in_order(echo: str, shape: str) -> None:
    """A large random payload comes back as it was, and is counted both ways."""
    payload = os.urandom(20 << 20)
    with shaped_link(echo, shape) as link, dial(link) as connection:
        assert exchange(connection, payload) == payload
        stats = link.stats()

    assert (stats.bytes_up, stats.bytes_down, stats.connections) == (len(payload), len(payload), 1)


def test_connections_do_not_mix(echo: str) -> None:
    """Each of several at a time gets its own bytes back."""

    def own(number: int) -> bool:
        payload = bytes([number]) * 300_000
        with dial(link) as connection:
            return exchange(connection, payload) == payload

    with shaped_link(echo, "rtt=10ms,jitter=2ms") as link, ThreadPoolExecutor(8) as pool:
        assert all(pool.map(own, range(8)))
        assert link.stats().connections == 8


def test_the_round_trip_can_change_while_it_runs(echo: str) -> None:
    """From the moment the change is answered; delays are never shorter than asked."""
    with shaped_link(echo) as link, dial(link) as connection:
        link.set_shape("rtt=300ms")
        assert ping_s(connection) >= 0.3
        link.set_shape("rtt=0ms")
        assert min(ping_s(connection) for _ in range(20)) < 0.3


def test_a_stall_loses_nothing(echo: str) -> None:
    """What was sent before it, and on its way, arrives after it; a change of shape does not end it."""
    with shaped_link(echo, "rtt=400ms") as link, dial(link) as connection:
        began_s = time.perf_counter()
        connection.sendall(b"early")
        link.cut(1.5)
        link.set_shape("rtt=0ms")
        connection.sendall(b" and late")
        back = b""
        while len(back) < len(b"early and late"):
            back += connection.recv(100)

    assert back == b"early and late"
    assert time.perf_counter() - began_s >= 1.5


def test_a_reset_breaks_refuses_and_recovers(echo: str) -> None:
    """Open connections get RST, new ones too while it lasts, and afterwards all is well."""
    with shaped_link(echo) as link, dial(link) as connection:
        ping_s(connection)
        began_s = time.perf_counter()
        link.cut(1.0, "reset")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
        refusals = 0
        while time.perf_counter() - began_s < PATIENCE_S:
            try:
                with dial(link) as again:
                    ping_s(again)
                break
            except (ConnectionError, AssertionError):
                refusals += 1
                time.sleep(0.05)

        assert time.perf_counter() - began_s >= 1.0
        assert refusals > 0


def test_a_planned_reset_breaks_what_is_open(echo: str) -> None:
    """A cut in the shape needs nobody to ask for it."""
    with shaped_link(echo) as link, dial(link) as connection:
        ping_s(connection)
        link.set_shape("rtt=0ms,reset=1s@200ms")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_half_a_connection_still_carries_the_other_half(echo: str) -> None:
    """An end that has said all still hears the answer, and then the end of that."""
    with shaped_link(echo, "rtt=50ms") as link, dial(link) as connection:
        connection.sendall(b"last words")
        connection.shutdown(socket.SHUT_WR)
        back = b""
        while data := connection.recv(100):
            back += data

    assert back == b"last words"


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files as Linux shows them")
@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
def test_closed_connections_leave_nothing_open(echo: str, is_reset: bool) -> None:
    """Whichever way a connection ends, both its ends are closed."""
    with shaped_link(echo, "rtt=10ms") as link:
        before = _open_files(link)
        for _ in range(10):
            with dial(link) as connection:
                ping_s(connection)
                if is_reset:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        deadline_s = time.monotonic() + PATIENCE_S
        while _open_files(link) > before and time.monotonic() < deadline_s:
            time.sleep(0.02)

        assert _open_files(link) == before


def _open_files(link: ShapedLink) -> int:
    return len(os.listdir(f"/proc/{link.pid}/fd"))


def test_nobody_at_the_target_is_a_reset() -> None:
    """The proxy lives on, and says nothing for a target that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    with shaped_link(nobody) as link, dial(link) as connection, pytest.raises(ConnectionError):
        connection.recv(1)


def test_the_process_is_gone_afterwards(echo: str) -> None:
    """Also with a connection open, and it has been waited for: no zombie."""
    with shaped_link(echo) as link:
        connection = dial(link)
        ping_s(connection)

    with pytest.raises(ProcessLookupError):
        os.kill(link.pid, 0)
    with pytest.raises(Unreachable):
        link.stats()
    connection.close()


@pytest.mark.parametrize(("target", "shape"), [("nowhere", "rtt=0ms"), ("127.0.0.1:1", "rtt=soon")])
def test_nonsense_starts_no_process(target: str, shape: str) -> None:
    """It is refused with its cure before anything runs."""
    with pytest.raises(InvalidRequest) as caught, shaped_link(target, shape):
        pass
    assert caught.value.cure


def test_the_command_answers_every_line(echo: str) -> None:
    """By hand: a shape, a cut, nonsense, and the counts; it ends with its input."""
    command = [sys.executable, "-m", "paceline.simulation.proxy", "--target", echo]
    lines = "rtt=150ms\ncut=5s\nnonsense\nstats\n"
    done = subprocess.run(
        command, input=lines, capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )

    ready, *answers = done.stdout.splitlines()
    assert ready.startswith("paceline link ready on 127.0.0.1:")
    assert answers[:2] == ["ok", "ok"]
    assert answers[2].startswith("error: shape: 'nonsense'")
    assert answers[3] == '{"bytes_up": 0, "bytes_down": 0, "connections": 0}'
