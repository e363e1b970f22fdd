"""Sessions, scheduler and engine put together; knows no wire.

One thread owns every session and the engine, so nothing here needs a lock: transports put messages into its inbox
and get answers through their port's outbox. A step takes whatever waits.

    transport ──inbox──▶ [ drain ─▶ plan ─▶ engine.step ─▶ judge ─▶ commit ] ──outbox──▶ transport
"""

import asyncio
import logging
import queue
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial

from paceline.cloud.config import VerifierConfig
from paceline.cloud.engine.base import Row, TargetEngine
from paceline.cloud.metrics import VerifierMetrics
from paceline.cloud.scheduler import Planned, Scheduler
from paceline.common.acceptance import judge
from paceline.common.cost import CostLine
from paceline.common.errors import BadDraft, Busy, InternalError, InvalidRequest, PacelineError, Unreachable
from paceline.common.messages import (
    Cancel,
    ClientMessage,
    Close,
    Description,
    Draining,
    ErrorMessage,
    Finished,
    Open,
    ServerMessage,
)
from paceline.common.sampling.rows import LogitRows, TargetRows
from paceline.common.session import Limits, VerifierPhase, VerifierSession
from paceline.common.tokens import Draft

log = logging.getLogger(__name__)

_LINGER_S = 2.0
"""How long a stream whose last message is sent waits for the client's Close: a stream ended while the client is writing
fails on its side, and what it had not read yet is lost."""
_FLOOD_PAUSE_S = 0.005


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """What clients are told about the target."""

    name: str
    software_version: str
    eos_token_ids: tuple[int, ...] = ()
    tokenizer_fingerprint: bytes = b""
    device: str = ""
    dtype: str = ""


@dataclass(slots=True, eq=False)
class _Port:
    """One stream's connection to the verifier thread."""

    key: int
    loop: asyncio.AbstractEventLoop
    outbox: asyncio.Queue[ServerMessage | None] = field(default_factory=asyncio.Queue)
    session: VerifierSession | None = None
    reserved_tokens: int = 0
    draft_arrived_s: float = 0.0
    num_arrived: int = 0
    num_handled: int = 0
    num_replies: int = 0
    num_read: int = 0
    is_clogged: bool = False
    """Not served because too many replies are unread; reading them wakes it."""
    has_ended: bool = False

    @property
    def num_unread(self) -> int:
        """Replies the client has yet to take."""
        return self.num_replies - self.num_read


