"""Both ends in one process, no weights, no network: the whole exchange in a page.

    python examples/01_one_process.py

The target's logits are a hash of the text so far, so every mistake would show. The drafter agrees with it most of the
time. The text is the target's own, whoever drafts.
"""

import asyncio

from paceline.cloud.engine.table import TableEngine
from paceline.cloud.verifier import TargetInfo, Verifier
from paceline.common.hops.inproc import InProcessHop
from paceline.common.tokens import SamplingParams
from paceline.edge.client import Client
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.request import GenerationRequest

VOCAB_SIZE = 64


async def main() -> None:
    """Sample one text twice: with drafts, and by the target alone."""
    verifier = Verifier(TableEngine(VOCAB_SIZE, spread=3.0), TargetInfo("table", software_version="example"))
    verifier.start()
    request = GenerationRequest(
        (1, 2, 3), max_new_tokens=32, sampling=SamplingParams(temperature=0.8), seed=7
    )
    async with Client(InProcessHop(verifier), TableDrafter(VOCAB_SIZE, agreement=0.9)) as client:
        generation = client.generate(request)
        async for event in generation:
            print(
                *(f"{token}:{origin}" for token, origin in zip(event.token_ids, event.origins, strict=True))
            )
        drafted = generation.report
        alone = await client.complete(request, mode="cloud")
    verifier.stop()
    print(f"{drafted.accepted_tokens} of {drafted.drafted_tokens} drafted tokens accepted")
    print(f"{len(drafted.token_ids)} tokens in {len(drafted.rounds)} passes of the target")
    print("same text as the target alone:", drafted.token_ids == alone.token_ids)


asyncio.run(main())
