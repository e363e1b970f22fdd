"""Growing a model."""

from dataclasses import replace

import pytest
import torch

from paceline.training import ModelShape, ShapeError
from paceline.training.architecture import build_model, num_parameters
from paceline.training.growth import grow, shape_of

SHAPE = ModelShape(64, 2, 2, 1, 64, vocab_size=300, max_positions=128)


def test_a_grown_model_computes_the_same() -> None:
    """Depth and MLP width may grow without changing a single logit."""
    model = build_model(SHAPE, seed=0)
    grown = grow(model, replace(SHAPE, num_layers=5, mlp_size=96), seed=1)
    ids = torch.randint(300, (2, 20))

    assert num_parameters(grown) > 2 * num_parameters(model)
    assert torch.allclose(model(ids).logits, grown(ids).logits, atol=1e-6)


def test_every_added_layer_can_learn() -> None:
    """The first gradient reaches the matrices that write the added layers' results."""
    grown = grow(build_model(SHAPE, seed=0), replace(SHAPE, num_layers=4), seed=1)
    grown(torch.randint(300, (2, 20))).logits.logsumexp(-1).mean().backward()

    assert all(layer.mlp.down_proj.weight.grad.abs().sum() > 0 for layer in grown.model.layers)


def test_a_shape_is_read_back() -> None:
    """The shape of a model is the one it was built with."""
    assert shape_of(build_model(SHAPE, seed=0)) == SHAPE


@pytest.mark.parametrize(("field", "value"), [("hidden_size", 128), ("num_layers", 1), ("mlp_size", 32)])
def test_growth_that_loses_the_function_is_refused(field: str, value: int) -> None:
    """Another width, or fewer layers or channels, is refused by name."""
    with pytest.raises(ShapeError, match=field):
        grow(build_model(SHAPE, seed=0), replace(SHAPE, **{field: value}), seed=0)
