"""The keys and values of all sessions, and the attention call that transformers makes on them.

A model runs with its attention implementation set to `NAME`; every layer then calls `ragged_attention` with
the step's packed queries, keys and values of shape [1, heads, tokens, head_dim], and with the step's `Plan`
among the keyword arguments that transformers passes through. The function stores the new keys and values and
hands each session to torch's `scaled_dot_product_attention`, whose keys are a view of the store. No attention
is written here."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from paceline.cloud.engine.extents import Move
from paceline.common.errors import Incompatible, InternalError

NAME = "paceline_ragged"
"""The attention implementation's name in transformers' registry."""

UNSUPPORTED_ARGUMENTS = ("softcap", "s_aux", "position_bias", "head_mask")
"""Changes to attention that torch's fused function cannot express; a layer that asks for one is refused."""


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
    """Keys and values of every layer, [tokens, kv_heads, head_dim] each; memory is touched only when
    written."""

    def __init__(self, shapes: dict[int, LayerShape], num_tokens: int, device: torch.device) -> None:
        def empty(shape: LayerShape, dim: int) -> torch.Tensor:
            return torch.empty(num_tokens, shape.kv_heads, dim, dtype=shape.dtype, device=device)

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
            store.index_copy_(0, target, store.index_select(0, source))


@dataclass(frozen=True, slots=True)
class Segment:
    """One session's slice of a step: `count` queries after `past` cached tokens, kept from token slot `start`
    on."""

    start: int
    past: int
    count: int


@dataclass(slots=True)
class Plan:
    """What every layer of one step needs to know."""

    segments: list[Segment]
    store: KVStore | None
    """None while the layers are only being asked for their shapes (one segment, no past)."""
    slots: torch.Tensor
    """Token slots to write, int64 [tokens]."""
    shapes: dict[int, LayerShape] = field(default_factory=dict)
    """Filled in when `store` is None."""
    masks: dict[tuple[int | None, torch.dtype], list[torch.Tensor | None]] = field(default_factory=dict)

    def masks_for(self, window: int | None, like: torch.Tensor) -> list[torch.Tensor | None]:
        """One additive mask per segment for layers with this sliding window; built once per step."""
        found = self.masks.get((window, like.dtype))
        if found is None:
            found = [causal_mask(segment, window, like) for segment in self.segments]
            self.masks[(window, like.dtype)] = found
        return found


def causal_mask(segment: Segment, window: int | None, like: torch.Tensor) -> torch.Tensor | None:
    """Additive mask [count, keys] with the last query seeing every key; None if a single query sees them all.

    With a sliding window of w, a query at position i sees keys i - w + 1, …, i. Keys are cut to what the
    first query sees (`first_key`), so `keys` may be less than past + count."""
    keys = segment.past + segment.count - first_key(segment, window)
    if segment.count == 1:
        return None
    mask = torch.zeros(segment.count, keys, dtype=like.dtype, device=like.device)
    future = torch.full((segment.count, segment.count), float("-inf"), dtype=like.dtype, device=like.device)
    mask[:, keys - segment.count :] = future.triu(1)
    if window is not None and keys > window:
        query = torch.arange(keys - segment.count, keys, device=like.device)[:, None]
        mask.masked_fill_(torch.arange(keys, device=like.device)[None, :] <= query - window, float("-inf"))
    return mask


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
    scaling: float | None = None,
    sliding_window: int | None = None,
    paceline_plan: Plan | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer over all segments of a step, for transformers' registry.

    Args:
        query: [1, heads, tokens, key_dim]; key and value: [1, kv_heads, tokens, key_dim or value_dim].
    Returns:
        [1, tokens, heads, value_dim], and None for the weights.
    """
    if paceline_plan is None:
        raise InternalError(
            f"{type(module).__name__} was called outside an engine step, or drops keyword arguments"
        )
    refused = [name for name in UNSUPPORTED_ARGUMENTS if kwargs.get(name) is not None]
    if refused:
        raise Incompatible(
            f"{type(module).__name__} needs {', '.join(refused)}, which torch's attention lacks"
        )
    layer = int(module.layer_idx)  # type: ignore[arg-type]  # every transformers attention module has one
    if paceline_plan.store is None:
        shape = LayerShape(key.shape[1], key.shape[3], value.shape[3], key.dtype, sliding_window)
        paceline_plan.shapes[layer] = shape
        out = scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
        )
        return out.transpose(1, 2), None
    return _attend(
        paceline_plan, paceline_plan.store, layer, query, key, value, scaling, sliding_window
    ), None


def _attend(
    plan: Plan,
    store: KVStore,
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Write the new keys and values, then one fused call per segment; [1, tokens, heads, value_dim]."""
    keys, values = store.keys[layer], store.values[layer]
    keys.index_copy_(0, plan.slots, key[0].transpose(0, 1))
    values.index_copy_(0, plan.slots, value[0].transpose(0, 1))
    outputs, begin = [], 0
    for segment, mask in zip(plan.segments, plan.masks_for(window, query), strict=True):
        first = segment.start + first_key(segment, window)
        last = segment.start + segment.past + segment.count
        mine = query[:, :, begin : begin + segment.count] if len(plan.segments) > 1 else query
        outputs.append(
            _fused(
                mine,
                keys[first:last].transpose(0, 1)[None],
                values[first:last].transpose(0, 1)[None],
                mask,
                scaling,
            )
        )
        begin += segment.count
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)


def _fused(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
) -> torch.Tensor:
    """torch's attention for one session: [1, heads, n, d] against [1, kv_heads, k, d] gives [1, n, heads, d].

    A single query needs no mask, and its heads can be folded onto the key heads they share; several queries
    see each other through the mask, or, without a past, through the causal flag."""
    heads, count, kv_heads = query.shape[1], query.shape[2], keys.shape[1]
    if count == 1:
        folded = query.reshape(1, kv_heads, heads // kv_heads, query.shape[3])
        out = scaled_dot_product_attention(folded, keys, values, scale=scaling)
        return out.reshape(1, 1, heads, values.shape[3])
    out = scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, scale=scaling, enable_gqa=heads != kv_heads
    )
    return out.transpose(1, 2)
