"""What a caller asks for and what it gets: the request, the events of a generation, the report at its end."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from paceline.common.hops.base import Traffic
from paceline.common.messages import FillPolicy, HopReport
from paceline.common.sampling.choose import Chooser
from paceline.common.session import Commit
from paceline.common.speed.objective import LATENCY, Objective
from paceline.common.tokens import (
    FinishReason,
    LogprobsRequest,
    Origin,
    Rule,
    SamplingParams,
    TokenLogprobs,
    Verdict,
)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One text to generate."""

    prompt_token_ids: tuple[int, ...]
    max_new_tokens: int = 128
    sampling: SamplingParams = field(default_factory=SamplingParams)
    rule: Rule | None = None
    """None: greedy at temperature 0, coupled otherwise."""
    seed: int = 0
    """Unsigned 64-bit. The same seed, prompt and parameters give the same text, whatever drafts it."""
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    num_speculative_tokens: int | None = None
    """Tokens per block; None adapts to cost and acceptance."""
    fill: FillPolicy | None = None
    """Whether the verifier decodes on while no draft is there, in the modes that leave it open; None lets the mode
    decide."""
    max_blocks_in_flight: int | None = None
    """Blocks sent ahead of their verdicts; None: as many as pay, at most the verifier's window."""
    objective: Objective = LATENCY
    """What mode `auto` maximises."""
    reconnect_s: float = 30.0
    """How long a broken link is tried again before the text is given up, seconds."""
    wait_s: float = 0.0
    """How long to wait for a place at a full verifier before the text begins, seconds."""
    offline: bool = False
    """Whether the drafter may go on alone while no verifier can be reached. What it writes is provisional until one
    has seen it."""
    provisional: bool = False
    """Whether drafts are told as events before they are verified."""
    committed_token_ids: tuple[int, ...] = ()
    """Generated before: the text goes on after them. Counted in `max_new_tokens`, in no report."""
    deadline_s: float = 0.0
    """Seconds the text may take; it then ends with DEADLINE_EXCEEDED. 0 for none."""
    request_id: str = ""
    """Names the generation in every hop's log."""
    path: tuple[str, ...] = ()
    """Relays it came through."""
    pad_to: int = 0
    """Padded mode: bytes of every message (`paceline.common.padding`); blocks do not adapt then. 0 for off."""
    session_id: bytes = field(default=b"", repr=False)
    """Under which verifiers keep the cache of a lost stream: 16 bytes, secret; empty: some are drawn."""
    attempt: tuple[int, ...] = ()
    """Where a session id is used more than once: greater each time. What else holds the session is then older."""
    receipt: bytes = b""
    """Proof of `committed_token_ids`, if there is one, and the length of the text it is for."""
    receipt_length: int = 0
    logprobs: LogprobsRequest | None = None
    """How likely tokens are to the target, told with them. Only by a verifier itself, not through a relay."""
    prediction_token_ids: tuple[int, ...] = ()
    """What the caller expects of the text: drafted wherever the text follows it. It changes no token."""

    @property
    def text(self) -> tuple[int, ...]:
        """What is there to begin with."""
        return (*self.prompt_token_ids, *self.committed_token_ids)

    @property
    def end(self) -> int:
        """Length of the text at most."""
        return len(self.prompt_token_ids) + self.max_new_tokens

    @property
    def effective_rule(self) -> Rule:
        """The rule `None` stands for."""
        if self.rule is not None:
            return self.rule
        return Rule.GREEDY if self.sampling.is_greedy else Rule.COUPLED

    def chooser(self, vocab_size: int) -> Chooser:
        """How a drafter picks tokens for this request."""
        return Chooser(self.effective_rule, self.sampling, self.seed, vocab_size)


