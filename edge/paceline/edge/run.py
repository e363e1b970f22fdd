"""One generation under way."""

import hashlib
import secrets
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from paceline.common.drafter import Drafter
from paceline.common.errors import InvalidRequest
from paceline.common.hops.base import SESSION_HEADER, Hop, Stream, stream_headers
from paceline.common.messages import Description, FillPolicy, Open
from paceline.common.padding import tokens_that_fit
from paceline.common.session import EdgePhase, EdgeSession
from paceline.common.session.limits import SESSION_ID_BYTES
from paceline.common.tracing import NO_SPAN, Headers, Span
from paceline.edge.drafting import Drafting, DraftWorker, ThreadDrafting
from paceline.edge.pacing.estimates import Estimates
from paceline.edge.request import GenerationRequest, Report, Round

_ANY_VOCAB = 1 << 31
_WINDOW_BEFORE_OPENED = 4
"""Blocks sent before the verifier has said how many it takes."""
_SMALL_BLOCK = 8
"""Longest block while the verifier that answers has not said what it takes."""


def new_session_id() -> bytes:
    """A name nobody else knows."""
    return secrets.token_bytes(SESSION_ID_BYTES)


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
    comes_back: Callable[[], bool] = lambda: False
    """Whether whoever leaves the text now will open it again."""
    span: Span = NO_SPAN
    """Of the whole text."""
    _affinity: Headers = ()

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

    def max_draft_tokens(self, session: EdgeSession) -> int:
        """Longest block. Whoever answers may not be who was asked what it takes, and takes shorter ones: none is long
        before it has said so."""
        described = self.verifier.max_draft_tokens if self.verifier else _SMALL_BLOCK
        opened = session.opened if session.phase is EdgePhase.LIVE else None
        most = opened.max_draft_tokens if opened else min(described, _SMALL_BLOCK)
        pad_to = self.request.pad_to
        return min(most, tokens_that_fit(pad_to)) if pad_to else most

    def window(self, session: EdgeSession) -> int:
        """Blocks that may be on their way. Padded, none before the next hop has agreed: it might answer unpadded."""
        if self.request.pad_to and session.phase is not EdgePhase.LIVE:
            return 0
        return session.opened.max_blocks_in_flight if session.opened else _WINDOW_BEFORE_OPENED

    def stream(self) -> AbstractAsyncContextManager[Stream]:
        """A new stream to the verifier; says which text and trace it belongs to."""
        if not self._affinity:
            name = hashlib.blake2b(self.request.request_id.encode(), digest_size=8).hexdigest()
            self._affinity = ((SESSION_HEADER, name if self.request.request_id else secrets.token_hex(8)),)
        stream_headers.set((*self._affinity, *self.span.headers))
        return self.require_hop().stream()

    def settled(self, base: int, past: Round | None) -> None:
        """A verdict at that length of the text made a round, or none."""
        if past is not None:
            self.report.rounds.append(past)
            counts = {"num_drafted": past.num_drafted, "num_accepted": past.num_accepted}
            self.span.record("round", past.round_s, base=base, network_s=past.network_s, **counts)

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
                pad_to=request.pad_to,
                session_id=request.session_id or new_session_id(),
                attempt=request.attempt,
                receipt=request.receipt,
                receipt_length=request.receipt_length,
                logprobs=request.logprobs,
            ),
            self.verifier.vocab_size if self.verifier else None,
        )
