"""Pruning a trained model to fewer layers, which still compute much of what all of them did.

A draft model that begins as the target without some of its layers has the target's embeddings, head and most of its
habits, so that a short distillation mends what the cut broke. One trained from nothing needs hours to come as close.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from transformers import LlamaForCausalLM

from paceline.training.architecture import ModelShape, build_model, shape_of
from paceline.training.errors import ShapeError

Cost = Callable[[LlamaForCausalLM], float]
"""How far a model is from what it should compute; less is better."""


def prune(model: LlamaForCausalLM, shape: ModelShape, cost: Cost) -> tuple[LlamaForCausalLM, tuple[int, ...]]:
    """A model of ``shape`` made of layers of ``model``, and the numbers of those layers, in order.

    Raises:
        ShapeError: ``shape`` differs from the model's in more than depth, or has not fewer layers.
    """
    _check(shape_of(model), shape)
    kept = choose_layers(model, shape.num_layers, cost)
    return keep_layers(model, kept), kept


def choose_layers(model: LlamaForCausalLM, num_layers: int, cost: Cost) -> tuple[int, ...]:
    """Numbers of the layers to keep: one is dropped at a time, each time the one that ``cost`` misses least.

    From eight layers to four that takes 26 trials; all subsets would take 70, and found nothing better
    (``docs/lab-notebook/models.md``).
    """
    kept = tuple(range(model.config.num_hidden_layers))
    while len(kept) > num_layers:
        shorter = [kept[:place] + kept[place + 1 :] for place in range(len(kept))]
        kept = min(shorter, key=lambda layers: cost(keep_layers(model, layers)))
    return kept


@torch.no_grad()
def keep_layers(model: LlamaForCausalLM, layers: tuple[int, ...]) -> LlamaForCausalLM:
    """A copy of ``model`` with only the layers numbered ``layers`` (0-based), in that order."""
    pruned = build_model(replace(shape_of(model), num_layers=len(layers)), seed=0)
    pruned.model.embed_tokens.load_state_dict(model.model.embed_tokens.state_dict())
    pruned.model.norm.load_state_dict(model.model.norm.state_dict())
    for new, number in zip(pruned.model.layers, layers, strict=True):
        new.load_state_dict(model.model.layers[number].state_dict())
    return pruned


def _check(old: ModelShape, new: ModelShape) -> None:
    """Refuse a shape that leaving out layers cannot reach."""
    same = replace(old, num_layers=new.num_layers)
    for name, value in vars(same).items():
        if getattr(new, name) != value:
            raise ShapeError(name, getattr(new, name), f"must stay {value} when a model is pruned")
    if not 1 <= new.num_layers < old.num_layers:
        raise ShapeError("num_layers", new.num_layers, f"must lie in [1, {old.num_layers - 1}] to prune")
