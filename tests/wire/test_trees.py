"""Two drafters and a verifier, over a real link: trees give the target's own text, or its law, in fewer passes."""

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from paceline.cloud.config import VerifierConfig
from paceline.cloud.engine.table import TableEngine
from paceline.common import acceptance
from paceline.common.acceptance import Judgement
from paceline.common.errors import PacelineError
from paceline.common.sampling.history import History
from paceline.common.sampling.law import target_law
from paceline.common.session import EdgeSession
from paceline.common.tokens import Draft, How, Origin, Rule, SamplingParams
from paceline.common.trees import ROOT, siblings
from paceline.edge.client import Client
from paceline.edge.drafters.ngram import NgramDrafter
from paceline.edge.drafters.siblings import SiblingsDrafter, UnionDrafter
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.request import GenerationRequest

PROMPT = (1, 2, 3, 1, 2, 3, 1, 2)
PENALTIES = {"repetition_penalty": 1.2, "frequency_penalty": 0.2}
SMALL = 5


def table(own_seed: int, vocab_size: int = 64, agreement: float = 0.6) -> TableDrafter:
    """One of several drafters that err in different places."""
    return TableDrafter(vocab_size, own_seed=own_seed, agreement=agreement, scale=2.0)


def trees_sent(patch: pytest.MonkeyPatch) -> list[Draft]:
    """Fills with the trees that clients send."""
    sent: list[Draft] = []
    right = EdgeSession.block

    def block(self: EdgeSession, *args: Any, **options: Any) -> Draft:
        draft = right(self, *args, **options)
        if draft.parents:
            sent.append(draft)
        return draft

    patch.setattr(EdgeSession, "block", block)
    return sent


