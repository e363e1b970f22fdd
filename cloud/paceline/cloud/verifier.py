"""A verifier: the desk's streams on one side, its runner on the other.

transport ──▶ decode ──runner──▶ desk ──outbox──▶ decode ──▶ transport
"""

import asyncio
import queue
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, cast

from paceline.cloud.config import VerifierConfig
from paceline.cloud.desk import Desk
from paceline.cloud.engine.base import TargetEngine
from paceline.cloud.identity import NOBODY, current_caller
from paceline.cloud.incidents import going_away, incident
from paceline.cloud.metrics import VerifierMetrics
from paceline.cloud.port import Port, Request
from paceline.cloud.receipts import Receipts
from paceline.common import tracing
from paceline.common.drafter import Drafter
from paceline.common.errors import PacelineError, Unreachable
from paceline.common.messages import (
    ClientMessage,
    Close,
    Description,
    ErrorMessage,
    Feature,
    ServerMessage,
)
from paceline.common.session import Answer, Limits

_LINGER_S = 2.0
"""How long a stream whose last message is sent waits for the client's Close: a stream ended while the client is writing
fails on its side, and what it had not read yet is lost."""
_FLOOD_PAUSE_S = 0.005
STUCK_S = 120.0
"""No step of a working engine takes as long."""


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """What clients are told about the target."""

    name: str
    software_version: str
    eos_token_ids: tuple[int, ...] = ()
    tokenizer_fingerprint: bytes = b""
    device: str = ""
    dtype: str = ""
    verify_floor_s: float = 0.0


class Runner(Protocol):
    """Calls a desk, from one place at a time."""

    clock: Callable[[], float]

    @property
    def turn_s(self) -> float:
        """How long what it does now has taken so far, seconds; 0 where it waits."""

    def start(self, desk: Desk) -> None:
        """Begin."""

    def submit(self, task: Callable[[], None]) -> None:
        """Do this before the next step. May be called from anywhere."""

    def stop(self) -> None:
        """End after the step under way."""


class ThreadRunner:
    """One thread that owns every session and the engine. Without anything to do it sleeps."""

    def __init__(self) -> None:
        self.clock: Callable[[], float] = time.perf_counter
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._began_s: float | None = None
        """When what it does now began; None where it waits."""

    @property
    def turn_s(self) -> float:
        """See `Runner`."""
        began_s = self._began_s
        return 0.0 if began_s is None else self.clock() - began_s

    def start(self, desk: Desk) -> None:
        """See `Runner`."""
        self._thread = threading.Thread(target=self._run, args=(desk,), name="verifier", daemon=True)
        self._thread.start()
        self._desk = desk

    def submit(self, task: Callable[[], None]) -> None:
        """See `Runner`."""
        self._inbox.put(task)

    def stop(self) -> None:
        """See `Runner`."""
        self._inbox.put(self._desk.stop)
        if self._thread is not None:
            self._thread.join()

    def _run(self, desk: Desk) -> None:
        while not desk.is_stopping:
            try:
                self._empty_inbox(desk)
                planned = desk.plan()
                began_s = self.clock()
                logits = desk.run(planned) if planned else None
                if logits is not None:
                    desk.finish(planned, logits, began_s)
            except Exception:
                desk.fail_all(incident("planning a step"))
        self._empty_inbox(desk)

    def _empty_inbox(self, desk: Desk) -> None:
        """Take what is there; wait for it, or until the desk has something to do."""
        due_s = None if desk.is_stopping else desk.next_due_s
        timeout_s = 0.0 if desk.is_stopping else None if due_s is None else due_s - self.clock()
        try:
            self._began_s = None
            task = self._inbox.get(timeout=timeout_s) if timeout_s is None or timeout_s > 0 else None
            self._began_s = self.clock()
            while True:
                if task is not None:
                    task()
                task = self._inbox.get_nowait()
        except queue.Empty:
            self._began_s = self.clock()


def _features(engine: TargetEngine, config: VerifierConfig) -> frozenset[Feature]:
    trees = {Feature.TREE} if engine.takes_trees else set()
    receipts = {Feature.RECEIPTS} if config.receipt_keys is not None else set()
    return frozenset({Feature.SPARSE_LAW, Feature.RESUME, Feature.LOGPROBS, *trees, *receipts})


def _receipts(config: VerifierConfig, info: TargetInfo, metrics: VerifierMetrics) -> Receipts | None:
    if config.receipt_keys is not None:
        model = (info.name.encode(), info.tokenizer_fingerprint)
        return Receipts(config.receipt_keys, model, metrics, is_required=config.require_receipts)
    return None


