"""Every way of generating the same text, each at its best block length."""

import math
from dataclasses import dataclass, replace

from paceline.common.speed.chain import Chain
from paceline.common.speed.costs import Costs, Prediction
from paceline.common.speed.formulas import (
    best_one_ahead_length,
    best_sync_length,
    predict_cloud,
    predict_colocated,
    predict_local,
    predict_one_ahead,
    predict_sync,
)
from paceline.common.speed.stream import predict_stream

_STREAM_BLOCKS = (1, 2, 4, 8, 16)
_WINDOWS = (1, 2, 4, 8, 16)
"""Blocks in flight."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way of generating."""

    name: str
    block: int
    tokens_per_s: float
    passes_per_token: float
    sessions_per_verifier: float
    """Sessions whose passes, one after another, fill one engine; those that share a pass are more."""


def filled_costs(chain: Chain) -> Costs:
    """A chain whose hops fill, as a pair of target and drafter.

    A relay that was contradicted writes on at once, with its own model: the device below need not have heard of it. So
    what is below the last hop drafts as fast as it streams, with fill, to the hop that ends it; and only the last link
    lies between.
    """
    below, target = chain.hops[:-1], chain.hops[-1]
    draft_s = chain.draft_s
    if below:
        _, streamed = best_stream(filled_costs(replace(chain, hops=below)), fill=True)
        draft_s = 1 / streamed.tokens_per_s
    return Costs(
        draft_s=draft_s,
        verify_fixed_s=target.verify_fixed_s,
        verify_per_token_s=target.verify_per_token_s,
        round_trip_s=target.round_trip_s,
        acceptance=chain.acceptance_of(len(below)),
    )


def predict_ways(
    costs: Costs, server_draft_s: float, local_draft_s: float, filled: Costs | None = None
) -> list[Way]:
    """Speed and target passes of every way.

    Args:
        costs: of the target and of what drafts for it: a device, or a chain below as one drafter.
        server_draft_s: per token of a drafter beside the target.
        local_draft_s: per token of the device alone.
        filled: the costs where hops below fill, too (`filled_costs`); None where there is none.
    """
    sync, ahead = best_sync_length(costs), best_one_ahead_length(costs)
    rows: list[tuple[str, int, Prediction]] = [
        ("local", 0, predict_local(replace(costs, draft_s=local_draft_s))),
        ("cloud", 0, predict_cloud(costs)),
        ("co-located", 0, predict_colocated(costs, server_draft_s)),
        ("sync", sync, predict_sync(costs, sync)),
        ("one-ahead", ahead, predict_one_ahead(costs, ahead)),
        ("stream", *best_stream(costs, fill=False)),
        ("stream + fill", *best_stream(filled or costs, fill=True)),
    ]
    return [
        Way(name, block, one.tokens_per_s, one.passes_per_token, _sessions(costs, one))
        for name, block, one in rows
    ]


def best_stream(costs: Costs, *, fill: bool) -> tuple[int, Prediction]:
    """The block length that gives a stream the most tokens per second, at its best window, and what it gives."""
    tried = {
        (block, window): predict_stream(costs, block, block * window, fill=fill)
        for block in _STREAM_BLOCKS
        for window in _WINDOWS
    }
    block, window = max(tried, key=lambda choice: tried[choice].tokens_per_s)
    return block, tried[block, window]


def _sessions(costs: Costs, one: Prediction) -> float:
    passes_per_s = one.tokens_per_s * one.passes_per_token
    return 1 / (passes_per_s * costs.decode_s) if passes_per_s else math.inf
