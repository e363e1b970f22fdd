"""How likely tokens are to the target, told with them."""

import math
from dataclasses import replace

import numpy as np
import pytest

from paceline.cloud.engine.table import TableEngine
from paceline.common.errors import BadReply, InvalidRequest
from paceline.common.messages import Feature, Open, Opened
from paceline.common.sampling.logprobs import token_logprobs
from paceline.common.session import EdgeSession
from paceline.common.session.remote import RemoteError
from paceline.common.tokens import LogprobsRequest, Origin, Rule, SamplingParams, TokenLogprobs, Verdict
from paceline.edge.client import Client
from paceline.edge.request import GenerationRequest, TokensEvent

PROMPT = (3, 1, 4, 1, 5, 9, 2, 6)


def own(engine, text, token_id):
    """The log-softmax of the target's logits, computed on the spot."""
    logits = engine.logits_after(list(text)).astype(np.float64)
    law = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
    likeliest = sorted(range(len(law)), key=lambda one: (-law[one], one))
    return law[token_id], [(one, law[one]) for one in likeliest]


async def written(client: Client, request: GenerationRequest, mode: str):
    """Tokens and what was told of them."""
    generation = client.generate(request, mode)
    events = [event async for event in generation if isinstance(event, TokensEvent)]
    told = [one for event in events for one in event.logprobs]
    return generation.report, told


@pytest.mark.parametrize("mode", ["cloud", "sync", "stream", "auto"])
@pytest.mark.parametrize(
    ("temperature", "rule"),
    [(0.0, None), (0.8, None), (0.8, Rule.REJECTION)],
    ids=["greedy", "coupled", "r1"],
)
async def test_every_token_comes_with_the_target_s_own_probability(serve, mode, temperature, rule) -> None:
    """Accepted, recovered, bonus and filled alike; at temperature 1 and before top-p, whatever was sampled with."""
    sampling = SamplingParams(temperature=temperature, top_p=0.9 if temperature else 1.0)
    request = GenerationRequest(
        PROMPT, max_new_tokens=24, sampling=sampling, rule=rule, seed=5, logprobs=LogprobsRequest(3)
    )
    async with serve() as served, served.client() as client:
        report, told = await written(client, request, mode)
        text = list(PROMPT)
        assert len(told) == len(report.token_ids) == 24
        for token_id, one in zip(report.token_ids, told, strict=True):
            logprob, likeliest = own(served.engine, text, token_id)
            assert one.logprob == pytest.approx(logprob, abs=1e-5)
            assert [top for top, _ in one.top] == [top for top, _ in likeliest[:3]]
            assert [log for _, log in one.top] == pytest.approx([log for _, log in likeliest[:3]], abs=1e-5)
            text.append(token_id)
        if mode == "sync":
            assert Origin.ACCEPTED in report.origins


async def test_a_tree_s_tokens_are_told_apart(serve) -> None:
    """Where a branch off the first path is taken, the probability is that of its own row."""
    from paceline.edge.drafters import load_drafter
    from paceline.edge.drafters.table import TableDrafter

    tables = [TableDrafter(64, own_seed=one, agreement=0.4, scale=2.0) for one in (1, 2, 3)]
    union = load_drafter("union", {"drafters": tables})
    request = GenerationRequest(PROMPT, max_new_tokens=40, logprobs=LogprobsRequest())
    async with serve() as served, served.client(union) as client:
        report, told = await written(client, request, "sync")
        text = list(PROMPT)
        for token_id, one in zip(report.token_ids, told, strict=True):
            assert one.logprob == pytest.approx(own(served.engine, text, token_id)[0], abs=1e-5)
            assert one.top == ()
            text.append(token_id)
        assert report.accepted_tokens


