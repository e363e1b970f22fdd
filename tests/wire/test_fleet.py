"""A client of several verifiers, over gRPC: they have the room of all of them."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from tests.wire.test_parking import engine

from paceline.cloud import verifier as verifier_module
from paceline.cloud.config import VerifierConfig
from paceline.common.errors import PacelineError
from paceline.common.hops.first_reachable import FirstReachable, connect_to
from paceline.edge.client import Client
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.request import Event, GenerationRequest, LinkEvent


@pytest.mark.parametrize("mode", ["stream", "cloud"])
async def test_two_verifiers_of_one_place_have_two(serve: Any, mode: str) -> None:
    """Two texts at a time are written by both; one too many is told when to come back, or waits where it may."""
    config = VerifierConfig(max_sessions=1)
    async with AsyncExitStack() as stack:
        fleet = [await stack.enter_async_context(serve(engine(), config)) for _ in range(2)]
        hop = connect_to([one.address for one in fleet])
        client = await stack.enter_async_context(Client(hop, TableDrafter(64, agreement=0.8, scale=2.0)))
        requests = [
            GenerationRequest((1, 2, 3 + n), 40, request_id=f"text {n}", provisional=True) for n in range(2)
        ]
        heard: list[Event] = []

        async def write(request: GenerationRequest) -> list[int]:
            generation = client.generate(request, mode)
            async for event in generation:
                heard.append(event)
            assert generation.report.num_reconnects == 0
            return generation.report.token_ids

        first = [asyncio.create_task(write(request)) for request in requests]
        while sum(one.verifier.num_sessions for one in fleet) < 2:
            await asyncio.sleep(0.001)
        with pytest.raises(PacelineError) as caught:
            await write(GenerationRequest((9, 9), 8))
        assert caught.value.is_full
        waiting = GenerationRequest((9, 9), 8, wait_s=30.0)
        assert await asyncio.wait_for(write(waiting), 30) == fleet[0].text(waiting)
        assert [await one for one in first] == [fleet[0].text(request) for request in requests]
        assert not any(isinstance(event, LinkEvent) for event in heard), "nothing was lost"


async def test_a_text_that_comes_back_finds_its_cache_at_the_verifier_that_had_it(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though another one is preferred, which was full when the text began."""
    monkeypatch.setattr(verifier_module, "_LINGER_S", 0.0)
    config = VerifierConfig(max_sessions=1)
    async with AsyncExitStack() as stack:
        near, far = [await stack.enter_async_context(serve(engine(), config)) for _ in range(2)]
        hop = connect_to([near.address, far.address])
        client = await stack.enter_async_context(Client(hop))
        short = asyncio.create_task(client.complete(GenerationRequest((1, 2), 20), "cloud"))
        while not near.verifier.num_sessions:
            await asyncio.sleep(0.001)
        request = GenerationRequest(tuple(range(1, 31)), 80)
        generation = client.generate(request, "cloud")
        events = aiter(generation)
        await anext(events)
        assert far.verifier.num_sessions == 1
        await short
        assert isinstance(hop, FirstReachable)
        hop.clock = lambda: asyncio.get_running_loop().time() + 60.0  # by now the other one has a place again
        await break_streams(far)
        async for _ in events:
            pass
        assert generation.report.num_reconnects == 1
        assert generation.report.token_ids == far.text(request)
        assert far.engine.num_run < 30 + 80 + 20, "its prompt is not read again"
        assert near.engine.num_run < 30


async def break_streams(served: Any) -> None:
    """End every stream of a verifier without a word, and listen on."""
    for port in list(served.verifier._open_ports):
        port.outbox.put_nowait(None)
    while served.verifier.num_parked == 0:
        await asyncio.sleep(0.001)
