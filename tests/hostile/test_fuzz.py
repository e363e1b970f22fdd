"""Messages that are nearly right, by the thousand (by the million in the slow tests), at both ends."""

import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from paceline.cloud import desk as desk_module
from paceline.common.acceptance import Judgement
from paceline.common.codec import encode_request
from paceline.common.errors import BadReply
from paceline.common.messages import Open, Opened
from paceline.common.prefix import Prefix
from paceline.common.session import EdgeSession, Limits, VerifierSession
from paceline.common.session import edge as edge_module
from paceline.common.tokens import Draft, How, Origin, Verdict
from paceline.edge.flight import Flight
from paceline.simulation import fuzz
from paceline.simulation.faults import Violation
from paceline.simulation.mutation import Mutator

NUM_RUNS = 10
NUM_MESSAGES = 100_000
"""Of a run: a million in all, to each end."""


@pytest.mark.parametrize("run", [fuzz.fuzz_verifier, fuzz.fuzz_edge])
def test_no_message_does_harm(run: Any) -> None:
    """Whatever comes: a message or a listed refusal, nothing of the code in any answer, nothing held, and beside it
    texts are written as ever."""
    tally = run(1, 3000)
    assert tally.num_tokens > 50, "some of it was taken"
    assert sum(tally.answers.values()) > 1000


def test_a_client_that_is_lied_to_gets_a_text_or_an_error() -> None:
    """Over a link that changes answers a text is written or ends with an error, with and without a relay between."""
    tally = fuzz.fuzz_client(1, 60)
    assert tally.answers["written"] > 10
    assert tally.answers["BadReply"] + tally.answers["BAD_REPLY"] > 10


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(100, 100 + NUM_RUNS))
@pytest.mark.parametrize(("run", "count"), [
    (fuzz.fuzz_verifier, NUM_MESSAGES), (fuzz.fuzz_edge, NUM_MESSAGES), (fuzz.fuzz_client, 200),
])  # fmt: skip
def test_no_message_of_a_million_does_harm(run: Any, count: int, seed: int, record_property: Any) -> None:
    """The same over a million messages to each end, and over two thousand texts."""
    tally = run(seed, count)
    record_property("texts" if run is fuzz.fuzz_client else f"messages to the {run.__name__[5:]}", count)
    record_property("answers", sum(tally.answers.values()))


def raises(*_: Any) -> Any:
    """A bug."""
    raise ZeroDivisionError


