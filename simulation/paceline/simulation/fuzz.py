"""Both ends under fire: messages that are nearly right, a million of them, and what must hold whatever comes.

.venv/bin/python -m paceline.simulation.fuzz verifier SEED [COUNT]
.venv/bin/python -m paceline.simulation.fuzz edge SEED [COUNT]
.venv/bin/python -m paceline.simulation.fuzz client SEED [COUNT]      (texts)
"""

import asyncio
import logging
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from paceline.cloud.config import VerifierConfig
from paceline.cloud.desk import Desk
from paceline.cloud.engine.table import TableEngine
from paceline.cloud.metrics import VerifierMetrics
from paceline.cloud.port import Port
from paceline.common.codec import encode_request, encode_response, parse_request
from paceline.common.errors import BadReply, PacelineError
from paceline.common.messages import (
    ErrorMessage,
    Feature,
    FillPolicy,
    Finished,
    Open,
    ServerMessage,
)
from paceline.common.session import EdgePhase, EdgeSession, Limits
from paceline.common.session.remote import RemoteError
from paceline.common.tokens import Rule, SamplingParams, Verdict
from paceline.edge.request import GenerationRequest
from paceline.simulation.clock import run_virtual
from paceline.simulation.faults import Violation, reference
from paceline.simulation.lies import VOCAB_SIZE, LiedTo, read_response
from paceline.simulation.mutation import Mutator
from paceline.simulation.speech import STOP, Client, Liar

LISTED = frozenset(
    {
        "INVALID_REQUEST",
        "OUT_OF_RANGE",
        "INCOMPATIBLE",
        "UNSUPPORTED_VERSION",
        "BAD_DRAFT",
        "BUSY",
        "DEADLINE_EXCEEDED",
    }
)
"""Reasons a message may be refused for. An internal error is none: it would be an incident."""
LEAKS = re.compile(rb'Traceback|<class|File "|\.py\b|/paceline/|0x[0-9a-f]{8}')
"""What would show that an exception, or a place in the code, has left the process."""
_MAX_CONTEXT = 96
_NUM_STREAMS = 5
_CANARY = GenerationRequest((9, 8, 7), 16, SamplingParams(0.8), seed=11)


@dataclass(slots=True)
class Tally:
    """What came of a run in which everything held."""

    num_messages: int = 0
    num_texts: int = 0
    """Canaries that were written beside it, or texts that were completed."""
    num_tokens: int = 0
    """Committed for whoever sent all this."""
    answers: Counter[str] = field(default_factory=Counter)
    """By kind; refusals by their reason."""


class _Now:
    """An event loop for ports that delivers at once."""

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: object) -> None:
        callback(*args)


# --- a verifier under fire --------------------------------------------------------------------------------------------


