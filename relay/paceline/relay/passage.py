"""One text on its way through a relay.

Three tasks share a `RelaySession`, all on one event loop: `_below` hears the hop below, `_own` the relay's own model,
`_above` drives the client of the hop above, whose drafter this object is.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from paceline.cloud.incidents import incident
from paceline.cloud.port import Request
from paceline.cloud.verifier import Verifier
from paceline.common.errors import BadDraft, InvalidRequest, PacelineError, Status, Unreachable
from paceline.common.messages import (
    Cancel,
    ClientMessage,
    Close,
    ErrorMessage,
    Feature,
    FillPolicy,
    Finished,
    Open,
    Opened,
    ServerMessage,
)
from paceline.common.session import Commit, RelaySession, Steer, Steered, Written
from paceline.common.tokens import Draft, FinishReason, Verdict
from paceline.edge.client import Client
from paceline.edge.draft_length import Plan
from paceline.edge.drafting import Drafted
from paceline.edge.request import GenerationRequest, Report
from paceline.relay.config import RelayConfig

_LINGER_S = 2.0
"""How long a stream whose last message is sent waits for the client's Close, as a verifier does."""


def seen_from_below(error: PacelineError) -> PacelineError:
    """An error of the hop above, for the hop below: who is not let in up there is this relay."""
    if error.status is not Status.UNAUTHENTICATED:
        return error
    return Unreachable(
        f"the hop above does not let this relay in: {error.message}",
        field="upstream",
        cure="its operator must mend that",
    )


