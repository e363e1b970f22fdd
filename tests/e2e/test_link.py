"""Real processes over a link to order: cuts that change nothing, sessions that cost nothing while they wait."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from paceline.cli.verifier_process import verifier_process
from paceline.common.hops.grpc import GrpcHop
from paceline.common.messages import FillPolicy
from paceline.common.tokens import SamplingParams
from paceline.edge.client import Client
from paceline.edge.request import GenerationRequest
from paceline.simulation.proxy import CutKind, ShapedLink, shaped_link

WINDOW_S = 3.0
"""How long idleness is watched."""


@dataclass(frozen=True, slots=True)
class Linked:
    """A verifier process behind a proxy process."""

    link: ShapedLink
    verifier_pid: int

    def client(self, model) -> Client:
        """A client whose way leads through the proxy."""
        return Client(GrpcHop(self.link.address), model.drafter)


@pytest.fixture(scope="module")
def linked(models) -> Iterator[Linked]:
    """The shipped target, a slow one of 10 ms a pass, so that a cut comes before the end of a text."""
    with (
        verifier_process(models / "base", ["--verify-floor-ms", "10"]) as process,
        shaped_link(process.address) as link,
    ):
        yield Linked(link, process.pid)


@pytest.mark.parametrize("kind", ["stall", "reset"])
@pytest.mark.parametrize("mode", ["auto", "stream", "sync", "cloud"])
async def test_a_cut_in_the_middle_changes_no_token(
    linked, edge_model, prompts, mode: str, kind: CutKind
) -> None:
    """A second without a link, at temperature 0 and above it: the texts are those of a link that holds."""
    linked.link.set_shape("rtt=20ms,jitter=3ms")
    async with linked.client(edge_model("onnx")) as client:
        for temperature in (0.0, 0.8):
            request = GenerationRequest(prompts[2], 64, SamplingParams(temperature), seed=5, ignore_eos=True)
            whole = await client.complete(request, "cloud")
            generation, seen = client.generate(request, mode), 0
            async for _ in generation:
                seen += 1
                if seen == 3:
                    linked.link.cut(1.0, kind)
            assert generation.report.token_ids == whole.token_ids
            assert generation.report.total_s > 1.0, "the cut came after the text"
            assert generation.report.num_reconnects >= (kind == "reset")


def _verifier_cpu_s(pid: int) -> float:
    """Processor seconds of all its threads so far, as Linux counts them."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(sys.platform != "linux", reason="reads processor time as Linux shows it")
async def test_an_idle_session_costs_no_processor(linked, edge_model, prompts) -> None:
    """While an open session waits, either end uses next to nothing: counted in processor seconds, with much slack."""
    linked.link.set_shape("rtt=0ms")
    async with linked.client(edge_model("onnx")) as client:
        request = GenerationRequest(prompts[0], 100, fill=FillPolicy.OFF, ignore_eos=True)
        generation = client.generate(request, "stream")
        events = aiter(generation)
        await anext(events)
        linked.link.cut(WINDOW_S + 2.0)
        await asyncio.sleep(1.0)  # what was under way ends
        edge_s, verifier_s = time.process_time(), _verifier_cpu_s(linked.verifier_pid)
        await asyncio.sleep(WINDOW_S)
        edge_s, verifier_s = time.process_time() - edge_s, _verifier_cpu_s(linked.verifier_pid) - verifier_s
        num_waiting = len(generation.report.token_ids)
        async for _ in events:
            pass

    assert num_waiting < 100 == len(generation.report.token_ids), "the session was over before it was watched"
    assert edge_s < 0.03 * WINDOW_S
    assert verifier_s < 0.03 * WINDOW_S


async def test_drafting_threads_end_with_their_client(linked, edge_model, prompts) -> None:
    """All texts of a client share one thread, which is gone when the client is."""

    def drafting() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("drafter")}

    linked.link.set_shape("rtt=0ms")
    before = drafting()
    async with linked.client(edge_model("onnx")) as client:
        requests = [GenerationRequest(prompt, 8) for prompt in prompts[:3]]
        await asyncio.gather(*(client.complete(request, "stream") for request in requests))
        own = drafting() - before
        assert len(own) == 1
    for thread in own:
        await asyncio.to_thread(thread.join, 60.0)
    assert not any(thread.is_alive() for thread in own)
