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
from paceline.cloud.caches import Caches
from paceline.cloud.config import VerifierConfig
from paceline.cloud.engine.base import Row, TargetEngine
from paceline.cloud.fill import Load
from paceline.cloud.incidents import broken_target, going_away, incident, left_idle, time_is_up
from paceline.cloud.metrics import VerifierMetrics
from paceline.cloud.own_drafts import OwnDrafts
from paceline.cloud.parking import Name
from paceline.cloud.port import Judged, Port, Request, post
from paceline.cloud.quotas import Quotas
from paceline.cloud.receipts import Receipts
from paceline.cloud.scheduler import Planned, Scheduler
from paceline.cloud.tally import Tally
from paceline.cloud.timers import Timers
from paceline.common.cost import CostLine
from paceline.common.drafter import Drafter
from paceline.common.errors import BadDraft, Fenced, InvalidRequest, PacelineError, TargetNumerics
from paceline.common.logs import about
from paceline.common.messages import (
    Cancel,
    Close,
    Draining,
    ErrorMessage,
    Feature,
    FillPolicy,
    HopDescription,
    Open,
)
from paceline.common.sampling.rows import LogitRows
from paceline.common.session import (
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
        receipts: checks and makes them; None leaves them out.
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
        receipts: Receipts | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.engine = engine
        self.limits = limits
        self.config = config
        self.metrics = metrics
        self.clock = clock
        self.is_stopping = False
        self._drafter = drafter
        self._cost = CostLine()
        self._admission = Admission(engine, limits, config, self._cost)
        self._caches = Caches(engine, self._admission, config, metrics, clock)
        self._quotas = Quotas()
        self._receipts = receipts
        self._scheduler = Scheduler(config.max_step_tokens, config.prefill_chunk_tokens)
        self._ports: dict[int, Port] = {}
        self._sessions: dict[int, VerifierSession] = {}
        self._timers = Timers(config.idle_s)
        self._load = Load()
        self._tally = Tally(metrics)
        self._is_draining = False
        metrics.room(config.max_sessions, engine.capacity_tokens)

    @property
    def num_sessions(self) -> int:
        """Live sessions."""
        return len(self._sessions)

    @property
    def counts(self) -> HopDescription:
        """What was done so far, over all sessions."""
        return self._tally.counts

    @property
    def num_parked(self) -> int:
        """Caches kept for streams that broke off."""
        return len(self._caches.parking)

    @property
    def next_due_s(self) -> float | None:
        """When `plan` should be asked at the latest, by the clock; None: not before something arrives."""
        now_s = self.clock()
        paced = self._quotas.paced(now_s)
        turns = [paced.get(tenant, now_s) for tenant in self._scheduler.tenants]
        times_s = (*turns, *self._timers.due_s, *self._caches.parking.due_s)
        return min(times_s, default=None)

    # --- what arrives -------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Fail what is live; nothing is served any more."""
        self.is_stopping = self._is_draining = True
        self._caches.parking.clear()
        self.fail_all(going_away())

    def fail_all(self, error: PacelineError) -> None:
        """End every session."""
        for port in list(self._ports.values()):
            self._fail(port, error)

    def drain(self, grace_s: float) -> None:
        """Refuse new sessions and tell the live ones that this verifier is going away; nobody comes back here."""
        self._is_draining = True
        self._caches.parking.clear()
        for port in self._ports.values():
            port.answer([Draining(grace_s)])

    def refuses_at_once(self, port: Port, opening: Request | PacelineError) -> bool:
        """Whether an Open was answered with a refusal, for want of a place. The one thing that another thread may ask,
        so that a refusal need not wait for the step under way: it counts who is sure to stay, and changes nothing but
        the port, which nobody else knows yet.
        """
        if self._is_draining or not isinstance(opening, Open | Steered):
            return False
        port.know(opening, self.metrics.hop)
        request = opening.request if isinstance(opening, Steered) else opening
        name = (port.tenant, request.session_id) if request.session_id else None
        others = [one for one in list(self._ports.values()) if name is None or one.name != name]
        stay = [one.tenant for one in others if one.is_live and not one.is_leaving]
        try:
            session_s = self._admission.turnover.until(self._quotas.num_sessions(port.tenant))
            self._quotas.check_sessions(port.tenant, port.quota, stay.count(port.tenant), session_s)
            self._admission.check_places(len(stay), self.clock())
        except PacelineError as error:
            self._fail(port, error)
            return True
        return False

    def on_message(self, port: Port, message: Request | PacelineError, arrived_s: float) -> None:
        """A stream brought a message, or what was wrong with one."""
        port.num_handled += 1
        if port.has_ended:
            return
        if port.key in self._sessions:
            self._timers.is_active(port.key, self.clock())
        with about(port.about):
            self._handle(port, message, arrived_s)

    def _handle(self, port: Port, message: Request | PacelineError, arrived_s: float) -> None:
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
                port.answer(session.steer(message))
                self._queue(port)
            case Draft():
                if session.phase is VerifierPhase.LIVE:
                    self._on_draft(port, session, message, arrived_s)
            case Cancel():
                port.answer(session.on_cancel())
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
        port.answer([replace(one, queue_s=queue_s) if isinstance(one, Verdict) else one for one in replies])
        self._queue(port)

    def _open(self, port: Port, message: Request | PacelineError) -> None:
        if isinstance(message, PacelineError) and not isinstance(message, BadDraft):
            raise message
        if not isinstance(message, Open | Steered):
            raise InvalidRequest(
                "the first message must be open", field="payload", cure="send open, then drafts"
            )
        port.know(message, self.metrics.hop)
        if self._is_draining:
            raise going_away()
        if isinstance(message, Steered):
            session: VerifierSession = SteeredSession(message, self.limits)
        else:
            session = VerifierSession(message, self.limits)
        request = session.request
        self._begin_ledger(port, session)
        if request.session_id:
            self._fence((port.tenant, request.session_id), request.attempt)
        now_s = port.opened_s = self.clock()
        self._quotas.check_open(
            port.tenant,
            port.quota,
            now_s,
            has_begun=bool(request.committed_token_ids),
            session_s=self._admission.turnover.until(self._quotas.num_sessions(port.tenant)),
        )
        needed = self._admission.check(session.end, now_s)
        self._admission.admit(port.key, needed, now_s)
        self._quotas.opened(port.tenant)
        port.session = self._sessions[port.key] = session
        self._ports[port.key] = port
        self._caches.give(port, session, needed)
        if request.deadline_s:
            self._timers.end_at(port.key, now_s + request.deadline_s)
        self._timers.is_active(port.key, now_s)
        if self._drafter is not None and request.fill is not FillPolicy.OFF:
            port.own_drafts = OwnDrafts(self._drafter, session)
        port.pace = self.metrics.session_opened(len(request.prompt_token_ids), self.clock())
        self._count_cache()
        log.info("session opened")
        port.answer(session.opened(self._cost.fixed_s, self._cost.per_token_s))
        self._queue(port)

    def _begin_ledger(self, port: Port, session: VerifierSession) -> None:
        """Look at what the client shows for its history. What a relay's model says is nobody's word: no receipts."""
        if self._receipts is not None and not isinstance(session, SteeredSession):
            ledger = self._receipts.begin(port.tenant, session.request)
            port.ledger = ledger if Feature.RECEIPTS in session.features else None

    def _fence(self, name: Name, attempt: tuple[int, ...]) -> None:
        """Of two streams under this name the older one has lost its client. Where that is the live one it ends, and
        leaves its cache; where it is this one, which a link had held back, it is refused."""
        cure = "go on there, or open it under another one"
        fenced = Fenced("the session goes on in another stream", field="session_id", cure=cure)
        if self._caches.is_overtaken(name, attempt):
            raise fenced
        if (old := self._caches.holder(name)) is not None:
            self._tell(old, fenced)
            self.on_lost(old)

    def on_lost(self, port: Port) -> None:
        """The stream ended without a word: a session that could go on leaves its cache for whoever comes back."""
        session = port.session
        self.on_gone(port, parks=session is not None and session.phase is VerifierPhase.LIVE)

    def on_gone(self, port: Port, *, parks: bool = False) -> None:
        """The client closed the session or is gone; nothing of it stays (the client keeps the text)."""
        if self._ports.pop(port.key, None) is not None and port.session is not None:
            port.session.close()
            del self._sessions[port.key]
            self._timers.forget(port.key)
            self._admission.free(port.key, self.clock())
            self._quotas.closed(port.tenant)
            self._caches.take_back(port, port.session, parks=parks)
            if port.own_drafts is not None:
                port.own_drafts.close()
            self._count_cache()
            port.over(self.clock())
        if not port.has_ended:
            port.has_ended = True
            port.span.end(request_id=port.about.get("request_id", ""), ended=port.outcome)
            post(port, [], ends=True)

    # --- one engine step ----------------------------------------------------------------------------------------------

    def plan(self) -> list[Planned]:
        """What the next step runs; empty if there is nothing to do yet."""
        now_s = self.clock()
        self._caches.parking.expire()
        for key in self._timers.late_drafts(now_s):
            self._queue(self._ports[key])
        for key in self._timers.ended(now_s):
            self._fail(self._ports[key], time_is_up())
        for key in self._timers.idle(now_s, self._scheduler):
            self._tell(self._ports[key], left_idle(self.config.idle_s))
            self.on_lost(self._ports[key])
        planned = self._scheduler.plan(self._sessions, self._own_draft, self._quotas.paced(now_s))
        self.metrics.planned(len(self._scheduler))
        planned = [part for part in planned if not self._is_clogged(part)]
        for part in planned:
            port = self._ports[part.key]
            self._quotas.ran(port.tenant, port.quota, len(part.work.token_ids), now_s)
        return planned

    def _queue(self, port: Port) -> None:
        """It may have something to do; the sooner its turn, if its deadline would pass otherwise."""
        ends_s = self._timers.ends_s(port.key)
        is_late = ends_s is not None and port.is_late(self.clock(), ends_s, self._cost.fixed_s)
        self._scheduler.add(port.key, port.tenant, ends_s if is_late else None)

    def run(self, planned: list[Planned]) -> Sequence[LogitRows] | None:
        """The engine's part of a step; None if it failed, and its sessions with it."""
        rows = [
            Row(
                self._ports[part.key].cache_key,
                work.past_length,
                work.token_ids,
                work.num_logits,
                work.parents,
            )
            for part in planned
            for work in [part.work]
        ]
        try:
            return self.engine.step(rows)
        except Exception:
            texts = ", ".join(str(self._ports[part.key].about) for part in planned)
            error = incident(f"running the target for {texts}")
            for part in planned:
                self._fail(self._ports[part.key], error)
            return None

    def finish(self, planned: list[Planned], logits: Sequence[LogitRows], began_s: float) -> None:
        """Judge, commit and answer; the step began at `began_s` by the clock."""
        for part, part_logits in zip(planned, logits, strict=True):
            port = self._ports.get(part.key)
            if port is not None:  # otherwise its session went on elsewhere meanwhile
                with about(port.about):
                    self._finish_part(port, part.work, part_logits, began_s)
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
                self._timers.wait_for_draft(key, fill_at_s)
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
            self._timers.is_active(port.key, self.clock())
            self._queue(port)

    def _finish_part(self, port: Port, work: Work, logits: LogitRows, began_s: float) -> None:
        session = port.session
        assert session is not None, "only an open session takes part in a step"
        self._timers.is_active(port.key, self.clock())
        try:
            if work.draft is None:
                port.answer(session.on_prefilled(work, logits))
                self._queue(port)
                return
            judgement = session.judge(work, logits)
        except TargetNumerics as error:
            self._fail(port, broken_target(error), session.blocks_settled)
            return
        except PacelineError as error:
            error.fatal = True
            self._fail(port, error, session.blocks_settled)
            return
        except Exception:
            self._fail(port, incident("judging a draft"))
            return
        self._admission.observe_turn(len(work.token_ids))
        queue_s = 0.0 if work.is_own else max(began_s - port.draft_arrived_s, 0.0)
        now_s = self.clock()
        length = len(session.text)
        answers = session.on_judged(work, judgement, now_s - began_s, queue_s)
        if port.ledger is not None:
            answers = port.ledger.stamped(answers, session.text[length:])
        port.answer(answers)
        done = Judged(length, judgement.num_accepted, len(session.text) - length, now_s - began_s, queue_s)
        port.on_verdict(work, done, now_s)
        self._tally.judged(work, done)
        self._queue(port)

    def _count_cache(self) -> None:
        self.metrics.reserved(self._admission.reserved_tokens, self.engine.capacity_tokens)

    def _observe_cost(self, planned: list[Planned], seconds: float) -> None:
        num_tokens = sum(len(part.work.token_ids) for part in planned)
        self._tally.stepped(len(planned), num_tokens, seconds)
        self._load.observe(sum(part.work.draft is not None and not part.work.is_own for part in planned))
        if all(part.work.draft is not None for part in planned):
            self._cost.observe(num_tokens, seconds)

    # --- errors -------------------------------------------------------------------------------------------------------

    def _fail(self, port: Port, error: PacelineError, blocks_settled: int = 0) -> None:
        """Say what is wrong; a fatal error ends this stream and frees its session, and only this one's."""
        self._tell(port, error, blocks_settled)
        if error.fatal:
            self.on_gone(port)

    def _tell(self, port: Port, error: PacelineError, blocks_settled: int = 0) -> None:
        port.answer([ErrorMessage.of(error, blocks_settled)])
        self.metrics.failed(error, is_open=port.session is not None)
        with about(port.about):
            log.info("%s: %s", error.reason, error)