@pytest.mark.parametrize("length", [1, 2, 8, 200])
async def test_a_prompt_is_scored(serve, length) -> None:
    """Every token but the first; the text that follows is the same as without."""
    prompt = tuple((7 * index) % 64 for index in range(length))
    request = GenerationRequest(prompt, max_new_tokens=4, logprobs=LogprobsRequest(2, prompt=True))
    async with serve() as served, served.client() as client:
        report, told = await written(client, request, "sync")
        assert report.token_ids == served.text(request)
        assert sorted(report.prompt_logprobs) == list(range(1, length))
        for position, one in report.prompt_logprobs.items():
            logprob, likeliest = own(served.engine, prompt[:position], prompt[position])
            assert one.logprob == pytest.approx(logprob, abs=1e-5)
            assert one.top[0][0] == likeliest[0][0]
        assert len(told) == 4


async def test_nothing_is_told_unasked(serve) -> None:
    """Verdicts of other texts carry nothing more than before."""
    async with serve() as served, served.client() as client:
        report, told = await written(client, GenerationRequest(PROMPT, max_new_tokens=8), "sync")
        assert told == []
        assert report.prompt_logprobs == {}


async def test_a_relay_tells_none_and_says_so(serve, relay) -> None:
    """It does not offer the feature: the client refuses at once, and so does the relay where one asks all the same."""
    request = GenerationRequest(PROMPT, max_new_tokens=8, logprobs=LogprobsRequest())
    async with serve() as served, relay(served, [TableEngine(64, spread=2.0)]) as (relays, hop):
        await relays[0].connected()
        async with Client(hop) as client:
            assert Feature.LOGPROBS not in client.verifier.features
            with pytest.raises(InvalidRequest, match="logprobs"):
                client.generate(request, "cloud")
            client.verifier = replace(client.verifier, features=frozenset(Feature))
            with pytest.raises(RemoteError, match="this verifier tells none"):
                await client.complete(request, "cloud")


async def test_more_than_twenty_are_refused(serve) -> None:
    """By the client before anything is sent, and by the verifier."""
    request = GenerationRequest(PROMPT, max_new_tokens=8, logprobs=LogprobsRequest(21))
    async with serve() as served, served.client() as client:
        with pytest.raises(InvalidRequest, match=r"logprobs.num_top: 21 is not in 0..20"):
            client.generate(request, "cloud")


async def test_mode_local_has_none(serve) -> None:
    """No target sees such a text."""
    async with serve() as served, served.client() as client:
        with pytest.raises(InvalidRequest, match="no target sees"):
            client.generate(GenerationRequest(PROMPT, logprobs=LogprobsRequest()), "local")


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict(3, next_token_id=5, next_origin=Origin.FILLED),
        Verdict(3, next_token_id=5, next_origin=Origin.FILLED, logprobs=(TokenLogprobs(-1.0),) * 2),
        Verdict(0, logprobs=(TokenLogprobs(-1.0),)),
        Verdict(2, logprobs=(TokenLogprobs(-1.0),) * 2),
    ],
    ids=["none", "too many", "before the prompt", "past the prompt"],
)
def test_a_verifier_that_tells_something_else_is_refused(verdict: Verdict) -> None:
    """One probability for every token committed, or some of the prompt's own."""
    session = EdgeSession(Open((1, 2, 3), 4, logprobs=LogprobsRequest()))
    session.receive(Opened(64, 8, 4, 3, features=frozenset(Feature)))
    with pytest.raises(BadReply, match="logprobs"):
        session.receive(verdict)


def test_a_verifier_without_the_feature_is_refused() -> None:
    """One that is older says nothing of it in Opened; the text is not begun without what was asked."""
    session = EdgeSession(Open((1, 2, 3), 4, logprobs=LogprobsRequest()))
    with pytest.raises(InvalidRequest, match="tells none"):
        session.receive(Opened(64, 8, 4, 3))


def test_ties_go_to_the_lowest_id() -> None:
    """As everywhere; a token that is forbidden is told as such."""
    row = np.array([0.0, 1.0, 1.0, -np.inf, 1.0], np.float32)
    scored = token_logprobs(row, 3, 3)
    assert [token_id for token_id, _ in scored.top] == [1, 2, 4]
    assert scored.logprob == -math.inf
    assert len(token_logprobs(row, 0, 20).top) == 5
