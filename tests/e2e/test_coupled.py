"""With shared noise the text depends on target, prompt, law and seed alone."""

from dataclasses import replace

import pytest
import pytest_asyncio

from paceline.common.tokens import Origin, Rule, SamplingParams
from paceline.edge.request import GenerationRequest

SAMPLING = SamplingParams(temperature=0.8, top_p=0.95)
LENGTHS = (1, 3, 8, 16, None)


@pytest.fixture(scope="session")
def requests(prompts) -> list[GenerationRequest]:
    """Two texts to sample."""
    return [GenerationRequest(prompt[:40], 32, SAMPLING, seed=11) for prompt in prompts[20:22]]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def texts(complete, requests) -> list[list[int]]:
    """What they are when the verifier streams alone."""
    return [report.token_ids for report in await complete(*requests, mode="cloud", drafter="ngram")]


@pytest.mark.parametrize("drafter", ["onnx", "torch", "ngram", "union"])
async def test_neither_drafter_nor_block_length_changes_it(complete, requests, texts, drafter) -> None:
    """Every drafter at every block length gives the text the verifier streams alone."""
    for length in LENGTHS:
        reports = await complete(
            *(replace(request, num_speculative_tokens=length) for request in requests), drafter=drafter
        )
        assert [report.token_ids for report in reports] == texts, f"blocks of {length or 'auto'}"


async def test_drafts_are_accepted_on_the_way(complete, requests) -> None:
    """The equality is not for want of drafts: some are accepted, and some are corrected."""
    origins = {origin for report in await complete(*requests) for origin in report.origins}
    assert {Origin.ACCEPTED, Origin.RECOVERED} <= origins


async def test_the_one_hot_rule_gives_the_same_text(complete, requests, texts) -> None:
    """Judging the drafter's likeliest token instead of its pick changes the acceptance, not the text."""
    for drafter in ("onnx", "ngram"):
        reports = await complete(*(replace(r, rule=Rule.ONE_HOT) for r in requests), drafter=drafter)
        assert [report.token_ids for report in reports] == texts


async def test_a_repeated_run_gives_the_same_text(complete, requests, texts) -> None:
    """Nothing of one run is left for the next."""
    for _ in range(3):
        assert [report.token_ids for report in await complete(*requests)] == texts


async def test_another_seed_gives_another_text(complete, requests, texts) -> None:
    """Ten seeds give ten texts."""
    reports = await complete(*(replace(requests[0], seed=seed) for seed in range(100, 110)))
    written = {tuple(report.token_ids) for report in reports} | {tuple(texts[0])}
    assert len(written) == 11


async def test_rejection_is_repeatable(complete, prompts) -> None:
    """With private noise too, the same seed and the same blocks give the same text."""
    request = GenerationRequest(
        prompts[20], 32, SAMPLING, rule=Rule.REJECTION, seed=5, num_speculative_tokens=4
    )
    (first,), (second,) = await complete(request), await complete(request)
    assert first.token_ids == second.token_ids
    assert {Origin.ACCEPTED, Origin.RECOVERED} <= set(first.origins)
