"""Callers that leave: their texts end everywhere, and nobody else's do."""

import random
import socket
import threading
import time
from urllib.parse import urlsplit

import pytest

from paceline.edge import pipeline

PATIENCE_S = 30.0


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ends share an event loop here, which a busy machine may hold up for longer than a client usually waits."""
    monkeypatch.setattr(pipeline, "FAREWELL_S", 5.0)


def test_a_reader_that_leaves_ends_its_text(serve) -> None:
    """On the verifier too, which keeps nothing of it, long before the text would have ended; a caller that waits for a
    whole text likewise."""
    with serve(step_s=0.02, mode="cloud", over_grpc=True) as running, running.openai() as client:
        stream = client.completions.create(
            model="table", prompt="a", max_tokens=1500, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        assert running.verifier.num_sessions == 1
        stream.close()
        running.settled()
        assert running.verifier.num_parked == 0
        host, _, port = urlsplit(running.url).netloc.partition(":")
        with socket.create_connection((host, int(port))) as link:
            body = b'{"prompt": "a", "max_tokens": 1500, "ignore_eos": true}'
            link.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            deadline = time.monotonic() + PATIENCE_S
            while not running.verifier.num_sessions:
                assert time.monotonic() < deadline
                time.sleep(0.005)
        running.settled()
        assert running.verifier.num_parked == 0


def test_a_text_that_a_stop_string_ends_is_not_kept(serve) -> None:
    """Nobody comes back for it, streamed or whole."""
    with serve(step_s=0.02, mode="cloud", over_grpc=True) as running, running.openai() as client:
        stop = running.alone("a", 8)[-2:]
        for is_stream in (True, False):
            answer = client.completions.create(
                model="table", prompt="a", max_tokens=1500, temperature=0, stop=stop, stream=is_stream
            )
            parts = [*answer] if is_stream else [answer]
            assert [one.choices[0].finish_reason for one in parts if one.choices][-1] == "stop"
            running.settled()
            assert running.verifier.num_parked == 0


@pytest.mark.parametrize("count", [12, pytest.param(64, marks=pytest.mark.slow)])
def test_those_who_stay_get_all_of_it(serve, count) -> None:
    """A third of the callers leave at random; the others' texts are whole and right, and nothing is left behind."""
    dice = random.Random(count)
    leaves_after = [dice.choice([None, None, dice.randint(1, 10)]) for _ in range(count)]
    leaves_after[:2] = [None, 3]
    found: dict[int, str] = {}
    with serve(step_s=0.002, max_concurrent=count) as running:
        expected = [running.alone(f"x{index} =", 32) for index in range(count)]

        def read(index: int) -> None:
            with running.openai(timeout=PATIENCE_S * 4) as client:
                stream = client.completions.create(
                    model="table", prompt=f"x{index} =", temperature=0, max_tokens=32, stream=True
                )
                text = ""
                for number, chunk in enumerate(stream):
                    text += chunk.choices[0].text if chunk.choices else ""
                    if number == leaves_after[index]:
                        stream.close()
                        return
                found[index] = text

        readers = [threading.Thread(target=read, args=(index,)) for index in range(count)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(PATIENCE_S * 4)
        assert found == {index: expected[index] for index in range(count) if leaves_after[index] is None}
        running.settled()
        assert running.engine.cached_tokens() == 0
