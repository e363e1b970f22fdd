"""Every line about a text says which."""

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from paceline.cloud.incidents import incident
from paceline.common import logs
from paceline.common.errors import PacelineError
from paceline.edge.request import GenerationRequest


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What Paceline has logged so far, as JSON."""
    stream, log = io.StringIO(), logging.getLogger("paceline")
    handler, level = logging.StreamHandler(stream), log.level
    handler.setFormatter(logs.formatter("json"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    log.removeHandler(handler)
    log.setLevel(level)


async def test_every_hop_names_the_text(chain: Any, lines: Any) -> None:
    """Two texts at a time: opened and closed at each hop, under the request id the client gave."""
    async with chain() as running:
        requests = [GenerationRequest((1, 2, 3), 20, request_id=name) for name in ("r-1", "r-2")]
        await asyncio.gather(*(running.client.complete(one, "cloud") for one in requests))
    said = lines()

    for request_id in ("r-1", "r-2"):
        for hop in ("metro", "cloud"):
            own = [one for one in said if (one.get("request_id"), one.get("hop")) == (request_id, hop)]
            messages = [one["message"] for one in own]
            assert messages[0] == "session opened", said
            assert messages[-1].startswith("session closed"), said
            assert len({one["session"] for one in own}) == 1
            assert {one["level"] for one in own} == {"info"}
    assert all("request_id" in one for one in said if "session" in one["message"])


async def test_a_refusal_names_the_text_and_the_reason(chain: Any, lines: Any) -> None:
    """A text that is not taken is one line, with what it was refused for."""
    async with chain(max_sessions=1) as running:
        events = aiter(
            running.client.generate(GenerationRequest((1, 2, 3), 400, request_id="first"), "cloud")
        )
        await anext(events)
        with pytest.raises(PacelineError):
            await running.client.complete(GenerationRequest((1, 2, 3), 10, request_id="second"), "cloud")
        await events.aclose()
    refused = [one for one in lines() if one.get("request_id") == "second" and one.get("hop") == "cloud"]

    assert any(one["message"].startswith("BUSY: sessions") for one in refused), refused


def test_an_incident_says_whose_it_is(lines: Any) -> None:
    """An exception nobody foresaw is logged with its traceback and the text it happened to."""
    with logs.about({"request_id": "r-3", "session": 7}):
        try:
            raise ZeroDivisionError("secret")
        except ZeroDivisionError:
            error = incident("dividing")
    (line,) = lines()

    assert (line["request_id"], line["session"], line["level"]) == ("r-3", 7, "error")
    assert "ZeroDivisionError" in line["exception"]
    assert "secret" not in str(error)


@pytest.mark.parametrize("form", logs.FORMATS)
def test_a_hostile_request_id_cannot_forge_a_line(form: str) -> None:
    """Whatever a client calls its text, a line of the log stays one line."""
    record = logging.LogRecord("paceline", logging.INFO, "", 0, "session opened", None, None)
    with logs.about({"request_id": 'x"\n2026-01-01 ERROR forged: ', "session": 1}):
        line = logs.formatter(form).format(record)

    assert "\n" not in line
    assert "session opened" in line


def test_what_a_task_says_stays_with_it() -> None:
    """Fields set in one task are not seen by another beside it."""

    async def one(name: str) -> str:
        logs.set_about(request_id=name, tenant="")
        await asyncio.sleep(0)
        return str(logs.current())

    async def both() -> list[str]:
        return await asyncio.gather(one("a"), one("b"))

    assert asyncio.run(both()) == ["{'request_id': 'a'}", "{'request_id': 'b'}"]
    assert logs.current() == {}
