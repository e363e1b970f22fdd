"""Every message of the protocol as a frozen dataclass; `paceline.common.codec` alone knows their wire form.

Drafts and verdicts, the hot path, live in `paceline.common.tokens`.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from paceline.common.errors import PacelineError, Status
from paceline.common.tokens import Draft, FinishReason, LogprobsRequest, Rule, SamplingParams, Verdict

PROTOCOL_VERSION = 1


class Feature(StrEnum):
    """Optional abilities; a peer uses only those both ends named."""

    SPARSE_LAW = "sparse-law"
    TREE = "tree"
    RESUME = "resume"
    RECEIPTS = "receipts"
    LOGPROBS = "logprobs"


class FillPolicy(StrEnum):
    """Whether the verifier decodes on by itself while no draft is there."""

    OFF = "off"
    """It waits for a block before every pass."""
    BOUNDED = "bounded"
    """At most `Open.max_fill_passes` passes in a row without a usable draft; then it waits."""
    UNLIMITED = "unlimited"
    """It never waits: without drafts this is plain cloud streaming."""
    AUTO = "auto"
    """It waits as long as a draft is likely to be worth waiting for, and leaves passes to others under load."""


@dataclass(frozen=True, slots=True)
class Open:
    """Starts a generation, or continues one after a lost connection."""

    prompt_token_ids: tuple[int, ...]
    max_new_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    rule: Rule = Rule.GREEDY
    fill: FillPolicy = FillPolicy.OFF
    seed: int = 0
    """Unsigned 64-bit; keys every random choice together with the position."""
    committed_token_ids: tuple[int, ...] = ()
    """Generated in an earlier connection; counted in `max_new_tokens`."""
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    tokenizer_fingerprint: bytes = b""
    protocol_version: int = PROTOCOL_VERSION
    features: frozenset[Feature] = frozenset(Feature)
    max_fill_passes: int = 0
    """Of `FillPolicy.BOUNDED`; 0 means 8."""
    path: tuple[str, ...] = ()
    """Names of the relays it came through, from the device on."""
    request_id: str = ""
    """Names the generation in every hop's log."""
    deadline_s: float = 0.0
    """Seconds the client still gives the text; 0 for none."""
    pad_to: int = 0
    """Padded mode: bytes of every message from here on (`paceline.common.padding`); 0 for off."""
    session_id: bytes = field(default=b"", repr=False)
    """Secret name of the generation, under which a lost stream leaves its cache; empty: it leaves none."""
    receipt: bytes = b""
    """Of the first `receipt_length` tokens of prompt and history, from their last verdict."""
    receipt_length: int = 0
    logprobs: LogprobsRequest | None = None
    attempt: tuple[int, ...] = ()
    """Which of the session's streams this is: greater than that of any before it. Empty: newer than any."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The verifier accepts the session."""

    vocab_size: int
    max_draft_tokens: int
    max_blocks_in_flight: int
    committed_length: int
    stop_token_ids: tuple[int, ...] = ()
    features: frozenset[Feature] = frozenset()
    protocol_version: int = PROTOCOL_VERSION
    verify_fixed_s: float = 0.0
    """v0 of the verifier's cost line: seconds of an engine step whatever its size."""
    verify_per_token_s: float = 0.0
    """v1: seconds per further token in the step."""
    pad_to: int = 0
    """`Open.pad_to`, as agreed to."""
    cached_length: int = 0
    """How much of the text was kept from an earlier stream."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The text is complete."""

    reason: FinishReason
    committed_length: int
    hops: tuple["HopReport", ...] = ()
    """What each hop did for this text, from the sender to the last."""


@dataclass(frozen=True, slots=True)
class HopReport:
    """What one hop did for one text since its stream was opened. Statistics only."""

    name: str = ""
    num_judged: int = 0
    """Drafted tokens from the hop below that its model looked at."""
    num_accepted: int = 0
    num_passes: int = 0
    """Passes of its model that moved its text."""
    num_written: int = 0
    """Tokens of its own: recovered, bonus, filled."""
    verify_s: float = 0.0
    bytes_up: int = 0
    """To the hop above it, as `bytes_down` from there, `round_trip_s` and `num_reconnects`; 0 at the last hop."""
    bytes_down: int = 0
    round_trip_s: float = 0.0
    num_reconnects: int = 0


@dataclass(frozen=True, slots=True)
class Provisional:
    """How a text goes on as far as a relay's own model knows. Commits nothing; see `Verdict`."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Draining:
    """The verifier is going away; open again elsewhere."""

    grace_s: float


@dataclass(frozen=True, slots=True)
class ErrorMessage:
    """What is wrong, said in-band before the status says it."""

    status: Status
    reason: str
    message: str
    field: str = ""
    cure: str = ""
    retry_after_s: float = 0.0
    fatal: bool = True
    blocks_settled: int = 0

    @property
    def is_full(self) -> bool:
        """As `PacelineError.is_full`, where the stream ends with it."""
        return self.fatal and self.status is Status.RESOURCE_EXHAUSTED and self.retry_after_s > 0

    @classmethod
    def of(cls, error: PacelineError, blocks_settled: int = 0) -> "ErrorMessage":
        """The wire form of an error of ours."""
        return cls(
            status=error.status,
            reason=error.reason,
            message=error.message,
            field=error.field,
            cure=error.cure,
            retry_after_s=error.retry_after_s,
            fatal=error.fatal,
            blocks_settled=blocks_settled,
        )


@dataclass(frozen=True, slots=True)
class Cancel:
    """End the text where it stands."""


@dataclass(frozen=True, slots=True)
class Close:
    """Free the session."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a verifier serves."""

    software_version: str
    model_name: str
    vocab_size: int
    max_context: int
    max_sessions: int
    max_draft_tokens: int
    rules: tuple[Rule, ...]
    tokenizer_fingerprint: bytes = b""
    eos_token_ids: tuple[int, ...] = ()
    features: frozenset[Feature] = frozenset()
    device: str = ""
    dtype: str = ""
    active_sessions: int = 0
    protocol_version: int = PROTOCOL_VERSION
    verify_floor_s: float = 0.0
    """Above 0 where every engine step is made to last at least so long, for benchmarks."""
    hops: tuple["HopDescription", ...] = ()
    """From this hop to the last."""


@dataclass(frozen=True, slots=True)
class HopDescription:
    """One hop of a chain, for people and for counters. Counts are since it started."""

    name: str = ""
    model_name: str = ""
    device: str = ""
    active_sessions: int = 0
    num_judged: int = 0
    num_accepted: int = 0
    num_written: int = 0
    """Tokens it added to texts, accepted ones included."""
    num_steps: int = 0


ClientMessage = Open | Draft | Cancel | Close
ServerMessage = Opened | Verdict | Provisional | Finished | Draining | ErrorMessage