@pytest.mark.parametrize("hop", ["grpc", "inproc"])
@pytest.mark.parametrize("kind", [SiblingsDrafter, UnionDrafter])
@pytest.mark.parametrize("rule", [Rule.GREEDY, Rule.COUPLED, Rule.ONE_HOT])
async def test_text_is_the_targets(
    serve: Any, rule: Rule, kind: type[SiblingsDrafter], hop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever tree is sent, the text is the target's; in modes that stream only its first path is."""
    sent = trees_sent(monkeypatch)
    for penalties in ({}, PENALTIES):
        sampling = SamplingParams(0.0 if rule is Rule.GREEDY else 0.8, top_p=0.95, **penalties)
        drafter = kind([table(1), NgramDrafter(min_ngram=1), table(2)])
        async with serve() as served, served.client(drafter, hop) as client:
            for length in (1, 5, None):
                request = GenerationRequest(PROMPT, 24, sampling, rule, seed=5, num_speculative_tokens=length)
                for mode in ("sync", "stream", "auto"):
                    report = await client.complete(request, mode)
                    assert report.token_ids == served.text(request), (mode, length, penalties)
    assert len(sent) > 20
    assert {draft.how for draft in sent} <= {How.ONE_HOT, How.SHARED_NOISE}


@pytest.mark.parametrize("rule", [Rule.GREEDY, Rule.COUPLED])
async def test_two_drafters_take_fewer_passes_than_either(serve: Any, rule: Rule) -> None:
    """Where one is wrong the other may be right: the accepted path is at least as long, and often longer."""
    async with serve() as served:
        passes = []
        for drafter in (table(1), table(2), UnionDrafter([table(1), table(2)])):
            async with served.client(drafter) as client:
                sampling = SamplingParams(0.0 if rule is Rule.GREEDY else 0.8)
                request = GenerationRequest(PROMPT, 200, sampling, num_speculative_tokens=3)
                report = await client.complete(request, "sync")
                assert report.token_ids == served.text(request)
                passes.append(report.num_passes)
        assert passes[2] < 0.9 * min(passes[:2])


async def test_stop_tokens_end_the_text_inside_a_branch(serve: Any) -> None:
    """Wherever a stop token falls in a tree, it is the last token of the text."""
    async with serve() as served, served.client(UnionDrafter([table(1), table(2)])) as client:
        whole = served.text(GenerationRequest(PROMPT, 40))
        for position in range(40):
            request = GenerationRequest(
                PROMPT, 40, stop_token_ids=(whole[position],), num_speculative_tokens=4
            )
            report = await client.complete(request, "sync")
            assert report.token_ids == served.text(request)


async def test_sixteen_sessions_with_trees_each_get_their_solo_text(serve: Any) -> None:
    """Trees, chains and prefills share steps without touching each other."""
    drafter = SiblingsDrafter([table(1), table(2)])
    async with serve() as served, served.client(drafter) as client:
        requests = [
            GenerationRequest(
                (index, 7, index + 1), 20 + index % 5, SamplingParams(0.7 * (index % 2)), seed=index
            )
            for index in range(16)
        ]
        modes = ["sync", "stream", "sync"]
        reports = await asyncio.gather(
            *(client.complete(request, modes[index % 3]) for index, request in enumerate(requests))
        )
        for request, report in zip(requests, reports, strict=True):
            assert report.token_ids == served.text(request)


async def test_an_engine_without_trees_gets_chains(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not agreed on is not sent; the first path is as good as ever."""
    sent = trees_sent(monkeypatch)
    monkeypatch.setattr(TableEngine, "takes_trees", False)
    async with serve() as served, served.client(UnionDrafter([table(1), table(2)])) as client:
        request = GenerationRequest(PROMPT, 24, num_speculative_tokens=3)
        assert (await client.complete(request, "sync")).token_ids == served.text(request)
    assert not sent


async def test_a_relay_gets_chains(serve: Any, relay: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay's opinion is a chain, so trees are not agreed on; the text is the target's all the same."""
    sent = trees_sent(monkeypatch)
    middle = TableEngine(64, 7, spread=2.0, max_context=1024, resembles=0, agreement=0.9)
    async with serve() as served, relay(served, [middle], "grpc") as (_, way):
        async with asyncio.timeout(30):
            client = Client(way, UnionDrafter([table(1), table(2)]))
            await until_there(client)
            for mode in ("sync", "auto"):
                request = GenerationRequest(PROMPT, 40, num_speculative_tokens=3)
                assert (await client.complete(request, mode)).token_ids == served.text(request)
            await client.close()
    assert not sent


async def until_there(client: Client) -> None:
    """Connect once the relay has heard from the hop above it."""
    while True:
        with suppress(PacelineError):
            await client.connect()
            return
        await asyncio.sleep(0)


async def test_a_tree_keeps_to_the_verifiers_limit(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Branches are cut, later ones first, so that the whole tree fits into a block."""
    sent = trees_sent(monkeypatch)
    async with serve() as served, served.client(UnionDrafter([table(1), table(2), table(3)])) as client:
        request = GenerationRequest(PROMPT, 120, num_speculative_tokens=40)
        assert (await client.complete(request, "sync")).token_ids == served.text(request)
        assert max(len(draft) for draft in sent) == served.verifier.limits.max_draft_tokens


async def test_what_a_cut_tree_leaves_over_is_sent_again(serve: Any) -> None:
    """A verifier that judges few tokens at a time uses a tree up without reading all of it; the text goes on."""
    config = VerifierConfig(max_judged_tokens=2)
    drafter = UnionDrafter([table(1, agreement=0.95), table(2, agreement=0.95)])
    async with serve(config=config) as served, served.client(drafter) as client:
        request = GenerationRequest(PROMPT, 60, num_speculative_tokens=6)
        report = await asyncio.wait_for(client.complete(request, "sync"), 60)
        assert report.token_ids == served.text(request)


# --- laws -------------------------------------------------------------------------------------------------------------


def law_of_later_tokens(engine: TableEngine) -> np.ndarray:
    """Probability of each pair of tokens at places 2 and 3: the first block, sent early, is a chain."""
    params = SamplingParams(1.0)
    reach = {(): 1.0}
    for _ in range(4):
        reach = {
            (*text, token_id): chance * prob
            for text, chance in reach.items()
            for law in [target_law(engine.logits_after([0, *text]), params, History())]
            for token_id, prob in zip(law.token_ids.tolist(), law.probs.tolist(), strict=True)
        }
    law = np.zeros((SMALL, SMALL))
    for text, chance in reach.items():
        law[text[2:]] += chance
    return law


async def p_value(served: Any, drafter: Any, num_texts: int) -> float:
    """Chi-square test of places 2 and 3 of many texts against the exact law, through the wire."""
    pairs: Counter[tuple[int, ...]] = Counter()
    async with served.client(drafter) as client:
        for start in range(0, num_texts, 50):
            requests = [
                GenerationRequest(
                    (0,), 6, SamplingParams(1.0), Rule.REJECTION, seed, num_speculative_tokens=2
                )
                for seed in range(1000 + start, 1000 + min(start + 50, num_texts))
            ]
            reports = await asyncio.gather(*(client.complete(request, "sync") for request in requests))
            pairs.update(tuple(report.token_ids[2:4]) for report in reports)
    expected = law_of_later_tokens(served.engine) * num_texts
    assert expected.min() >= 5, "too few texts for this test to mean anything"
    observed = np.array([[pairs[one, two] for two in range(SMALL)] for one in range(SMALL)])
    return float(chisquare(observed.ravel(), expected.ravel()).pvalue)


def disagreeing() -> SiblingsDrafter:
    """Three models, sure of themselves, that agree neither with the target nor with each other."""
    return SiblingsDrafter(
        [TableDrafter(SMALL, own_seed=seed, agreement=0.0, scale=4.0) for seed in (1, 2, 3)]
    )


def small_engine() -> TableEngine:
    """A target over five tokens, flat enough that every pair is seen."""
    return TableEngine(SMALL, spread=1.0, max_context=64)


async def test_law_of_siblings_is_the_targets(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampled siblings in a fixed order leave the target's law as it is, through the wire."""
    sent = trees_sent(monkeypatch)
    async with serve(small_engine()) as served:
        assert await p_value(served, disagreeing(), 1_000) > 1e-4
    assert len(sent) > 1_000
    assert any(draft.token_ids[0] == draft.token_ids[2] for draft in sent if len(draft) == 6)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_law_of_siblings_is_the_targets_over_many_texts(serve: Any) -> None:
    """The same over twenty thousand texts, and with a copying drafter that comes first."""
    async with serve(small_engine()) as served:
        assert await p_value(served, disagreeing(), 20_000) > 1e-4
        copying = SiblingsDrafter([NgramDrafter(min_ngram=1), table(1, SMALL, 0.3)])
        assert await p_value(served, copying, 20_000) > 1e-4


class Forgetful:
    """Judges every sibling against the target's row, as if none before it had been refused: the test must see it."""

    name = Rule.REJECTION
    accepts = acceptance.RULES[Rule.REJECTION].accepts
    judges_trees = True
    lossless = False

    def judge(self, draft: Any, rows: Any, dice: Any) -> Judgement:
        """As `rejection_tree`, but what a refusal leaves of the row is never taken."""
        if not draft.parents:
            return acceptance.rejection.rejection(draft, rows, dice)  # type: ignore[attr-defined,no-any-return]
        children, node, depth = siblings(draft.parents), ROOT, 0
        while True:
            row = rows.law(node + 1)
            position = draft.base + depth
            for place, child in enumerate(children.get(node, [])):
                law = draft.laws[child].as_law()
                token_id = draft.token_ids[child]
                if dice.accepts(row.prob(token_id), law.prob(token_id), position, place):
                    break
            else:
                origin = Origin.RECOVERED if node in children else Origin.BONUS
                return Judgement(depth, dice.draw(row, position), origin, None if node == ROOT else node)
            node, depth = child, depth + 1


@pytest.mark.slow
async def test_a_residual_that_is_not_updated_fails_the_same_test(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that forgets refused siblings does not pass the chi-square test."""
    monkeypatch.setattr(acceptance, "RULES", {**acceptance.RULES, Rule.REJECTION: Forgetful()})
    async with serve(small_engine()) as served:
        assert await p_value(served, disagreeing(), 1_500) < 1e-6
