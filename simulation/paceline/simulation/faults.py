"""Fault schedules: from a seed a whole world, with the faults that happen in it, and what must hold whatever happens.

The client, relays and verifiers are the real ones, the clock is virtual, and the models are tables whose law depends on
the whole text so far: a token that is lost, repeated or changed changes everything after it. One schedule:

    .venv/bin/python -m paceline.simulation.faults SEED
"""

import asyncio
import hashlib
import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, fields, replace
from functools import partial

from paceline.cloud.config import VerifierConfig
from paceline.cloud.engine.table import TableEngine
from paceline.cloud.identity import Caller, current_caller
from paceline.cloud.quotas import UNLIMITED
from paceline.common.errors import PacelineError, Status
from paceline.common.hops.base import Hop
from paceline.common.hops.first_reachable import FirstReachable
from paceline.common.prefix import Prefix
from paceline.common.sampling.history import History
from paceline.common.sampling.law import greedy_token, target_law
from paceline.common.sampling.noise import gumbel_pick
from paceline.common.tokens import FinishReason, Rule
from paceline.edge.client import Client, Generation
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.request import GenerationRequest, TokensEvent
from paceline.relay.relay import Relay
from paceline.simulation.clock import run_virtual
from paceline.simulation.hop import SimulatedHop
from paceline.simulation.link import LinkShape
from paceline.simulation.machines import Machine
from paceline.simulation.pair import VirtualWorker
from paceline.simulation.way import Way
from paceline.simulation.worlds import (
    CACHE_OF_A_TEXT,
    FORMS,
    LONG_S,
    SHORT_BLOCK,
    VOCAB_SIZE,
    Fault,
    Text,
    World,
    world,
)

_FLEET_KEYS = (b"what verifiers of a simulated fleet share",)
_LINGER_S = 8.0
"""After so long nothing of a text may be left."""
_RETRIES_PER_FAULT = 6
"""A pause that doubles reaches a second in so many attempts."""


class Violation(AssertionError):
    """Something that must hold does not."""


@dataclass(slots=True)
class Outcome:
    """What came of a schedule in which everything held."""

    num_tokens: int = 0
    num_broken: int = 0
    """Streams."""
    num_reconnects: int = 0
    num_refused: int = 0
    num_fenced: int = 0
    """Streams whose session went on in another one."""
    num_hits: int = 0
    """Streams that found a cache an earlier one had left."""
    digest: str = ""
    """Of every event at its time: equal for equal runs."""


def reference(engine: TableEngine, request: GenerationRequest) -> list[int]:
    """What the target writes alone, for rules that decide it."""
    text = Prefix(request.prompt_token_ids)
    history = History(request.prompt_token_ids)
    for position in range(len(text), request.end):
        row = engine.logits_after(text)
        if request.sampling.is_greedy:
            token_id = greedy_token(row, request.sampling, history)
        else:
            token_id = gumbel_pick(target_law(row, request.sampling, history), request.seed, position)
        text.append(token_id)
        history.push(token_id)
        if token_id in request.stop_token_ids:
            break
    return text.list(len(request.prompt_token_ids))


# --- a world at work --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Written:
    """A text as its client heard it."""

    text: Text
    token_ids: list[int] = field(default_factory=list)
    num_reconnects: int = 0
    finish_reason: FinishReason | None = None
    num_asked: int = 0
    """How often the client has asked under this session id."""


