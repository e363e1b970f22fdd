"""The drafter's end of one generation. It remembers what is committed, so that nothing on the verifier must survive.

OPENING ──Opened──▶ LIVE ──Finished──▶ FINISHED
   ▲                 │
   └──── reopen ◀────┘ (lost stream: the same text goes on, on any verifier)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from paceline.common.errors import BadReply, PacelineError, Status
from paceline.common.messages import Draining, ErrorMessage, Finished, Open, Opened, ServerMessage
from paceline.common.prefix import Prefix
from paceline.common.sampling.quantised import QuantisedLaw
from paceline.common.session.blocks import DeadEnds, merge
from paceline.common.tokens import Draft, FinishReason, How, Origin, Verdict


class EdgePhase(Enum):
    """Where a session stands."""

    OPENING = auto()
    LIVE = auto()
    FINISHED = auto()


@dataclass(frozen=True, slots=True)
class Commit:
    """Tokens a verdict added to the text."""

    position: int
    """Absolute position of the first one."""
    token_ids: tuple[int, ...]
    origins: tuple[Origin, ...]
    verdict: Verdict


class RemoteError(PacelineError):
    """What the verifier said went wrong."""

    def __init__(self, message: ErrorMessage) -> None:
        super().__init__(
            message.message, field=message.field, cure=message.cure, retry_after_s=message.retry_after_s
        )
        self.status = message.status
        self.fatal = message.fatal
        self.remote_reason = message.reason
        self.exit_code = _EXIT_CODES.get(message.status, 1)

    @property
    def reason(self) -> str:
        """The verifier's name for it."""
        return self.remote_reason


_EXIT_CODES = {
    Status.INVALID_ARGUMENT: 2,
    Status.OUT_OF_RANGE: 2,
    Status.FAILED_PRECONDITION: 3,
    Status.UNIMPLEMENTED: 3,
    Status.RESOURCE_EXHAUSTED: 4,
    Status.UNAVAILABLE: 4,
    Status.DATA_LOSS: 5,
    Status.INTERNAL: 5,
}


