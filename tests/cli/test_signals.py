"""What happens when somebody pulls the plug."""

import json
import os
import signal

PROMPT = "import os\nimport sys\n\n"


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


def test_a_verifier_killed_in_the_middle_is_one_clear_line(start, serve, pico) -> None:
    """The text so far stays on stdout; stderr says who is gone; exit code 4."""
    with serve() as (server, address):
        process = start(
            "edge", "generate", "--verifier", address, "--draft-model", pico, "--mode", "cloud",
            "--max-new-tokens", 1500, "--ignore-eos", "--prompt", PROMPT,
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
