"""At temperature 0 the text is the one `transformers` writes, token for token."""

import pytest

from paceline.common.tokens import FinishReason, Origin
from paceline.edge.request import GenerationRequest

WAYS = [("sync", "onnx"), ("sync", "torch"), ("sync", "ngram"), ("sync", "union"), ("cloud", "ngram")]


@pytest.fixture(scope="session")
def few(oracle, prompts):
    """A dozen prompts, and what the target writes after them."""
    return [(prompt, oracle.greedy(prompt, 48)) for prompt in prompts[:12]]


@pytest.fixture(scope="session")
def many(oracle, prompts):
    """A hundred prompts, and what the target writes after them."""
    return [(prompt, oracle.greedy(prompt, 128)) for prompt in prompts[:100]]


@pytest.mark.parametrize(("mode", "drafter"), WAYS)
async def test_it_is_the_text_of_transformers(complete, few, mode, drafter) -> None:
    """Whoever drafts, or nobody, twelve texts generated at a time are those of `generate(do_sample=False)`."""
    reports = await complete(
        *(GenerationRequest(prompt, max_new_tokens=48) for prompt, _ in few), mode=mode, drafter=drafter
    )
    assert [report.token_ids for report in reports] == [text for _, text in few]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("mode", "drafter"), WAYS)
async def test_a_hundred_long_texts_are_those_of_transformers(complete, many, mode, drafter) -> None:
    """So are a hundred longer ones."""
    for start in range(0, len(many), 20):
        part = many[start : start + 20]
        reports = await complete(
            *(GenerationRequest(prompt, max_new_tokens=128) for prompt, _ in part), mode=mode, drafter=drafter
        )
        assert [report.token_ids for report in reports] == [text for _, text in part]


async def test_the_report_accounts_for_every_token(complete, few) -> None:
    """Each token has one origin, and drafted, accepted and added tokens sum to the text."""
    (report,) = await complete(GenerationRequest(few[0][0], max_new_tokens=48, num_speculative_tokens=4))
    assert len(report.origins) == len(report.token_ids)
    assert report.origins.count(Origin.ACCEPTED) == report.accepted_tokens <= report.drafted_tokens
    assert all(one.num_accepted <= one.num_drafted <= 4 for one in report.rounds)
    assert report.num_prompt_tokens == len(few[0][0])
    stopped = report.finish_reason is FinishReason.STOP
    assert stopped or len(report.token_ids) == 48
    assert report.traffic.bytes_up > 0
    assert report.traffic.bytes_down > 0


async def test_two_drafters_take_fewer_passes_than_either(complete, few) -> None:
    """What the draft model does not know is copied, and the other way round: the target runs less often."""
    requests = [GenerationRequest(prompt, max_new_tokens=48, num_speculative_tokens=4) for prompt, _ in few]
    passes = {}
    for drafter in ("onnx", "ngram", "union"):
        reports = await complete(*requests, drafter=drafter)
        assert [report.token_ids for report in reports] == [text for _, text in few]
        passes[drafter] = sum(report.num_passes for report in reports)
    print(f"target passes for {len(few)} texts of 48 tokens: {passes}")
    assert passes["union"] < min(passes["onnx"], passes["ngram"])
