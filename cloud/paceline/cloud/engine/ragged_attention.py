"""The keys and values of all sessions, and the attention call that transformers makes on them.

A model runs with its attention implementation set to `NAME`; every layer then calls `ragged_attention` with
the step's packed queries, keys and values of shape [1, heads, tokens, head_dim], and with the step's `Plan`
among the keyword arguments that transformers passes through. The function stores the new keys and values and
hands each session to torch's `scaled_dot_product_attention`, whose keys are a view of the store. No attention
is written here."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from paceline.cloud.engine.extents import Move
from paceline.cloud.engine.kernels import EAGER_ARGUMENTS, choose_kernel
from paceline.cloud.engine.varlen import BlockTable, varlen_attention
from paceline.common.errors import Incompatible
from paceline.common.trees import depths

NAME = "paceline_ragged"
"""The attention implementation's name in transformers' registry."""

FOLD_LIMIT = 32
"""Most queries of a segment whose heads are folded; beyond it the repeated mask costs more than it saves."""


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one attention layer stores and sees, learned from its first call."""

    kv_heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype
    sliding_window: int | None

    @property
    def bytes_per_token(self) -> int:
        """Cache bytes per token in this layer."""
        return self.kv_heads * (self.key_dim + self.value_dim) * self.dtype.itemsize


class KVStore:
    """Keys and values of every layer, [1, kv_heads, tokens, head_dim] each.

    Heads come first because attention reads one head's keys at a time: on a CPU that is up to 2.7 times as
    fast as tokens first. Memory is touched only when written."""

    def __init__(self, shapes: dict[int, LayerShape], num_tokens: int, device: torch.device) -> None:
        def empty(shape: LayerShape, dim: int) -> torch.Tensor:
            return torch.empty(1, shape.kv_heads, num_tokens, dim, dtype=shape.dtype, device=device)

        self.keys = {layer: empty(shape, shape.key_dim) for layer, shape in shapes.items()}
        self.values = {layer: empty(shape, shape.value_dim) for layer, shape in shapes.items()}

    def move(self, moves: list[Move], page_size: int) -> None:
        """Carry out `moves` (in pages) in every layer, all at once."""
        if not moves:
            return

        def tokens(first_page: int, pages: int) -> torch.Tensor:
            return torch.arange(first_page * page_size, (first_page + pages) * page_size)

        device = next(iter(self.keys.values())).device
        source = torch.cat([tokens(m.source, m.pages) for m in moves]).to(device)
        target = torch.cat([tokens(m.target, m.pages) for m in moves]).to(device)
        for store in (*self.keys.values(), *self.values.values()):
            store.index_copy_(2, target, store.index_select(2, source))


@dataclass(frozen=True, slots=True)
class Segment:
    """One session's slice of a step: `count` queries after `past` cached tokens, kept from token slot `start`
    on. The last of them form a tree if there are `parents`."""

    start: int
    past: int
    count: int
    parents: Sequence[int] = ()


View = tuple[int, int, torch.Tensor | None]
"""What a segment sees in one kind of layer: first token slot, number of keys, additive mask."""


@dataclass(slots=True)
class Plan:
    """What every layer of one step needs to know."""

    segments: list[Segment]
    store: KVStore | None
    """None while the layers are only being asked for their shapes (one segment, no past)."""
    slots: torch.Tensor
    """Token slots to write, int64 [tokens]."""
    table: BlockTable | None = None
    """Set where one kernel serves all sessions of the step."""
    shapes: dict[int, LayerShape] = field(default_factory=dict)
    """Filled in when `store` is None."""
    views: dict[tuple[int | None, int], list[View]] = field(default_factory=dict)

    def views_for(self, window: int | None, query: torch.Tensor, kv_heads: int) -> list[View]:
        """One view per segment for layers with this window and this many key heads; built once per step."""
        sharing = query.shape[1] // kv_heads
        found = self.views.get((window, sharing))
        if found is None:
            found = []
            for segment in self.segments:
                first = first_key(segment, window)
                mask = causal_mask(segment, window, sharing, query)
                found.append((segment.start + first, segment.past + segment.count - first, mask))
            self.views[(window, sharing)] = found
        return found


