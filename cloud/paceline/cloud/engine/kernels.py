"""Which attention function, torch's or transformers' own, computes one session's attention in a layer."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from paceline.common.errors import Incompatible

Kernel = Callable[
    [torch.nn.Module, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor
]
"""(layer, query [1, heads, n, d], keys and values [1, kv_heads, k, d], additive mask [n, k] or None)
→ [1, n, heads, d]. Without a mask, a single query sees every key and several are causal, with k = n."""

EAGER_ARGUMENTS = ("softcap", "s_aux")
"""Soft-capped scores (Gemma 2) and attention sinks (gpt-oss): only a model's own eager function has them."""

REFUSED_ARGUMENTS = ("position_bias", "head_mask")
"""Changes to attention that neither kind of kernel expresses."""


def choose_kernel(module: torch.nn.Module, kwargs: dict[str, Any]) -> Kernel:
    """The kernel for a layer that passes `kwargs` to its attention function.

    Raises:
        Incompatible: there is none.
    """
    refused = [name for name in REFUSED_ARGUMENTS if kwargs.get(name) is not None]
    if refused:
        raise Incompatible(f"{type(module).__name__} needs {', '.join(refused)}, which no kernel here has")
    scaling: float | None = kwargs.get("scaling")
    extra = {name: kwargs[name] for name in EAGER_ARGUMENTS if kwargs.get(name) is not None}
    return partial(_eager, scaling, extra) if extra else partial(_fused, scaling)


def _fused(
    scaling: float | None,
    module: torch.nn.Module,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """torch's fused attention.

    Query heads that share a key head are folded into its rows when the mask says so (it then has heads /
    kv_heads times n rows) or when there is a single query: the keys are read once instead of once per query
    head."""
    del module
    heads, count, kv_heads = query.shape[1], query.shape[2], keys.shape[1]
    if count == 1 or (mask is not None and mask.shape[0] != count):
        folded = query.reshape(1, kv_heads, heads // kv_heads * count, query.shape[3])
        out = scaled_dot_product_attention(folded, keys, values, attn_mask=mask, scale=scaling)
        out = out.reshape(1, heads, count, values.shape[3])
    else:
        out = scaled_dot_product_attention(
            query,
            keys,
            values,
            attn_mask=mask,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=heads != kv_heads,
        )
    return out.transpose(1, 2)


def _eager(
    scaling: float | None,
    extra: dict[str, Any],
    module: torch.nn.Module,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """The `eager_attention_forward` that stands beside the layer in transformers' source."""
    forward = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if forward is None:
        raise Incompatible(f"{type(module).__name__} needs {', '.join(extra)} and has no eager attention")
    count = query.shape[2]
    if mask is None:
        mask = query.new_full((count, count), float("-inf")).triu(1) if count > 1 else query.new_zeros(1, 1)
    out: torch.Tensor = forward(
        module, query, keys, values, mask[None, None, :count], scaling=scaling, dropout=0.0, **extra
    )[0]
    return out
