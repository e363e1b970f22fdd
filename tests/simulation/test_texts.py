"""Texts and laws on the virtual clock: a target of few tokens, drafts in time and late, links that stall and break."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from scipy.stats import chisquare

from paceline.cloud.config import VerifierConfig
from paceline.cloud.engine.table import TableEngine
from paceline.cloud.verifier import TargetInfo, Verifier
from paceline.common.messages import FillPolicy
from paceline.common.sampling.history import History
from paceline.common.sampling.law import target_law
from paceline.common.tokens import Origin, Rule, SamplingParams
from paceline.edge import modes
from paceline.edge.client import Client
from paceline.edge.draft_length import Plan
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.pacing.base import Situation
from paceline.edge.pacing.fixed import Steady
from paceline.edge.request import GenerationRequest, Report
from paceline.simulation.clock import run_virtual
from paceline.simulation.hop import SimulatedHop
from paceline.simulation.link import CutKind, LinkShape
from paceline.simulation.pair import VirtualRunner, VirtualWorker

PASS_S = 0.03
DRAFT_S = 0.012
SMALL = 6


@asynccontextmanager
async def table_pair(engine: TableEngine, shape: LinkShape) -> AsyncIterator[tuple[Client, SimulatedHop]]:
    """A client of a table target whose passes take 30 ms, with a drafter that takes 12 ms a token."""
    verifier = Verifier(
        engine, TargetInfo("table", "simulation"), VerifierConfig(), runner=VirtualRunner(lambda _: PASS_S)
    )
    verifier.start()
    hop = SimulatedHop(verifier, shape)
    drafter = TableDrafter(engine.vocab_size, agreement=0.4, scale=1.5)
    client = Client(hop, drafter, worker=VirtualWorker(DRAFT_S))
    try:
        await client.connect()
        yield client, hop
    finally:
        await client.close()
        verifier.stop()


@pytest.mark.parametrize("kind", ["stall", "reset"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("mode", ["auto", "stream", "sync", "cloud"])
def test_links_change_no_token(mode: str, temperature: float, kind: CutKind) -> None:
    """Greedy or coupled: at every round trip, with jitter and five seconds without a link, the text is one text."""

    async def text(mode: str, round_trip_s: float, jitter_s: float, cut: CutKind | None) -> Report:
        engine = TableEngine(64, spread=2.0, max_context=512)
        request = GenerationRequest((1, 2, 3), 80, SamplingParams(temperature), seed=11)
        async with table_pair(engine, LinkShape(round_trip_s, jitter_s, seed=3)) as (client, hop):
            writing = asyncio.create_task(client.complete(request, mode))
            if cut is not None:
                await asyncio.sleep(1.0)
                hop.cut(5.0, cut)
            report = await writing
            assert report.num_reconnects >= (cut == "reset")
            return report

    whole = run_virtual(text("cloud", 0.0, 0.0, None)).token_ids
    for round_trip_s in (0.0, 0.06, 0.3):
        report = run_virtual(text(mode, round_trip_s, 0.01, kind))
        assert report.token_ids == whole
        assert report.total_s > 5.0, "the cut came after the text"


# --- the adaptivity rule ----------------------------------------------------------------------------------------------


class Steadfast(Steady):
    """Blocks of two tokens, whatever they are."""

    def plan(self, situation: Situation) -> Plan | None:
        """The next block."""
        return Plan(2)


class Confident(Steady):
    """The mistake the test must see: blocks go on while their tokens are likely ones, so that an unlikely token is
    checked in time and a likely one comes too late, when the verifier has drawn afresh."""

    def plan(self, situation: Situation) -> Plan | None:
        """The next block."""
        return Plan(8, lambda prob: prob > 0.25)


async def pairs_of(num_texts: int, fill: FillPolicy) -> tuple[Counter[tuple[int, ...]], Counter[Origin]]:
    """The first two tokens of many texts under rejection, and where second tokens came from."""
    pairs: Counter[tuple[int, ...]] = Counter()
    origins: Counter[Origin] = Counter()
    async with table_pair(TableEngine(SMALL, spread=1.0, max_context=64), LinkShape()) as (client, _):
        for seed in range(num_texts):
            request = GenerationRequest((0,), 4, SamplingParams(1.0), Rule.REJECTION, seed, fill=fill)
            report = await client.complete(request, "stream")
            pairs[tuple(report.token_ids[:2])] += 1
            origins[report.origins[1]] += 1
    return pairs, origins


def exact_law() -> np.ndarray:
    """Probability of each pair of tokens after the prompt. float64 [SMALL, SMALL]."""
    engine, params, law = (
        TableEngine(SMALL, spread=1.0, max_context=64),
        SamplingParams(1.0),
        np.zeros((SMALL, SMALL)),
    )
    first = target_law(engine.logits_after([0]), params, History([0])).dense(SMALL)
    for token_id in range(SMALL):
        second = target_law(engine.logits_after([0, token_id]), params, History([0])).dense(SMALL)
        law[token_id] = first[token_id] * second
    return law


def p_value(pairs: Counter[tuple[int, ...]]) -> float:
    """Chi-square test of the pairs against the exact law; rare pairs count as one."""
    law = exact_law()
    seen = np.array([[pairs[one, two] for two in range(SMALL)] for one in range(SMALL)])
    rare = law * pairs.total() < 8
    expected = np.append(law[~rare], law[rare].sum()) * pairs.total()
    observed = np.append(seen[~rare], seen[rare].sum())
    counts = expected > 0
    expected, observed = expected[counts], observed[counts]
    return float(chisquare(observed, expected * observed.sum() / expected.sum()).pvalue)


@pytest.mark.parametrize("fill", [FillPolicy.OFF, FillPolicy.UNLIMITED])
def test_a_stream_under_rejection_has_the_targets_law(
    monkeypatch: pytest.MonkeyPatch, fill: FillPolicy
) -> None:
    """With drafts alone, and with drafts and filled tokens mixed by when they come."""
    monkeypatch.setitem(
        modes.MODES, "stream", modes._paced(lambda run: Steadfast(run.request, run.estimates))
    )
    pairs, origins = run_virtual(pairs_of(2500, fill))
    assert (Origin.FILLED in origins) == (fill is FillPolicy.UNLIMITED)
    assert origins[Origin.ACCEPTED] > 100
    assert origins[Origin.RECOVERED] > 100
    assert p_value(pairs) > 1e-4


@pytest.mark.slow
def test_lengths_that_follow_confidence_under_fill_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same test fails for blocks whose length depends on their tokens (methods E11)."""
    monkeypatch.setitem(
        modes.MODES, "stream", modes._paced(lambda run: Confident(run.request, run.estimates))
    )
    pairs, _ = run_virtual(pairs_of(5000, FillPolicy.UNLIMITED))
    assert p_value(pairs) < 1e-6
