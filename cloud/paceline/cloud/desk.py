"""Sessions, scheduler and engine put together; knows no wire, no thread and no clock of its own.

A runner calls it from one place at a time, so nothing here needs a lock: it hands in what arrived, asks for the next
step, runs it, and hands the outcome back. Answers go to each stream's outbox.

    runner ──▶ [ on_message … ─▶ plan ─▶ run ─▶ finish ] ──outbox──▶ transport
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from paceline.cloud.admission import Admission
from paceline.cloud.config import VerifierConfig
from paceline.cloud.engine.base import Row, TargetEngine
from paceline.cloud.fill import Load
from paceline.cloud.incidents import going_away, incident
from paceline.cloud.metrics import VerifierMetrics
from paceline.cloud.own_drafts import OwnDrafts
from paceline.cloud.port import Port, Request, post
from paceline.cloud.scheduler import Planned, Scheduler
from paceline.common.cost import CostLine
from paceline.common.drafter import Drafter
from paceline.common.errors import (
    BadDraft,
    DeadlineExceeded,
    InvalidRequest,
    PacelineError,
)
from paceline.common.messages import (
    Cancel,
    Close,
    Draining,
    ErrorMessage,
    FillPolicy,
    Finished,
    HopDescription,
    Open,
)
from paceline.common.sampling.rows import LogitRows
from paceline.common.session import (
    Answer,
    Limits,
    Steer,
    Steered,
    SteeredSession,
    VerifierPhase,
    VerifierSession,
    Work,
)
from paceline.common.tokens import Draft, Verdict

log = logging.getLogger(__name__)


class Desk:
    """Serves the sessions of one engine.

    Args:
        engine: the target.
        limits: what is accepted.
        config: admission and batching.
        metrics: counters to keep.
        drafter: writes ahead where the verifier decodes alone; None decodes token by token.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        engine: TargetEngine,
        limits: Limits,
        config: VerifierConfig,
        metrics: VerifierMetrics,
        *,
        drafter: Drafter | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.engine = engine
        self.limits = limits
        self.config = config
        self.metrics = metrics
        self.clock = clock
        self.is_stopping = False
        self._drafter = drafter
        self._admission = Admission(engine, limits, config)
        self._scheduler = Scheduler(config.max_step_tokens, config.prefill_chunk_tokens)
        self._ports: dict[int, Port] = {}
        self._sessions: dict[int, VerifierSession] = {}
        self._due_s: dict[int, float] = {}
        """Sessions that wait for a draft, and until when."""
        self._ends_s: dict[int, float] = {}
        """Deadlines that clients set."""
        self._cost = CostLine()
        self._load = Load()
        self.counts = HopDescription()
        """What was done so far, over all sessions."""
        self._is_draining = False

    @property
    def num_sessions(self) -> int:
        """Live sessions."""
        return len(self._sessions)

    @property
    def next_due_s(self) -> float | None:
        """When `plan` should be asked at the latest, by the clock; None: not before something arrives."""
        if len(self._scheduler):
            return self.clock()
        return min((*self._due_s.values(), *self._ends_s.values()), default=None)

    # --- what arrives -------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Fail what is live; nothing is served any more."""
        self.is_stopping = self._is_draining = True
        self.fail_all(going_away())

    def fail_all(self, error: PacelineError) -> None:
        """End every session."""
        for port in list(self._ports.values()):
            self._fail(port, error)

    def drain(self, grace_s: float) -> None:
        """Refuse new sessions and tell the live ones that this verifier is going away."""
        self._is_draining = True
        for port in self._ports.values():
            self._reply(port, [Draining(grace_s)])

    def on_message(self, port: Port, message: Request | PacelineError, arrived_s: float) -> None:
        """A stream brought a message, or what was wrong with one."""
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
            self._fail(port, incident("handling a message"))

    def _on_session_message(
        self, port: Port, session: VerifierSession, message: Request, arrived_s: float
    ) -> None:
        match message:
            case Steer() if isinstance(session, SteeredSession):
                self._reply(port, session.steer(message))
                self._scheduler.add(port.key)
            case Draft():
                if session.phase is VerifierPhase.LIVE:
                    self._on_draft(port, session, message, arrived_s)
            case Cancel():
                self._reply(port, session.on_cancel())
            case Close():
                self.on_gone(port)
            case _:
                raise InvalidRequest(
                    "this stream is open already", field="open", cure="send it once per stream"
                )

    def _on_draft(self, port: Port, session: VerifierSession, draft: Draft, arrived_s: float) -> None:
        port.draft_arrived_s = arrived_s
        replies = session.on_draft(draft)
        if session.has_usable_draft:
            port.patience.on_draft(arrived_s)
        elif session.contradicts(draft):
            port.patience.on_wrong_draft()
        # A stale block is answered at once; how long it lay here is told, so that its round trip measures the link.
        queue_s = max(self.clock() - arrived_s, 0.0)
        self._reply(
            port, [replace(one, queue_s=queue_s) if isinstance(one, Verdict) else one for one in replies]
        )
        self._scheduler.add(port.key)

    def _open(self, port: Port, message: Request | PacelineError) -> None:
        if isinstance(message, PacelineError) and not isinstance(message, BadDraft):
            raise message
        if not isinstance(message, Open | Steered):
            raise InvalidRequest(
                "the first message must be open", field="payload", cure="send open, then drafts"
            )
        if self._is_draining:
            raise going_away()
        if isinstance(message, Steered):
            session: VerifierSession = SteeredSession(message, self.limits)
        else:
            session = VerifierSession(message, self.limits)
        request = session.request
        needed = self._admission.check(session.end)
        self._admission.admit(port.key, needed)
        port.session = self._sessions[port.key] = session
        self._ports[port.key] = port
        if request.deadline_s:
            self._ends_s[port.key] = self.clock() + request.deadline_s
        if self._drafter is not None and request.fill is not FillPolicy.OFF:
            port.own_drafts = OwnDrafts(self._drafter, session)
        log.info("session %d opened, request %r", port.key, request.request_id)
        self.metrics.session_opened(len(request.prompt_token_ids))
        self._reply(port, session.opened(self._cost.fixed_s, self._cost.per_token_s))
        self._scheduler.add(port.key)

    def on_gone(self, port: Port) -> None:
        """The client closed the session or is gone; nothing of it stays (the client keeps the text)."""
        if self._ports.pop(port.key, None) is not None and port.session is not None:
            port.session.close()
            del self._sessions[port.key]
            self._due_s.pop(port.key, None)
            self._ends_s.pop(port.key, None)
            self.engine.release(port.key)
            self._admission.free(port.key)
            if port.own_drafts is not None:
                port.own_drafts.close()
            self.metrics.session_closed()
        if not port.has_ended:
            port.has_ended = True
            post(port, [], ends=True)

    # --- one engine step ----------------------------------------------------------------------------------------------

    def plan(self) -> list[Planned]:
        """What the next step runs; empty if there is nothing to do yet."""
        now_s = self.clock()
        for key in _passed(self._due_s, now_s):
            del self._due_s[key]
            self._scheduler.add(key)
        for key in _passed(self._ends_s, now_s):
            self._fail(self._ports[key], DeadlineExceeded("the client's time is up", field="deadline"))
        planned = self._scheduler.plan(self._sessions, self._own_draft)
        return [part for part in planned if not self._is_clogged(part)]

    def run(self, planned: list[Planned]) -> Sequence[LogitRows] | None:
        """The engine's part of a step; None if it failed, and its sessions with it."""
        rows = [
            Row(part.key, work.past_length, work.token_ids, work.num_logits, work.parents)
            for part in planned
            for work in [part.work]
        ]
        try:
            return self.engine.step(rows)
        except Exception:
            error = incident("running the target")
            for part in planned:
                self._fail(self._ports[part.key], error)
            return None

    def finish(self, planned: list[Planned], logits: Sequence[LogitRows], began_s: float) -> None:
        """Judge, commit and answer; the step began at `began_s` by the clock."""
        for part, part_logits in zip(planned, logits, strict=True):
            self._finish_part(part, part_logits, began_s)
        self._observe_cost(planned, self.clock() - began_s)

    def _own_draft(self, key: int) -> Draft | None:
        """What a session goes on with while its client's drafts are not there; None lets it wait."""
        port, session = self._ports[key], self._sessions[key]
        if not session.may_fill:
            return None
        if session.request.fill is FillPolicy.AUTO:
            now_s = self.clock()
            fill_at_s = port.patience.fill_at(now_s, self._cost.fixed_s + self._cost.per_token_s, self._load)
            if fill_at_s > now_s:
                self._due_s[key] = fill_at_s
                return None
        return port.own_drafts.draft(self._cost) if port.own_drafts is not None else session.own_draft()

    def _is_clogged(self, part: Planned) -> bool:
        """A client that does not read stops being served until it does; it delays nobody else."""
        port = self._ports[part.key]
        port.is_clogged = True  # set before looking: whoever reads the last reply after the look sees it
        port.is_clogged = port.num_unread > self.config.max_unread_replies
        return port.is_clogged

    def on_read(self, port: Port) -> None:
        """A client took replies it had left unread."""
        port.is_clogged = False
        if port.key in self._sessions:
            self._scheduler.add(port.key)

    def _finish_part(self, part: Planned, logits: LogitRows, began_s: float) -> None:
        port, work = self._ports[part.key], part.work
        session = self._sessions[part.key]
        try:
            if work.draft is None:
                self._reply(port, session.on_prefilled(work, logits))
                self._scheduler.add(part.key)
                return
            judgement = session.judge(work, logits)
        except PacelineError as error:
            error.fatal = True
            self._fail(port, error, session.blocks_settled)
            return
        except Exception:
            self._fail(port, incident("judging a draft"))
            return
        queue_s = 0.0 if work.is_own else max(began_s - port.draft_arrived_s, 0.0)
        now_s = self.clock()
        length = len(session.text)
        self._reply(port, session.on_judged(work, judgement, now_s - began_s, queue_s))
        self._after_verdict(port, work, judgement.num_accepted, len(session.text) - length, now_s)
        self._count(work, judgement.num_accepted, len(session.text) - length)
        self.metrics.judged(
            len(work.draft),
            judgement.num_accepted,
            len(session.text) - length,
            now_s - began_s,
            is_own=work.is_own,
        )
        self._scheduler.add(part.key)

    def _count(self, work: Work, num_accepted: int, num_committed: int) -> None:
        past, num_judged = self.counts, 0 if work.is_own or work.draft is None else len(work.draft)
        self.counts = replace(
            past,
            num_judged=past.num_judged + num_judged,
            num_accepted=past.num_accepted + (num_accepted if num_judged else 0),
            num_written=past.num_written + num_committed,
        )

    def _after_verdict(
        self, port: Port, work: Work, num_accepted: int, num_committed: int, now_s: float
    ) -> None:
        num_drafted = len(work.draft) if work.draft is not None else 0
        if work.is_own and port.own_drafts is not None:
            port.own_drafts.judged(num_accepted)
        port.patience.on_commit(
            now_s,
            num_committed,
            judged=not work.is_own,
            num_accepted=num_accepted,
            refuted=not work.is_own and num_accepted < num_drafted,
        )

    def _observe_cost(self, planned: list[Planned], seconds: float) -> None:
        num_tokens = sum(len(part.work.token_ids) for part in planned)
        self.metrics.stepped(len(planned), num_tokens, seconds)
        self.counts = replace(self.counts, num_steps=self.counts.num_steps + 1)
        self._load.observe(sum(part.work.draft is not None and not part.work.is_own for part in planned))
        if all(part.work.draft is not None for part in planned):
            self._cost.observe(num_tokens, seconds)

    # --- answers ------------------------------------------------------------------------------------------------------

    def _reply(self, port: Port, answers: Sequence[Answer]) -> None:
        if answers:
            port.num_replies += len(answers)
            told = [self._signed(port, one) if isinstance(one, Finished) else one for one in answers]
            post(port, told, ends=any(isinstance(one, Finished) for one in answers))

    def _signed(self, port: Port, finished: Finished) -> Finished:
        """Say what was done for the text."""
        assert port.session is not None, "only a session finishes"
        return replace(finished, hops=(replace(port.session.report, name=self.config.hop_name),))

    def _fail(self, port: Port, error: PacelineError, blocks_settled: int = 0) -> None:
        """Say what is wrong; a fatal error ends this stream and frees its session, and only this one's."""
        self._reply(port, [ErrorMessage.of(error, blocks_settled)])
        self.metrics.failed(error.reason)
        if error.fatal:
            self.on_gone(port)


def _passed(times: dict[int, float], now_s: float) -> list[int]:
    return [key for key, due_s in times.items() if due_s <= now_s]
