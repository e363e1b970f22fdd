"""The shipped models, one verifier process for all tests, and transformers as an independent oracle."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import torch
import transformers

from paceline.common.hops.grpc import GrpcHop
from paceline.common.tokenizer import Tokenizer
from paceline.edge.assemble import EdgeModel, assemble
from paceline.edge.client import Client
from paceline.edge.drafters.ngram import NgramDrafter
from paceline.edge.drafters.siblings import UnionDrafter
from paceline.edge.request import GenerationRequest, Report

PROMPTS = Path(__file__).resolve().parents[2] / "models" / "prompts" / "heldout.jsonl"

Complete = Callable[..., Awaitable[list[Report]]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One event loop for all tests of this folder: they share channels, and a channel belongs to its loop."""
    for item in items:
        if Path(__file__).parent in item.path.parents and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


class Oracle:
    """The target model in plain transformers, float32, one thread."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.max_context = int(self.model.config.max_position_embeddings)
        self.vocab_size = int(self.model.config.vocab_size)
        eos = self.model.generation_config.eos_token_id
        self.eos_token_ids = set(eos if isinstance(eos, list) else [eos])

    def greedy(self, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
        """What `generate` writes; its stop token included, as ours is."""
        ids = torch.tensor([list(prompt)])
        with torch.inference_mode():
            text = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_new_tokens
            )
        return text[0, len(prompt) :].tolist()

    def logits(self, token_ids: Sequence[int]) -> np.ndarray:
        """The row after a text, by a forward over all of it. float32 [vocab]."""
        with torch.inference_mode():
            return self.model(torch.tensor([list(token_ids)])).logits[0, -1].numpy()


@pytest.fixture(scope="session")
def oracle(models: Path) -> Oracle:
    """The target, elsewhere."""
    return Oracle(models / "base")


@pytest.fixture(scope="session")
def tokenizer(models: Path) -> Tokenizer:
    """The tokenizer all shipped models share."""
    return Tokenizer(models / "base")


@pytest.fixture(scope="session")
def prompts(tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """Token ids of texts no model was trained on."""
    lines = PROMPTS.read_text(encoding="utf-8").splitlines()
    return [tokenizer.encode(json.loads(line)["prompt"]) for line in lines]


@pytest.fixture(scope="session")
def edge_model(models: Path) -> Callable[[str], EdgeModel]:
    """The shipped draft model under a drafter's name; each is loaded once. With `union`, n-grams beside it."""
    load = cache(lambda kind: assemble(models / "pico", kind=kind))

    def combined(kind: str) -> EdgeModel:
        if kind != "union":
            return load(kind)
        model = load("onnx")
        return replace(model, drafter=UnionDrafter([model.drafter, NgramDrafter()]))

    return combined


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def client(
    verifier: str, edge_model: Callable[[str], EdgeModel]
) -> AsyncIterator[Callable[[str], Awaitable[Client]]]:
    """A connected client for each drafter's name; all of them live on the event loop of the test session."""
    clients: dict[str, Client] = {}
    lock = asyncio.Lock()

    async def connected(drafter: str) -> Client:
        async with lock:
            if drafter not in clients:
                model = edge_model(drafter)
                fingerprint = model.tokenizer.fingerprint
                client = Client(GrpcHop(verifier), model.drafter, tokenizer_fingerprint=fingerprint)
                await client.connect()
                clients[drafter] = client
        return clients[drafter]

    yield connected
    for one in clients.values():
        await one.close()


@pytest.fixture(scope="session")
def complete(client: Callable[[str], Awaitable[Client]]) -> Complete:
    """Generate some requests at once, over gRPC."""

    async def run(*requests: GenerationRequest, mode: str = "sync", drafter: str = "onnx") -> list[Report]:
        connected = await client(drafter)
        return await asyncio.gather(*(connected.complete(request, mode) for request in requests))

    return run