class Verifier:
    """Verifies drafts of many sessions with one engine.

    Args:
        engine: the target.
        info: what to tell clients about it.
        config: admission and batching.
        metrics: counters to keep.
        drafter: writes ahead where the verifier decodes alone.
        runner: what drives it; a thread unless something else is given.
    """

    def __init__(
        self,
        engine: TargetEngine,
        info: TargetInfo,
        config: VerifierConfig | None = None,
        metrics: VerifierMetrics | None = None,
        *,
        drafter: Drafter | None = None,
        runner: Runner | None = None,
    ) -> None:
        self.config = config or VerifierConfig()
        self.metrics = metrics or VerifierMetrics(self.config.hop_name or "cloud")
        self.info = info
        self.limits = Limits(
            vocab_size=engine.vocab_size,
            max_context=engine.max_context,
            max_draft_tokens=self.config.max_draft_tokens,
            max_judged_tokens=self.config.max_judged_tokens,
            max_blocks_in_flight=self.config.max_blocks_in_flight,
            rules=self.config.rules,
            eos_token_ids=info.eos_token_ids,
            tokenizer_fingerprint=info.tokenizer_fingerprint,
            features=_features(engine, self.config),
        )
        self._runner = runner or ThreadRunner()
        self._desk = Desk(
            engine,
            self.limits,
            self.config,
            self.metrics,
            drafter=drafter,
            receipts=_receipts(self.config, info, self.metrics),
            clock=self._runner.clock,
        )
        self._next_key = 0
        self._open_ports: set[Port] = set()

    def start(self) -> None:
        """Start serving."""
        self._runner.start(self._desk)

    def stop(self) -> None:
        """Stop after the step under way."""
        self._runner.stop()

    async def close(self) -> None:
        """As `stop`."""
        self.stop()

    def drain(self, grace_s: float) -> None:
        """Refuse new sessions and tell the live ones that this verifier is going away."""
        self._runner.submit(partial(self._desk.drain, grace_s))

    @property
    def is_stuck(self) -> bool:
        """Whether the engine does not come back from a step."""
        return self._runner.turn_s > STUCK_S

    @property
    def num_sessions(self) -> int:
        """Live sessions."""
        return self._desk.num_sessions

    @property
    def sessions_by_tenant(self) -> Counter[str]:
        """How many live sessions each tenant has."""
        live = (port for port in self._open_ports if port.session is not None and not port.has_ended)
        return Counter(port.tenant for port in live)

    @property
    def num_parked(self) -> int:
        """Caches kept for streams that broke off."""
        return self._desk.num_parked

    @property
    def num_streams(self) -> int:
        """Streams that have, or had, a session: one whose text is complete may not have read it yet."""
        return sum(port.session is not None for port in self._open_ports)

    @property
    def capacity_tokens(self) -> int:
        """Cache tokens the engine has for all sessions."""
        return self._desk.engine.capacity_tokens

    def describe(self) -> Description:
        """What this verifier serves.

        Raises:
            Unreachable: its engine is stuck.
        """
        if self.is_stuck:
            raise Unreachable(
                f"the engine has been at one step for over {STUCK_S:g} s",
                field="verifier",
                cure="use another one; this one has to be started anew",
            )
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
            verify_floor_s=self.info.verify_floor_s,
            hops=(
                replace(
                    self._desk.counts,
                    name=self.config.hop_name,
                    model_name=self.info.name,
                    device=self.info.device,
                    active_sessions=self.num_sessions,
                ),
            ),
        )

    async def decode(
        self, requests: AsyncIterator[ClientMessage | PacelineError]
    ) -> AsyncIterator[ServerMessage]:
        """Serve one stream; see `paceline.common.hops.base.Verifying`."""
        if self._desk.is_stopping:
            yield ErrorMessage.of(going_away())
            return
        self._next_key += 1
        caller, span = current_caller.get(NOBODY), tracing.begin("decode", hop=self.metrics.hop)
        loop, name = asyncio.get_running_loop(), self.config.hop_name
        port = Port(self._next_key, loop, caller.tenant, caller.quota, hop_name=name, span=span)
        self._open_ports.add(port)
        reader = asyncio.create_task(self._read(port, requests))
        try:
            while (message := await port.outbox.get()) is not None:
                port.num_read += 1
                if port.is_clogged and port.num_unread <= self.config.max_unread_replies:
                    self._runner.submit(partial(self._desk.on_read, port))
                yield cast("ServerMessage", message)
            self._leave(port)
            await asyncio.wait({reader}, timeout=_LINGER_S)
        finally:
            self._open_ports.discard(port)
            reader.cancel()
            self._leave(port)

    def _leave(self, port: Port) -> None:
        port.is_leaving = True
        self._runner.submit(partial(self._desk.on_lost, port))

    def decode_steered(self, requests: AsyncIterator[Request | PacelineError]) -> AsyncIterator[Answer]:
        """Serve a relay in this process, which opens with `Steered`; otherwise as `decode`."""
        return self.decode(cast("AsyncIterator[ClientMessage | PacelineError]", requests))

    async def _read(self, port: Port, requests: AsyncIterator[ClientMessage | PacelineError]) -> None:
        try:
            async for message in requests:
                port.num_arrived += 1
                if port.num_arrived == 1 and self._desk.refuses_at_once(port, message):
                    continue
                self._runner.submit(partial(self._desk.on_message, port, message, self._runner.clock()))
                if isinstance(message, Close):
                    return
                await self._until_not_flooded(port)
        finally:
            self._leave(port)

    async def _until_not_flooded(self, port: Port) -> None:
        """Leave a client's further messages to the transport's flow control while too many of it wait here: it ignores
        the window, or sends without reading."""
        most = self.config.max_unread_replies + self.config.max_blocks_in_flight
        while max(port.num_arrived - port.num_handled, port.num_unread) > most and not port.has_ended:  # noqa: ASYNC110 - a thread counts
            await asyncio.sleep(_FLOOD_PAUSE_S)
