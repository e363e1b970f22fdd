"""What a verifier accepts. Cheap checks before costly ones; nothing is allocated from a client's number unchecked."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from paceline.common import acceptance
from paceline.common.errors import BadDraft, Incompatible, InvalidRequest, OutOfRange, UnsupportedVersion
from paceline.common.messages import PROTOCOL_VERSION, Feature, Open
from paceline.common.padding import check_padding
from paceline.common.sampling.quantised import LATTICE
from paceline.common.tokens import Draft, LogprobsRequest, Rule, SamplingParams

MAX_STOP_TOKEN_IDS = 64
MAX_LOGIT_BIASES = 1024
MAX_TOP_LOGPROBS = 20
MAX_RELAYS = 7
MAX_ATTEMPT = 2 + MAX_RELAYS
"""Numbers of `Open.attempt`: of each hop below, and of whoever uses a session id for several texts."""
MAX_NAME = 64
SESSION_ID_BYTES = 16
RECEIPT_BYTES = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """The target's and the operator's bounds."""

    vocab_size: int
    """Width of the target's logits."""
    max_context: int
    """Longest prompt + generated text, tokens."""
    max_draft_tokens: int = 64
    """Longest block, tokens."""
    max_judged_tokens: int = 256
    """Drafted tokens of one session in one step, over all its blocks: a backlog written offline takes few steps."""
    max_blocks_in_flight: int = 16
    """Unsettled blocks per session."""
    rules: frozenset[Rule] = frozenset(Rule)
    eos_token_ids: tuple[int, ...] = ()
    tokenizer_fingerprint: bytes = b""
    features: frozenset[Feature] = field(
        default_factory=lambda: frozenset({Feature.SPARSE_LAW, Feature.RESUME})
    )


def check_open(request: Open, limits: Limits) -> None:
    """Refuse an Open this verifier cannot serve.

    Raises:
        UnsupportedVersion, Incompatible, InvalidRequest or OutOfRange, naming the field, the value and the cure.
    """
    if request.protocol_version != PROTOCOL_VERSION:
        raise UnsupportedVersion(
            f"protocol {request.protocol_version} is not spoken here; this verifier speaks {PROTOCOL_VERSION}",
            field="protocol_version",
            cure="update the older end",
        )
    _check_tokenizer(request.tokenizer_fingerprint, limits.tokenizer_fingerprint)
    if not request.prompt_token_ids:
        raise InvalidRequest("the prompt has 0 tokens", field="prompt", cure="send at least one token")
    if request.max_new_tokens < 1:
        raise InvalidRequest(
            f"{request.max_new_tokens} is not at least 1", field="max_new_tokens", cure="ask for more"
        )
    wanted = len(request.prompt_token_ids) + request.max_new_tokens
    if wanted > limits.max_context:
        raise OutOfRange(
            f"prompt of {len(request.prompt_token_ids)} tokens + max_new_tokens {request.max_new_tokens} is more than "
            f"the model's context of {limits.max_context}",
            field="max_new_tokens",
            cure=f"at most {limits.max_context - len(request.prompt_token_ids)} here, or a shorter prompt"
            if len(request.prompt_token_ids) < limits.max_context
            else "shorten the prompt",
        )
    if len(request.committed_token_ids) > request.max_new_tokens:
        raise InvalidRequest(
            f"{len(request.committed_token_ids)} tokens, but max_new_tokens is {request.max_new_tokens}",
            field="committed_token_ids",
            cure="raise max_new_tokens, or send fewer",
        )
    for name in ("prompt_token_ids", "committed_token_ids", "stop_token_ids"):
        _check_token_range(getattr(request, name), limits.vocab_size, name)
    if len(request.stop_token_ids) > MAX_STOP_TOKEN_IDS:
        raise InvalidRequest(
            f"{len(request.stop_token_ids)} ids; at most {MAX_STOP_TOKEN_IDS}",
            field="stop_token_ids",
            cure="send fewer",
        )
    _check_path(request.path)
    _check_resumption(request)
    if len(request.request_id) > MAX_NAME or not request.request_id.isprintable():
        raise InvalidRequest(
            f"{request.request_id[:MAX_NAME]!r} is too long, or holds control characters",
            field="request_id",
            cure=f"at most {MAX_NAME} printable characters",
        )
    if request.logprobs is not None:
        check_logprobs(request.logprobs, limits.features)
    check_sampling(request.sampling, limits.vocab_size)
    check_rule(request.rule, request.sampling, limits.rules)
    check_padding(request.pad_to, request.rule)
    if request.pad_to and request.logprobs is not None:
        raise InvalidRequest(
            "probabilities do not fit into messages of one size", field="logprobs", cure="ask without pad_to"
        )


def _check_path(path: tuple[str, ...]) -> None:
    if len(path) > MAX_RELAYS:
        raise Incompatible(
            f"the request came through {len(path)} relays; at most {MAX_RELAYS}",
            field="path",
            cure="does the chain loop?",
        )
    for name in path:
        if not name or len(name) > MAX_NAME or not name.isprintable():
            raise InvalidRequest(
                f"{name[:MAX_NAME]!r} is no hop's name", field="path", cure="update the relay"
            )


