from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Rule(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RULE_UNSPECIFIED: _ClassVar[Rule]
    RULE_GREEDY: _ClassVar[Rule]
    RULE_COUPLED: _ClassVar[Rule]
    RULE_ONE_HOT: _ClassVar[Rule]
    RULE_REJECTION: _ClassVar[Rule]

class Feature(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FEATURE_UNSPECIFIED: _ClassVar[Feature]
    FEATURE_SPARSE_LAW: _ClassVar[Feature]
    FEATURE_TREE: _ClassVar[Feature]
    FEATURE_RESUME: _ClassVar[Feature]
    FEATURE_RECEIPTS: _ClassVar[Feature]
    FEATURE_LOGPROBS: _ClassVar[Feature]

class FillPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FILL_POLICY_UNSPECIFIED: _ClassVar[FillPolicy]
    FILL_POLICY_OFF: _ClassVar[FillPolicy]
    FILL_POLICY_UNLIMITED: _ClassVar[FillPolicy]
    FILL_POLICY_BOUNDED: _ClassVar[FillPolicy]
    FILL_POLICY_AUTO: _ClassVar[FillPolicy]

class How(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HOW_UNSPECIFIED: _ClassVar[How]
    HOW_ONE_HOT: _ClassVar[How]
    HOW_SHARED_NOISE: _ClassVar[How]
    HOW_SAMPLED: _ClassVar[How]

class NextKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NEXT_KIND_UNSPECIFIED: _ClassVar[NextKind]
    NEXT_KIND_RECOVERED: _ClassVar[NextKind]
    NEXT_KIND_BONUS: _ClassVar[NextKind]
    NEXT_KIND_FILLED: _ClassVar[NextKind]

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
    FINISH_REASON_CANCELLED: _ClassVar[FinishReason]
RULE_UNSPECIFIED: Rule
RULE_GREEDY: Rule
RULE_COUPLED: Rule
RULE_ONE_HOT: Rule
RULE_REJECTION: Rule
FEATURE_UNSPECIFIED: Feature
FEATURE_SPARSE_LAW: Feature
FEATURE_TREE: Feature
FEATURE_RESUME: Feature
FEATURE_RECEIPTS: Feature
FEATURE_LOGPROBS: Feature
FILL_POLICY_UNSPECIFIED: FillPolicy
FILL_POLICY_OFF: FillPolicy
FILL_POLICY_UNLIMITED: FillPolicy
FILL_POLICY_BOUNDED: FillPolicy
FILL_POLICY_AUTO: FillPolicy
HOW_UNSPECIFIED: How
HOW_ONE_HOT: How
HOW_SHARED_NOISE: How
HOW_SAMPLED: How
NEXT_KIND_UNSPECIFIED: NextKind
NEXT_KIND_RECOVERED: NextKind
NEXT_KIND_BONUS: NextKind
NEXT_KIND_FILLED: NextKind
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason
FINISH_REASON_CANCELLED: FinishReason

class DescribeRequest(_message.Message):
    __slots__ = ("protocol_version",)
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    def __init__(self, protocol_version: _Optional[int] = ...) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("protocol_version", "software_version", "model_name", "vocab_size", "tokenizer_fingerprint", "max_context", "eos_token_ids", "rules", "max_sessions", "max_draft_tokens", "device", "dtype", "features", "active_sessions", "verify_floor_us", "hops")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    MAX_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    EOS_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    MAX_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_DRAFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    VERIFY_FLOOR_US_FIELD_NUMBER: _ClassVar[int]
    HOPS_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    software_version: str
    model_name: str
    vocab_size: int
    tokenizer_fingerprint: bytes
    max_context: int
    eos_token_ids: _containers.RepeatedScalarFieldContainer[int]
    rules: _containers.RepeatedScalarFieldContainer[Rule]
    max_sessions: int
    max_draft_tokens: int
    device: str
    dtype: str
    features: _containers.RepeatedScalarFieldContainer[Feature]
    active_sessions: int
    verify_floor_us: int
    hops: _containers.RepeatedCompositeFieldContainer[HopDescription]
    def __init__(self, protocol_version: _Optional[int] = ..., software_version: _Optional[str] = ..., model_name: _Optional[str] = ..., vocab_size: _Optional[int] = ..., tokenizer_fingerprint: _Optional[bytes] = ..., max_context: _Optional[int] = ..., eos_token_ids: _Optional[_Iterable[int]] = ..., rules: _Optional[_Iterable[_Union[Rule, str]]] = ..., max_sessions: _Optional[int] = ..., max_draft_tokens: _Optional[int] = ..., device: _Optional[str] = ..., dtype: _Optional[str] = ..., features: _Optional[_Iterable[_Union[Feature, str]]] = ..., active_sessions: _Optional[int] = ..., verify_floor_us: _Optional[int] = ..., hops: _Optional[_Iterable[_Union[HopDescription, _Mapping]]] = ...) -> None: ...

class HopDescription(_message.Message):
    __slots__ = ("name", "model_name", "device", "active_sessions", "num_judged", "num_accepted", "num_written", "num_steps")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    NUM_JUDGED_FIELD_NUMBER: _ClassVar[int]
    NUM_ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    NUM_WRITTEN_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    name: str
    model_name: str
    device: str
    active_sessions: int
    num_judged: int
    num_accepted: int
    num_written: int
    num_steps: int
    def __init__(self, name: _Optional[str] = ..., model_name: _Optional[str] = ..., device: _Optional[str] = ..., active_sessions: _Optional[int] = ..., num_judged: _Optional[int] = ..., num_accepted: _Optional[int] = ..., num_written: _Optional[int] = ..., num_steps: _Optional[int] = ...) -> None: ...

class DecodeRequest(_message.Message):
    __slots__ = ("open", "draft", "cancel", "close", "padding")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    DRAFT_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    open: Open
    draft: Draft
    cancel: Cancel
    close: Close
    padding: bytes
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., draft: _Optional[_Union[Draft, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., close: _Optional[_Union[Close, _Mapping]] = ..., padding: _Optional[bytes] = ...) -> None: ...

class DecodeResponse(_message.Message):
    __slots__ = ("opened", "verdict", "finished", "draining", "error", "provisional", "padding")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PROVISIONAL_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    opened: Opened
    verdict: Verdict
    finished: Finished
    draining: Draining
    error: Error
    provisional: Verdict
    padding: bytes
    def __init__(self, opened: _Optional[_Union[Opened, _Mapping]] = ..., verdict: _Optional[_Union[Verdict, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ..., draining: _Optional[_Union[Draining, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., provisional: _Optional[_Union[Verdict, _Mapping]] = ..., padding: _Optional[bytes] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias_token_ids", "logit_biases")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIASES_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias_token_ids: _containers.RepeatedScalarFieldContainer[int]
    logit_biases: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., logit_bias_token_ids: _Optional[_Iterable[int]] = ..., logit_biases: _Optional[_Iterable[float]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("protocol_version", "features", "tokenizer_fingerprint", "prompt_token_ids", "committed_token_ids", "seed", "sampling", "rule", "fill", "max_new_tokens", "stop_token_ids", "ignore_eos", "max_fill_passes", "path", "request_id", "deadline_ms", "session_id", "receipt", "receipt_length", "pad_to", "logprobs", "attempt")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    FILL_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    IGNORE_EOS_FIELD_NUMBER: _ClassVar[int]
    MAX_FILL_PASSES_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    PAD_TO_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    features: _containers.RepeatedScalarFieldContainer[Feature]
    tokenizer_fingerprint: bytes
    prompt_token_ids: _containers.RepeatedScalarFieldContainer[int]
    committed_token_ids: _containers.RepeatedScalarFieldContainer[int]
    seed: int
    sampling: Sampling
    rule: Rule
    fill: FillPolicy
    max_new_tokens: int
    stop_token_ids: _containers.RepeatedScalarFieldContainer[int]
    ignore_eos: bool
    max_fill_passes: int
    path: _containers.RepeatedScalarFieldContainer[str]
    request_id: str
    deadline_ms: int
    session_id: bytes
    receipt: bytes
    receipt_length: int
    pad_to: int
    logprobs: LogprobsRequest
    attempt: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, protocol_version: _Optional[int] = ..., features: _Optional[_Iterable[_Union[Feature, str]]] = ..., tokenizer_fingerprint: _Optional[bytes] = ..., prompt_token_ids: _Optional[_Iterable[int]] = ..., committed_token_ids: _Optional[_Iterable[int]] = ..., seed: _Optional[int] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., rule: _Optional[_Union[Rule, str]] = ..., fill: _Optional[_Union[FillPolicy, str]] = ..., max_new_tokens: _Optional[int] = ..., stop_token_ids: _Optional[_Iterable[int]] = ..., ignore_eos: _Optional[bool] = ..., max_fill_passes: _Optional[int] = ..., path: _Optional[_Iterable[str]] = ..., request_id: _Optional[str] = ..., deadline_ms: _Optional[int] = ..., session_id: _Optional[bytes] = ..., receipt: _Optional[bytes] = ..., receipt_length: _Optional[int] = ..., pad_to: _Optional[int] = ..., logprobs: _Optional[_Union[LogprobsRequest, _Mapping]] = ..., attempt: _Optional[_Iterable[int]] = ...) -> None: ...

class LogprobsRequest(_message.Message):
    __slots__ = ("num_top", "prompt")
    NUM_TOP_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    num_top: int
    prompt: bool
    def __init__(self, num_top: _Optional[int] = ..., prompt: _Optional[bool] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("protocol_version", "features", "vocab_size", "max_draft_tokens", "max_blocks_in_flight", "stop_token_ids", "committed_length", "verify_fixed_us", "verify_per_token_us", "cached_length", "pad_to")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_DRAFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_BLOCKS_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_LENGTH_FIELD_NUMBER: _ClassVar[int]
    VERIFY_FIXED_US_FIELD_NUMBER: _ClassVar[int]
    VERIFY_PER_TOKEN_US_FIELD_NUMBER: _ClassVar[int]
    CACHED_LENGTH_FIELD_NUMBER: _ClassVar[int]
    PAD_TO_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    features: _containers.RepeatedScalarFieldContainer[Feature]
    vocab_size: int
    max_draft_tokens: int
    max_blocks_in_flight: int
    stop_token_ids: _containers.RepeatedScalarFieldContainer[int]
    committed_length: int
    verify_fixed_us: int
    verify_per_token_us: int
    cached_length: int
    pad_to: int
    def __init__(self, protocol_version: _Optional[int] = ..., features: _Optional[_Iterable[_Union[Feature, str]]] = ..., vocab_size: _Optional[int] = ..., max_draft_tokens: _Optional[int] = ..., max_blocks_in_flight: _Optional[int] = ..., stop_token_ids: _Optional[_Iterable[int]] = ..., committed_length: _Optional[int] = ..., verify_fixed_us: _Optional[int] = ..., verify_per_token_us: _Optional[int] = ..., cached_length: _Optional[int] = ..., pad_to: _Optional[int] = ...) -> None: ...

class Draft(_message.Message):
    __slots__ = ("base", "prefix_hash", "token_ids", "draft_probs_percent", "how", "law_sizes", "law_token_ids", "law_weights", "parents_plus_one", "more_follows")
    BASE_FIELD_NUMBER: _ClassVar[int]
    PREFIX_HASH_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    DRAFT_PROBS_PERCENT_FIELD_NUMBER: _ClassVar[int]
    HOW_FIELD_NUMBER: _ClassVar[int]
    LAW_SIZES_FIELD_NUMBER: _ClassVar[int]
    LAW_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LAW_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    PARENTS_PLUS_ONE_FIELD_NUMBER: _ClassVar[int]
    MORE_FOLLOWS_FIELD_NUMBER: _ClassVar[int]
    base: int
    prefix_hash: int
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    draft_probs_percent: _containers.RepeatedScalarFieldContainer[int]
    how: How
    law_sizes: _containers.RepeatedScalarFieldContainer[int]
    law_token_ids: _containers.RepeatedScalarFieldContainer[int]
    law_weights: _containers.RepeatedScalarFieldContainer[int]
    parents_plus_one: _containers.RepeatedScalarFieldContainer[int]
    more_follows: bool
    def __init__(self, base: _Optional[int] = ..., prefix_hash: _Optional[int] = ..., token_ids: _Optional[_Iterable[int]] = ..., draft_probs_percent: _Optional[_Iterable[int]] = ..., how: _Optional[_Union[How, str]] = ..., law_sizes: _Optional[_Iterable[int]] = ..., law_token_ids: _Optional[_Iterable[int]] = ..., law_weights: _Optional[_Iterable[int]] = ..., parents_plus_one: _Optional[_Iterable[int]] = ..., more_follows: _Optional[bool] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("base", "num_accepted", "next_token_id", "next_kind", "blocks_settled", "verify_us", "queue_us", "num_judged", "filled_token_ids", "author", "accepted_node_plus_one", "receipt", "logprobs", "top_token_ids", "top_logprobs")
    BASE_FIELD_NUMBER: _ClassVar[int]
    NUM_ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    NEXT_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    NEXT_KIND_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_SETTLED_FIELD_NUMBER: _ClassVar[int]
    VERIFY_US_FIELD_NUMBER: _ClassVar[int]
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    NUM_JUDGED_FIELD_NUMBER: _ClassVar[int]
    FILLED_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_NODE_PLUS_ONE_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    base: int
    num_accepted: int
    next_token_id: int
    next_kind: NextKind
    blocks_settled: int
    verify_us: int
    queue_us: int
    num_judged: int
    filled_token_ids: _containers.RepeatedScalarFieldContainer[int]
    author: int
    accepted_node_plus_one: int
    receipt: bytes
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    top_token_ids: _containers.RepeatedScalarFieldContainer[int]
    top_logprobs: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, base: _Optional[int] = ..., num_accepted: _Optional[int] = ..., next_token_id: _Optional[int] = ..., next_kind: _Optional[_Union[NextKind, str]] = ..., blocks_settled: _Optional[int] = ..., verify_us: _Optional[int] = ..., queue_us: _Optional[int] = ..., num_judged: _Optional[int] = ..., filled_token_ids: _Optional[_Iterable[int]] = ..., author: _Optional[int] = ..., accepted_node_plus_one: _Optional[int] = ..., receipt: _Optional[bytes] = ..., logprobs: _Optional[_Iterable[float]] = ..., top_token_ids: _Optional[_Iterable[int]] = ..., top_logprobs: _Optional[_Iterable[float]] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ("reason", "committed_length", "hops")
    REASON_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_LENGTH_FIELD_NUMBER: _ClassVar[int]
    HOPS_FIELD_NUMBER: _ClassVar[int]
    reason: FinishReason
    committed_length: int
    hops: _containers.RepeatedCompositeFieldContainer[HopReport]
    def __init__(self, reason: _Optional[_Union[FinishReason, str]] = ..., committed_length: _Optional[int] = ..., hops: _Optional[_Iterable[_Union[HopReport, _Mapping]]] = ...) -> None: ...

class HopReport(_message.Message):
    __slots__ = ("name", "num_judged", "num_accepted", "num_passes", "num_written", "verify_us", "bytes_up", "bytes_down", "round_trip_us", "num_reconnects")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUM_JUDGED_FIELD_NUMBER: _ClassVar[int]
    NUM_ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    NUM_PASSES_FIELD_NUMBER: _ClassVar[int]
    NUM_WRITTEN_FIELD_NUMBER: _ClassVar[int]
    VERIFY_US_FIELD_NUMBER: _ClassVar[int]
    BYTES_UP_FIELD_NUMBER: _ClassVar[int]
    BYTES_DOWN_FIELD_NUMBER: _ClassVar[int]
    ROUND_TRIP_US_FIELD_NUMBER: _ClassVar[int]
    NUM_RECONNECTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    num_judged: int
    num_accepted: int
    num_passes: int
    num_written: int
    verify_us: int
    bytes_up: int
    bytes_down: int
    round_trip_us: int
    num_reconnects: int
    def __init__(self, name: _Optional[str] = ..., num_judged: _Optional[int] = ..., num_accepted: _Optional[int] = ..., num_passes: _Optional[int] = ..., num_written: _Optional[int] = ..., verify_us: _Optional[int] = ..., bytes_up: _Optional[int] = ..., bytes_down: _Optional[int] = ..., round_trip_us: _Optional[int] = ..., num_reconnects: _Optional[int] = ...) -> None: ...

class Draining(_message.Message):
    __slots__ = ("grace_ms",)
    GRACE_MS_FIELD_NUMBER: _ClassVar[int]
    grace_ms: int
    def __init__(self, grace_ms: _Optional[int] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "reason", "field", "message", "cure", "retry_after_ms", "fatal", "blocks_settled")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CURE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    FATAL_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_SETTLED_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: str
    field: str
    message: str
    cure: str
    retry_after_ms: int
    fatal: bool
    blocks_settled: int
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ..., field: _Optional[str] = ..., message: _Optional[str] = ..., cure: _Optional[str] = ..., retry_after_ms: _Optional[int] = ..., fatal: _Optional[bool] = ..., blocks_settled: _Optional[int] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Close(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
