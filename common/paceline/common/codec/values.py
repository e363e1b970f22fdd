"""Enumerations and units on the wire."""

from collections.abc import Mapping
from typing import Any

from paceline.common.errors import Status
from paceline.common.messages import (
    Feature,
    FillPolicy,
)
from paceline.common.tokens import FinishReason, How, Origin, Rule
from paceline.v1 import verifier_pb2 as pb

PROB_SCALE = 100
MICRO = 1_000_000

# Generated enum values are numbers at run time and classes of their own to type checkers, hence Any.
RULES: Mapping[Rule, Any] = {
    Rule.GREEDY: pb.RULE_GREEDY,
    Rule.COUPLED: pb.RULE_COUPLED,
    Rule.ONE_HOT: pb.RULE_ONE_HOT,
    Rule.REJECTION: pb.RULE_REJECTION,
}
FILLS: Mapping[FillPolicy, Any] = {
    FillPolicy.OFF: pb.FILL_POLICY_OFF,
    FillPolicy.UNLIMITED: pb.FILL_POLICY_UNLIMITED,
    FillPolicy.BOUNDED: pb.FILL_POLICY_BOUNDED,
    FillPolicy.AUTO: pb.FILL_POLICY_AUTO,
}
FEATURES: Mapping[Feature, Any] = {
    Feature.SPARSE_LAW: pb.FEATURE_SPARSE_LAW,
    Feature.TREE: pb.FEATURE_TREE,
    Feature.RESUME: pb.FEATURE_RESUME,
    Feature.RECEIPTS: pb.FEATURE_RECEIPTS,
    Feature.LOGPROBS: pb.FEATURE_LOGPROBS,
}
HOWS: Mapping[How, Any] = {
    How.ONE_HOT: pb.HOW_ONE_HOT,
    How.SHARED_NOISE: pb.HOW_SHARED_NOISE,
    How.SAMPLED: pb.HOW_SAMPLED,
}
NEXT_KINDS: Mapping[Origin | None, Any] = {
    None: pb.NEXT_KIND_UNSPECIFIED,
    Origin.RECOVERED: pb.NEXT_KIND_RECOVERED,
    Origin.BONUS: pb.NEXT_KIND_BONUS,
    Origin.FILLED: pb.NEXT_KIND_FILLED,
}
REASONS: Mapping[FinishReason, Any] = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.CANCELLED: pb.FINISH_REASON_CANCELLED,
}
CODES: Mapping[Status, int] = {
    Status.CANCELLED: 1,
    Status.INVALID_ARGUMENT: 3,
    Status.DEADLINE_EXCEEDED: 4,
    Status.NOT_FOUND: 5,
    Status.PERMISSION_DENIED: 7,
    Status.RESOURCE_EXHAUSTED: 8,
    Status.FAILED_PRECONDITION: 9,
    Status.ABORTED: 10,
    Status.OUT_OF_RANGE: 11,
    Status.UNIMPLEMENTED: 12,
    Status.INTERNAL: 13,
    Status.UNAVAILABLE: 14,
    Status.DATA_LOSS: 15,
    Status.UNAUTHENTICATED: 16,
}


def _reverse(table: Mapping[Any, int]) -> Mapping[int, Any]:
    return {number: value for value, number in table.items()}


RULE_OF, FILL_OF, FEATURE_OF = _reverse(RULES), _reverse(FILLS), _reverse(FEATURES)
HOW_OF, NEXT_KIND_OF = _reverse(HOWS), _reverse(NEXT_KINDS)
REASON_OF, STATUS_OF = _reverse(REASONS), _reverse(CODES)
