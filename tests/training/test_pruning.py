"""Pruning a model."""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from paceline.training import ModelShape, ShapeError
from paceline.training.architecture import build_model, shape_of
from paceline.training.pruning import Cost, choose_layers, keep_layers, prune

SHAPE = ModelShape(64, 5, 2, 1, 64, vocab_size=300, max_positions=128)
IDS = torch.randint(300, (2, 20), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def model_with_idle_layers(*idle: int) -> LlamaForCausalLM:
    """A model whose layers numbered ``idle`` write nothing, so that it computes the same without them."""
    model = build_model(SHAPE, seed=0)
    for number in idle:
        model.model.layers[number].self_attn.o_proj.weight.zero_()
        model.model.layers[number].mlp.down_proj.weight.zero_()
    return model


def distance_from(model: LlamaForCausalLM) -> Cost:
    """How far another model's logits are from those of ``model``."""
    return lambda other: (model(IDS).logits - other(IDS).logits).abs().mean().item()


def test_layers_that_write_nothing_are_not_missed() -> None:
    """Without its idle layers a model computes the same logits."""
    model = model_with_idle_layers(0, 3)

    assert torch.allclose(model(IDS).logits, keep_layers(model, (1, 2, 4))(IDS).logits, atol=1e-6)


def test_a_pruned_model_writes_as_it_reads() -> None:
    """Token by token, with a cache, it gives the logits of one pass: the kept layers are numbered anew."""
    pruned = keep_layers(build_model(SHAPE, seed=0), (0, 4))
    start = pruned(IDS[:, :-1], use_cache=True)
    last = pruned(IDS[:, -1:], past_key_values=start.past_key_values)

    assert torch.allclose(pruned(IDS).logits[:, -1], last.logits[:, -1], atol=1e-5)


def test_the_layers_that_matter_are_kept() -> None:
    """The choice drops the layers whose absence costs nothing, wherever they are."""
    model = model_with_idle_layers(1, 4)

    assert choose_layers(model, 3, distance_from(model)) == (0, 2, 3)


def test_pruning_leaves_the_model_as_it_was() -> None:
    """The target goes on with all its layers, and shares no weights with the pruned model."""
    model = model_with_idle_layers(2)
    before = model(IDS).logits.clone()
    pruned, kept = prune(model, replace(SHAPE, num_layers=4), distance_from(model))
    with torch.no_grad():
        for parameter in pruned.parameters():
            parameter.zero_()

    assert kept == (0, 1, 3, 4)
    assert shape_of(pruned) == replace(SHAPE, num_layers=4)
    assert torch.equal(model(IDS).logits, before)


def test_a_shape_is_read_back() -> None:
    """The shape of a model is the one it was built with."""
    assert shape_of(build_model(SHAPE, seed=0)) == SHAPE


@pytest.mark.parametrize(
    ("field", "value"), [("hidden_size", 128), ("mlp_size", 32), ("num_layers", 5), ("num_layers", 0)]
)
def test_what_leaving_out_layers_cannot_reach_is_refused(field: str, value: int) -> None:
    """Another width, or no fewer layers, or none, is refused by name."""
    shape = replace(SHAPE, **{"num_layers": 4, field: value})
    with pytest.raises(ShapeError, match=field):
        prune(build_model(SHAPE, seed=0), shape, lambda _: 0.0)
