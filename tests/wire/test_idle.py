"""A client that leaves its session waiting loses its place, and nothing else; over gRPC."""

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
from tests.wire.test_parking import ID, OPEN, begin, engine, until

from paceline.cloud.config import AccessConfig, ServerConfig, VerifierConfig
from paceline.cloud.engine.table import TableEngine
from paceline.cloud.quotas import Quota
from paceline.common.errors import Status, Unreachable
from paceline.common.hops.base import Hop
from paceline.common.hops.grpc import GrpcHop
from paceline.common.messages import ErrorMessage, FillPolicy, Open, Opened
from paceline.common.prefix import Prefix
from paceline.common.tokens import Draft, How
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.request import GenerationRequest

SOON = VerifierConfig(idle_s=0.3)
SILENT = replace(OPEN, fill=FillPolicy.OFF)


class ThinkingDrafter(TableDrafter):
    """Takes long over one token in four."""

    def logits(self, prefix_hash: int) -> Any:
        """See `TableDrafter`."""
        if prefix_hash % 4 == 0:
            time.sleep(0.5)
        return super().logits(prefix_hash)


async def ending(hop: Hop, opening: Open) -> ErrorMessage:
    """How a stream ends whose client says nothing more."""
    async with hop.stream() as stream:
        await stream.send(opening)
        while not isinstance(message := await stream.receive(), ErrorMessage):
            assert message is not None
        with pytest.raises(Unreachable):
            await stream.receive()
    return message


async def test_a_silent_client_loses_its_place_and_finds_its_cache(serve: Any) -> None:
    """It is told why, in-band; whoever comes back for the text has it read already."""
    target = engine(step_s=0.0)
    async with serve(target, SOON) as served, AsyncExitStack() as stack:
        hop = GrpcHop(served.address)
        told = await ending(hop, SILENT)
        assert (told.status, told.reason, told.field) == (Status.UNAVAILABLE, "IDLE", "session_id")
        assert (served.verifier.num_sessions, served.verifier.num_parked) == (0, 1)
        _, _, opened = await begin(hop, OPEN, stack)
        assert opened.cached_length == len(OPEN.prompt_token_ids) - 1
        await stack.aclose()
        await hop.close()


async def test_a_relay_lets_go_of_it_too(serve: Any, relay: Any) -> None:
    """At every hop: the relay's own session for the text is a client of the one above."""
    async with serve(engine(), SOON) as served, relay(served, [engine()]) as (relays, hop):
        async with hop.stream() as stream:
            await stream.send(replace(SILENT, max_new_tokens=800))
            assert isinstance(await stream.receive(), Opened)
            await until(lambda: served.verifier.num_sessions == 1)
            await until(lambda: served.verifier.num_sessions == 0)
        await until(lambda: not relays[0].num_sessions)


async def test_a_client_that_says_something_now_and_then_stays(serve: Any) -> None:
    """An empty block is enough."""
    async with serve(engine(step_s=0.0), SOON) as served:
        hop = GrpcHop(served.address)
        async with hop.stream() as stream:
            await stream.send(SILENT)
            assert isinstance(await stream.receive(), Opened)
            length = len(OPEN.prompt_token_ids)
            stale = Draft(length - 1, Prefix(OPEN.prompt_token_ids).hash_at(length - 1), (), (), How.ONE_HOT)
            began_s = time.monotonic()
            while time.monotonic() - began_s < 4 * SOON.idle_s:
                await stream.send(stale)
                assert not isinstance(await stream.receive(), ErrorMessage)
                await asyncio.sleep(SOON.idle_s / 4)
            assert served.verifier.num_sessions == 1
        await hop.close()


async def test_a_drafter_that_thinks_for_longer_goes_on_in_another_stream(serve: Any) -> None:
    """The text is the same."""
    drafter = ThinkingDrafter(64, agreement=0.8, scale=2.0)
    async with serve(config=SOON) as served, served.client(drafter) as client:
        request = GenerationRequest((1, 2, 3), 12, fill=FillPolicy.OFF, num_speculative_tokens=2)
        report = await client.complete(request, "sync")
        assert report.token_ids == served.text(request)
        assert report.num_reconnects > 0


async def test_a_client_that_reads_nothing_loses_its_place(serve: Any) -> None:
    """Once nothing more goes down the link its session does not get on, and it is not the verifier's doing."""
    target = TableEngine(64, spread=2.0, max_context=65_536)
    async with serve(target, SOON) as served:
        hop = GrpcHop(served.address)
        async with hop.stream() as stream:
            await stream.send(Open((1, 2, 3), 60_000, fill=FillPolicy.UNLIMITED, session_id=ID))
            await until(lambda: served.verifier.num_sessions == 1)
            await until(lambda: served.verifier.num_sessions == 0)
            assert served.verifier.num_parked == 1
        await hop.close()


async def test_a_text_that_its_quota_paces_is_not_idle(serve: Any) -> None:
    """It waits for its turn longer than its client might leave it waiting."""
    access = AccessConfig(quotas={"*": Quota(positions_per_s=3.0)})
    listening = ServerConfig("127.0.0.1:0", access=access)
    async with (
        serve(config=VerifierConfig(idle_s=0.1), listening=listening) as served,
        served.client() as client,
    ):
        request = GenerationRequest((1, 2, 3), 6)
        report = await client.complete(request, "cloud")
        assert (report.token_ids, report.num_reconnects) == (served.text(request), 0)