def causal_mask(
    segment: Segment, window: int | None, sharing: int, like: torch.Tensor
) -> torch.Tensor | None:
    """Additive mask of a segment, [count, keys] or, for few queries, [sharing * count, keys]; see `Kernel`.

    The last query sees every key; in a tree a query sees its ancestors and what comes before the tree. With a window
    of w, a query at position i sees keys i - w + 1, …, i. Keys before `first_key` are left out. None where no mask is
    needed: one query, or causal queries with nothing cached.

    Args:
        segment: The session's slice.
        window: Sliding window, keys; None for all.
        sharing: Query heads per key head; up to `FOLD_LIMIT` queries they are folded into rows.
        like: A tensor of the dtype and device wanted.
    """
    count, keys = segment.count, segment.past + segment.count - first_key(segment, window)
    if segment.parents:
        mask = _tree_mask(segment, keys, window, like)
        return mask.repeat(sharing, 1) if count <= FOLD_LIMIT else mask
    if count == 1 or (keys == count and (window is None or keys <= window)):
        return None
    mask = like.new_zeros(count, keys)
    mask[:, keys - count :] = like.new_full((count, count), float("-inf")).triu(1)
    if window is not None and keys > window:
        query = torch.arange(keys - count, keys, device=like.device)[:, None]
        mask.masked_fill_(torch.arange(keys, device=like.device)[None, :] <= query - window, float("-inf"))
    return mask.repeat(sharing, 1) if count <= FOLD_LIMIT else mask


def _tree_mask(segment: Segment, keys: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
    """The mask of a segment that ends in a tree, [count, keys]; see `causal_mask`."""
    count, parents = segment.count, segment.parents
    before, cached = count - len(parents), keys - count
    sees = torch.ones(count, keys, dtype=torch.bool)
    sees[:, cached:] = torch.eye(count, dtype=torch.bool)
    sees[:before, cached:] = torch.ones(before, count, dtype=torch.bool).tril()
    for query, parent in enumerate(parents, before):
        sees[query, cached:] |= sees[before + parent, cached:]
    if window is not None:
        positions = torch.tensor(
            [*range(cached + before), *(cached + before + one for one in depths(parents))]
        )
        sees &= positions[None, :] > positions[cached:, None] - window
    return like.new_zeros(count, keys).masked_fill_(~sees.to(like.device), float("-inf"))


def first_key(segment: Segment, window: int | None) -> int:
    """Position of the earliest key that the segment's first query sees."""
    return 0 if window is None else max(0, segment.past + 1 - window)


def ragged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    sliding_window: int | None = None,
    paceline_plan: Plan | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer over all segments of a step, for transformers' registry.

    Args:
        module: The layer; its `layer_idx` names its part of the store.
        query: [1, heads, tokens, key_dim].
        key: [1, kv_heads, tokens, key_dim].
        value: [1, kv_heads, tokens, value_dim].
        attention_mask: A mask of the model's own making; refused, for the plan says who sees whom.
        sliding_window: Keys a query of this layer sees, itself included; None for all.
        paceline_plan: The step.
        **kwargs: What else the layer asks for (`scaling`, `softcap`, …).
    Returns:
        [1, tokens, heads, value_dim], and None for the weights.
    Raises:
        Incompatible: the layer drops the plan, brings its own mask, or needs what no kernel here has.
    """
    if paceline_plan is None:
        raise Incompatible(f"{type(module).__name__} does not pass keyword arguments on to attention")
    if attention_mask is not None:
        raise Incompatible(f"{type(module).__name__} makes an attention mask of its own")
    kernel = choose_kernel(module, kwargs)
    layer = int(module.layer_idx)  # type: ignore[arg-type]  # every transformers attention module has one
    if paceline_plan.store is None:
        shape = LayerShape(key.shape[1], key.shape[3], value.shape[3], key.dtype, sliding_window)
        paceline_plan.shapes[layer] = shape
        return kernel(module, query, key, value, None), None
    keys, values = paceline_plan.store.keys[layer], paceline_plan.store.values[layer]
    keys.index_copy_(2, paceline_plan.slots, key)
    values.index_copy_(2, paceline_plan.slots, value)
    if paceline_plan.table is not None and not any(kwargs.get(name) is not None for name in EAGER_ARGUMENTS):
        scaling = kwargs.get("scaling")
        table = paceline_plan.table
        return varlen_attention(table, query, keys, values, scaling=scaling, window=sliding_window), None
    queries = query.split_with_sizes([segment.count for segment in paceline_plan.segments], 2)
    views = paceline_plan.views_for(sliding_window, query, key.shape[1])
    outputs = [
        kernel(module, mine, keys.narrow(2, first, count), values.narrow(2, first, count), mask)
        for mine, (first, count, mask) in zip(queries, views, strict=True)
    ]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1), None
