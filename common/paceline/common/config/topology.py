"""A chain of hops as a value: who drafts, who verifies, and where each one listens.

    version: 1
    sampling: {temperature: 0.7, top_p: 0.95, seed: 7}
    hops:
      - {name: phone, drafter: {kind: onnx, model: models/pico-onnx}}
      - {name: cloud, listen: 127.0.0.1:7443, target: {kind: transformers, model: models/base}}

The first hop drafts, the last one verifies, and each one between does both: it is a relay. These classes say which
keys exist and what each one holds; `checks` says which of them fit together.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    PrivateAttr,
    Tag,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from paceline.common.config.environment import Secret, redact
from paceline.common.config.errors import Path
from paceline.common.model_files import DIGEST_PATTERN
from paceline.common.tokens import Rule, SamplingParams

SEED_LIMIT = 1 << 64
MAX_UPSTREAMS = 8


def _speculative_tokens(value: Any) -> Any:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise PydanticCustomError(
        "num_speculative_tokens",
        "{value} is neither a number of at least 1 nor auto",
        {"value": _shown(value), "cure": "`auto` adapts to cost and acceptance"},
    )


def _upstreams(value: Any) -> tuple[str, ...]:
    addresses = [value] if isinstance(value, str) else value
    is_list = isinstance(addresses, list) and 1 <= len(addresses) <= MAX_UPSTREAMS
    if is_list and all(isinstance(one, str) and 0 < len(one) <= 4096 for one in addresses):
        return tuple(addresses)
    raise PydanticCustomError(
        "upstream",
        "{value} is neither an address nor a list of 1 to {most} of them",
        {"value": _shown(value), "most": MAX_UPSTREAMS, "cure": "for example cloud.example:7443"},
    )


def _shown(value: Any) -> str:
    return f"{value!r:.60}"


SpeculativeTokens = Annotated[int | Literal["auto"], BeforeValidator(_speculative_tokens)]
Upstreams = Annotated[
    tuple[str, ...],
    PlainValidator(_upstreams),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {
                    "type": "array",
                    "items": {"type": "string", "minLength": 1},
                    "minItems": 1,
                    "maxItems": MAX_UPSTREAMS,
                },
            ]
        }
    ),
]
Milliseconds = Annotated[float, Field(ge=0, lt=3_600_000)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, lt=1e12)]
Count = Annotated[int, Field(ge=1, le=1 << 31)]
Role = Literal["drafter", "client", "relay", "verifier"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Text = Annotated[str, Field(min_length=1, max_length=4096)]
Digest = Annotated[str, Field(pattern=DIGEST_PATTERN)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class Sampling(_Section):
    """The law that is asked for, and the seed that picks from it."""

    temperature: float = 0.0
    """0 means greedy; otherwise logits are divided by it. At most 100."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of likeliest tokens whose mass reaches this. Above 0, at most 1."""
    min_p: float = 0.0
    """Drop tokens less likely than this times the likeliest. 0 to 1."""
    repetition_penalty: float = 1.0
    """Divide positive and multiply negative logits of tokens seen before. Above 0."""
    presence_penalty: float = 0.0
    """Subtracted once from the logit of every token in the output. -2 to 2."""
    frequency_penalty: float = 0.0
    """Subtracted from a logit once per occurrence in the output. -2 to 2."""
    seed: Annotated[int, Field(ge=0, lt=SEED_LIMIT)] = 0
    """Unsigned 64-bit; the same seed gives the same text, whatever drafts it."""

    @property
    def params(self) -> SamplingParams:
        """The same as the value that travels."""
        return SamplingParams(**self.model_dump(exclude={"seed"}))


