"""The drafter's end of one generation. It remembers what is committed, so that nothing on the verifier must survive.

OPENING ──Opened──▶ LIVE ──Finished──▶ FINISHED
   ▲                 │
   └──── reopen ◀────┘ (lost stream: the same text goes on, on any verifier)

A verdict commits. Where the next hop is a relay, provisional verdicts come first: what they say is *known* text, after
the committed one; drafts continue it, and verdicts commit it or contradict it. Without relays the known text is the
committed one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from paceline.common.errors import BadReply, Incompatible, Status
from paceline.common.messages import (
    Draining,
    ErrorMessage,
    Finished,
    HopReport,
    Open,
    Opened,
    Provisional,
    ServerMessage,
)
from paceline.common.prefix import Prefix
from paceline.common.sampling.quantised import QuantisedLaw
from paceline.common.session.blocks import DeadEnds, merge
from paceline.common.session.limits import MAX_RELAYS, RECEIPT_BYTES, check_logprobs
from paceline.common.session.remote import RemoteError
from paceline.common.tokens import Draft, FinishReason, How, Origin, TokenLogprobs, Verdict


class EdgePhase(Enum):
    """Where a session stands."""

    OPENING = auto()
    LIVE = auto()
    FINISHED = auto()


@dataclass(frozen=True, slots=True)
class Commit:
    """What a verdict says the text is."""

    position: int
    """Absolute position of the first token."""
    token_ids: tuple[int, ...]
    origins: tuple[Origin, ...]
    authors: tuple[int, ...]
    """How many hops above this side the model is that wrote each token; 0 for a drafted one."""
    verdict: Verdict
    is_final: bool = True
    """False: a relay's own opinion, which the hops above it may contradict."""

    @property
    def logprobs(self) -> tuple[TokenLogprobs, ...]:
        """Of each token, where they were asked for; no relay's."""
        return self.verdict.logprobs if self.is_final else ()


_TokenIds = tuple[int, ...]
_By = tuple[tuple[Origin, int], ...]
"""Origin and author of each token."""
_NOTHING: tuple[_TokenIds, _By] = ((), ())


def _accepted(num_tokens: int) -> _By:
    return ((Origin.ACCEPTED, 0),) * num_tokens


