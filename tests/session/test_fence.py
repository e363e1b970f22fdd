"""A session that goes on in another stream, in the middle of a step."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from paceline.cloud.config import VerifierConfig
from paceline.cloud.desk import Desk
from paceline.cloud.engine.table import TableEngine
from paceline.cloud.metrics import VerifierMetrics
from paceline.cloud.port import Port
from paceline.common.messages import Close, ErrorMessage, FillPolicy, Finished, Open, Opened
from paceline.common.session import Limits

OPEN = Open((1, 2, 3, 4), 6, fill=FillPolicy.UNLIMITED, session_id=b"sixteen bytes id")


def desk_of(engine: TableEngine) -> Desk:
    """One whose clock stands still."""
    return Desk(engine, Limits(64, 1024), VerifierConfig(), VerifierMetrics(), clock=lambda: 0.0)


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
    desk = desk_of(engine)
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


def opened(desk: Desk, key: int, attempt: tuple[int, ...], tenant: str = "acme") -> Port:
    """A stream of the session."""
    port = Port(key, asyncio.get_running_loop(), tenant)
    desk.on_message(port, replace(OPEN, attempt=attempt), 0.0)
    return port


@pytest.mark.parametrize(
    ("held", "later", "goes_on"),
    [
        ((2,), (1,), True),
        ((2, 1), (1, 9), True),
        ((2,), (1, (1 << 32) - 1), True),
        ((2,), (2,), False),
        ((2,), (3,), False),
        ((2, 9), (3, 1), False),
        ((2,), (), False),
        ((), (1,), False),
    ],
)
async def test_an_older_stream_does_not_end_a_newer_one(
    held: tuple[int, ...], later: tuple[int, ...], goes_on: bool
) -> None:
    """Its Open was held back until another had overtaken it: it is refused. The same one again is no older, and whoever
    does not count is taken for newer."""
    desk = desk_of(TableEngine(64))
    first = opened(desk, 1, held)
    second = opened(desk, 2, later)
    assert (first.is_live, second.is_live) == (goes_on, not goes_on)
    *_, error, end = await heard(second if goes_on else first)
    assert (error.reason, error.fatal, end) == ("FENCED", True, None)
    assert desk.num_sessions == 1


async def test_another_tenants_numbers_mean_nothing() -> None:
    """However large they are."""
    desk = desk_of(TableEngine(64))
    assert opened(desk, 1, ((1 << 32) - 1,), "rival").is_live
    assert opened(desk, 2, (1,)).is_live
    assert desk.num_sessions == 2


async def test_an_older_stream_does_not_take_what_a_newer_one_left() -> None:
    """It is refused, and the cache stays for whoever comes back."""
    desk = desk_of(TableEngine(64))
    newer = opened(desk, 1, (2,))
    step(desk)
    desk.on_lost(newer)
    assert not opened(desk, 2, (1,)).is_live
    assert desk.num_parked == 1
    (answer,) = await heard(opened(desk, 3, (3,)))
    assert (answer.cached_length, desk.num_parked) == (3, 0)


async def test_nothing_is_remembered_of_a_session_that_is_over() -> None:
    """A number is worth what it is compared with: after Close there is nothing."""
    desk = desk_of(TableEngine(64))
    desk.on_message(opened(desk, 1, (2,)), Close(), 0.0)
    assert opened(desk, 2, (1,)).is_live