@dataclass(frozen=True, slots=True)
class TokensEvent:
    """Tokens added to the text, in order. Final, except in mode `local`, where no target has seen them."""

    position: int
    """Absolute position of the first one."""
    token_ids: tuple[int, ...]
    origins: tuple[Origin, ...]
    authors: tuple[int, ...]
    """How many hops above this side the model is that wrote each token; 0 for the drafter."""
    logprobs: tuple[TokenLogprobs, ...] = ()
    """One for each token, if they were asked for."""

    @classmethod
    def of(cls, commit: Commit) -> Self:
        """What a commit adds."""
        return cls(commit.position, commit.token_ids, commit.origins, commit.authors, commit.logprobs)


@dataclass(frozen=True, slots=True)
class ProvisionalEvent:
    """Tokens that no target has seen: the drafter wrote them, or a relay on the way. Either a `TokensEvent` repeats
    them or they are retracted."""

    position: int
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RetractedEvent:
    """Provisional tokens from `position` on are withdrawn."""

    position: int


@dataclass(frozen=True, slots=True)
class LinkEvent:
    """The link to the verifier was lost, or is there again."""

    is_up: bool


Event = TokensEvent | ProvisionalEvent | RetractedEvent | LinkEvent


@dataclass(frozen=True, slots=True)
class Decision:
    """What mode `auto` decided and why."""

    position: int
    """Committed length then."""
    at_s: float
    """Seconds since the generation began."""
    action: str
    why: str
    estimates: Mapping[str, float]
    """What it knew: seconds, tokens per second, shares."""


@dataclass(frozen=True, slots=True)
class Round:
    """The blocks one verdict settled, measured. Seconds."""

    num_drafted: int
    num_accepted: int
    draft_s: float
    round_s: float
    """From handing the first of the blocks to the link until the verdict is here."""
    verify_s: float
    queue_s: float

    @property
    def network_s(self) -> float:
        """What is neither the verifier's step nor its queue: codec, link, event loops."""
        return max(self.round_s - self.verify_s - self.queue_s, 0.0)


@dataclass(slots=True)
class Report:
    """What a generation did. Complete once the generation has ended."""

    mode: str
    rule: Rule
    num_prompt_tokens: int
    token_ids: list[int] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    authors: list[int] = field(default_factory=list)
    """How many hops above this side the model is that wrote each token; 0 for the drafter."""
    finish_reason: FinishReason | None = None
    rounds: list[Round] = field(default_factory=list)
    num_passes: int = 0
    """Passes of the last hop's model that moved the text."""
    num_reconnects: int = 0
    round_trip_s: float = 0.0
    """Of the link to the next hop, as measured; 0 where nothing measured it."""
    hops: tuple[HopReport, ...] = ()
    """What each hop above did for this text since its stream was opened, in order."""
    decisions: list[Decision] = field(default_factory=list)
    """Of mode `auto`, in order."""
    ttft_s: float = 0.0
    """From the call to the first token."""
    total_s: float = 0.0
    traffic: Traffic = field(default_factory=Traffic)
    prompt_logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)
    """How likely the prompt's tokens are to the target, by position, if that was asked for; not the first one's."""

    def score(self, verdict: Verdict) -> None:
        """Note what a verdict says of the prompt."""
        if verdict.base < self.num_prompt_tokens:
            self.prompt_logprobs |= dict(enumerate(verdict.logprobs, verdict.base))

    @property
    def drafted_tokens(self) -> int:
        """Tokens sent for verification."""
        return sum(one.num_drafted for one in self.rounds)

    @property
    def accepted_tokens(self) -> int:
        """Drafted tokens that stand."""
        return sum(one.num_accepted for one in self.rounds)

    @property
    def acceptance_rate(self) -> float:
        """Accepted / drafted; 0 if nothing was drafted."""
        return self.accepted_tokens / self.drafted_tokens if self.drafted_tokens else 0.0

    @property
    def mean_acceptance_length(self) -> float:
        """1 + accepted / rounds, the verifier's own token included, as vLLM counts it."""
        return 1 + self.accepted_tokens / len(self.rounds) if self.rounds else 1.0

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens over the whole time, the prompt's included."""
        return len(self.token_ids) / self.total_s if self.total_s else 0.0
