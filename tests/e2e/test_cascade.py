"""Chains of real processes with the shipped models: device, relays, target. The text is always the target's."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from paceline.cli.verifier_process import VerifierProcess, relay_process, verifier_process
from paceline.common.errors import Unreachable
from paceline.common.hops.first_reachable import connect_to
from paceline.common.messages import FillPolicy
from paceline.common.tokens import SamplingParams
from paceline.edge.client import Client
from paceline.edge.request import GenerationRequest, Report

FLOOR = ("--verify-floor-ms", "10")


@dataclass(slots=True)
class Cascade:
    """A target, a relay before it, and another relay before that; any of them may be replaced."""

    models: Path
    target: VerifierProcess
    metro: VerifierProcess
    near: VerifierProcess
    processes: ExitStack

    @classmethod
    @asynccontextmanager
    async def client(cls, *addresses: str, drafter: object = None) -> AsyncIterator[Client]:
        """A client at the first of these addresses that answers; a relay first has to reach the hop above it."""
        client = Client(connect_to(addresses), drafter)  # type: ignore[arg-type]
        try:
            async with asyncio.timeout(60):
                while client.verifier is None:
                    try:
                        await client.connect()
                    except Unreachable:
                        await asyncio.sleep(0.05)
            yield client
        finally:
            await client.close()

    def restart_metro(self) -> None:
        """The relay in the middle is killed, without a word, and comes back at its address, remembering nothing."""
        os.kill(self.metro.pid, signal.SIGKILL)
        listen = ("--listen", self.metro.address)
        relay = relay_process(self.models / "mid", self.target.address, "metro", listen)
        self.metro = self.processes.enter_context(relay)


@pytest.fixture(scope="module")
def cascade(models: Path) -> Iterator[Cascade]:
    """base, mid before it, pico before that."""
    with ExitStack() as processes:
        target = processes.enter_context(verifier_process(models / "base", FLOOR))
        metro = processes.enter_context(relay_process(models / "mid", target.address, "metro"))
        near = processes.enter_context(relay_process(models / "pico", metro.address, "near"))
        yield Cascade(models, target, metro, near, processes)


Ask = Callable[..., Awaitable[list[Report]]]


async def compare(
    cascade: Cascade, edge_model, prompts, length: int, temperatures: tuple[float, ...] = (0.0, 0.7)
) -> None:
    """Three and four hops write what the target streams alone."""
    requests = [
        GenerationRequest(prompt, length, SamplingParams(temperature), seed=index, ignore_eos=True)
        for temperature in temperatures
        for index, prompt in enumerate(prompts)
    ]
    async with cascade.client(cascade.target.address) as alone:
        wanted = [(await alone.complete(request, "cloud")).token_ids for request in requests]
    for address, drafter in ((cascade.metro.address, "onnx"), (cascade.near.address, "ngram")):
        async with cascade.client(address, drafter=edge_model(drafter).drafter) as client:
            for request, token_ids in zip(requests, wanted, strict=True):
                report = await client.complete(request)
                assert report.token_ids == token_ids, (address, request.seed, request.sampling.temperature)


async def test_three_and_four_hops_write_the_targets_text(cascade, edge_model, prompts) -> None:
    """Greedy and coupled, over gRPC between processes."""
    await compare(cascade, edge_model, prompts[:3], 32)


@pytest.mark.slow
@pytest.mark.timeout(1500)
async def test_three_and_four_hops_on_fifty_prompts(cascade, edge_model, prompts) -> None:
    """The same on every held-out prompt, up to fifty."""
    await compare(cascade, edge_model, prompts[:50], 64)


async def with_kills(cascade: Cascade, edge_model, prompt, temperature: float, num_kills: int) -> None:
    """A text during which the relay is killed so many times."""
    request = GenerationRequest(prompt, 48 * num_kills, SamplingParams(temperature), seed=9, ignore_eos=True)
    request = replace(request, max_new_tokens=min(request.max_new_tokens, 900))
    async with cascade.client(cascade.target.address) as alone:
        wanted = (await alone.complete(request, "cloud")).token_ids
    loop = asyncio.get_running_loop()
    async with cascade.client(cascade.metro.address, drafter=edge_model("onnx").drafter) as client:
        generation, killed = client.generate(replace(request, reconnect_s=60.0)), 0
        async for _ in generation:
            due = (killed + 1) * request.max_new_tokens // (num_kills + 1)
            if killed < num_kills and len(generation.report.token_ids) >= due:
                killed += 1
                await loop.run_in_executor(None, cascade.restart_metro)
    assert generation.report.token_ids == wanted
    assert killed == num_kills
    assert generation.report.num_reconnects == num_kills


@pytest.mark.parametrize("temperature", [pytest.param(0.0, marks=pytest.mark.slow), 0.7])
async def test_a_relay_that_is_killed_changes_no_token(
    cascade, edge_model, prompts, temperature: float
) -> None:
    """Killed in the middle of a text and started again at its address: the text goes on where it stood."""
    await with_kills(cascade, edge_model, prompts[1], temperature, 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_a_relay_that_is_killed_twenty_times(cascade, edge_model, prompts) -> None:
    """Ten times in a greedy text, ten times in a sampled one."""
    for temperature in (0.0, 0.7):
        await with_kills(cascade, edge_model, prompts[1], temperature, 10)


async def test_the_chain_does_without_an_optional_relay(cascade, edge_model, prompts) -> None:
    """With the next hop beyond it as an alternative the text goes on while the relay is away, and is the same."""
    request = GenerationRequest(prompts[2], 120, seed=3, ignore_eos=True)
    async with cascade.client(cascade.target.address) as alone:
        wanted = (await alone.complete(request, "cloud")).token_ids
    way = (cascade.metro.address, cascade.target.address)
    async with cascade.client(*way, drafter=edge_model("onnx").drafter) as client:
        generation, is_killed = client.generate(request), False
        async for _ in generation:
            if len(generation.report.token_ids) > 30 and not is_killed:
                is_killed = True
                os.kill(cascade.metro.pid, signal.SIGKILL)
    assert generation.report.token_ids == wanted
    assert generation.report.num_reconnects == 1
    assert len(generation.report.hops) == 1, "the last stream leads past the relay"
    cascade.restart_metro()


async def test_sixteen_texts_at_once_are_the_texts_written_alone(cascade, edge_model, prompts) -> None:
    """Through three hops, greedy and sampled, some drafted and some not."""
    requests = [
        GenerationRequest(
            prompts[index], 24 + index, SamplingParams(0.7 * (index % 2)), seed=index, ignore_eos=True
        )
        for index in range(16)
    ]
    async with cascade.client(cascade.target.address) as alone:
        wanted = await asyncio.gather(*(alone.complete(request, "cloud") for request in requests))
    async with cascade.client(cascade.metro.address, drafter=edge_model("onnx").drafter) as client:
        modes = ("auto", "sync", "stream", "cloud")
        written = await asyncio.gather(
            *(client.complete(request, modes[index % 4]) for index, request in enumerate(requests))
        )
    assert [one.token_ids for one in written] == [one.token_ids for one in wanted]


async def test_every_hop_reports_what_it_did(cascade, edge_model, prompts) -> None:
    """Names, tokens, passes, bytes and round trips, in order of the chain."""
    async with cascade.client(cascade.near.address, drafter=edge_model("onnx").drafter) as client:
        assert client.verifier is not None
        assert [hop.name for hop in client.verifier.hops[:2]] == ["near", "metro"]
        request = GenerationRequest(prompts[0], 64, fill=FillPolicy.OFF, ignore_eos=True)
        report = await client.complete(request, "sync")
    assert [hop.name for hop in report.hops[:2]] == ["near", "metro"]
    assert len(report.hops) == 3
    assert 0 < report.hops[0].num_accepted <= report.hops[0].num_judged
    assert report.hops[0].num_judged <= report.drafted_tokens, "what a hop above made stale nobody judges"
    assert report.hops[0].num_accepted > report.hops[0].num_judged / 2, (
        "the same model on both sides of the link"
    )
    assert all(hop.num_passes and hop.verify_s for hop in report.hops)
    assert all(hop.bytes_up and hop.bytes_down for hop in report.hops[:2])
