"""Growing a trained model into a deeper one that begins as the same function.

A larger draft model trained from nothing needs many times the text before it catches up with a smaller one that
has been distilled for long. Begun as a copy of the smaller one, it can only get better.
"""

import torch
from transformers import LlamaForCausalLM

from paceline.training.architecture import ModelShape, build_model
from paceline.training.errors import ShapeError

SAME_FIELDS = ("hidden_size", "num_heads", "num_kv_heads", "vocab_size", "max_positions")
"""What a grown model has in common with the one it grew from."""


@torch.no_grad()
def grow(model: LlamaForCausalLM, shape: ModelShape, *, seed: int) -> LlamaForCausalLM:
    """A model of a larger ``shape`` that computes what ``model`` computes.

    Old layers are spread evenly. Added layers, and channels added to an MLP, write nothing at first: the matrix
    that writes their result is zero, so they are the identity and still receive gradients (Chen et al.,
    "Net2Net", 2016).

    Raises:
        ShapeError: ``shape`` differs in more than depth and MLP width, or is smaller.
    """
    old = shape_of(model)
    _check(old, shape)
    grown = build_model(shape, seed=seed)
    grown.model.embed_tokens.load_state_dict(model.model.embed_tokens.state_dict())
    grown.model.norm.load_state_dict(model.model.norm.state_dict())
    for layer in grown.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    for index, layer in enumerate(model.model.layers):
        _copy_layer(layer, grown.model.layers[index * shape.num_layers // old.num_layers])
    return grown


def shape_of(model: LlamaForCausalLM) -> ModelShape:
    """The shape of an existing model."""
    config = model.config
    return ModelShape(
        hidden_size=config.hidden_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads or config.num_attention_heads,
        mlp_size=config.intermediate_size,
        vocab_size=config.vocab_size,
        max_positions=config.max_position_embeddings,
    )


def _check(old: ModelShape, new: ModelShape) -> None:
    """Refuse growth that could not keep the function."""
    for name in SAME_FIELDS:
        if getattr(old, name) != getattr(new, name):
            raise ShapeError(
                name, getattr(new, name), f"must stay {getattr(old, name)} when a model is grown"
            )
    for name in ("num_layers", "mlp_size"):
        if getattr(new, name) < getattr(old, name):
            raise ShapeError(name, getattr(new, name), f"must be at least {getattr(old, name)} to grow")


def _copy_layer(old: torch.nn.Module, new: torch.nn.Module) -> None:
    """Copy one decoder layer; parameters that became wider keep their added part."""
    targets = dict(new.named_parameters())
    for name, source in old.named_parameters():
        target = targets[name]
        if source.ndim == 1:
            target.copy_(source)
        else:
            target[: source.shape[0], : source.shape[1]] = source
