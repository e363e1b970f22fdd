"""A drafter of your own: a Markov chain over bytes.

    python examples/03_my_drafter.py

A drafter needs one method that says "after these tokens, these logits"; `ModelDrafter` does the rest. The kit proves
that it keeps what drafters owe. A bad drafter costs time, never correctness: this one knows nothing of the target,
and the text is still the target's.
"""

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from paceline.cloud.engine.table import TableEngine
from paceline.cloud.verifier import TargetInfo, Verifier
from paceline.common.hops.inproc import InProcessHop
from paceline.edge.client import Client
from paceline.edge.drafters.conformance import check_drafter
from paceline.edge.drafters.model import Logits, ModelDrafter
from paceline.edge.request import GenerationRequest

VOCAB_SIZE = 256
BOOK = b"the wind is strong; the rider in front breaks the wind, the riders behind rest in the wind shadow"


class MarkovChain(ModelDrafter):
    """Which byte followed which, in some text."""

    def __init__(self, text: bytes) -> None:
        followed = np.full((VOCAB_SIZE, VOCAB_SIZE), 0.01, dtype=np.float32)
        for before, after in pairwise(text):
            followed[before, after] += 1
        self.logits: Logits = np.log(followed)
        super().__init__("markov", lambda: MarkovRunner(self.logits), VOCAB_SIZE)


class MarkovRunner:
    """What `ModelDrafter` asks of a model. A chain looks at the last token alone: nothing to cache or forget."""

    vocab_size = VOCAB_SIZE
    max_length = 1 << 20

    def __init__(self, logits: Logits) -> None:
        self._logits = logits

    def forward(self, past_length: int, token_ids: Sequence[int]) -> Logits:
        """Logits for the token after the last of `token_ids`."""
        row: Logits = self._logits[token_ids[-1]]
        return row

    def close(self) -> None:
        """Nothing to free."""


async def main() -> None:
    """Check the drafter, let it write alone, then let a target that is nothing like it have the last word."""
    check_drafter(lambda: MarkovChain(BOOK))
    print("keeps every promise of a drafter")
    verifier = Verifier(TableEngine(VOCAB_SIZE), TargetInfo("table", software_version="example"))
    verifier.start()
    request = GenerationRequest(tuple(b"the "), max_new_tokens=40)
    async with Client(InProcessHop(verifier), MarkovChain(BOOK)) as client:
        local = await client.complete(request, mode="local")
        drafted = await client.complete(request, "sync")
        alone = await client.complete(request, mode="cloud")
    verifier.stop()
    print("alone it writes:", bytes(local.token_ids).decode())
    print(f"{drafted.accepted_tokens} of {drafted.drafted_tokens} drafts accepted")
    print("same text as the target alone:", drafted.token_ids == alone.token_ids)


asyncio.run(main())