class Siege:
    """A desk, some streams that say anything to it, and one that behaves.

    Args:
        dice: decides everything.
        engine: the target.
        config: of the desk.
    """

    def __init__(
        self, dice: random.Random, engine: TableEngine | None = None, config: VerifierConfig | None = None
    ) -> None:
        self.tally = Tally()
        self.listed = LISTED
        self.engine = engine or TableEngine(VOCAB_SIZE, max_context=_MAX_CONTEXT, capacity_tokens=4096)
        config = config or VerifierConfig(
            max_sessions=_NUM_STREAMS + 1, max_draft_tokens=8, max_blocks_in_flight=4
        )
        self.limits = Limits(
            VOCAB_SIZE,
            _MAX_CONTEXT,
            max_draft_tokens=config.max_draft_tokens,
            max_blocks_in_flight=config.max_blocks_in_flight,
            eos_token_ids=(STOP,),
            tokenizer_fingerprint=b"a table's tokens",
            features=frozenset(Feature),
        )
        self._now_s = 0.0
        self.desk = Desk(self.engine, self.limits, config, _METRICS, clock=lambda: self._now_s)
        self._dice = dice
        self._keys = 0
        self._canary_text = reference(self.engine, _CANARY)
        self._canary_heard: list[int] = []
        self._canary = self._begin_canary()

    def connect(self) -> Port:
        """A new stream."""
        self._keys += 1
        return Port(self._keys, cast("asyncio.AbstractEventLoop", _Now()))

    def say(self, port: Port, data: bytes) -> list[ServerMessage]:
        """A stream brings bytes; what is answered to them and in the step after."""
        self.tally.num_messages += 1
        self._now_s += self._dice.choice((0.0, 0.001, 0.3))
        port.num_arrived += 1
        self.desk.on_message(port, parse_request(data), self._now_s)
        if self._dice.random() < 0.4:
            self.step()
        return self.hear(port)

    def step(self) -> None:
        """One step of the engine, if there is something to do, and what the canary gets of it."""
        planned = self.desk.plan()
        if planned:
            began_s = self._now_s
            self._now_s += 0.002
            logits = self.desk.run(planned)
            if logits is not None:
                self.desk.finish(planned, logits, began_s)
        self._hear_canary()

    def hear(self, port: Port) -> list[ServerMessage]:
        """All answers that wait, looked at as a client would that trusts nothing."""
        found: list[ServerMessage] = []
        while not port.outbox.empty():
            answer = port.outbox.get_nowait()
            if answer is not None:
                port.num_read += 1
                found.append(cast("ServerMessage", answer))
        if port.is_clogged:
            self.desk.on_read(port)
        for message in found:
            self._check(message)
        return found

    def finish(self) -> Tally:
        """Everybody leaves; nothing may be left."""
        self._leave(self._canary)
        self.step()
        held = {"sessions": self.desk.num_sessions, "cached tokens": self.engine.cached_tokens()}
        if any(held.values()):
            raise Violation(f"still held: {held}")
        return self.tally

    def _leave(self, port: Port) -> None:
        self.desk.on_gone(port)

    def _check(self, message: ServerMessage) -> None:
        data = encode_response(message).SerializeToString()
        if LEAKS.search(data):
            raise Violation(f"an answer shows too much: {data!r}")
        kind = message.reason if isinstance(message, ErrorMessage) else type(message).__name__
        self.tally.answers[kind] += 1
        if isinstance(message, ErrorMessage):
            if message.reason not in self.listed:
                raise Violation(f"refused for {message.reason}: {message.message}")
            if len(message.message) > 400 or not message.field:
                raise Violation(f"a refusal that is no help: {message}")
        if isinstance(message, Verdict):
            written = [
                *message.filled_token_ids,
                *([] if message.next_token_id is None else [message.next_token_id]),
            ]
            self.tally.num_tokens += message.num_accepted + len(written)
            if any(not 0 <= token_id < VOCAB_SIZE for token_id in written):
                raise Violation(f"a verdict with tokens that are none: {message}")

    # --- the one that behaves -----------------------------------------------------------------------------------------

    def _begin_canary(self) -> Port:
        port = self.connect()
        self._canary_heard.clear()
        opening = Open(
            _CANARY.prompt_token_ids,
            _CANARY.max_new_tokens,
            _CANARY.sampling,
            Rule.COUPLED,
            FillPolicy.UNLIMITED,
            _CANARY.seed,
            ignore_eos=True,
        )
        self.desk.on_message(port, opening, self._now_s)
        return port

    def _hear_canary(self) -> None:
        for message in self.hear(self._canary):
            if isinstance(message, Verdict) and message.next_token_id is not None:
                self._canary_heard += [*message.filled_token_ids, message.next_token_id]
            if isinstance(message, ErrorMessage) or (
                isinstance(message, Finished) and self._canary_heard != self._canary_text
            ):
                raise Violation(f"beside it {self._canary_heard} was written, then {message}")
            if isinstance(message, Finished):
                self.tally.num_texts += 1
                self._leave(self._canary)
                self._canary = self._begin_canary()


_METRICS = VerifierMetrics()
"""Nobody reads them here."""


def fuzz_verifier(seed: int, count: int) -> Tally:
    """Send a verifier so many messages.

    Raises:
        Violation: something does not hold; says how to see it again.
    """
    return _told(seed, count, "verifier", _fuzz_verifier)


def _fuzz_verifier(dice: random.Random, count: int) -> Tally:
    siege, client, mutator = Siege(dice), Client(dice), Mutator(dice)
    ports = [siege.connect() for _ in range(_NUM_STREAMS)]
    spare = b""
    while siege.tally.num_messages < count:
        place = dice.randrange(_NUM_STREAMS)
        port = ports[place]
        message: Any = encode_request(client.any(port.session))
        data = mutator.mutated(message, spare)
        spare = data if len(data) < 4096 else b""
        siege.say(port, data)
        if port.has_ended or dice.random() < 0.002:
            siege.desk.on_gone(port)
            siege.hear(port)
            ports[place] = siege.connect()
    for port in ports:
        siege.desk.on_gone(port)
    return siege.finish()


# --- an edge under fire -----------------------------------------------------------------------------------------------


def fuzz_edge(seed: int, count: int) -> Tally:
    """Send an edge's end of a session so many answers.

    Raises:
        Violation: something does not hold; says how to see it again.
    """
    return _told(seed, count, "edge", _fuzz_edge)


def _fuzz_edge(dice: random.Random, count: int) -> Tally:
    tally, client, liar, mutator = Tally(), Client(dice), Liar(dice), Mutator(dice)
    session = _opening(client)
    while tally.num_messages < count:
        _sent(session, client, dice)
        data = mutator.mutated(encode_response(liar.any(session)))
        tally.num_messages += 1
        before, was_known = session.committed.list(), session.known.list()
        try:
            commit = session.receive(read_response(data))
            tally.answers["Commit" if commit is not None else "taken"] += 1
        except PacelineError as error:
            commit = None
            tally.answers[type(error).__name__] += 1
            if isinstance(error, BadReply) and session.known.list() != was_known:
                raise Violation(f"{error}, and yet the known text has changed") from error
        _check_edge(session, before, None if commit is None or not commit.is_final else commit.token_ids)
        tally.num_tokens += len(session.committed) - len(before)
        if session.phase is EdgePhase.FINISHED or dice.random() < 0.01:
            tally.num_texts += session.phase is EdgePhase.FINISHED
            session = _opening(client)
        elif dice.random() < 0.02 and session.open().committed_token_ids != tuple(
            session.committed.list(len(session.request.prompt_token_ids))
        ):
            raise Violation("what is opened again is not what was committed")
    return tally


