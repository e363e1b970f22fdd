"""Texts in, texts out: a client from names, with an event loop and without.

    python examples/04_from_names.py

The verifier runs here only so that the example needs nothing else.
"""

import asyncio

from paceline.cli.verifier_process import verifier_process
from paceline.common.shipped import models_dir
from paceline.common.tokens import LogprobsRequest, SamplingParams
from paceline.edge import SyncClient, TokensEvent, connect

PROMPT = "def read_lines(path):"
DRAFT_MODEL = models_dir() / "pico"


async def stream(address: str) -> str:
    """Events of one text: verified tokens, who wrote each, and how likely each was to the target."""
    async with connect(address, draft_model=DRAFT_MODEL) as client:
        generation = client.generate(
            client.request(PROMPT, max_new_tokens=24, logprobs=LogprobsRequest(num_top=1))
        )
        async for event in generation:
            if isinstance(event, TokensEvent):
                for token_id, origin, told in zip(
                    event.token_ids, event.origins, event.logprobs, strict=True
                ):
                    print(f"{client.tokenizer.token(token_id)!r}:{origin}:{told.logprob:.2f}", end=" ")
        return client.text(generation.report)


def complete(address: str) -> tuple[str, str]:
    """The same without an event loop, and a sampled text whose seed makes it the same every time."""
    with SyncClient.connect(address, draft_model=DRAFT_MODEL) as client:
        greedy = client.complete(client.request(PROMPT, max_new_tokens=24))
        sampling = SamplingParams(temperature=0.8, top_p=0.95)
        sampled = client.complete(client.request(PROMPT, max_new_tokens=24, sampling=sampling, seed=7))
        return client.text(greedy), client.text(sampled)


with verifier_process(models_dir() / "base") as verifier:
    streamed = asyncio.run(stream(verifier.address))
    greedy, sampled = complete(verifier.address)
print(f"\n\n{PROMPT}{greedy}")
print("the same either way:", streamed == greedy)
print("sampled:", repr(sampled))