class EdgeSession:
    """One generation as the edge sees it: what to send, and what an answer means.

    Args:
        request: the Open to start with; its `committed_token_ids` may continue an earlier generation.
    """

    def __init__(self, request: Open) -> None:
        self.request = request
        self.phase = EdgePhase.OPENING
        self.committed = Prefix((*request.prompt_token_ids, *request.committed_token_ids))
        self.origins: list[Origin] = [Origin.ACCEPTED] * len(request.committed_token_ids)
        self.opened: Opened | None = None
        self.finish_reason: FinishReason | None = None
        self.draining = False
        self._in_flight: list[Draft] = []
        """Blocks sent that may still become text. What leaves it is decided by content, as on the verifier: it settles
        blocks in any order, and a count alone cannot say which."""
        self._dead_ends = DeadEnds()
        self._sent = 0
        self._settled = 0

    # --- to the verifier ----------------------------------------------------------------------------------------------

    def open(self) -> Open:
        """The first message of a connection; after a lost one it carries everything committed so far."""
        self.phase = EdgePhase.OPENING
        self._in_flight.clear()
        self._sent = self._settled = 0
        generated = tuple(self.committed.list(len(self.request.prompt_token_ids)))
        return replace(self.request, committed_token_ids=generated)

    def block(
        self,
        base: int,
        token_ids: Sequence[int],
        draft_probs: Sequence[float],
        how: How,
        laws: Sequence[QuantisedLaw] = (),
        *,
        base_hash: int | None = None,
        parents: Sequence[int] = (),
        more_follows: bool = False,
    ) -> Draft:
        """Wrap drafted tokens into a block and remember it as in flight.

        Args:
            base: absolute position of the first token.
            base_hash: hash of the prefix it continues; may be left out if that prefix is committed.
            parents: of a tree; see `Draft.parents`.
        Raises:
            ValueError: another tree continues the same text already: a verdict could not say which of them it means.
        """
        draft = Draft(
            base=base,
            prefix_hash=self.committed.hash_at(base) if base_hash is None else base_hash,
            token_ids=tuple(token_ids),
            draft_probs=tuple(draft_probs),
            how=how,
            laws=tuple(laws),
            parents=tuple(parents),
            more_follows=more_follows,
        )
        if draft.parents and any(sent.base == base and sent != draft for sent in self._trees()):
            raise ValueError(f"a second tree at {base} while the first is in flight")
        self._in_flight.append(draft)
        self._sent += 1
        return draft

    @property
    def remaining(self) -> int:
        """Tokens that may still be generated."""
        return len(self.request.prompt_token_ids) + self.request.max_new_tokens - len(self.committed)

    @property
    def is_complete(self) -> bool:
        """Whether nothing more can be committed: the text has its length or ends with a stop token."""
        stop_token_ids = self.opened.stop_token_ids if self.opened else ()
        num_generated = len(self.committed) - len(self.request.prompt_token_ids)
        return self.remaining <= 0 or (num_generated > 0 and self.committed[-1] in stop_token_ids)

    @property
    def num_blocks_in_flight(self) -> int:
        """Blocks sent that no verdict has settled."""
        return self._sent - self._settled

    # --- from the verifier --------------------------------------------------------------------------------------------

    def receive(self, message: ServerMessage) -> Commit | None:
        """Take an answer; a Commit if it adds to the text.

        Raises:
            BadReply: the verifier broke the protocol; nothing of this message was committed.
            RemoteError: the verifier reports an error.
        """
        match message:
            case Verdict():
                return self._on_verdict(message)
            case Opened():
                self._on_opened(message)
            case Finished():
                self._on_finished(message)
            case Draining():
                self.draining = True
            case ErrorMessage():
                # Which block was refused is not said, so none of those sent may become text any more.
                self._in_flight.clear()
                self._settle(message.blocks_settled)
                raise RemoteError(message)
        return None

    def _on_opened(self, message: Opened) -> None:
        self._require(EdgePhase.OPENING, "opened")
        if message.committed_length != len(self.committed):
            raise BadReply(
                f"the verifier holds {message.committed_length} tokens, this side {len(self.committed)}",
                field="committed_length",
                cure="report this verifier",
            )
        self.opened = message
        self.phase = EdgePhase.LIVE

    def _on_finished(self, message: Finished) -> None:
        self._require(EdgePhase.LIVE, "finished")
        if message.committed_length != len(self.committed):
            raise BadReply(
                f"finished at {message.committed_length} tokens, but {len(self.committed)} were committed",
                field="committed_length",
            )
        if message.reason is not FinishReason.CANCELLED and not self.is_complete:
            raise BadReply(
                f"finished for {message.reason}, but {self.remaining} tokens may follow and no stop token stands last",
                field="reason",
            )
        self.finish_reason = message.reason
        self.phase = EdgePhase.FINISHED

    def _require(self, phase: EdgePhase, what: str) -> None:
        if self.phase is not phase:
            raise BadReply(f"{what} arrived while the session is {self.phase.name.lower()}", field="payload")

    def _on_verdict(self, verdict: Verdict) -> Commit | None:
        self._require(EdgePhase.LIVE, "a verdict")
        position = len(self.committed)
        if verdict.base < position:
            self._settle(verdict.blocks_settled)
            return None
        token_ids, origins = self._committed_by(verdict)
        for token_id in token_ids:
            self.committed.append(token_id)
        self.origins.extend(origins)
        self._settle(verdict.blocks_settled)
        return Commit(position, token_ids, origins, verdict) if token_ids else None

    def _committed_by(self, verdict: Verdict) -> tuple[tuple[int, ...], tuple[Origin, ...]]:
        """Tokens a verdict adds, checked: a broken or hostile verifier must not corrupt the text."""
        if verdict.base > len(self.committed):
            raise BadReply(
                f"a verdict at {verdict.base} follows {len(self.committed)} committed tokens", field="base"
            )
        token_ids = self._drafted_tokens(verdict.num_accepted, verdict.accepted_node)
        origins: tuple[Origin, ...] = (Origin.ACCEPTED,) * len(token_ids)
        filled = verdict.filled_token_ids
        self._check_range(filled, "filled_token_ids")
        token_ids, origins = (*token_ids, *filled), (*origins, *(Origin.FILLED,) * len(filled))
        if verdict.next_token_id is not None and verdict.next_origin is not None:
            self._check_range((verdict.next_token_id,), "next_token_id")
            token_ids, origins = (*token_ids, verdict.next_token_id), (*origins, verdict.next_origin)
        if len(token_ids) > self.remaining:
            raise BadReply(f"{len(token_ids)} tokens where {self.remaining} may follow", field="verdict")
        self._check_stop(token_ids)
        return token_ids, origins

    def _check_range(self, token_ids: tuple[int, ...], field: str) -> None:
        vocab_size = self.opened.vocab_size if self.opened else 1 << 32
        for token_id in token_ids:
            if not 0 <= token_id < vocab_size:
                raise BadReply(f"token {token_id} is outside 0..{vocab_size - 1}", field=field)

    def _check_stop(self, token_ids: tuple[int, ...]) -> None:
        stop_token_ids = self.opened.stop_token_ids if self.opened else ()
        follows_stop = self.is_complete and token_ids
        if follows_stop or any(token_id in stop_token_ids for token_id in token_ids[:-1]):
            raise BadReply(f"{len(token_ids)} tokens of which some follow a stop token", field="verdict")

    def _trees(self) -> list[Draft]:
        return [block for block in self._in_flight if block.parents]

    def _drafted_tokens(self, num_accepted: int, accepted_node: int | None) -> tuple[int, ...]:
        if accepted_node is not None:
            return self._path_to(accepted_node, num_accepted)
        if num_accepted == 0:
            return ()
        chains = [block for block in self._in_flight if not block.parents]
        draft = merge(self.committed, chains, max_tokens=num_accepted).draft
        if draft is None or len(draft) < num_accepted:
            raise BadReply(
                f"{num_accepted} tokens accepted, {len(draft) if draft else 0} drafted", field="num_accepted"
            )
        return draft.token_ids

    def _path_to(self, accepted_node: int, num_accepted: int) -> tuple[int, ...]:
        """The tokens a verdict about a tree accepts: node and number must agree, and the tree must have been sent."""
        tree = merge(self.committed, self._trees(), max_tokens=accepted_node + 1).draft
        if tree is None or accepted_node >= len(tree):
            raise BadReply(
                f"token {accepted_node} of a tree accepted, {len(tree) if tree else 0} drafted",
                field="accepted_node",
            )
        path = tree.path(num_accepted, accepted_node)
        if len(path) != num_accepted:
            raise BadReply(
                f"{num_accepted} tokens accepted, but token {accepted_node} is the end of {len(path)}",
                field="accepted_node",
            )
        return tuple(tree.token_ids[node] for node in path)

    def _settle(self, blocks_settled: int) -> None:
        self._settled = max(self._settled, min(blocks_settled, self._sent))
        stale = self._dead_ends.stale(self.committed, self._in_flight)
        self._in_flight = [block for index, block in enumerate(self._in_flight) if index not in stale]
