"""Closed forms. Leviathan et al., arXiv 2211.17192, for rounds; "Speculation at a Distance", arXiv 2606.25091, for the
window in which rounds over a link beat streaming; the stream's bound and break-even follow from one restart per
contradiction.
"""

import math

from paceline.common.speed.costs import Costs, Prediction

_LONGEST_BLOCK = 256


def committed_per_round(acceptance: float, num_drafted: int) -> float:
    """Expected tokens of one round: those accepted and the verifier's own one."""
    if acceptance >= 1:
        return num_drafted + 1.0
    return (1 - acceptance ** (num_drafted + 1)) / (1 - acceptance)


def predict_cloud(costs: Costs) -> Prediction:
    """The verifier decodes alone; the link delays the first token and no other."""
    return Prediction(1 / costs.decode_s, 1.0)


def predict_local(costs: Costs) -> Prediction:
    """The drafter alone; nothing is verified."""
    return Prediction(1 / costs.draft_s if costs.draft_s else math.inf, 0.0)


def predict_sync(costs: Costs, num_drafted: int) -> Prediction:
    """One block after another: draft, send, wait."""
    committed = committed_per_round(costs.acceptance, num_drafted)
    round_s = num_drafted * costs.draft_s + costs.verify_s(num_drafted) + costs.round_trip_s
    return Prediction(committed / round_s, 1 / committed)


def best_sync_length(costs: Costs) -> int:
    """Tokens per block that give rounds the most tokens per second: the first length that one more does not better.

    Tokens of a round are concave in the length and its time is affine, so their ratio has no second peak.
    """
    rate = predict_sync(costs, 0).tokens_per_s
    for length in range(_LONGEST_BLOCK):
        longer = predict_sync(costs, length + 1).tokens_per_s
        if longer <= rate:
            return length
        rate = longer
    return _LONGEST_BLOCK


def best_sync_length_closed(costs: Costs) -> float:
    """The same in closed form, for real-valued lengths.

    With per-token cost ``a = draft_s + verify_per_token_s``, fixed cost ``F`` and ``L = ln(1/acceptance)`` the optimum
    is ``(-W(-exp(-(1 + L (F/a - 1)))) - 1) / L - F/a``, W the lower branch of Lambert's function: it grows with the
    logarithm of the round trip.
    """
    per_token_s = costs.draft_s + costs.verify_per_token_s
    fixed_s = costs.round_trip_s + costs.decode_s
    if not 0 < costs.acceptance < 1 or per_token_s <= 0:
        return 0.0 if costs.acceptance <= 0 else math.inf
    decay = math.log(1 / costs.acceptance)
    exponent = 1 + decay * (fixed_s / per_token_s - 1)
    return max((_lower_lambert(exponent) - 1) / decay - fixed_s / per_token_s, 0.0)


def _lower_lambert(exponent: float) -> float:
    """``-W(-exp(-exponent))`` on the lower branch: the root ``w >= 1`` of ``w - ln w = exponent``, by Newton."""
    guess = exponent + math.log(max(exponent, 1.0)) + 1.0
    for _ in range(50):
        step = (guess - math.log(guess) - exponent) / (1 - 1 / guess) if guess > 1 else 0.0
        guess -= step
        if abs(step) < 1e-12 * guess:
            break
    return guess


def predict_colocated(costs: Costs, server_draft_s: float) -> Prediction:
    """A drafter beside the target, at its best block length: no link inside the round."""
    beside = Costs(
        server_draft_s, costs.verify_fixed_s, costs.verify_per_token_s, 0.0, acceptance=costs.acceptance
    )
    return predict_sync(beside, best_sync_length(beside))


def predict_one_ahead(costs: Costs, num_drafted: int) -> Prediction:
    """A block is written while the one before is checked; it is sent on only if all of that stands, and no bonus token
    is taken (PEARL, PicoSpec)."""
    stands = costs.acceptance**num_drafted
    accepted = committed_per_round(costs.acceptance, num_drafted - 1) if num_drafted else 0.0
    draft_s = num_drafted * costs.draft_s
    check_s = costs.verify_s(num_drafted) + costs.round_trip_s
    round_s = stands * max(draft_s, check_s) + (1 - stands) * (draft_s + check_s)
    committed = max(accepted, 1e-9)
    return Prediction(committed / round_s, 1 / committed)


def best_one_ahead_length(costs: Costs) -> int:
    """Tokens per block that give the one-block-ahead pipeline the most tokens per second."""
    return max(range(1, _LONGEST_BLOCK + 1), key=lambda length: predict_one_ahead(costs, length).tokens_per_s)


def stream_bound(costs: Costs) -> float:
    """Tokens per second no single-path stream without fill can pass: every contradiction costs one journey."""
    return 1 / (costs.draft_s + (1 - costs.acceptance) * (costs.round_trip_s + costs.decode_s))


def break_even_sync_s(costs: Costs, num_drafted: int) -> float:
    """Round trip below which rounds of that length beat cloud streaming; negative: never."""
    committed = committed_per_round(costs.acceptance, num_drafted)
    return committed * costs.decode_s - num_drafted * costs.draft_s - costs.verify_s(num_drafted)


def break_even_bound_s(costs: Costs) -> float:
    """Round trip below which the stream's bound beats cloud streaming; negative: never."""
    if costs.acceptance >= 1:
        return math.inf if costs.draft_s < costs.decode_s else -math.inf
    return (costs.decode_s - costs.draft_s) / (1 - costs.acceptance) - costs.decode_s