class DrafterSection(_Section):
    """What writes ahead."""

    kind: Text
    """`onnx`, `torch`, `ngram`, `table`; `cascade`, `vertical`, `adaptive`, `siblings`, `union` of several `drafters`;
    or the name another installed package registered."""
    num_speculative_tokens: SpeculativeTokens = "auto"
    """Tokens per block; `auto` adapts to cost and acceptance."""
    model: Text | None = None
    """Folder of the draft model (onnx, torch)."""
    digest: Digest | None = None
    """What `paceline models digest` printed for `model`; any other is refused (onnx, torch)."""
    precision: Literal["int4", "int8", "fp32"] | None = None
    """Weights of the export that is made when `model` is a Hugging Face folder (onnx). Default int8."""
    device: Text | None = None
    """Where it runs, as torch names it (torch)."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Precision of weights and cache (torch)."""
    num_threads: Count | None = None
    """Cores it may use (onnx, torch)."""
    max_length: Count | None = None
    """Cap on its context, to bound memory (onnx, torch, table)."""
    all_rows: bool | None = None
    """The export must give logits after every token, so that another drafter may guess for it (onnx)."""
    min_ngram: Count | None = None
    """Shortest suffix worth copying after (ngram)."""
    max_ngram: Count | None = None
    """Longest suffix looked for (ngram)."""
    vocab_size: Count | None = None
    """Number of token ids (table)."""
    agreement: float | None = None
    """How much it resembles the table target, 0 to 1 (table)."""
    own_seed: Annotated[int, Field(ge=0, lt=SEED_LIMIT)] | None = None
    """Which errors it makes (table)."""
    drafters: Annotated[tuple["DrafterSection", ...], Field(min_length=1, max_length=8)] | None = None
    """What it is made of, the largest first (cascade, vertical, adaptive, siblings, union)."""
    tokens: Annotated[tuple[Count, ...], Field(max_length=8)] | None = None
    """Most tokens of a block each of `drafters` writes; the last may be left out and writes the rest (cascade)."""
    num_guesses: Count | None = None
    """Tokens guessed for one forward of the drafter before (vertical)."""
    lengths: Annotated[tuple[Count, ...], Field(min_length=1, max_length=8)] | None = None
    """Block lengths to choose from (adaptive)."""
    options: dict[str, Any] | None = None
    """Keyword arguments of a drafter from another package, passed on as they are."""


class TargetSection(_Section):
    """What verifies."""

    kind: Literal["transformers", "table"] = "transformers"
    """`transformers`: a language model. `table`: a law without weights, for tests and simulation."""
    model: Text | None = None
    """Folder or hub id (transformers)."""
    digest: Digest | None = None
    """What `paceline models digest` printed for `model`, a folder; any other is refused (transformers)."""
    revision: Text | None = None
    """Branch, tag or commit on the hub (transformers)."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$")] | None = None
    """`auto`, `cpu`, `cuda` or `cuda:1` (transformers). Default auto."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    """Precision of weights and cache (transformers). Default auto: the checkpoint's own."""
    vocab_size: Count | None = None
    """Width of a row of logits (table)."""
    seed: Annotated[int, Field(ge=0, lt=SEED_LIMIT)] | None = None
    """Which law (table)."""
    step_ms: Annotated[float, Field(ge=0, le=60_000)] | None = None
    """What every step sleeps, to stand for a slow model, milliseconds (table)."""
    max_sessions: Count = 64
    """Sessions at a time; one more is refused."""
    idle_s: Annotated[float, Field(ge=0, le=86_400)] = 60.0
    """How long a client may leave its session waiting before its place is given up, seconds; 0: for ever."""
    park_s: Annotated[float, Field(ge=0, le=86_400)] = 60.0
    """How long the cache of a stream that broke off is kept for whoever comes back, seconds; 0 keeps none."""
    max_parked_sessions: Annotated[int, Field(ge=0)] = 64
    """Caches kept so at a time, and no more than the live sessions leave room for."""
    receipt_key: Text | None = None
    """File with the fleet's secrets for receipts, one per line: the first signs, all are known again (the last hop)."""
    require_receipts: bool = False
    """Take no history that has no receipt (the last hop)."""
    kv_cache_tokens: Count | None = None
    """Tokens the cache holds over all sessions (transformers). Default: what fits."""
    max_draft_tokens: Count = 64
    """Longest draft block, tokens."""
    max_blocks_in_flight: Count = 16
    """Unsettled blocks per session."""
    max_step_tokens: Count = 1024
    """Tokens in one engine step, over all sessions."""
    prefill_chunk_tokens: Count = 256
    """Prompt tokens in one engine step, so that a long prompt delays nobody by more than one chunk."""
    max_round_ms: Milliseconds | None = None
    """No new session where, by measured costs, a turn of every session would then take longer. Default: as many as
    fit."""
    rules: Annotated[tuple[Rule, ...], Field(min_length=1)] = tuple(Rule)
    """Rules this verifier applies; leave `rejection` out for strangers, whose claimed law it would trust."""


