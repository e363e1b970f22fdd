"""One generation under way."""

from dataclasses import dataclass, field

from paceline.common.drafter import Drafter
from paceline.common.errors import InvalidRequest
from paceline.common.hops.base import Hop
from paceline.common.messages import Description, FillPolicy, Open
from paceline.common.session import EdgeSession
from paceline.edge.drafting import Drafting, DraftWorker, ThreadDrafting
from paceline.edge.pacing.estimates import Estimates
from paceline.edge.request import GenerationRequest, Report

_ANY_VOCAB = 1 << 31
_SMALL_BLOCK = 16
"""Longest block while no verifier has said what it takes."""


@dataclass(slots=True)
class Run:
    """What a generation asks for, whom it may ask, and the report it fills in."""

    request: GenerationRequest
    report: Report
    worker: DraftWorker
    hop: Hop | None = None
    verifier: Description | None = None
    """None where the drafter may begin alone."""
    drafter: Drafter | None = None
    writer: Drafting | None = None
    """Writes ahead instead of the drafter."""
    tokenizer_fingerprint: bytes = b""
    eos_token_ids: tuple[int, ...] = ()
    """The draft model's, for as long as no verifier has said its own."""
    estimates: Estimates = field(default_factory=Estimates)

    def drafting(self) -> Drafting:
        """Whoever writes ahead, at work on this request."""
        if self.writer is not None:
            return self.writer
        if self.drafter is None:
            raise InvalidRequest(
                f"mode {self.report.mode} needs a drafter", field="draft_model", cure="name one"
            )
        vocab_size = self.verifier.vocab_size if self.verifier else self.drafter.vocab_size
        return ThreadDrafting(self.drafter, self.request, vocab_size or _ANY_VOCAB, self.worker)

    def require_hop(self) -> Hop:
        """The way to the verifier."""
        if self.hop is None or (self.verifier is None and not self.request.offline):
            raise InvalidRequest(
                f"mode {self.report.mode} needs a verifier", field="verifier", cure="name one"
            )
        return self.hop

    @property
    def max_draft_tokens(self) -> int:
        """Longest block, before the session is open."""
        return self.verifier.max_draft_tokens if self.verifier else _SMALL_BLOCK

    @property
    def stop_token_ids(self) -> frozenset[int]:
        """What ends the text as far as this side knows alone."""
        own = () if self.request.ignore_eos else self.eos_token_ids
        return frozenset(self.request.stop_token_ids) | frozenset(own)

    def session(self, fill: FillPolicy) -> EdgeSession:
        """The protocol's end on this side."""
        request = self.request
        return EdgeSession(
            Open(
                prompt_token_ids=request.prompt_token_ids,
                max_new_tokens=request.max_new_tokens,
                sampling=request.sampling,
                rule=request.effective_rule,
                fill=fill,
                seed=request.seed,
                stop_token_ids=request.stop_token_ids,
                ignore_eos=request.ignore_eos,
                tokenizer_fingerprint=self.tokenizer_fingerprint,
                committed_token_ids=request.committed_token_ids,
                path=request.path,
                request_id=request.request_id,
                logprobs=request.logprobs,
            )
        )
