"""The continuous stream, predicted by a renewal argument.

A cycle runs from one contradiction to the next; in between `g` drafted tokens stand, geometrically many. The verifier's
correction travels to the device and the first block back, so drafts arrive from ``A = R + c t_d`` on, one per `t_d`
afterwards. Meanwhile the verifier fills a token per pass `t_1`. Drafts overtake the fill when

    ``(t - A) / t_d + c = t / t_1``,

after some ``t_c = R t_1 / (t_1 - t_d)``, never before `A`. A contradiction before that costs what streaming from the
cloud costs; one after it costs the way there, then the pace of the drafts or of the passes that check them, then the
pass that finds it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from paceline.common.speed.costs import Costs, Prediction

_LONGEST_RUN = 512
_GIVE_UP = 0.999


def predict_stream(costs: Costs, block: int, max_ahead: int, *, fill: bool) -> Prediction:
    """Speed and passes of a stream.

    Args:
        costs: see `Costs`.
        block: tokens per block.
        max_ahead: drafted tokens that may be ahead of the last verdict.
        fill: whether the verifier decodes on while drafts are late (it waits where that is shorter).
    """
    acceptance = min(costs.acceptance, _GIVE_UP)
    runs = np.arange(_LONGEST_RUN)
    chance = (1 - acceptance) * acceptance**runs
    chance[-1] += acceptance**_LONGEST_RUN
    seconds, passes = _cycle(costs, block, max_ahead, runs, fill=fill)
    tokens = float(chance @ (runs + 1))
    return Prediction(tokens / float(chance @ seconds), float(chance @ passes) / tokens)


def _cycle(
    costs: Costs, block: int, max_ahead: int, runs: NDArray[Any], *, fill: bool
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Seconds and target passes of a cycle in which so many tokens stand."""
    pass_s = costs.decode_s
    first_s = costs.round_trip_s + block * costs.draft_s
    pace_s, per_pass = _pace(costs, max_ahead)
    # The token that is contradicted has to be drafted, its block to be completed, and the pass under way to end,
    # half of one on average, before the pass that finds it.
    last_s = costs.verify_s(per_pass)
    late_s = (block - 1) / 2 * costs.draft_s + pass_s / 2
    overtakes = costs.draft_s < pass_s
    behind_s = costs.round_trip_s * pass_s / (pass_s - costs.draft_s) if overtakes else np.inf
    caught_s = max(first_s, behind_s)
    rate_s = costs.draft_s + (1 - costs.acceptance) * (costs.round_trip_s + pass_s)
    waits = not fill or first_s < pass_s - min(rate_s, pass_s)
    if waits:
        filled, start_s = 0.0, first_s
    else:
        filled, start_s = caught_s / pass_s, caught_s
    rest = np.maximum(runs - filled, 0)
    later = np.maximum(rest + 1 - block, 0)
    streamed_s = start_s + later * pace_s + np.where(later > 0, late_s, 0.0) + last_s
    streamed_passes = filled + 1 + rest / max(per_pass, 1.0)
    alone_s, alone_passes = (runs + 1) * pass_s, runs + 1.0
    is_streamed = runs >= filled
    return (
        np.where(is_streamed, streamed_s, alone_s),
        np.where(is_streamed, np.minimum(streamed_passes, runs + 1), alone_passes),
    )


def _pace(costs: Costs, max_ahead: int) -> tuple[float, float]:
    """Seconds per token and tokens per pass once drafts are ahead: a pass takes what arrived during the one before, the
    drafter's pace bounds it, and so does the window."""
    window_s = (costs.round_trip_s + costs.decode_s) / max(max_ahead, 1)
    slowest_s = max(costs.draft_s, window_s, 1e-9)
    if slowest_s <= costs.verify_per_token_s:
        per_pass = float(max_ahead)
    else:
        per_pass = min(costs.verify_fixed_s / (slowest_s - costs.verify_per_token_s), float(max_ahead))
    per_pass = max(per_pass, 1.0)
    return max(slowest_s, costs.verify_s(per_pass) / per_pass), per_pass