def test_an_incident_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A desk with a bug does not pass, and the report says how to see it again."""
    monkeypatch.setattr(desk_module.Desk, "_on_draft", raises)
    with pytest.raises(Violation, match="fuzz verifier 1 3000"):
        fuzz.fuzz_verifier(1, 3000)


def test_an_unchecked_answer_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """An edge that does not look whether tokens are of the vocabulary, or how many may follow, does not pass."""
    monkeypatch.setattr(
        edge_module.EdgeSession, "_checked", lambda self, verdict, token_ids, by: (token_ids, by)
    )
    with pytest.raises(Violation, match="fuzz edge"):
        fuzz.fuzz_edge(1, 20_000)


# --- what it found ----------------------------------------------------------------------------------------------------


def test_dead_blocks_without_end_cost_no_more_than_the_first() -> None:
    """Whoever continues a refuted block again and again makes nothing grow: the newest dead ends are kept."""
    limits = Limits(13, 2048)
    session = VerifierSession(Open((1, 2, 3), 1000), limits)
    session.on_draft(Draft(3, session.text.hash_at(3), (5, 6), (), How.ONE_HOT))
    work = session.next_work(256)
    assert work is not None
    session.on_judged(work, Judgement(0, 4, Origin.RECOVERED))
    base, prefix_hash = 5, Prefix((1, 2, 3, 5, 6)).hash_at(5)
    for index in range(300):
        token_ids = tuple((index >> bit) & 1 for bit in range(64))
        (verdict,) = session.on_draft(Draft(base, prefix_hash, token_ids, (), How.ONE_HOT))
        assert isinstance(verdict, Verdict)
        assert verdict.blocks_settled == index + 2, "its credit comes back at once"
    window = limits.max_blocks_in_flight * (limits.max_draft_tokens + 1)
    assert window <= len(session._dead_ends._prefixes) <= 2 * window


def test_a_verdict_that_settles_billions_is_soon_dealt_with() -> None:
    """The edge looks at what it sent, not at all the numbers up to the one it is told."""
    flight = Flight()
    flight.add(5, 2, 0.1, 0.0)
    assert flight.round_trip_s(Verdict(3, 2, blocks_settled=(1 << 32) - 1, num_judged=2), 1.0) == 1.0
    assert not flight._sent_s


@pytest.mark.parametrize(
    ("opened", "field"),
    [
        (Opened(70, 8, 4, 3), "vocab_size"),
        (Opened(13, 0, 4, 3), "max_draft_tokens"),
        (Opened(13, 8, 0, 3), "max_draft_tokens"),
        (Opened(13, 8, 4, 4), "committed_length"),
    ],
)
def test_an_opening_that_contradicts_itself_is_refused(opened: Opened, field: str) -> None:
    """Another vocabulary than described, a window of nothing, or another text: each would stop or corrupt the edge."""
    session = EdgeSession(Open((1, 2, 3), 9), vocab_size=13)
    session.open()
    with pytest.raises(BadReply) as caught:
        session.receive(opened)
    assert caught.value.field == field


def test_an_author_beyond_any_chain_is_refused() -> None:
    """A relay counts one up and passes it on: the largest number would be none any more."""
    session = EdgeSession(Open((1, 2, 3), 9))
    session.open()
    session.receive(Opened(13, 8, 4, 3))
    with pytest.raises(BadReply) as caught:
        session.receive(Verdict(3, 0, 5, Origin.FILLED, author=(1 << 32) - 1))
    assert caught.value.field == "author"


# --- sequences --------------------------------------------------------------------------------------------------------


class Sequences(RuleBasedStateMachine):
    """Sound, odd and damaged messages in any order, on several streams; see `Siege` for what must hold after each."""

    def __init__(self) -> None:
        super().__init__()
        self.siege = fuzz.Siege(random.Random(0))
        self.ports = [self.siege.connect()]

    def _port(self, place: int) -> Any:
        return self.ports[place % len(self.ports)]

    @rule(place=st.integers(0, 3), seed=st.integers(0, 1 << 30))
    def sound(self, place: int, seed: int) -> None:
        """What a client may say."""
        port = self._port(place)
        message = fuzz.Client(random.Random(seed)).any(port.session)
        self.siege.say(port, encode_request(message).SerializeToString())

    @rule(place=st.integers(0, 3), seed=st.integers(0, 1 << 30))
    def damaged(self, place: int, seed: int) -> None:
        """Nearly that."""
        dice, port = random.Random(seed), self._port(place)
        message: Any = encode_request(fuzz.Client(dice).any(port.session))
        self.siege.say(port, Mutator(dice).mutated(message))

    @rule(place=st.integers(0, 3), data=st.binary(max_size=40))
    def garbage(self, place: int, data: bytes) -> None:
        """Nothing like it."""
        self.siege.say(self._port(place), data)

    @rule()
    def steps(self) -> None:
        """The engine goes on."""
        self.siege.step()

    @precondition(lambda self: len(self.ports) < 4)
    @rule()
    def connects(self) -> None:
        """One more stream."""
        self.ports.append(self.siege.connect())

    @rule(place=st.integers(0, 3))
    def leaves(self, place: int) -> None:
        """A stream breaks off."""
        index = place % len(self.ports)
        self.siege.desk.on_gone(self.ports[index])
        self.ports[index] = self.siege.connect()

    @invariant()
    def no_stream_has_ended_and_holds_something(self) -> None:
        """Whatever ended is let go of."""
        live = [port for port in self.ports if port.session is not None and not port.has_ended]
        assert self.siege.desk.num_sessions <= len(live) + 1

    def teardown(self) -> None:
        """Everybody leaves; nothing is left."""
        for port in self.ports:
            self.siege.desk.on_gone(port)
        self.siege.finish()


class TestSequences(Sequences.TestCase):  # type: ignore[misc, name-defined]
    """Run by hypothesis, which shortens what fails."""

    settings = settings(max_examples=25, stateful_step_count=30, deadline=None)


@pytest.mark.slow
@pytest.mark.timeout(3600)
class TestManySequences(Sequences.TestCase):  # type: ignore[misc, name-defined]
    """The same, many more and longer."""

    settings = settings(max_examples=1000, stateful_step_count=100, deadline=None)
