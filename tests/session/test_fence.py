"""A session that goes on in another stream, in the middle of a step."""

import asyncio
from typing import Any

from paceline.cloud.config import VerifierConfig
from paceline.cloud.desk import Desk
from paceline.cloud.engine.table import TableEngine
from paceline.cloud.metrics import VerifierMetrics
from paceline.cloud.port import Port
from paceline.common.messages import ErrorMessage, FillPolicy, Finished, Open, Opened
from paceline.common.session import Limits

OPEN = Open((1, 2, 3, 4), 6, fill=FillPolicy.UNLIMITED, session_id=b"sixteen bytes id")


def step(desk: Desk) -> None:
    """One whole step."""
    planned = desk.plan()
    logits = desk.run(planned)
    assert logits is not None
    desk.finish(planned, logits, 0.0)


async def heard(port: Port) -> list[Any]:
    """What a stream was told so far."""
    await asyncio.sleep(0)
    return [port.outbox.get_nowait() for _ in range(port.outbox.qsize())]


async def test_a_step_under_way_says_nothing_for_the_old_stream_or_the_new() -> None:
    """What was run for the old stream commits nothing; the new one has its cache, and writes the same text."""
    loop, engine = asyncio.get_running_loop(), TableEngine(64)
    desk = Desk(engine, Limits(64, 1024), VerifierConfig(), VerifierMetrics(), clock=lambda: 0.0)
    old, new = Port(1, loop, "acme"), Port(2, loop, "acme")
    desk.on_message(old, OPEN, 0.0)
    step(desk)
    step(desk)
    planned = desk.plan()
    logits = desk.run(planned)
    desk.on_message(new, OPEN, 0.0)
    assert logits is not None
    desk.finish(planned, logits, 0.0)
    *_, error, end = await heard(old)
    assert isinstance(error, ErrorMessage)
    assert (error.reason, end) == ("FENCED", None)
    (opened,) = await heard(new)
    assert isinstance(opened, Opened)
    assert (opened.committed_length, opened.cached_length) == (4, 3)
    text = list(OPEN.prompt_token_ids)
    while len(text) < len(OPEN.prompt_token_ids) + OPEN.max_new_tokens:
        text.append(int(engine.logits_after(text).argmax()))
        step(desk)
    assert new.session is not None
    assert new.session.text.list() == text
    assert isinstance((await heard(new))[-2], Finished)