class Passage:
    """See above; a `paceline.edge.drafting.Drafting` for the hop above.

    Args:
        opening: what is asked for; its stop tokens are complete.
        verifier: of the relay's own model.
        client: of the hop above.
        config: how to work with it.
        name: of the relay.
        session_id: towards the hop above.
    """

    def __init__(
        self,
        opening: Open,
        verifier: Verifier,
        client: Client,
        config: RelayConfig,
        name: str,
        session_id: bytes,
    ) -> None:
        self._opening = opening
        self._verifier = verifier
        self._client = client
        self._config = config
        self._name = name
        self._session_id = session_id
        self._is_over = False
        """Nobody comes back for this text."""
        self._loop = asyncio.get_running_loop()
        self._session = RelaySession(opening, frozenset(opening.stop_token_ids))
        self._answers: asyncio.Queue[ServerMessage | None] = asyncio.Queue()
        self._to_own: asyncio.Queue[Request | PacelineError | None] = asyncio.Queue()
        self._is_open = asyncio.Event()
        self._news = asyncio.Event()
        self._horizon = self._taken = len(self._session.text)
        self._asked_s = self._written_s = self._loop.time()
        self._unclaimed_s = 0.0
        self._num_observed = 0
        self._refuted_at = 0

    async def run(
        self, requests: AsyncIterator[ClientMessage | PacelineError]
    ) -> AsyncGenerator[ServerMessage, None]:
        """The answers to the hop below, until the text or the stream ends."""
        below, own = self._start(self._below(requests)), self._start(self._own())
        self._upward = self._start(self._above())
        try:
            while (message := await self._answers.get()) is not None:
                yield message
            await asyncio.wait({below}, timeout=_LINGER_S)
        finally:
            self._to_own.put_nowait(None)
            self._upward.cancel()
            below.cancel()
            if self._is_over:
                await asyncio.wait({own}, timeout=_LINGER_S)  # until it has heard `Close`
            own.cancel()
            await asyncio.gather(below, own, self._upward, return_exceptions=True)

    def answer(self, message: ServerMessage) -> None:
        """Tell the hop below."""
        self._answers.put_nowait(message)

    def fail(self, error: PacelineError) -> None:
        """End the text, and say why."""
        self.answer(ErrorMessage.of(error))
        self._answers.put_nowait(None)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.create_task(self._guarded(work))

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except PacelineError as error:
            error.fatal = True
            if error.status is Status.DEADLINE_EXCEEDED:
                self._end_own()
            self.fail(seen_from_below(error))
        except Exception:
            self.fail(incident("relaying a text"))

    # --- the hop below ------------------------------------------------------------------------------------------------

    async def _below(self, requests: AsyncIterator[ClientMessage | PacelineError]) -> None:
        async for message in requests:
            match message:
                case Draft() | BadDraft():
                    self._to_own.put_nowait(message)
                case Cancel():
                    self._finish(FinishReason.CANCELLED, None)
                case Close():
                    self._end_own()
                    break
                case PacelineError():
                    raise message
                case Open():
                    raise InvalidRequest(
                        "this stream is open already", field="open", cure="send it once per stream"
                    )
        self._answers.put_nowait(None)

    # --- the relay's own model ----------------------------------------------------------------------------------------

    async def _own(self) -> None:
        async for answer in self._verifier.decode_steered(self._for_own()):
            match answer:
                case Opened():
                    self.answer(replace(answer, features=answer.features | self._passed_on))
                    self._is_open.set()
                case Written():
                    self._on_written(answer)
                case Verdict():
                    self.answer(self._session.credit(answer))
                case ErrorMessage():
                    self.answer(answer)
                    if answer.fatal:
                        self._upward.cancel()  # at once: the hop below may not read what it is told
                        self._answers.put_nowait(None)

    @property
    def _passed_on(self) -> frozenset[Feature]:
        """What the hops above do for the hop below, whatever this one does."""
        above = self._client.verifier
        offered = above.features if above is not None else frozenset()
        return frozenset({Feature.RECEIPTS}) & self._opening.features & offered

    async def _for_own(self) -> AsyncIterator[Request | PacelineError]:
        request = replace(self._opening, deadline_s=0.0)  # whoever drives the text keeps the time
        yield Steered(request, depth=len(self._opening.path))
        while (message := await self._to_own.get()) is not None:
            yield message

    def _end_own(self) -> None:
        """The own model's cache is of no more use; a stream that ends otherwise leaves it for whoever comes back."""
        self._is_over = True
        self._to_own.put_nowait(Close())

    def _on_written(self, written: Written) -> None:
        now_s = self._loop.time()
        self._unclaimed_s += now_s - max(self._written_s, self._asked_s)
        self._written_s = now_s
        self.answer(self._session.on_written(written))
        self._news.set()

    def _steer(self, base: int, token_ids: tuple[int, ...] = ()) -> None:
        self._to_own.put_nowait(Steer(base, token_ids, self._horizon, self._session.committed))

    # --- the hop above ------------------------------------------------------------------------------------------------

    async def _above(self) -> None:
        await self._is_open.wait()
        opening = self._opening
        request = GenerationRequest(
            prompt_token_ids=opening.prompt_token_ids,
            max_new_tokens=opening.max_new_tokens,
            sampling=opening.sampling,
            rule=opening.rule,
            seed=opening.seed,
            stop_token_ids=opening.stop_token_ids,
            ignore_eos=True,
            fill=FillPolicy.OFF if opening.fill is FillPolicy.OFF else None,
            reconnect_s=self._config.reconnect_s,
            committed_token_ids=opening.committed_token_ids,
            deadline_s=opening.deadline_s,
            request_id=opening.request_id,
            pad_to=opening.pad_to,
            path=(*opening.path, self._name),
            session_id=self._session_id,
            attempt=opening.attempt,
            receipt=opening.receipt,
            receipt_length=opening.receipt_length,
        )
        generation = self._client.generate(
            request, self._config.mode, writer=self, comes_back=self._may_come_back
        )
        async for _ in generation:
            pass  # `observe` has heard it already
        assert generation.report.finish_reason is not None, "a text that ended has a reason"
        self._finish(generation.report.finish_reason, generation.report)

    def _may_come_back(self) -> bool:
        """Whether the hop below, which is gone, can open the text again."""
        return bool(self._opening.session_id) and not self._is_over

    def _finish(self, reason: FinishReason, report: Report | None) -> None:
        own = replace(self._session.report, name=self._name)
        above = report.hops if report is not None else ()
        if report is not None:
            own = replace(
                own,
                bytes_up=report.traffic.bytes_up,
                bytes_down=report.traffic.bytes_down,
                round_trip_s=report.round_trip_s,
                num_reconnects=report.num_reconnects,
            )
        self.answer(Finished(reason, self._session.committed, (own, *above)))
        self._end_own()
        self._answers.put_nowait(None)

    # --- as the drafter of the hop above ------------------------------------------------------------------------------

    async def propose(self, plan: Plan, limit: int) -> Drafted:
        """What this hop's model has said and the hop above has not heard; waits until there is some.

        Whole steps of the model are handed over, so there may be more than the plan wants: nothing that was drawn is
        ever dropped for what it is (methods E11).
        """
        while True:
            proposal = self._session.drafts(self._taken, limit)
            is_stuck = not proposal and len(self._session.text) > self._taken
            if proposal or is_stuck or self._session.is_complete:
                break
            self._ask(self._taken + min(plan.limit, limit))
            self._news.clear()
            await self._news.wait()
        self._taken += len(proposal)
        draft_s, self._unclaimed_s = self._unclaimed_s, 0.0
        return Drafted(proposal, draft_s, self._num_observed)

    def _ask(self, horizon: int) -> None:
        if horizon > self._horizon:
            self._horizon = horizon
            self._asked_s = self._loop.time()
            self._steer(len(self._session.text))

    def observe(self, commit: Commit, *, contradicts: bool = False) -> None:
        """See `Drafting`."""
        self._num_observed += 1
        message, is_other = self._session.on_commit(commit)
        if message is not None:
            self.answer(message)
        end = commit.position + len(commit.token_ids)
        if is_other:
            self._steer(commit.position, commit.token_ids)
        if contradicts:
            self._refuted_at = self._num_observed
            self._taken = end
        self._taken = max(self._taken, end)
        self._news.set()

    def is_refuted(self, drafted: Drafted) -> bool:
        """See `Drafting`."""
        return drafted.num_observed < self._refuted_at

    def begin_anew(self, text: Sequence[int]) -> None:
        """See `Drafting`."""
        self._num_observed += 1
        self._refuted_at = self._num_observed
        self._taken = len(text)
        self._news.set()

    def close(self) -> None:
        """Nothing of its own is held."""
