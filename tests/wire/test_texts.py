"""Every mode, rule, drafter and block length, over gRPC and in process, gives the target's own text or its law."""

import asyncio
from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from paceline.cloud.engine.table import TableEngine
from paceline.common import acceptance
from paceline.common.acceptance import Judgement
from paceline.common.sampling.history import History
from paceline.common.sampling.law import target_law
from paceline.common.tokens import FinishReason, Origin, Rule, SamplingParams
from paceline.edge.client import Client
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.modes import MODES
from paceline.edge.request import GenerationRequest, Report

LENGTHS = (1, 5, None)
VERIFIED_MODES = tuple(mode for mode in MODES if mode != "local")
PENALTIES = {"repetition_penalty": 1.2, "frequency_penalty": 0.2}
PROMPT = (1, 2, 3, 1, 2, 3, 1, 2)


@pytest.mark.parametrize("hop", ["grpc", "inproc"])
@pytest.mark.parametrize("drafter", ["table", "ngram"])
@pytest.mark.parametrize("rule", [Rule.GREEDY, Rule.COUPLED, Rule.ONE_HOT])
async def test_text_is_the_targets(serve: Any, drafters: Any, rule: Rule, drafter: str, hop: str) -> None:
    """Under greedy, coupled and one-hot the text is the target's, whatever drafts it and however long the blocks."""
    for penalties in ({}, PENALTIES):
        sampling = SamplingParams(0.0 if rule is Rule.GREEDY else 0.8, top_p=0.95, **penalties)
        async with serve() as served, served.client(drafters[drafter](), hop) as client:
            for length in LENGTHS:
                request = GenerationRequest(PROMPT, 24, sampling, rule, seed=5, num_speculative_tokens=length)
                for mode in VERIFIED_MODES:
                    report = await client.complete(request, mode)
                    assert report.token_ids == served.text(request), (mode, length, penalties)
                    assert report.finish_reason is FinishReason.LENGTH
                    assert len(report.origins) == 24


async def test_stop_tokens_end_the_text_where_they_stand(serve: Any) -> None:
    """Wherever a stop token falls in a block, it is the last token of the text."""
    async with serve() as served, served.client() as client:
        whole = served.text(GenerationRequest(PROMPT, 40))
        for position in range(0, 40, 3):
            request = GenerationRequest(
                PROMPT, 40, stop_token_ids=(whole[position],), num_speculative_tokens=4
            )
            for mode in VERIFIED_MODES:
                report = await client.complete(request, mode)
                assert report.token_ids == served.text(request)
                assert report.finish_reason is FinishReason.STOP


async def test_a_good_drafter_saves_passes(serve: Any) -> None:
    """With an agreeing drafter most tokens are accepted and the target runs less often than once a token."""
    drafter = TableDrafter(64, agreement=0.9, scale=2.0)
    async with serve() as served, served.client(drafter) as client:
        before = served.engine.steps
        report = await client.complete(GenerationRequest(PROMPT, 100, num_speculative_tokens=4), "sync")
        assert report.acceptance_rate > 0.5
        assert served.engine.steps - before < 60
        assert Counter(report.origins)[Origin.ACCEPTED] == report.accepted_tokens


@pytest.mark.parametrize("mode", VERIFIED_MODES)
async def test_many_sessions_each_get_their_solo_text(serve: Any, mode: str) -> None:
    """Thirty-two generations at once each get the text they would get alone."""
    async with serve() as served, served.client() as client:
        requests = [
            GenerationRequest(
                (index, 7, index + 1),
                20 + index % 5,
                SamplingParams(0.7 * (index % 2)),
                seed=index,
                num_speculative_tokens=1 + index % 6,
            )
            for index in range(32)
        ]
        reports = await asyncio.gather(*(client.complete(request, mode) for request in requests))
        for request, report in zip(requests, reports, strict=True):
            assert report.token_ids == served.text(request)


# --- laws -------------------------------------------------------------------------------------------------------------

SMALL = 6