class EdgeSession:
    """One generation as the edge sees it: what to send, and what an answer means.

    Args:
        request: the Open to start with; its `committed_token_ids` may continue an earlier generation.
        vocab_size: of the target, as `Describe` had it; None where nobody was asked.
    """

    def __init__(self, request: Open, vocab_size: int | None = None) -> None:
        self.request = request
        self._vocab_size = vocab_size
        self.phase = EdgePhase.OPENING
        self.committed = Prefix((*request.prompt_token_ids, *request.committed_token_ids))
        self.known = Prefix(self.committed)
        self._num_given = len(self.committed)
        self.num_opens = 0
        self.origins: list[Origin] = [Origin.ACCEPTED] * len(request.committed_token_ids)
        self.opened: Opened | None = None
        self.finish_reason: FinishReason | None = None
        self.hops: tuple[HopReport, ...] = ()
        """What each hop did for the text, once it is finished."""
        self.draining = False
        self.receipt, self.receipt_length = request.receipt, request.receipt_length
        """Proof that a verifier wrote the text up to there; handed in again when the text is opened again."""
        self._by: dict[int, tuple[Origin, int]] = {}
        """Who wrote the known tokens beyond the committed ones, by position."""
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
        self.num_opens += 1
        self.known.truncate(len(self.committed))
        self._in_flight.clear()
        self._dead_ends = DeadEnds()  # what a relay contradicted another hop may accept
        self._sent = self._settled = 0
        generated = tuple(self.committed.list(len(self.request.prompt_token_ids)))
        return replace(
            self.request,
            committed_token_ids=generated,
            receipt=self.receipt,
            receipt_length=self.receipt_length,
            attempt=(*self.request.attempt, self.num_opens),
        )

    def mends(self, error: RemoteError, session_id: bytes) -> bool:
        """Whether it makes sense to open the text again; what was in the way is left out then.

        Args:
            session_id: to go on under, where another stream goes on under the old one.
        """
        match error.status:
            case Status.UNAVAILABLE:
                return True
            case Status.RESOURCE_EXHAUSTED:
                return error.is_full and len(self.committed) > self._num_given
            case Status.ABORTED:
                self.request = replace(self.request, session_id=session_id)
                return True
            case Status.FAILED_PRECONDITION:  # what another fleet vouched for this one may take as prompt
                is_refused = error.field == "receipt" and bool(self.receipt)
                self.receipt, self.receipt_length = b"", 0
                return is_refused
            case _:
                return False

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
            base_hash: hash of the prefix it continues; may be left out if that prefix is known.
            parents: of a tree; see `Draft.parents`.
        Raises:
            ValueError: another tree continues the same text already: a verdict could not say which of them it means.
        """
        draft = Draft(
            base=base,
            prefix_hash=self.known.hash_at(base) if base_hash is None else base_hash,
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
    def end(self) -> int:
        """Length of the text at most."""
        return len(self.request.prompt_token_ids) + self.request.max_new_tokens

    @property
    def remaining(self) -> int:
        """Tokens that may still be generated."""
        return self.end - len(self.committed)

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
        """Take an answer; a Commit if it says something about the text.

        Raises:
            BadReply: the verifier broke the protocol; nothing of this message was committed.
            RemoteError: the verifier reports an error.
        """
        match message:
            case Verdict():
                return self._on_verdict(message)
            case Provisional():
                return self._on_provisional(message.verdict)
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
        if message.pad_to != self.request.pad_to:
            raise Incompatible(
                f"the verifier pads messages to {message.pad_to} bytes (0: not at all), not to {self.request.pad_to}",
                field="pad_to",
                cure="update the verifier, or do without padding",
            )
        if self._vocab_size not in (None, message.vocab_size):
            raise BadReply(
                f"a vocabulary of {message.vocab_size}, which was said to be {self._vocab_size}",
                field="vocab_size",
            )
        if not (message.max_draft_tokens and message.max_blocks_in_flight):
            raise BadReply(
                f"takes {message.max_blocks_in_flight} blocks of {message.max_draft_tokens} tokens: none",
                field="max_draft_tokens",
            )
        if self.request.logprobs is not None:
            check_logprobs(self.request.logprobs, message.features)
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
        self.hops = message.hops
        self.phase = EdgePhase.FINISHED

    def _require(self, phase: EdgePhase, what: str) -> None:
        if self.phase is not phase:
            raise BadReply(f"{what} arrived while the session is {self.phase.name.lower()}", field="payload")

    def _on_verdict(self, verdict: Verdict) -> Commit | None:
        self._require(EdgePhase.LIVE, "a verdict")
        position = len(self.committed)
        if verdict.base > position:
            raise BadReply(f"a verdict at {verdict.base} follows {position} committed tokens", field="base")
        if len(verdict.receipt) not in (0, RECEIPT_BYTES):
            raise BadReply(f"a receipt of {len(verdict.receipt)} bytes", field="receipt")
        token_ids, by = self._committed_by(verdict) if verdict.base == position else _NOTHING
        self._check_logprobs(verdict, len(token_ids))
        self._know(position, token_ids, by)
        for token_id, (origin, _) in zip(token_ids, by, strict=True):
            self._by.pop(len(self.committed), None)
            self.committed.append(token_id)
            self.origins.append(origin)
        if token_ids and verdict.receipt:
            self.receipt, self.receipt_length = verdict.receipt, len(self.committed)
        return self._commit(verdict, token_ids, by, is_final=True)

    def _check_logprobs(self, verdict: Verdict, num_committed: int) -> None:
        """One for every token; what commits nothing speaks of the prompt."""
        wanted, found = self.request.logprobs, len(verdict.logprobs)
        if wanted is not None and num_committed and found != num_committed:
            raise BadReply(f"{found} probabilities for {num_committed} tokens", field="logprobs")
        num_prompt = len(self.request.prompt_token_ids)
        if verdict.base < num_prompt and found and not 1 <= verdict.base <= num_prompt - found:
            raise BadReply(
                f"{found} probabilities from {verdict.base} on: that is no prompt", field="logprobs"
            )

    def _on_provisional(self, verdict: Verdict) -> Commit | None:
        self._require(EdgePhase.LIVE, "a provisional verdict")
        if verdict.base > len(self.known):
            raise BadReply(
                f"a provisional verdict at {verdict.base} follows {len(self.known)} known tokens",
                field="base",
            )
        is_late = verdict.base < len(self.committed)
        token_ids, by = _NOTHING if is_late else self._known_by(verdict)
        self._know(verdict.base, token_ids, by)
        return self._commit(verdict, token_ids, by, is_final=False)

    def _commit(self, verdict: Verdict, token_ids: _TokenIds, by: _By, *, is_final: bool) -> Commit | None:
        self._settle(verdict.blocks_settled)
        if not token_ids:
            return None
        origins, authors = zip(*by, strict=True)
        return Commit(verdict.base, token_ids, origins, authors, verdict, is_final)

    def _know(self, position: int, token_ids: _TokenIds, by: _By) -> None:
        """From `position` on the text is this. What is known beyond it stands while nothing of it is contradicted."""
        for at, (token_id, who) in enumerate(zip(token_ids, by, strict=True), position):
            if at == len(self.known) or self.known[at] != token_id:
                self.known.truncate(at)
                self.known.append(token_id)
                self._by[at] = who

    def _committed_by(self, verdict: Verdict) -> tuple[_TokenIds, _By]:
        """Known tokens first, then drafted ones, then the verifier's own."""
        known = tuple(self.known[verdict.base : verdict.base + verdict.num_accepted])
        drafted = self._drafted_tokens(verdict.num_accepted - len(known), verdict.accepted_node)
        own_ids, own_by = self._written_by(verdict, verdict.filled_token_ids)
        by = tuple(self._by[at] for at in range(verdict.base, verdict.base + len(known)))
        return self._checked(verdict, (*known, *drafted, *own_ids), (*by, *_accepted(len(drafted)), *own_by))

    def _known_by(self, verdict: Verdict) -> tuple[_TokenIds, _By]:
        """A relay names every token: what it says of drafts may have changed more than once before it is heard."""
        told = verdict.filled_token_ids
        if verdict.num_accepted > len(told):
            raise BadReply(f"{verdict.num_accepted} tokens accepted, {len(told)} named", field="num_accepted")
        own_ids, own_by = self._written_by(verdict, told[verdict.num_accepted :])
        return self._checked(
            verdict,
            (*told[: verdict.num_accepted], *own_ids),
            (*_accepted(verdict.num_accepted), *own_by),
        )

    def _written_by(self, verdict: Verdict, filled: _TokenIds) -> tuple[_TokenIds, _By]:
        """What a hop above this side wrote itself."""
        if verdict.author > MAX_RELAYS:
            raise BadReply(f"written {verdict.author} hops above the sender", field="author")
        author = 1 + verdict.author
        by: _By = ((Origin.FILLED, author),) * len(filled)
        if verdict.next_token_id is None or verdict.next_origin is None:
            return filled, by
        return (*filled, verdict.next_token_id), (*by, (verdict.next_origin, author))

    def _checked(self, verdict: Verdict, token_ids: _TokenIds, by: _By) -> tuple[_TokenIds, _By]:
        """A broken or hostile verifier must not corrupt the text."""
        vocab_size = self.opened.vocab_size if self.opened else 1 << 32
        for token_id in token_ids:
            if not 0 <= token_id < vocab_size:
                raise BadReply(f"token {token_id} is outside 0..{vocab_size - 1}", field="next_token_id")
        room = self.end - verdict.base
        if len(token_ids) > room:
            raise BadReply(f"{len(token_ids)} tokens where {room} may follow", field="verdict")
        self._check_stop(verdict.base, token_ids)
        return token_ids, by

    def _check_stop(self, base: int, token_ids: _TokenIds) -> None:
        stop_token_ids = self.opened.stop_token_ids if self.opened else ()
        has_begun = base > len(self.request.prompt_token_ids)
        follows_stop = token_ids and has_begun and self.known[base - 1] in stop_token_ids
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
        draft = merge(self.known, chains, max_tokens=num_accepted).draft
        if draft is None or len(draft) < num_accepted:
            raise BadReply(
                f"{num_accepted} tokens accepted, {len(draft) if draft else 0} drafted", field="num_accepted"
            )
        return draft.token_ids

    def _path_to(self, accepted_node: int, num_accepted: int) -> tuple[int, ...]:
        """The tokens a verdict about a tree accepts: node and number must agree, and the tree must have been sent."""
        tree = merge(self.known, self._trees(), max_tokens=accepted_node + 1).draft
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
        stale = self._dead_ends.stale(self.known, self._in_flight, len(self.committed))
        self._in_flight = [block for index, block in enumerate(self._in_flight) if index not in stale]