class TlsSection(_Section):
    """Certificates of one hop, towards the one below and the one above; PEM files on that hop's machine."""

    cert: Text | None = None
    """Its own: shown to the hop below, and to the hop above if that asks."""
    key: Text | None = None
    """Private key of `cert`."""
    client_ca: Text | None = None
    """Whose certificates it accepts from below. With it, nobody gets in without one."""
    ca: Text | None = None
    """Whose certificate it accepts from the hop above, or `system` for the public authorities. With it, the link up is
    encrypted."""


class QuotaSection(_Section):
    """What one tenant may take; no key, no bound."""

    max_sessions: Count | None = None
    """Sessions at a time."""
    positions_per_s: Rate | None = None
    """Positions run through the target: prompts, drafts (accepted or not), and its own tokens. Beyond, texts slow
    down."""
    bytes_per_s: Rate | None = None
    """Payload, both ways together. Beyond, texts slow down."""
    opens_per_s: Rate | None = None
    """Attempts to open a session."""


class TenantSection(QuotaSection):
    """What one tenant may do."""

    rules: tuple[Rule, ...] = ()
    """Rules it may use; none listed: all."""


FORMS_OF_TENANT = ("<rules>", "<section>")
"""Which of its two forms a tenant is written in; pydantic puts them into the paths of errors."""


def _form_of_tenant(value: Any) -> str:
    return FORMS_OF_TENANT[0] if isinstance(value, list | tuple) else FORMS_OF_TENANT[1]


Tenant = Annotated[
    Annotated[tuple[Rule, ...], Tag(FORMS_OF_TENANT[0])] | Annotated[TenantSection, Tag(FORMS_OF_TENANT[1])],
    Discriminator(_form_of_tenant),
]


class AccessSection(_Section):
    """Who may call a hop, and what for."""

    token_key: Text | None = None
    """File that checks callers' tokens: a public key (PEM), a JWKS, or a shared secret. Nobody gets in without one."""
    token_audience: Text = "paceline"
    """What a token's `aud` must hold."""
    tenants: dict[Name, Tenant] | None = None
    """Tenants that may call, each with its rules and quotas, or just a list of rules (empty: all). Default: all who
    prove who they are."""
    quota: QuotaSection | None = None
    """What every tenant may take that has no quotas of its own. Where nobody is asked all callers are one tenant."""

    @property
    def tenant_sections(self) -> dict[str, TenantSection]:
        """Tenants in the long form."""
        return {
            name: one if isinstance(one, TenantSection) else TenantSection(rules=one)
            for name, one in (self.tenants or {}).items()
        }


class ExpectSection(_Section):
    """What `paceline topology plan` reckons with; nothing that runs reads it."""

    rtt_ms: Milliseconds | None = None
    """Round trip to the hop above; every hop but the last."""
    draft_ms: Milliseconds | None = None
    """Per token that the first hop drafts."""
    verify_ms: Milliseconds | None = None
    """Per pass of this hop's target, whatever it checks."""
    verify_per_token_ms: Milliseconds | None = None
    """Per token in a pass."""
    acceptance: dict[str, Share] | None = None
    """For hops below, by name: share of their tokens that stand under this hop's model."""