def _check_resumption(request: Open) -> None:
    """What a client shows to be known again."""
    for name, size in (("session_id", SESSION_ID_BYTES), ("receipt", RECEIPT_BYTES)):
        found = len(getattr(request, name))
        if found not in (0, size):
            raise InvalidRequest(f"{found} bytes", field=name, cure=f"send {size}, or none")
    if len(request.attempt) > MAX_ATTEMPT:
        raise InvalidRequest(
            f"{len(request.attempt)} numbers", field="attempt", cure=f"send at most {MAX_ATTEMPT}"
        )
    num_prompt, num_history = len(request.prompt_token_ids), len(request.committed_token_ids)
    if request.receipt and not num_prompt < request.receipt_length <= num_prompt + num_history:
        raise InvalidRequest(
            f"{request.receipt_length} does not lie in the history, {num_prompt} to {num_prompt + num_history}",
            field="receipt_length",
            cure="send the length of the text that the receipt came with",
        )


def _check_tokenizer(theirs: bytes, ours: bytes) -> None:
    if theirs and ours and theirs != ours:
        raise Incompatible(
            f"the drafter's vocabulary ({theirs.hex()[:12]}) is not the target's ({ours.hex()[:12]})",
            field="tokenizer",
            cure="use a draft model that shares the target's tokenizer",
        )


def _check_token_range(token_ids: Iterable[int], vocab_size: int, field: str) -> None:
    for index, token_id in enumerate(token_ids):
        if not 0 <= token_id < vocab_size:
            raise InvalidRequest(
                f"token {token_id} is outside 0..{vocab_size - 1}",
                field=f"{field}[{index}]",
                cure="use the target's tokenizer",
            )


def check_sampling(params: SamplingParams, vocab_size: int | None = None) -> None:
    """Refuse sampling parameters that name no law."""
    bounds = {
        "temperature": (0.0, 100.0),
        "top_p": (math.ulp(0.0), 1.0),
        "min_p": (0.0, 1.0),
        "repetition_penalty": (math.ulp(0.0), 100.0),
        "presence_penalty": (-2.0, 2.0),
        "frequency_penalty": (-2.0, 2.0),
    }
    for name, (low, high) in bounds.items():
        value = getattr(params, name)
        if not (math.isfinite(value) and low <= value <= high):
            at_least = f"at least {low:g}" if low in (0.0, -2.0) else "above 0"
            raise InvalidRequest(
                f"{value} is not {at_least} and at most {high:g}",
                field=name,
                cure="choose a value in that range",
            )
    if params.top_k < 0:
        raise InvalidRequest(f"{params.top_k} is negative", field="top_k", cure="0 keeps all tokens")
    if len(params.logit_bias) > MAX_LOGIT_BIASES:
        raise InvalidRequest(
            f"{len(params.logit_bias)} entries; at most {MAX_LOGIT_BIASES}",
            field="logit_bias",
            cure="send fewer",
        )
    for token_id, bias in params.logit_bias.items():
        if not math.isfinite(bias):
            raise InvalidRequest(
                f"{bias} is not finite", field=f"logit_bias[{token_id}]", cure="send a finite number"
            )
    if vocab_size is not None:
        _check_token_range(params.logit_bias, vocab_size, "logit_bias")


def check_logprobs(wanted: LogprobsRequest, features: frozenset[Feature]) -> None:
    """Refuse what is more than a verifier tells about probabilities."""
    if Feature.LOGPROBS not in features:
        raise InvalidRequest(
            "this verifier tells none", field="logprobs", cure="leave them out, or ask one that is no relay"
        )
    if not 0 <= wanted.num_top <= MAX_TOP_LOGPROBS:
        raise InvalidRequest(
            f"{wanted.num_top} is not in 0..{MAX_TOP_LOGPROBS}",
            field="logprobs.num_top",
            cure="ask for fewer",
        )


def check_rule(rule: Rule, params: SamplingParams, allowed: frozenset[Rule]) -> None:
    """Refuse a rule that is not allowed here or does not fit the law."""
    if rule not in allowed:
        raise InvalidRequest(
            f"{rule} is not allowed by this verifier",
            field="rule",
            cure=f"one of {', '.join(sorted(allowed))}",
        )
    if rule is Rule.GREEDY and not params.is_greedy:
        raise InvalidRequest(
            f"greedy needs temperature 0, got {params.temperature:g}",
            field="rule",
            cure="use coupled, or temperature 0",
        )
    if rule is Rule.COUPLED and params.is_greedy:
        raise InvalidRequest("coupled needs a temperature above 0", field="rule", cure="use greedy")


def check_draft(draft: Draft, rule: Rule, limits: Limits) -> None:
    """Refuse a block that is malformed or that the rule would be biased by; the stream goes on.

    Raises:
        BadDraft: naming the field, the value and the cure.
    """
    if len(draft) > limits.max_draft_tokens:
        raise BadDraft(
            f"{len(draft)} tokens; this verifier takes at most {limits.max_draft_tokens} in a block",
            field="token_ids",
            cure="send shorter blocks",
        )
    if draft.base > limits.max_context:
        raise BadDraft(
            f"{draft.base} is beyond the context of {limits.max_context}",
            field="base",
            cure="continue the text",
        )
    for index, law in enumerate(draft.laws):
        # Weights are positive whole numbers that sum to LATTICE; a longer list is wrong, and slow to look through.
        if len(law.token_ids) > LATTICE:
            raise BadDraft(
                f"{len(law.token_ids)} tokens; at most {LATTICE}",
                field=f"laws[{index}]",
                cure="quantise the law",
            )
    acceptance.check_draft(rule, draft, limits.vocab_size)
