"""What happens when somebody pulls the plug."""

import json
import os
import pty
import signal
import subprocess
import sys

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

PROMPT = "import os\nimport sys\n\n"


@pytest.fixture(autouse=True)
def interruptible():
    """Processes begun here can be interrupted, whatever began these tests: a shell's background jobs cannot."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_ends_a_generation_quietly(start, verifier, pico) -> None:
    """Ctrl-C in the middle of a text: exit code 130, what was written stays, stderr says nothing."""
    process = start(
        "edge", "generate", "--verifier", verifier, "--draft-model", pico, "--mode", "cloud",
        "--max-new-tokens", 1500, "--ignore-eos", "--prompt", PROMPT,
    )  # fmt: skip
    assert os.read(process.stdout.fileno(), 1)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert process.stderr.read() == ""


SLOW_VERIFIER = """
import asyncio
from paceline.cloud.config import ServerConfig
from paceline.cloud.engine.table import TableEngine
from paceline.cloud.server import Server, serve_until_signal
from paceline.cloud.verifier import TargetInfo, Verifier
verifier = Verifier(TableEngine(2048, step_s=0.01), TargetInfo("table", software_version="test"))
asyncio.run(serve_until_signal(Server(verifier, ServerConfig("127.0.0.1:0")), lambda at: print(at, flush=True)))
"""


def test_a_verifier_killed_in_the_middle_is_one_clear_line(start, pico) -> None:
    """The text so far stays on stdout; stderr says who is gone; exit code 4."""
    with subprocess.Popen([sys.executable, "-c", SLOW_VERIFIER], stdout=subprocess.PIPE, text=True) as server:
        address = server.stdout.readline().strip()
        process = start(
            "edge", "generate", "--verifier", address, "--draft-model", pico, "--mode", "cloud",
            "--max-new-tokens", 1500, "--ignore-eos", "--reconnect-s", 1, "--prompt", PROMPT,
        )  # fmt: skip
        assert os.read(process.stdout.fileno(), 1)
        server.kill()
        assert process.wait(60) == 4
        complaint = process.stderr.read()
    assert complaint.startswith("error: verifier: ")
    assert complaint.count("\n") == 1


def test_sigterm_lets_live_texts_finish(start, serve, pico) -> None:
    """`cloud serve` takes no new session, ends the one it has, and exits 0."""
    with serve("--drain-s", "60") as (server, address):
        process = start(
            "edge", "generate", "--verifier", address, "--draft-model", pico, "--mode", "cloud",
            "--max-new-tokens", 100, "--ignore-eos", "--json", "--prompt", PROMPT,
        )  # fmt: skip
        server.stderr.readline()
        wait_for_session(address)
        server.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert json.loads(out)["usage"]["completion_tokens"] == 100
        assert server.wait(60) == 0


def test_a_second_signal_ends_at_once_with_a_text_under_way(start, serve, pico) -> None:
    """Whoever asks twice does not wait for the text: the process ends, and the client says that it is gone."""
    with serve("--drain-s", "600", "--verify-floor-ms", "50") as (server, address):
        process = start(
            "edge", "generate", "--verifier", address, "--draft-model", pico, "--mode", "cloud",
            "--max-new-tokens", 1500, "--ignore-eos", "--reconnect-s", 1, "--prompt", PROMPT,
        )  # fmt: skip
        server.stderr.readline()
        wait_for_session(address)
        assert os.read(process.stdout.fileno(), 1)
        server.send_signal(signal.SIGINT)
        with grpc.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            while health.Check(HealthCheckRequest()).status == HealthCheckResponse.SERVING:
                pass
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
        assert process.wait(60) == 4


def wait_for_session(address: str) -> None:
    """Ask the verifier until it has a live session."""
    import asyncio

    from paceline.common.hops.grpc import GrpcHop

    async def poll() -> None:
        hop = GrpcHop(address)
        while not (await hop.describe()).active_sessions:
            pass
        await hop.close()

    asyncio.run(poll())


def test_an_interrupt_ends_a_chat_that_waits_for_a_line(clean_environment, pico) -> None:
    """Ctrl-C at the prompt of a terminal: exit code 130 at once, without waiting for Enter."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "paceline.cli.main", "edge", "chat", "--mode", "local", "--draft-model", pico],
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while "› ".encode() not in shown:
        shown += os.read(ours, 1024)
    while psutil.Process(process.pid).status() != psutil.STATUS_SLEEPING:  # it waits for the line now
        pass
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    os.close(ours)
    assert b"Traceback" not in shown


def test_a_terminal_is_shown_colours_and_no_control_characters(clean_environment, pico) -> None:
    """There the prompt comes first, dimmed, and what a terminal would obey is shown as a replacement character."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "paceline.cli.main", "edge", "generate", "--mode", "local"]
    process = subprocess.Popen(
        [*command, "--draft-model", pico, "--max-new-tokens", "4", "--prompt", "# \x1b]0;title\x07\n\tx"],
        stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while block := os.read(ours, 1024):
            shown += block
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    assert process.wait(60) == 0
    text = shown.decode()
    assert "\x1b[2m" in text
    assert "# \ufffd]0;title\ufffd\r\n\tx" in text
    assert "not verified" in text