class Verifier:
    """Verifies drafts of many sessions with one engine.

    Args:
        engine: the target.
        info: what to tell clients about it.
        config: admission and batching.
        metrics: counters to keep.
    """

    def __init__(
        self,
        engine: TargetEngine,
        info: TargetInfo,
        config: VerifierConfig | None = None,
        metrics: VerifierMetrics | None = None,
    ) -> None:
        self.config = config or VerifierConfig()
        self.metrics = metrics or VerifierMetrics()
        self.info = info
        self.limits = Limits(
            vocab_size=engine.vocab_size,
            max_context=engine.max_context,
            max_draft_tokens=self.config.max_draft_tokens,
            max_blocks_in_flight=self.config.max_blocks_in_flight,
            rules=self.config.rules,
            eos_token_ids=info.eos_token_ids,
            tokenizer_fingerprint=info.tokenizer_fingerprint,
        )
        self._engine = engine
        self._scheduler = Scheduler(self.config.max_step_tokens, self.config.prefill_chunk_tokens)
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._ports: dict[int, _Port] = {}
        self._sessions: dict[int, VerifierSession] = {}
        self._cost = CostLine()
        self._draining = False
        self._stopping = False
        self._next_key = 0
        self._thread = threading.Thread(target=self._run, name="verifier", daemon=True)

    # --- called from the event loop -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the verifier thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop it after the step under way."""
        self._inbox.put(self._on_stop)
        self._thread.join()

    def drain(self, grace_s: float) -> None:
        """Refuse new sessions and tell the live ones that this verifier is going away."""
        self._inbox.put(partial(self._on_drain, grace_s))

    @property
    def num_sessions(self) -> int:
        """Live sessions."""
        return len(self._sessions)

    @property
    def capacity_tokens(self) -> int:
        """Cache tokens the engine has for all sessions."""
        return self._engine.capacity_tokens

    def describe(self) -> Description:
        """What this verifier serves."""
        return Description(
            software_version=self.info.software_version,
            model_name=self.info.name,
            vocab_size=self.limits.vocab_size,
            max_context=self.limits.max_context,
            max_sessions=self.config.max_sessions,
            max_draft_tokens=self.limits.max_draft_tokens,
            rules=tuple(sorted(self.limits.rules)),
            tokenizer_fingerprint=self.limits.tokenizer_fingerprint,
            eos_token_ids=self.limits.eos_token_ids,
            features=self.limits.features,
            device=self.info.device,
            dtype=self.info.dtype,
            active_sessions=self.num_sessions,
        )

    async def decode(
        self, requests: AsyncIterator[ClientMessage | PacelineError]
    ) -> AsyncIterator[ServerMessage]:
        """Serve one stream; see `paceline.common.hops.base.Verifying`."""
        if self._stopping:
            yield ErrorMessage.of(_going_away())
            return
        self._next_key += 1
        port = _Port(self._next_key, asyncio.get_running_loop())
        reader = asyncio.create_task(self._read(port, requests))
        try:
            while (message := await port.outbox.get()) is not None:
                port.num_read += 1
                if port.is_clogged and port.num_unread <= self.config.max_unread_replies:
                    self._inbox.put(partial(self._on_read, port))
                yield message
            self._inbox.put(partial(self._on_gone, port))
            await asyncio.wait({reader}, timeout=_LINGER_S)
        finally:
            reader.cancel()
            self._inbox.put(partial(self._on_gone, port))

    async def _read(self, port: _Port, requests: AsyncIterator[ClientMessage | PacelineError]) -> None:
        try:
            async for message in requests:
                port.num_arrived += 1
                self._inbox.put(partial(self._on_message, port, message, time.perf_counter()))
                if isinstance(message, Close):
                    return
                await self._until_not_flooded(port)
        finally:
            self._inbox.put(partial(self._on_gone, port))

    async def _until_not_flooded(self, port: _Port) -> None:
        """Leave a client's further messages to the transport's flow control while too many of it wait here: it ignores
        the window, or sends without reading."""
        most = self.config.max_unread_replies + self.config.max_blocks_in_flight
        while max(port.num_arrived - port.num_handled, port.num_unread) > most and not port.has_ended:  # noqa: ASYNC110 - a thread counts
            await asyncio.sleep(_FLOOD_PAUSE_S)

    # --- the verifier thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._drain_inbox(wait=len(self._scheduler) == 0)
                planned = self._scheduler.plan(self._sessions)
                if planned:
                    self._step(planned)
            except Exception:
                self._fail_all(_incident("planning a step"))
        self._drain_inbox(wait=False)
        self._fail_all(_going_away())

    def _fail_all(self, error: PacelineError) -> None:
        for port in list(self._ports.values()):
            self._fail(port, error)

    def _drain_inbox(self, *, wait: bool) -> None:
        if wait:
            self._inbox.get()()
        while True:
            try:
                handle = self._inbox.get_nowait()
            except queue.Empty:
                return
            handle()

    def _on_stop(self) -> None:
        self._stopping = self._draining = True

    def _on_drain(self, grace_s: float) -> None:
        self._draining = True
        for port in self._ports.values():
            self._reply(port, [Draining(grace_s)])

    def _on_message(self, port: _Port, message: ClientMessage | PacelineError, arrived_s: float) -> None:
        port.num_handled += 1
        if port.has_ended:
            return
        try:
            if port.session is None:
                self._open(port, message)
            elif isinstance(message, PacelineError):
                if isinstance(message, BadDraft):
                    port.session.on_unreadable_draft()
                raise message
            else:
                self._on_session_message(port, port.session, message, arrived_s)
        except PacelineError as error:
            settled = port.session.blocks_settled if port.session else 0
            self._fail(port, error, settled)
        except Exception:
            self._fail(port, _incident("handling a message"))

    def _on_session_message(
        self, port: _Port, session: VerifierSession, message: ClientMessage, arrived_s: float
    ) -> None:
        match message:
            case Draft():
                if session.phase is VerifierPhase.LIVE:
                    port.draft_arrived_s = arrived_s
                    self._reply(port, session.on_draft(message))
                    self._scheduler.add(port.key)
            case Cancel():
                self._reply(port, session.on_cancel())
            case Close():
                self._on_gone(port)
            case Open():
                raise InvalidRequest(
                    "this stream is open already", field="open", cure="send it once per stream"
                )

    def _open(self, port: _Port, message: ClientMessage | PacelineError) -> None:
        if isinstance(message, PacelineError) and not isinstance(message, BadDraft):
            raise message
        if not isinstance(message, Open):
            raise InvalidRequest(
                "the first message must be open", field="payload", cure="send open, then drafts"
            )
        if self._draining:
            raise _going_away()
        session = VerifierSession(message, self.limits)
        self._admit(port, session)
        port.session = self._sessions[port.key] = session
        self._ports[port.key] = port
        self.metrics.session_opened(len(message.prompt_token_ids))
        self._reply(port, session.opened(self._cost.fixed_s, self._cost.per_token_s))
        self._scheduler.add(port.key)

    def _admit(self, port: _Port, session: VerifierSession) -> None:
        """A session gets its whole cache up front: once admitted it can always finish."""
        if len(self._sessions) >= self.config.max_sessions:
            raise Busy(
                f"all {self.config.max_sessions} sessions are taken",
                field="sessions",
                cure="retry",
                retry_after_s=1.0,
            )
        reserved = sum(other.reserved_tokens for other in self._ports.values())
        pages = -(-(session.end + self.limits.max_draft_tokens) // self._engine.page_size)
        needed = pages * self._engine.page_size
        if reserved + needed > self._engine.capacity_tokens:
            raise Busy(
                f"{needed} cache tokens are needed, {self._engine.capacity_tokens - reserved} are free",
                field="kv_cache",
                cure="retry, or ask for fewer tokens",
                retry_after_s=1.0,
            )
        port.reserved_tokens = needed

    def _on_gone(self, port: _Port) -> None:
        """The client closed the session or is gone; nothing of it stays (the client keeps the text)."""
        if self._ports.pop(port.key, None) is not None and port.session is not None:
            port.session.close()
            del self._sessions[port.key]
            self._engine.release(port.key)
            self.metrics.session_closed()
        if not port.has_ended:
            port.has_ended = True
            _post(port, [], ends=True)

    # --- one engine step ----------------------------------------------------------------------------------------------

    def _step(self, planned: list[Planned]) -> None:
        planned = [part for part in planned if not self._is_clogged(part)]
        if not planned:
            return
        began_s = time.perf_counter()
        rows = [
            Row(part.key, part.work.past_length, part.work.token_ids, part.work.num_logits)
            for part in planned
        ]
        try:
            logits = self._engine.step(rows)
        except Exception:
            error = _incident("running the target")
            for part in planned:
                self._fail(self._ports[part.key], error)
            return
        for part, part_logits in zip(planned, logits, strict=True):
            self._finish_part(part, part_logits, began_s)
        self._observe_cost(planned, time.perf_counter() - began_s)

    def _is_clogged(self, part: Planned) -> bool:
        """A client that does not read stops being served until it does; it delays nobody else."""
        port = self._ports[part.key]
        port.is_clogged = True  # set before looking: whoever reads the last reply after the look sees it
        port.is_clogged = port.num_unread > self.config.max_unread_replies
        return port.is_clogged

    def _on_read(self, port: _Port) -> None:
        port.is_clogged = False
        if port.key in self._sessions:
            self._scheduler.add(port.key)

    def _finish_part(self, part: Planned, logits: LogitRows, began_s: float) -> None:
        port, work = self._ports[part.key], part.work
        session = self._sessions[part.key]
        if work.draft is None:
            session.on_prefilled(work)
            self._scheduler.add(part.key)
            return
        params, seed = session.request.sampling, session.request.seed
        try:
            with TargetRows(logits, params, session.history, work.draft.token_ids) as rows:
                judgement = judge(session.request.rule, work.draft, rows, seed)
        except PacelineError as error:
            error.fatal = True
            self._fail(port, error, session.blocks_settled)
            return
        except Exception:
            self._fail(port, _incident("judging a draft"))
            return
        queue_s = max(began_s - port.draft_arrived_s, 0.0) if work.settles else 0.0
        verify_s = time.perf_counter() - began_s
        length = len(session.text)
        self._reply(port, session.on_judged(work, judgement, verify_s, queue_s))
        self.metrics.judged(len(work.draft), judgement.num_accepted, len(session.text) - length, verify_s)
        self._scheduler.add(part.key)

    def _observe_cost(self, planned: list[Planned], seconds: float) -> None:
        num_tokens = sum(len(part.work.token_ids) for part in planned)
        self.metrics.stepped(len(planned), num_tokens, seconds)
        if all(part.work.draft is not None for part in planned):
            self._cost.observe(num_tokens, seconds)

    # --- answers ------------------------------------------------------------------------------------------------------

    def _reply(self, port: _Port, messages: list[ServerMessage]) -> None:
        if messages:
            port.num_replies += len(messages)
            _post(port, messages, ends=any(isinstance(message, Finished) for message in messages))

    def _fail(self, port: _Port, error: PacelineError, blocks_settled: int = 0) -> None:
        """Say what is wrong; a fatal error ends this stream and frees its session, and only this one's."""
        self._reply(port, [ErrorMessage.of(error, blocks_settled)])
        self.metrics.failed(error.reason)
        if error.fatal:
            self._on_gone(port)


def _post(port: _Port, messages: list[ServerMessage], *, ends: bool) -> None:
    """Hand answers to the port's event loop, all in one wake-up."""
    try:
        port.loop.call_soon_threadsafe(_deliver, port, messages, ends)
    except RuntimeError:
        log.debug("the event loop of session %d is closed", port.key)


def _deliver(port: _Port, messages: list[ServerMessage], ends: bool) -> None:
    for message in messages:
        port.outbox.put_nowait(message)
    if ends:
        port.outbox.put_nowait(None)


def _going_away() -> Unreachable:
    return Unreachable("this verifier is going away", field="verifier", cure="open at another one")


def _incident(doing: str) -> InternalError:
    """Log the exception at hand under an id; the id is all that leaves the process."""
    incident = uuid.uuid4().hex[:12]
    log.exception("incident %s while %s", incident, doing)
    return InternalError("internal error", cure=f"report incident {incident} to the operator")
