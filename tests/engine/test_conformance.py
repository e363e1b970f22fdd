"""Both engines keep the contract of `paceline.cloud.engine.base.TargetEngine`."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from paceline.cloud.engine.base import EngineConfig, Row, TargetEngine
from paceline.cloud.engine.conformance import CHECKS, MakeEngine, check_engine, check_trees
from paceline.cloud.engine.paged import PagedEngine
from paceline.cloud.engine.ragged_attention import Segment
from paceline.cloud.engine.table import TableEngine
from paceline.common.sampling.rows import NumpyLogitRows


def table(capacity_tokens: int) -> TargetEngine:
    """A table engine over 50 tokens."""
    return TableEngine(50, seed=1, max_context=256, capacity_tokens=capacity_tokens)


def relays_table(capacity_tokens: int) -> TargetEngine:
    """One whose law is mixed with another's."""
    return TableEngine(
        50, seed=1, max_context=256, capacity_tokens=capacity_tokens, resembles=2, agreement=0.5
    )


def paged(page_size: int) -> MakeEngine:
    """A maker of small Llama engines, all with the same weights."""

    def make(capacity_tokens: int) -> TargetEngine:
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
    "make_engine",
    [table, relays_table, paged(1), paged(16), paged(64)],
    ids=["table", "relays-table", "paged-1", "paged-16", "paged-64"],
)
def test_engine_keeps_the_contract(check, make_engine: MakeEngine) -> None:
    """Every engine passes every public conformance check."""
    check(make_engine, 2e-5)


class Forgetful(TableEngine):
    """Drops what it cached whenever two sessions share a step."""

    def step(self, rows: Sequence[Row]) -> list[NumpyLogitRows]:
        """Serve the rows from an empty past."""
        if len(rows) == 1:
            return super().step(rows)
        super().step(rows)
        fresh = TableEngine(self.vocab_size, self.seed)
        return fresh.step([Row(row.key, 0, row.token_ids, row.num_logits) for row in rows])


class Leaky(TableEngine):
    """Never frees a session."""

    def release(self, key: int) -> None:
        """Do nothing."""


class Deaf(TableEngine):
    """Runs every tree as a chain."""

    def step(self, rows: Sequence[Row]) -> list[NumpyLogitRows]:
        """Drop the parents."""
        return super().step([replace(row, parents=()) for row in rows])


@pytest.mark.parametrize("broken", [Forgetful, Leaky, Deaf])
def test_conformance_finds_a_broken_engine(broken: type[TableEngine]) -> None:
    """An engine whose sessions disturb each other, or that keeps what was released, does not pass."""
    check_engine(table)
    with pytest.raises(AssertionError):
        check_engine(lambda capacity: broken(50, max_context=256, capacity_tokens=capacity))


@pytest.mark.parametrize(
    ("what", "wrong"),
    [
        ("cloud.engine.base.depths", lambda parents: list(range(len(parents)))),
        ("cloud.engine.base.principal_length", len),
        ("cloud.engine.ragged_attention._tree_mask", None),
    ],
    ids=["positions by index", "branches kept", "siblings see each other"],
)
def test_conformance_finds_what_goes_wrong_with_trees(
    what: str, wrong: Callable[..., object] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positions by index, a cache that keeps branches, and a causal mask each fail the check of trees."""

    def causal(segment: Segment, keys: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
        return like.new_full((segment.count, keys), float("-inf")).triu(1 + keys - segment.count)

    monkeypatch.setattr(f"paceline.{what}", wrong or causal)
    with pytest.raises(AssertionError):
        check_trees(paged(16), 2e-5)