class HopSection(_Section):
    """One machine of the chain."""

    name: Name
    """Unique; letters, digits, dots, dashes, underscores. Labels metrics."""
    listen: str | None = None
    """HOST:PORT where it serves: verifier and relay always, the first hop to offer a local endpoint."""
    upstream: Upstreams | None = None
    """The next hop's address as seen from here, or its name; its `listen` where that can be reached as it stands. A
    list has more addresses, tried in this order."""
    optional: bool = False
    """A relay the chain may do without when it does not answer."""
    drafter: DrafterSection | None = None
    """What writes ahead; first hop only. Without one the first hop asks the next to stream alone."""
    target: TargetSection | None = None
    """What verifies; every hop but the first."""
    tls: TlsSection | None = None
    """Certificates."""
    access: AccessSection | None = None
    """Who may call it."""
    token_file: Text | None = None
    """Holds the token it shows to the hop above."""
    peer_timeout_s: Annotated[float, Field(ge=2, le=3600)] = 10.0
    """How long a neighbour, below or above, that died or froze without a word may go unnoticed, seconds."""
    insecure: bool = False
    """Take anybody, or links without TLS, from other machines too: for networks that keep strangers out."""
    expect: ExpectSection | None = None
    """Figures for `paceline topology plan`."""


class Topology(_Section):
    """A whole chain, from the device to the target."""

    version: Literal[1]
    """Version of this format."""
    sampling: Sampling = Sampling()
    rule: Rule | None = None
    """How drafts are judged; by default greedy at temperature 0, coupled above."""
    max_new_tokens: Count = 128
    """Longest text."""
    pad_to: int = 0
    """Padded mode: bytes of every message of a text, on every link, so that sizes say nothing. 128 to 4096; 0 for
    off."""
    hops: Annotated[tuple[HopSection, ...], Field(min_length=1, max_length=8)]
    """From the device to the target."""

    @property
    def effective_rule(self) -> Rule:
        """The rule that no `rule` stands for."""
        if self.rule is not None:
            return self.rule
        return Rule.GREEDY if self.sampling.temperature == 0 else Rule.COUPLED

    _written: Mapping[Path, str] = PrivateAttr(default_factory=dict)
    _secrets: tuple[Secret, ...] = PrivateAttr(default=())

    def hide(self, text: str) -> str:
        """The text with references in place of whatever the environment put into this topology."""
        return redact(text, self._secrets, parts=False)

    def written(self, path: Path) -> str | None:
        """A text as the file has it, `${NAME}` and all; None where it took nothing from the environment."""
        return self._written.get(path)

    def index_of(self, name: str) -> int | None:
        """Place of the hop called `name`; None if there is none."""
        return next((index for index, hop in enumerate(self.hops) if hop.name == name), None)

    def role_of(self, index: int) -> Role:
        """What a hop does: the first drafts (or asks for all), the last verifies, each one between does both."""
        hop = self.hops[index]
        if hop.target is None:
            return "drafter" if hop.drafter is not None else "client"
        return "verifier" if index == len(self.hops) - 1 else "relay"

    def upstream_of(self, index: int) -> str | None:
        """Address where hop `index` reaches the next one; None for the last."""
        return next(iter(self.upstreams_of(index)), None)

    def above(self, index: int) -> tuple[int, ...]:
        """Places of the hops that hop `index` may draft for, the best first: the next one and, while that is optional,
        the one after it."""
        places = list(range(index + 1, min(index + 2, len(self.hops))))
        while places and self.hops[places[-1]].optional:
            places.append(places[-1] + 1)
        return tuple(places)

    def upstreams_of(self, index: int) -> tuple[str, ...]:
        """Addresses hop `index` may connect to, the best first: several where it states several, else those of the hops
        above, each as the hop below it sees it."""
        stated = self.hops[index].upstream or ()
        above = self.above(index)
        if len(stated) > 1:
            return tuple(map(self._address, stated))
        first = [self._address(one) for one in stated or [self.hops[place].name for place in above[:1]]]
        beyond = [one for place in above[1:] for one in self.upstreams_of(place - 1)[:1]]
        return tuple(dict.fromkeys(first + beyond))

    def _address(self, upstream: str) -> str:
        index = self.index_of(upstream)
        if index is None:
            return upstream
        host, _, port = (self.hops[index].listen or "").rpartition(":")
        return f"127.0.0.1:{port}" if host in ANY_ADDRESS else f"{host}:{port}"


ANY_ADDRESS = ("0.0.0.0", "[::]")
"""Hosts that mean "every interface": one can listen there, not connect."""
