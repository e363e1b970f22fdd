"""Sessions that share a verifier do not touch one another's text."""

import asyncio

from paceline.common.tokens import Rule, SamplingParams
from paceline.edge.request import GenerationRequest

SETTINGS = (
    (SamplingParams(), None),
    (SamplingParams(temperature=0.8, top_p=0.95), Rule.COUPLED),
    (SamplingParams(temperature=1.0, frequency_penalty=0.5), Rule.ONE_HOT),
    (SamplingParams(temperature=0.7, top_k=30), Rule.REJECTION),
)


async def test_thirty_two_sessions_write_what_each_writes_alone(complete, prompts) -> None:
    """32 texts under four rules, half of them streamed, generated together and one by one, are the same."""
    # A fixed block length: under rejection the text may depend on where blocks end.
    requests = [
        GenerationRequest(prompt, 16, sampling, rule=rule, seed=seed, num_speculative_tokens=5)
        for seed, (prompt, (sampling, rule)) in enumerate(zip(prompts[40:72], SETTINGS * 8, strict=True))
    ]
    half = len(requests) // 2
    drafted, streamed = await asyncio.gather(
        complete(*requests[:half]), complete(*requests[half:], mode="cloud")
    )
    alone = [await complete(request) for request in requests[:half]]
    alone += [await complete(request, mode="cloud") for request in requests[half:]]
    assert [one.token_ids for one in drafted + streamed] == [one.token_ids for (one,) in alone]
