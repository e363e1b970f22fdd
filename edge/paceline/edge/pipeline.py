"""The loop behind every mode that asks a verifier: one task drafts and sends, one reads; neither waits for the other.

What is drafted, how far ahead, and who fills is the pacing's business: without drafts this is cloud streaming, with one
block in flight textbook speculative decoding, with many a stream. When the link breaks the session is opened again and
what had been drafted is sent again; the text is the same, for nothing on the verifier's side decides it.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace

from paceline.common.errors import DeadlineExceeded, PacelineError, Unreachable
from paceline.common.hops.base import Elsewhere, Stream, Traffic
from paceline.common.messages import Close, Feature, FillPolicy, Provisional, ServerMessage
from paceline.common.session import Commit, EdgePhase
from paceline.common.session.remote import RemoteError
from paceline.common.tokens import FinishReason, Origin, Verdict
from paceline.common.trees import chain
from paceline.edge.attempts import Attempts, Outage
from paceline.edge.draft_length import Plan
from paceline.edge.drafting import Drafted
from paceline.edge.flight import Flight
from paceline.edge.pacing.base import Learned, Pacing, Situation
from paceline.edge.pacing.lookahead import is_immune
from paceline.edge.request import Event, TokensEvent
from paceline.edge.run import Run, new_session_id
from paceline.edge.tail import Settled, Tail
from paceline.edge.telling import Telling

_OFFLINE_BLOCK = 8
_SILENCE_S = 1.0
"""A verifier that owes an answer for so long, and twice the round trip, counts as unreachable where the drafter may go
on alone."""
FAREWELL_S = 0.05
"""How long a verifier may take to end the stream of a text that is left. A stream cut off at once could lose the word
that nobody comes back; one that is dead delays nobody for longer."""
_UNSETTLED = Settled((), None)


async def pipeline(run: Run, pacing: Pacing) -> AsyncGenerator[Event, None]:
    """Generate a text; fills in `run.report` as it goes.

    Raises:
        Unreachable: no verifier could be reached for `reconnect_s`, and the drafter may not go on alone.
        RemoteError: the verifier refuses.
    """
    line = _Pipeline(run, pacing)
    tasks = (asyncio.create_task(line.read()), asyncio.create_task(line.write()))
    for task in tasks:
        task.add_done_callback(lambda _: line.events.put_nowait(None))
    reader, writer = tasks
    try:
        while not (reader.done() and line.events.empty()):
            event = await line.next_event()
            if event is not None:
                yield event
            elif writer.done():
                writer.result()
        reader.result()
    finally:
        # In a task of its own: whoever is cancelled may be so over and over, and what is begun has to be ended.
        await asyncio.shield(asyncio.create_task(line.end(reader, writer)))


class _Pipeline:
    def __init__(self, run: Run, pacing: Pacing) -> None:
        request = run.request
        self._telling = Telling(request)
        self.events = self._telling.events
        self._run = run
        self._request = request
        self._pacing = pacing
        run.require_hop()
        self._session = run.session(pacing.fill)
        self._drafting = run.drafting() if pacing.drafts else None
        self._tail = Tail(request.text)
        self._flight = Flight()
        self._stream: Stream | None = None
        self._sent_until = 0
        self._unsent_draft_s = 0.0
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._opened_s = self._last_s = 0.0
        self._heard_s = self._loop.time()
        self._ends_s = self._heard_s + request.deadline_s if request.deadline_s else None
        self._outage = Outage(request, self._heard_s)
        self._is_relayed = False
        """The next hop has an opinion of its own: what it says first is not final."""
        self._is_lost = self._is_left = False
        self._is_silent = False
        self._is_exhausted = False
        """The drafter had nothing to say about the text as it is."""
        self._ends_on_stop = is_immune(request, pacing.fill)
        self._past_streams: list[Traffic] = []

    async def next_event(self) -> Event | None:
        """The next one; None if a task has ended.

        Raises:
            DeadlineExceeded: there is none in time.
        """
        try:
            async with asyncio.timeout_at(self._ends_s):
                return await self.events.get()
        except TimeoutError:
            raise DeadlineExceeded(
                f"the text was not complete within {self._request.deadline_s:g} s", field="deadline"
            ) from None

    async def end(self, *tasks: asyncio.Task[None]) -> None:
        """End both tasks, free the drafter, complete the report. A verifier that still writes is told that nobody comes
        back for the text, unless somebody does."""
        reader, _ = tasks
        stream, self._stream = self._stream, None
        if stream is not None and not (reader.done() or self._is_kept):
            self._is_left = True
            with suppress(TimeoutError, Unreachable):
                async with asyncio.timeout(FAREWELL_S):
                    await stream.send(Close())
                    await asyncio.wait({reader})
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._drafting is not None:
            self._drafting.close()
        traffic = self._run.report.traffic
        traffic.bytes_up = sum(one.bytes_up for one in self._past_streams)
        traffic.bytes_down = sum(one.bytes_down for one in self._past_streams)

    @property
    def _is_kept(self) -> bool:
        """Whether somebody comes back for the text, who has time left for it."""
        return self._run.comes_back() and (self._ends_s is None or self._loop.time() < self._ends_s)

    # --- reading ------------------------------------------------------------------------------------------------------

    async def read(self) -> None:
        """Keep a connection and follow the verifier until the text is complete, or left."""
        attempts = Attempts(self._request.request_id)
        while self._session.phase is not EdgePhase.FINISHED:
            try:
                await self._one_connection()
            except Elsewhere:
                self._stream = None
            except (Unreachable, RemoteError) as error:
                if self._is_left:
                    return
                if self._outage.since_s is None:
                    attempts.begin_anew()
                self._lose(error)
                if self._is_given_up(error.retry_after_s):
                    self._finish_alone(error)
                    return
                await asyncio.sleep(attempts.pause_s(error.retry_after_s))
        self._run.report.finish_reason = self._session.finish_reason
        self._run.report.hops = self._session.hops
        self._run.report.round_trip_s = self._run.estimates.round_trip.typical_s

    async def _one_connection(self) -> None:
        async with self._run.stream() as stream:
            self._past_streams.append(stream.traffic)
            left_s = max(self._ends_s - self._loop.time(), 0.001) if self._ends_s is not None else 0.0
            await stream.send(replace(self._session.open(), deadline_s=left_s))
            self._connect(stream)
            while self._session.phase is not EdgePhase.FINISHED:
                message = await stream.receive()
                if message is None:
                    raise Unreachable(
                        "the verifier ended the stream before the text was complete", field="verifier"
                    )
                if not self._is_left:
                    self._hear(message)
            await stream.send(Close())

    def _connect(self, stream: Stream) -> None:
        self._forget_opinions()
        self._flight = Flight()
        self._stream = stream
        self._sent_until = self._tail.committed
        self._opened_s, self._last_s = self._loop.time(), 0.0
        self._wake.set()

    def _forget_opinions(self) -> None:
        """Whoever answers now knows what is committed, and nothing of what a relay thought of the rest."""
        self._is_relayed = False
        tail = self._tail
        if tail.known == tail.committed:
            return
        tail.cut(tail.committed)
        if self._drafting is not None:
            self._drafting.begin_anew(tail.text.list())
        self._telling.retract(tail.committed)

    def _hear(self, message: ServerMessage) -> None:
        now_s = self._loop.time()
        was_opening = self._session.phase is EdgePhase.OPENING
        commit = self._session.receive(message)
        self._heard_s, self._is_silent = now_s, False
        if was_opening and self._session.opened is not None:
            self._pacing.on_opened(self._session.opened, now_s - self._opened_s)
            self._found()
        if isinstance(message, Provisional):
            self._is_relayed = True
            self._learn(message.verdict, commit, now_s)
        elif isinstance(message, Verdict):
            self._learn(message, commit, now_s)
            self._run.report.score(message)
        if not self._session.num_blocks_in_flight:
            # Nothing waits over there: what a verdict left of a tree is gone, and what a relay settled as wrong a hop
            # above may have called right. What stands of it has to be sent once more.
            self._sent_until = min(self._sent_until, self._tail.known)
        self._wake.set()

    def _found(self) -> None:
        """The verifier took the session."""
        if self._is_lost:
            self._run.report.num_reconnects += self._outage.was_taken
            self._telling.link(is_up=True)
        self._is_lost, self._outage.was_taken = False, True

    def _learn(self, verdict: Verdict, commit: Commit | None, now_s: float) -> None:
        round_trip_s = self._flight.round_trip_s(verdict, now_s)
        known = self._tail.known
        settled = self._follow(commit) if commit is not None else _UNSETTLED
        contradicted = settled.refuted_at is not None
        num_added = max(self._tail.known - known, 0)
        if self._is_relayed and commit is not None and commit.is_final and not (num_added or contradicted):
            return  # it confirms what the next hop said; the figures are of a hop above that one
        past = None
        if commit is not None:
            past = self._flight.settle(verdict, self._tail.known, contradicted=contradicted, now_s=now_s)
            self._run.settled(verdict.base, past)
        since_s = now_s - self._last_s if self._last_s and num_added else 0.0
        self._last_s = now_s if num_added else self._last_s
        self._pacing.learn(
            Learned(
                verdict=verdict,
                now_s=now_s,
                since_s=since_s,
                num_added=num_added,
                known=self._tail.known,
                judged=settled.judged,
                contradicted=contradicted,
                round=past,
                round_trip_s=round_trip_s,
            )
        )

    def _follow(self, commit: Commit) -> Settled:
        """Take over what the next hop says the text is."""
        if commit.is_final:  # what a relay thinks meanwhile brings the text no further
            self._outage.since_s = None
        settled = self._tail.follow(commit.position, commit.token_ids, is_final=commit.is_final)
        contradicted = settled.refuted_at is not None
        if self._drafting is not None:
            self._drafting.observe(commit, contradicts=contradicted)
        if settled.refuted_at is not None:
            self._sent_until = self._tail.known
            self._telling.retract(settled.refuted_at)
        if commit.is_final:
            self._run.report.num_passes += 1
            self._telling.tokens(TokensEvent.of(commit))
        elif self._request.provisional:
            self._telling.drafts(self._tail)
        return settled

    # --- a link that breaks -------------------------------------------------------------------------------------------

    def _lose(self, error: PacelineError) -> None:
        """The connection is gone. Raises what no further attempt would mend."""
        self._stream = None
        now_s = self._loop.time()
        if self._session.opened is None and self._outage.is_in_queue(error, now_s):
            self._outage.since_s = None
            return
        if isinstance(error, RemoteError) and not self._session.mends(error, new_session_id()):
            raise error
        if self._outage.since_s is None:
            self._outage.since_s = now_s
        if not self._is_lost:
            self._is_lost = True
            self._telling.link(is_up=False)
        self._wake.set()

    def _is_given_up(self, pause_s: float) -> bool:
        """Whether after such a pause nothing would be tried any more."""
        writes_on = self._request.offline and self._may_draft() and not self._is_exhausted
        return self._outage.is_too_long(self._loop.time() + pause_s) and not writes_on

    def _finish_alone(self, error: PacelineError) -> None:
        """Nobody verified the rest: it is handed over as what it is, or not at all."""
        tail = self._tail
        token_ids = tuple(tail.text[tail.committed :])
        if not self._request.offline or not token_ids:
            raise error
        count = len(token_ids)
        self._telling.tokens(
            TokensEvent(tail.committed, token_ids, (Origin.UNVERIFIED,) * count, (0,) * count)
        )
        ends = self._ends_with_stop()
        self._run.report.finish_reason = FinishReason.STOP if ends else FinishReason.LENGTH

    @property
    def _is_alone(self) -> bool:
        """The verifier cannot be reached and the drafter may go on."""
        return self._request.offline and (self._stream is None or self._is_silent)

    # --- writing ------------------------------------------------------------------------------------------------------

    async def write(self) -> None:
        """Draft and send until the text is complete."""
        while not self._session.is_complete:
            self._wake.clear()
            await self._send()
            plan = self._plan()
            if plan is None:
                await self._wait()
                continue
            assert self._drafting is not None, "a pacing that plans needs a drafter"
            drafted = await self._drafting.propose(plan, self._room)
            self._is_exhausted = not self._take(drafted) and not len(drafted.proposal)
            if self._is_exhausted:
                await self._ask()
                await self._wait()

    @property
    def _room(self) -> int:
        """Tokens that may still be drafted: the last one is the verifier's own, unless none can be reached."""
        return self._request.end - len(self._tail.text) - (0 if self._is_alone else 1)

    def _may_draft(self) -> bool:
        return self._drafting is not None and self._room > 0 and not self._ends_with_stop()

    def _ends_with_stop(self) -> bool:
        tail = self._tail
        is_drafted = len(tail) > 0
        if len(tail.text) == tail.committed or (is_drafted and not self._ends_on_stop):
            return False
        opened = self._session.opened
        stop_token_ids = opened.stop_token_ids if opened else self._run.stop_token_ids
        return tail.text[-1] in stop_token_ids

    def _plan(self) -> Plan | None:
        if not self._may_draft():
            return None
        return Plan(_OFFLINE_BLOCK) if self._is_alone else self._pacing.plan(self._situation())

    def _situation(self) -> Situation:
        return Situation(
            known=self._tail.known,
            ahead_probs=self._tail.probs,
            num_unsent=len(self._tail.text) - max(self._sent_until, self._tail.known),
            blocks_in_flight=self._session.num_blocks_in_flight,
            now_s=self._loop.time(),
        )

    def _take(self, drafted: Drafted) -> bool:
        """Add a proposal to the tail; whether it said anything about the text as it is now."""
        if self._drafting is None or self._drafting.is_refuted(drafted):
            return len(drafted.proposal) > 0
        added = self._tail.extend(drafted.proposal)
        self._unsent_draft_s += drafted.draft_s
        self._pacing.on_drafted(len(drafted.proposal), drafted.draft_s)
        if self._request.provisional or self._is_alone:
            self._telling.drafts(self._tail)
        return added > 0

    async def _wait(self) -> None:
        """Until something is heard. Where the drafter may go on alone, a verifier silent for too long is given up."""
        if not self._request.offline or self._is_alone or self._session.opened is None:
            await self._wake.wait()
            return
        patience_s = _SILENCE_S + 2 * self._run.estimates.round_trip.typical_s
        try:
            await asyncio.wait_for(self._wake.wait(), patience_s)
        except TimeoutError:
            self._is_silent = self._loop.time() - self._heard_s >= patience_s

    async def _send(self) -> None:
        """Send what is drafted and unsent, as far as the window allows; ask for a step if nothing else would bring
        one."""
        while self._may_send():
            start = max(self._sent_until, self._tail.known)
            end = min(len(self._tail.text), start + self._max_block)
            if start >= end:
                break
            await self._send_block(start, end)
        if self._may_echo() and self._pacing.wants_echo(self._situation()):
            await self._send_echo()
        if not self._may_draft():
            await self._ask()

    async def _ask(self) -> None:
        """A verifier that only steps for blocks gets an empty one when there is nothing to draft."""
        waits = self._pacing.fill in (FillPolicy.OFF, FillPolicy.BOUNDED)
        if waits and self._may_send() and self._situation().is_idle:
            await self._send_block(self._tail.known, self._tail.known)

    @property
    def _max_block(self) -> int:
        return self._run.max_draft_tokens(self._session)

    def _may_send(self) -> bool:
        window = min(self._run.window(self._session), self._pacing.max_blocks_in_flight)
        return self._stream is not None and self._session.num_blocks_in_flight < window

    @property
    def _may_branch(self) -> bool:
        """Whether a block may be a tree: this verifier takes trees, and no block hangs on this one."""
        opened = self._session.opened
        if opened is None or self._session.phase is not EdgePhase.LIVE:
            return False
        return Feature.TREE in opened.features and not self._pacing.streams

    def _may_echo(self) -> bool:
        """One at a time: it would tell nothing that the one on its way does not."""
        is_live = self._stream is not None and self._session.phase is EdgePhase.LIVE
        return is_live and not self._session.num_blocks_in_flight

    async def _send_block(self, start: int, end: int) -> None:
        piece = self._tail.piece(start, end)
        follows = self._pacing.streams and end < self._request.end - 1
        branches = piece.branches.leading(self._max_block - len(piece) if self._may_branch else 0)
        block = self._session.block(
            start,
            piece.token_ids + branches.token_ids,
            piece.probs + branches.probs,
            piece.how,
            piece.laws + branches.laws,
            base_hash=self._tail.text.hash_at(start),
            parents=chain(len(piece)) + branches.parents if branches.parents else (),
            more_follows=follows,
        )
        self._flight.add(end, len(block), self._unsent_draft_s, self._loop.time())
        self._unsent_draft_s = 0.0
        self._sent_until = max(self._sent_until, end)
        if self._stream is not None:
            await self._stream.send(block)

    async def _send_echo(self) -> None:
        position = self._tail.committed - 1
        base_hash = self._tail.text.hash_at(position)
        block = self._session.block(position, (), (), self._tail.how, base_hash=base_hash)
        self._flight.add_echo(self._loop.time())
        assert self._stream is not None, "see `_may_echo`"
        await self._stream.send(block)
