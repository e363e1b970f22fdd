"""Both engines keep the contract of `paceline.cloud.engine.base.TargetEngine`."""

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from paceline.cloud.engine.base import EngineConfig, TargetEngine
from paceline.cloud.engine.conformance import CHECKS, MakeEngine
from paceline.cloud.engine.paged import PagedEngine
from paceline.cloud.engine.table import TableEngine


def table(capacity_tokens: int) -> TargetEngine:
    """A table engine over 50 tokens."""
    return TableEngine(50, seed=1, max_context=256, capacity_tokens=capacity_tokens)


def paged(page_size: int) -> MakeEngine:
    """A maker of small Llama engines, all with the same weights."""

    def make(capacity_tokens: int) -> TargetEngine:
        import torch

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=200,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
        )
        model = LlamaForCausalLM(config)
        return PagedEngine(model, EngineConfig(capacity_tokens=capacity_tokens, page_size=page_size))

    return make


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    "make_engine", [table, paged(1), paged(16), paged(64)], ids=["table", "paged-1", "paged-16", "paged-64"]
)
def test_engine_keeps_the_contract(check, make_engine: MakeEngine) -> None:
    """Every engine passes every public conformance check."""
    check(make_engine, 2e-5)