class _Run:
    def __init__(self, plan: World) -> None:
        self.plan = plan
        self._loop = asyncio.get_running_loop()
        self._digest = hashlib.blake2b(digest_size=8)
        self.machines: list[Machine] = []
        self.links: list[SimulatedHop] = []
        """From the edge up, in the order of `FORMS`."""
        self.written = [_Written(text) for text in plan.texts]
        self._build()

    def _build(self) -> None:
        plan, reaches = self.plan, FORMS[self.plan.form]
        is_short = plan.family == "overload"
        offsets = [sum(len(reach) for reach in reaches[:index]) for index in range(len(reaches))]
        for index, reach in enumerate(reaches[1:]):
            upstream = partial(self._way, offsets[index + 1], len(reach)) if reach else None
            is_last = upstream is None
            config = VerifierConfig(
                max_sessions=plan.max_sessions if is_last else 64,
                hop_name=f"hop-{index + 1}",
                prefill_chunk_tokens=16,
                max_draft_tokens=SHORT_BLOCK if is_last and is_short else 64,
                idle_s=0.0,  # what stands still is to be seen
                park_s=plan.park_s,
                max_parked_sessions=plan.max_parked,
                receipt_keys=(lambda: _FLEET_KEYS) if is_last else None,
                # To a target a relay's texts are the relay's; past it nothing proves what was written before.
                require_receipts=is_last and plan.form != "past a relay",
            )
            engine = self._model(is_last)
            self.machines.append(
                Machine(config.hop_name, engine, self._step_s, config, upstream, is_roomy=not is_short)
            )
        for machine in (index for reach in reaches for index in reach):
            shape = LinkShape(plan.round_trips_s[len(self.links)], seed=len(self.links))
            above = len(self.links) >= len(reaches[0])
            caller = Caller("relay") if above else None  # a hop knows the one below it, not the devices
            self.links.append(SimulatedHop(self.machines[machine], shape, plan.lag_s, caller))
            self.machines[machine].links.append(self.links[-1])
        drafter = TableDrafter(
            VOCAB_SIZE, target_seed=plan.seed, own_seed=plan.seed + 1, agreement=plan.agreement
        )
        self._way_up = Way(self._way(0, len(reaches[0])))
        self.client = Client(self._way_up, drafter, worker=VirtualWorker(plan.draft_s))

    def _model(self, is_last: bool) -> Callable[[], TableEngine]:
        seed = self.plan.seed
        if is_last:
            is_short, room = self.plan.family == "overload", CACHE_OF_A_TEXT * self.plan.max_sessions
            return lambda: TableEngine(VOCAB_SIZE, seed, capacity_tokens=room if is_short else 1 << 20)
        return lambda: TableEngine(VOCAB_SIZE, seed + 2, resembles=seed, agreement=self.plan.relay_agreement)

    def _step_s(self, num_tokens: int) -> float:
        return self.plan.step_s + 0.0002 * num_tokens

    def _way(self, first: int, count: int) -> Hop:
        links = self.links[first : first + count]
        return (
            links[0]
            if count == 1
            else FirstReachable({f"link-{first + n}": link for n, link in enumerate(links)})
        )

    async def run(self) -> Outcome:
        """Let everything happen, and look whether everything holds."""
        for machine in reversed(self.machines):
            machine.start()
        await asyncio.sleep(1.0)
        await self.client.connect()
        for fault in self.plan.faults:
            self._loop.call_later(fault.at_s, self._happen, fault)
        tasks = [asyncio.create_task(self._write(one)) for one in self.written]
        _, late = await asyncio.wait(tasks, timeout=self.plan.bound_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        if late:
            raise Violation(
                f"{len(late)} of {len(tasks)} texts are not complete after {self.plan.bound_s:.0f} s"
            )
        for task in tasks:
            task.result()
        await asyncio.sleep(max(_LINGER_S, self.plan.bound_s - LONG_S - self._loop.time()) + self.plan.park_s)
        self._check()
        for machine in self.machines:
            await machine.close()
        await self.client.close()
        return self._outcome()

    def _happen(self, fault: Fault) -> None:
        match fault.kind:
            case "stall" | "reset":
                self.links[fault.where].cut(fault.duration_s, fault.kind)
            case "reset at a message":
                self.links[fault.where].cut_after(fault.num_messages, fault.duration_s)
            case "one way up":
                self.links[fault.where].cut(fault.duration_s, ways=("up",))
            case "one way down":
                self.links[fault.where].cut(fault.duration_s, ways=("down",))
            case "deaf edge":
                self.links[fault.where].half_open("edge", fault.duration_s)
            case "deaf verifier":
                self.links[fault.where].half_open("verifier", fault.duration_s)
            case "repeat":
                self.links[fault.where].repeat(fault.duration_s)
            case "slow":
                self._slow(self.machines[fault.where], fault.duration_s)
            case "crash":
                self.machines[fault.where].crash(fault.duration_s)
            case "drain":
                self.machines[fault.where].drain(fault.grace_s, fault.duration_s)

    def _slow(self, machine: Machine, duration_s: float) -> None:
        """Its steps take longer than a connection takes to come back."""
        machine.slowness = 0.5 / self.plan.step_s
        self._loop.call_later(duration_s, setattr, machine, "slowness", 1.0)

    async def _write(self, written: _Written) -> None:
        """A client that asks again, when it was told to, for what was refused before it began."""
        text = written.text
        current_caller.set(Caller(text.tenant, quota=self.plan.quotas.get(text.tenant, UNLIMITED)))
        await asyncio.sleep(text.begin_s)
        while True:
            written.num_asked += 1
            request = replace(text.request, attempt=(written.num_asked,))
            # Whoever comes back under the same id has left without a word, as a program does that was killed.
            generation = self.client.generate(request, text.mode, comes_back=lambda: text.then is not None)
            try:
                await self._hear(generation, written)
            except PacelineError as error:
                if written.token_ids or error.status not in (Status.UNAVAILABLE, Status.RESOURCE_EXHAUSTED):
                    raise Violation(f"text {text.request.request_id} failed: {error!r}") from error
                await asyncio.sleep(max(error.retry_after_s, 0.2))
                continue
            finally:
                written.num_reconnects += generation.report.num_reconnects
            written.finish_reason = generation.report.finish_reason
            break
        if text.then is not None:
            then = replace(text, request=text.then, begin_s=0.0, give_up_after=None, then=None)
            other = _Written(then, num_asked=written.num_asked)
            self.written.append(other)
            await self._write(other)

    async def _hear(self, generation: Generation, written: _Written) -> None:
        request, heard = written.text.request, written.token_ids
        async with aclosing(aiter(generation)) as events:
            async for event in events:
                self._digest.update(f"{self._loop.time():.9f} {request.request_id} {event}".encode())
                if not isinstance(event, TokensEvent):
                    continue
                expected = len(request.prompt_token_ids) + len(heard)
                if event.position != expected:
                    raise Violation(f"tokens at {event.position} where {expected} follows")
                heard.extend(event.token_ids)
                if written.text.give_up_after is not None and len(heard) >= written.text.give_up_after:
                    return

    # --- what must hold -----------------------------------------------------------------------------------------------

    def _check(self) -> None:
        target = self._model(is_last=True)()
        for written in self.written:
            self._check_text(written, target)
        for machine in self.machines:
            left = machine.left()
            if left:
                raise Violation(f"{machine.name} still holds {left}")
        if self._way_up.hurried:
            raise Violation(f"asked again too soon for {', '.join(self._way_up.hurried)}")
        self._check_effort()

    def _check_text(self, written: _Written, target: TableEngine) -> None:
        request, heard = written.text.request, written.token_ids
        name = f"text {request.request_id}"
        if request.effective_rule is not Rule.REJECTION:
            expected = reference(target, request)
            if written.text.give_up_after is not None:
                expected = expected[: len(heard)]
            if heard != expected:
                raise Violation(f"{name} is {heard}, the target alone writes {expected}")
        elif written.text.give_up_after is None:
            ends = bool(heard) and heard[-1] in request.stop_token_ids
            if not ends and len(heard) != request.max_new_tokens:
                raise Violation(f"{name} has {len(heard)} tokens of {request.max_new_tokens}")
        if written.finish_reason is None and written.text.give_up_after is None:
            raise Violation(f"{name} ended without a reason")

    def _check_effort(self) -> None:
        """Nothing is done again that no fault undid."""
        plan = self.plan
        # A stream that is repeated sends all its blocks at once, beyond the window.
        may_exhaust = plan.family == "overload" or any(fault.kind == "repeat" for fault in plan.faults)
        allowed = {Status.UNAVAILABLE} | ({Status.RESOURCE_EXHAUSTED} if may_exhaust else set())
        if plan.form == "past a relay":  # a receipt made for the relay, or for whoever goes past it
            allowed |= {Status.FAILED_PRECONDITION}
        for machine in self.machines:
            wrong = {status: count for status, count in machine.refusals.items() if status not in allowed}
            if wrong:
                raise Violation(f"{machine.name} refused: {wrong}")
            for tenant, quota in plan.quotas.items():
                if quota.max_sessions is not None and machine.most_sessions[tenant] > quota.max_sessions:
                    raise Violation(f"{tenant} had more than {quota.max_sessions} sessions at {machine.name}")
            if machine.effort.faults and not any(fault.kind == "repeat" for fault in plan.faults):
                raise Violation(f"{machine.name}: {'; '.join(machine.effort.faults)}")
            if machine.num_late:
                raise Violation(f"{machine.name} took {machine.num_late} texts while it drained")
            if machine.num_dropped and not isinstance(machine.serving, Relay):
                raise Violation(f"{machine.name} dropped {machine.num_dropped} texts")
        outcome = self._outcome()
        is_whole = plan.family == "links" and plan.form in ("straight", "pair")
        if is_whole and outcome.num_refused and not may_exhaust:
            raise Violation(f"{outcome.num_refused} texts refused although no machine was lost")
        # What arrives twice is no older than itself; whatever else comes late is.
        if self._way_up.num_fenced and not any(one.kind == "repeat" for one in plan.faults):
            raise Violation(f"{self._way_up.num_fenced} live streams ended for another one")
        num_reasons = outcome.num_broken + outcome.num_refused + self._way_up.num_fenced
        if outcome.num_reconnects > num_reasons:
            raise Violation(
                f"{outcome.num_reconnects} reconnects for {outcome.num_broken} broken streams and "
                f"{outcome.num_refused} refusals"
            )
        most = len(plan.texts) * sum(_RETRIES_PER_FAULT + fault.end_s - fault.at_s for fault in plan.faults)
        if plan.family != "overload" and outcome.num_refused > most:
            raise Violation(f"{outcome.num_refused} refusals, where {most:.0f} attempts at most make sense")

    def _outcome(self) -> Outcome:
        return Outcome(
            num_tokens=sum(len(one.token_ids) for one in self.written),
            num_broken=sum(link.num_broken for link in self.links),
            num_reconnects=sum(one.num_reconnects for one in self.written),
            num_refused=sum(sum(machine.refusals.values()) for machine in self.machines),
            num_fenced=sum(machine.num_fenced for machine in self.machines),
            num_hits=sum(machine.effort.num_hits for machine in self.machines),
            digest=self._digest.hexdigest(),
        )


async def _run(plan: World) -> Outcome:
    return await _Run(plan).run()


def run_schedule(plan: World) -> Outcome:
    """Let a schedule happen.

    Raises:
        Violation: something that must hold does not; says how to see it again.
    """
    try:
        return run_virtual(_run(plan))
    except Exception as error:
        raise Violation(f"{error if isinstance(error, Violation) else repr(error)}\n{story(plan)}") from error


def story(plan: World) -> str:
    """What a schedule is, and the command that replays it."""
    faults = [
        f"  {fault.at_s:6.3f} s  {fault.kind} {fault.where}, {fault.duration_s:.3f} s"
        + (f" after up to {fault.grace_s:g} s" if fault.grace_s else "")
        + (f" after {fault.num_messages} messages" if fault.num_messages else "")
        for fault in plan.faults
    ]
    return "\n".join(
        [
            f"seed {plan.seed} at commit {_commit()}: {plan.form}, {plan.family}, {len(plan.texts)} texts",
            *faults,
            f"replay: .venv/bin/python -m paceline.simulation.faults {plan.seed}",
        ]
    )


def _commit() -> str:
    said = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return said.stdout.strip() or "unknown"


def shortened(plan: World) -> World:
    """A schedule that fails as well, with no fault or text that could be left out."""
    index = 0
    while index < len(plan.faults):
        smaller = replace(plan, faults=(*plan.faults[:index], *plan.faults[index + 1 :]))
        plan, index = (smaller, index) if _fails(smaller) else (plan, index + 1)
    index = 0
    while index < len(plan.texts) and len(plan.texts) > 1:
        fewer = replace(plan, texts=(*plan.texts[:index], *plan.texts[index + 1 :]))
        plan, index = (fewer, index) if _fails(fewer) else (plan, index + 1)
    return plan


def _fails(plan: World) -> bool:
    try:
        run_schedule(plan)
    except Violation:
        return True
    return False


def main(arguments: Sequence[str]) -> int:
    """Replay schedules, or find failing ones from a seed on: `SEED [COUNT]`."""
    logging.disable(logging.WARNING)
    first, count = int(arguments[0]), int(arguments[1]) if len(arguments) > 1 else 1
    total = Outcome()
    num_failed = 0
    for seed in range(first, first + count):
        try:
            outcome = run_schedule(world(seed))
        except Violation as violation:
            num_failed += 1
            print(violation, end="\n\n")
            continue
        counts = [item.name for item in fields(Outcome) if item.name != "digest"]
        total = replace(outcome, **{name: getattr(total, name) + getattr(outcome, name) for name in counts})
    print(f"{count} schedules, {num_failed} failed; of the others: {total}")
    return num_failed > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
