"""All sessions of a step in one variable-length attention kernel, on CUDA in half precision.

torch's `varlen_attn` reads each session's keys through a block table of pages, so nothing is gathered; with
one split its result for a session does not depend, bit for bit, on the other sessions of the step. The wiring
is tested against a reference of the documented meaning; the CUDA kernel itself has not been run."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.attention.varlen import varlen_attn

from paceline.common.errors import InvalidRequest

if TYPE_CHECKING:
    from paceline.cloud.engine.ragged_attention import LayerShape, Segment

PAGE_MULTIPLE = 256
"""The kernel wants pages of a multiple of this many tokens."""

MAX_HEAD_DIM = 256


@dataclass(frozen=True, slots=True)
class BlockTable:
    """Where the kernel finds each session's queries and keys; the same for every layer of a step."""

    query_ends: torch.Tensor
    """Ends of the sessions' queries, from 0; int32 [sessions + 1]."""
    key_counts: torch.Tensor
    """Keys each session sees; int32 [sessions]."""
    pages: torch.Tensor
    """Pages of each session in order, padded with 0; int32 [sessions, most pages]."""
    page_size: int
    max_queries: int
    max_keys: int


def block_table(segments: "list[Segment]", page_size: int, device: torch.device) -> BlockTable:
    """The table of a step whose sessions start on page boundaries."""
    ends, counts = [0], [segment.past + segment.count for segment in segments]
    for segment in segments:
        ends.append(ends[-1] + segment.count)
    pages = torch.zeros(len(segments), -(-max(counts) // page_size), dtype=torch.int32)
    for row, (segment, keys) in enumerate(zip(segments, counts, strict=True)):
        used = -(-keys // page_size)
        first = segment.start // page_size
        pages[row, :used] = torch.arange(first, first + used, dtype=torch.int32)
    return BlockTable(
        query_ends=torch.tensor(ends, dtype=torch.int32, device=device),
        key_counts=torch.tensor(counts, dtype=torch.int32, device=device),
        pages=pages.to(device),
        page_size=page_size,
        max_queries=max(segment.count for segment in segments),
        max_keys=max(counts),
    )


def varlen_attention(
    table: BlockTable,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    *,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Causal attention of every session: query [1, heads, tokens, d] and the store give [1, tokens, heads,
    d]."""
    out = varlen_attn(
        query[0].transpose(0, 1),
        _paged(keys, table.page_size),
        _paged(values, table.page_size),
        table.query_ends,
        None,
        table.max_queries,
        table.max_keys,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != keys.shape[1],
        seqused_k=table.key_counts,
        block_table=table.pages,
        num_splits=1,
    )
    if not isinstance(out, torch.Tensor):
        raise TypeError("varlen_attn returned auxiliary values that nobody asked for")
    return out[None]


def check_varlen(shapes: "dict[int, LayerShape]", page_size: int, device: torch.device) -> None:
    """Raise `InvalidRequest` unless the kernel can run these layers in pages of this size on this device."""
    reason = ""
    if device.type != "cuda":
        reason = f"it needs CUDA, and the model is on {device}"
    elif page_size % PAGE_MULTIPLE:
        reason = f"page_size is {page_size}, not a multiple of {PAGE_MULTIPLE}"
    elif any(shape.dtype not in (torch.float16, torch.bfloat16) for shape in shapes.values()):
        reason = "it needs float16 or bfloat16"
    elif any(shape.key_dim != shape.value_dim or shape.key_dim > MAX_HEAD_DIM for shape in shapes.values()):
        reason = f"it needs keys and values of one width, at most {MAX_HEAD_DIM}"
    if reason:
        raise InvalidRequest(
            f"attention 'varlen' cannot be used: {reason}", field="attention", cure="use sdpa"
        )


def _paged(store: torch.Tensor, page_size: int) -> torch.Tensor:
    """The store [1, kv_heads, tokens, d] seen as [pages, page_size, kv_heads, d]; no copy."""
    kv_heads, tokens, dim = store.shape[1:]
    return store.view(kv_heads, tokens // page_size, page_size, dim).permute(1, 2, 0, 3)
