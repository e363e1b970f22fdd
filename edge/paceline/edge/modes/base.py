"""What a mode is given."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from paceline.common.drafter import Drafter
from paceline.common.errors import InvalidRequest, Unreachable
from paceline.common.hops.base import Hop, Stream
from paceline.common.messages import Description, FillPolicy, Open
from paceline.common.session import Commit, EdgePhase, EdgeSession
from paceline.edge.drafting import Drafting
from paceline.edge.request import GenerationRequest, Report, TokensEvent


@dataclass(slots=True)
class Run:
    """One generation under way: what it asks for, whom it may ask, and the report it fills in."""

    request: GenerationRequest
    report: Report
    executor: ThreadPoolExecutor
    hop: Hop | None = None
    verifier: Description | None = None
    drafter: Drafter | None = None
    tokenizer_fingerprint: bytes = b""
    eos_token_ids: tuple[int, ...] = ()
    """The draft model's; only mode `local` ends on them, the verifier knows its own."""

    def drafting(self, vocab_size: int) -> Drafting:
        """The drafter at work on this request."""
        if self.drafter is None:
            raise InvalidRequest(
                f"mode {self.report.mode} needs a drafter", field="draft_model", cure="name one"
            )
        return Drafting(self.drafter, self.request, vocab_size, self.executor)

    def require_hop(self) -> tuple[Hop, Description]:
        """The verifier and what it serves."""
        if self.hop is None or self.verifier is None:
            raise InvalidRequest(
                f"mode {self.report.mode} needs a verifier", field="verifier", cure="name one"
            )
        return self.hop, self.verifier

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
            )
        )


class Mode(Protocol):
    """Generates a text, token events in order; fills in `run.report` as it goes."""

    def __call__(self, run: Run) -> AsyncIterator[TokensEvent]: ...


async def next_commit(session: EdgeSession, stream: Stream) -> Commit | None:
    """Read until something is committed; None once the text is complete.

    Raises:
        RemoteError: the verifier reports an error.
        Unreachable: the stream ended before the text did.
    """
    while session.phase is not EdgePhase.FINISHED:
        message = await stream.receive()
        if message is None:
            raise Unreachable("the verifier ended the stream before the text was complete", field="verifier")
        commit = session.receive(message)
        if commit is not None:
            return commit
    return None


def event(commit: Commit) -> TokensEvent:
    """What a commit tells the caller."""
    return TokensEvent(commit.position, commit.token_ids, commit.origins)