def _opening(client: Client) -> EdgeSession:
    session = EdgeSession(client.open())
    session.open()
    return session


def _sent(session: EdgeSession, client: Client, dice: random.Random) -> None:
    """Let the edge send a block, or none."""
    if session.phase is not EdgePhase.LIVE or session.num_blocks_in_flight >= 4 or dice.random() < 0.5:
        return
    draft = client.draft(None)
    base = len(session.known)
    with suppress(ValueError):  # a second tree
        session.block(base, draft.token_ids, draft.draft_probs, draft.how, draft.laws, parents=draft.parents)


def _check_edge(session: EdgeSession, before: list[int], added: Sequence[int] | None) -> None:
    committed = session.committed.list()
    if committed != [*before, *(added or ())]:
        raise Violation(f"{before} became {committed}, of which {added} was told")
    if len(committed) > session.end:
        raise Violation(f"{len(committed)} tokens where {session.end} may be")
    if session.known.list()[: len(committed)] != committed:
        raise Violation(f"known is {session.known.list()}, committed {committed}")
    vocab_size = session.opened.vocab_size if session.opened else 0
    if any(token_id >= vocab_size for token_id in added or ()):
        raise Violation(f"{added} committed of {vocab_size}")
    if not session.num_blocks_in_flight >= 0:
        raise Violation(f"{session.num_blocks_in_flight} blocks in flight")
    if len(session.origins) != len(committed) - len(session.request.prompt_token_ids):
        raise Violation(f"{len(session.origins)} origins")


# --- clients and relays that are lied to ------------------------------------------------------------------------------


def fuzz_client(seed: int, count: int) -> Tally:
    """Have a client write so many texts over a link that lies, half of them by way of a relay.

    Raises:
        Violation: something does not hold; says how to see it again.
    """
    return _told(seed, count, "client", _fuzz_client)


def _fuzz_client(dice: random.Random, count: int) -> Tally:
    tally = Tally()
    while tally.num_texts < count:
        run_virtual(_lied_to(dice, tally))
    return tally


async def _lied_to(dice: random.Random, tally: Tally) -> None:
    chain = LiedTo(dice, is_relayed=dice.random() < 0.5)
    await chain.start()
    for _ in range(10):
        rule = dice.choice(list(Rule))
        request = GenerationRequest(
            tuple(dice.randrange(VOCAB_SIZE) for _ in range(dice.randint(1, 9))),
            dice.randint(1, 40),
            SamplingParams(0.0 if rule is Rule.GREEDY else 0.9),
            rule,
            dice.getrandbits(64),
            dice.choice(((), (STOP,))),
            fill=dice.choice((None, FillPolicy.OFF, FillPolicy.UNLIMITED)),
            reconnect_s=5.0,
            deadline_s=60.0,
        )
        text = await chain.write(request, dice.choice(("auto", "stream", "sync", "cloud")))
        tally.num_texts += 1
        if isinstance(text, PacelineError):
            tally.answers[text.reason if isinstance(text, RemoteError) else type(text).__name__] += 1
            if "INTERNAL_ERROR" in text.reason:
                raise Violation(f"an incident: {text}")
            continue
        tally.answers["written"] += 1
        tally.num_tokens += len(text)
        if len(text) > request.max_new_tokens or not all(0 <= token_id < VOCAB_SIZE for token_id in text):
            raise Violation(f"{text} was written, at most {request.max_new_tokens} tokens of {VOCAB_SIZE}")
    left = await chain.left()
    if left:
        raise Violation(f"still held: {left}")


def _told(seed: int, count: int, end: str, run: Callable[[random.Random, int], Tally]) -> Tally:
    try:
        return run(random.Random(seed), count)
    except Exception as error:
        replay = f"replay: .venv/bin/python -m paceline.simulation.fuzz {end} {seed} {count}"
        raise Violation(f"{error if isinstance(error, Violation) else repr(error)}\n{replay}") from error


def main(arguments: Sequence[str]) -> int:
    """`verifier` or `edge`, SEED and how many messages."""
    logging.disable(logging.WARNING)
    end, seed, count = arguments[0], int(arguments[1]), int(arguments[2]) if len(arguments) > 2 else 100_000
    print({"verifier": fuzz_verifier, "edge": fuzz_edge, "client": fuzz_client}[end](seed, count))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