async def two_tokens(client: Client, rule: Rule, seed: int, mode: str) -> tuple[int, ...]:
    """The first two tokens of a text of three, so that drafts, coins and bonus all have a part."""
    request = GenerationRequest((0,), 3, SamplingParams(1.0), rule, seed, num_speculative_tokens=2)
    report: Report = await client.complete(request, mode)
    return tuple(report.token_ids[:2])


def exact_law(engine: TableEngine) -> np.ndarray:
    """Probability of each pair of tokens after the prompt."""
    params, law = SamplingParams(1.0), np.zeros((SMALL, SMALL))
    first = target_law(engine.logits_after([0]), params, History([0])).dense(SMALL)
    for token_id in range(SMALL):
        second = target_law(engine.logits_after([0, token_id]), params, History([0])).dense(SMALL)
        law[token_id] = first[token_id] * second
    return law


async def p_value(served: Any, drafter: Any, rule: Rule, num_texts: int, mode: str = "sync") -> float:
    """Chi-square test of the texts' first two tokens against the exact law, through the wire."""
    async with served.client(drafter) as client:
        pairs: Counter[tuple[int, ...]] = Counter()
        for start in range(0, num_texts, 50):
            seeds = range(start, min(start + 50, num_texts))
            pairs.update(
                await asyncio.gather(*(two_tokens(client, rule, 1000 + seed, mode) for seed in seeds))
            )
    law = exact_law(served.engine)
    seen = np.array([[pairs[one, two] for two in range(SMALL)] for one in range(SMALL)])
    rare = law * num_texts < 5
    expected = np.append(law[~rare], law[rare].sum()) * num_texts
    observed = np.append(seen[~rare], seen[rare].sum())
    if expected[-1] < 5:
        expected[-2] += expected[-1]
        observed[-2] += observed[-1]
        expected, observed = expected[:-1], observed[:-1]
    return float(chisquare(observed, expected * observed.sum() / expected.sum()).pvalue)


def small_engine() -> TableEngine:
    """A target over six tokens, flat enough that every pair is seen."""
    return TableEngine(SMALL, spread=1.0, max_context=64)


@pytest.mark.parametrize("mode", ["sync", "stream"])
@pytest.mark.parametrize("rule", [Rule.COUPLED, Rule.REJECTION])
async def test_law_is_the_targets(serve: Any, rule: Rule, mode: str) -> None:
    """Sampled texts pass a chi-square test against the target's exact law, through the wire."""
    async with serve(small_engine()) as served:
        drafter = TableDrafter(SMALL, agreement=0.4, scale=1.5)
        assert await p_value(served, drafter, rule, 1000, mode) > 1e-4


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("rule", [Rule.COUPLED, Rule.REJECTION, Rule.ONE_HOT])
async def test_law_is_the_targets_over_many_texts(serve: Any, rule: Rule) -> None:
    """The same over twenty thousand texts."""
    async with serve(small_engine()) as served:
        drafter = TableDrafter(SMALL, agreement=0.4, scale=1.5)
        assert await p_value(served, drafter, rule, 20_000) > 1e-4


class Gullible:
    """Accepts every draft: the mistake the test must see."""

    name = Rule.REJECTION
    accepts = acceptance.RULES[Rule.REJECTION].accepts
    lossless = False

    def judge(self, draft: Any, rows: Any, dice: Any) -> Judgement:
        """Take it all, then draw the bonus."""
        length = len(draft)
        return Judgement(length, dice.draw(rows.law(length), draft.base + length), Origin.BONUS)


async def test_a_wrong_rule_fails_the_same_test(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts every draft does not pass the chi-square test."""
    monkeypatch.setattr(acceptance, "RULES", {**acceptance.RULES, Rule.REJECTION: Gullible()})
    async with serve(small_engine()) as served:
        drafter = TableDrafter(SMALL, agreement=0.4, scale=1.5)
        assert await p_value(served, drafter, Rule.REJECTION, 500) < 1e-6
