"""The drafter's end against verifiers that are late, broken or hostile: it refuses, or it commits what is right."""

from dataclasses import replace

import pytest

from paceline.common.acceptance import Judgement
from paceline.common.errors import BadDraft, BadReply, Status
from paceline.common.messages import (
    Draining,
    ErrorMessage,
    Feature,
    FillPolicy,
    Finished,
    Open,
    Opened,
    Provisional,
    ServerMessage,
)
from paceline.common.prefix import Prefix
from paceline.common.session import EdgePhase, EdgeSession, Limits, Steered, SteeredSession, VerifierSession
from paceline.common.session.remote import RemoteError
from paceline.common.tokens import Draft, FinishReason, How, Origin, Verdict

STOP = 9


def live(max_new_tokens: int = 8) -> EdgeSession:
    """A session of a three-token prompt with one block of three tokens in flight."""
    session = EdgeSession(Open((1, 2, 3), max_new_tokens, stop_token_ids=(STOP,)))
    session.open()
    session.receive(Opened(10, 4, 4, committed_length=3, stop_token_ids=(STOP,)))
    session.block(3, (4, 5, 6), (0.5,) * 3, How.ONE_HOT)
    return session


@pytest.mark.parametrize(
    ("message", "field"),
    [
        pytest.param(Verdict(3, 4, 7, Origin.BONUS), "num_accepted", id="more accepted than drafted"),
        pytest.param(Verdict(3, 1 << 31, 7, Origin.BONUS), "num_accepted", id="absurdly many accepted"),
        pytest.param(Verdict(5, 0, 7, Origin.FILLED), "base", id="leaves a gap"),
        pytest.param(Verdict(3, 1, 10, Origin.RECOVERED), "next_token_id", id="token outside the vocabulary"),
        pytest.param(Finished(FinishReason.LENGTH, 4), "committed_length", id="finished at another length"),
        pytest.param(Finished(FinishReason.LENGTH, 3), "reason", id="finished before the length"),
        pytest.param(Finished(FinishReason.STOP, 3), "reason", id="stopped without a stop token"),
        pytest.param(Opened(10, 4, 4, committed_length=3), "payload", id="opened twice"),
    ],
)
def test_hostile_answers_are_refused(message: ServerMessage, field: str) -> None:
    """An answer that breaks the protocol names its field and leaves the text alone."""
    session = live()
    with pytest.raises(BadReply) as caught:
        session.receive(message)
    assert caught.value.field == field
    assert session.committed.list() == [1, 2, 3]


def test_the_last_receipt_is_shown_again_with_the_length_it_is_for() -> None:
    """A verdict without one, or one that says nothing new, leaves the last in force; opinions have none."""
    session = live()
    session.receive(Verdict(3, 1, 7, Origin.RECOVERED, receipt=b"first receipt..."))
    session.receive(Provisional(Verdict(5, 0, 7, Origin.FILLED, receipt=b"an opinion's own")))
    session.receive(Verdict(5, receipt=b"nothing is new.."))
    session.receive(Verdict(5, 1, 8, Origin.RECOVERED))
    opening = session.open()
    assert (opening.receipt, opening.receipt_length) == (b"first receipt...", 5)
    assert opening.committed_token_ids == (4, 7, 7, 8)
    with pytest.raises(BadReply, match="5 bytes"):
        live().receive(Verdict(3, 1, 7, Origin.RECOVERED, receipt=b"short"))


def test_streams_are_counted() -> None:
    """Each is newer than those before it, under a new name too, and after whatever the caller counts."""
    session = EdgeSession(Open((1, 2), 9, attempt=(3, 7)))
    assert [session.open().attempt for _ in range(3)] == [(3, 7, 1), (3, 7, 2), (3, 7, 3)]
    assert session.mends(refusal(Status.ABORTED), b"another name")
    assert session.open().attempt == (3, 7, 4)


def refusal(status: Status, field: str = "", retry_after_s: float = 0.0) -> RemoteError:
    """What a verifier says when it does not take a text."""
    return RemoteError(ErrorMessage(status, "WHY", "no", field, retry_after_s=retry_after_s))


def test_what_stood_in_the_way_is_left_out_when_a_text_is_opened_again() -> None:
    """A name that another stream has, and a receipt that is not known: once, for then there is none."""
    session = live()
    session.receive(Verdict(3, 1, 7, Origin.RECOVERED, receipt=b"first receipt..."))
    assert session.mends(refusal(Status.ABORTED), b"another name")
    assert (session.open().session_id, session.open().receipt) == (b"another name", b"first receipt...")
    assert session.mends(refusal(Status.FAILED_PRECONDITION, "receipt"), b"")
    assert (session.open().receipt, session.open().receipt_length) == (b"", 0)
    assert not session.mends(refusal(Status.FAILED_PRECONDITION, "receipt"), b"")


@pytest.mark.parametrize(
    ("status", "retry_after_s", "begun", "mends"),
    [
        (Status.UNAVAILABLE, 0, False, True),
        (Status.RESOURCE_EXHAUSTED, 1, False, False),
        (Status.RESOURCE_EXHAUSTED, 1, True, True),
        (Status.RESOURCE_EXHAUSTED, 0, True, False),
        (Status.FAILED_PRECONDITION, 0, True, False),
        (Status.INVALID_ARGUMENT, 0, True, False),
    ],
)
def test_what_is_worth_another_attempt(
    status: Status, retry_after_s: float, begun: bool, mends: bool
) -> None:
    """A verifier that is away or, once the text has begun, full until then; nothing that would be refused again."""
    session = live()
    if begun:
        session.receive(Verdict(3, 1, 7, Origin.RECOVERED))
    assert session.mends(refusal(status, "", retry_after_s), b"") is mends


def test_a_verdict_cannot_run_past_the_length() -> None:
    """A verdict that commits more than may follow is refused whole."""
    session = live(max_new_tokens=3)
    with pytest.raises(BadReply, match="3 may follow"):
        session.receive(Verdict(3, 3, 7, Origin.BONUS))
    assert session.remaining == 3


def forked() -> EdgeSession:
    """A live session with a tree in flight: 4 5 and 6 7 after the prompt, 8 after 6 as well."""
    session = EdgeSession(Open((1, 2, 3), 8, stop_token_ids=(STOP,)))
    session.open()
    session.receive(Opened(10, 8, 4, committed_length=3, stop_token_ids=(STOP,)))
    session.block(3, (4, 5, 6, 7, 8), (0.5,) * 5, How.ONE_HOT, parents=(-1, 0, -1, 2, 2))
    return session


@pytest.mark.parametrize(
    ("num_accepted", "node", "tokens"),
    [(0, None, ()), (1, 0, (4,)), (2, 1, (4, 5)), (1, 2, (6,)), (2, 4, (6, 8))],
)
def test_a_verdict_about_a_tree_commits_the_path_it_names(
    num_accepted: int, node: int | None, tokens: tuple[int, ...]
) -> None:
    """The client knows the tree: the index of the last accepted token says which path stands."""
    session = forked()
    commit = session.receive(Verdict(3, num_accepted, 1, Origin.RECOVERED, 1, accepted_node=node))
    assert commit is not None
    assert commit.token_ids == (*tokens, 1)
    assert commit.origins == (*(Origin.ACCEPTED,) * num_accepted, Origin.RECOVERED)
    assert session.num_blocks_in_flight == 0


@pytest.mark.parametrize(
    ("num_accepted", "node", "field"),
    [
        pytest.param(1, None, "num_accepted", id="no path named"),
        pytest.param(1, 1, "accepted_node", id="shorter than its path"),
        pytest.param(3, 4, "accepted_node", id="longer than its path"),
        pytest.param(0, 2, "accepted_node", id="a path of nothing"),
        pytest.param(1, 5, "accepted_node", id="outside the tree"),
        pytest.param(1, (1 << 32) - 2, "accepted_node", id="far outside the tree"),
    ],
)
def test_a_verdict_that_does_not_fit_the_tree_is_refused(
    num_accepted: int, node: int | None, field: str
) -> None:
    """Number and path must agree with each other and with what was sent; the text is left alone."""
    session = forked()
    with pytest.raises(BadReply) as caught:
        session.receive(Verdict(3, num_accepted, 1, Origin.RECOVERED, 1, accepted_node=node))
    assert caught.value.field == field
    assert session.committed.list() == [1, 2, 3]


def test_a_path_is_refused_where_chains_were_sent() -> None:
    """A verdict that speaks of a tree does not fit a chain."""
    session = live()
    with pytest.raises(BadReply, match="0 drafted"):
        session.receive(Verdict(3, 1, 7, Origin.RECOVERED, accepted_node=0))


def test_one_tree_per_prefix_is_in_flight() -> None:
    """A second one would make verdicts ambiguous; the same again is a harmless repetition."""
    session = forked()
    session.block(3, (4, 5, 6, 7, 8), (0.5,) * 5, How.ONE_HOT, parents=(-1, 0, -1, 2, 2))
    with pytest.raises(ValueError, match="second tree at 3"):
        session.block(3, (4, 6), (0.5,) * 2, How.ONE_HOT, parents=(-1, -1))
    session.receive(Verdict(3, 1, 7, Origin.RECOVERED, 2, accepted_node=2))
    session.block(5, (4, 6), (0.5,) * 2, How.ONE_HOT, parents=(-1, -1))


def test_nothing_follows_a_stop_token() -> None:
    """Neither within a verdict nor by a later one can a token follow a stop token."""
    session = live()
    session.block(3, (4, STOP, 5), (0.5,) * 3, How.ONE_HOT)
    session.receive(Verdict(3, 1, 7, Origin.RECOVERED))
    session.block(5, (STOP, 5), (0.5,) * 2, How.ONE_HOT)
    with pytest.raises(BadReply, match="stop token"):
        session.receive(Verdict(5, 1, 5, Origin.BONUS))
    session.receive(Verdict(5, 1))
    with pytest.raises(BadReply, match="stop token"):
        session.receive(Verdict(6, 0, 5, Origin.FILLED))
    session.receive(Finished(FinishReason.STOP, 6))
    assert session.phase is EdgePhase.FINISHED


@pytest.mark.parametrize("message", [Verdict(3, 0, 7, Origin.FILLED), Finished(FinishReason.CANCELLED, 3)])
def test_nothing_is_taken_before_opened(message: ServerMessage) -> None:
    """Until Opened has said what the vocabulary is, no verdict and no end is taken."""
    session = EdgeSession(Open((1, 2, 3), 8))
    session.open()
    with pytest.raises(BadReply, match="opening"):
        session.receive(message)


def test_opened_at_another_length_is_refused() -> None:
    """A verifier that holds another text than it was given is refused."""
    session = EdgeSession(Open((1, 2, 3), 8))
    session.open()
    with pytest.raises(BadReply, match="holds 5 tokens, this side 3"):
        session.receive(Opened(10, 4, 4, committed_length=5))


def test_a_verdict_twice_commits_once() -> None:
    """A repeated or late verdict changes nothing."""
    session = live()
    verdict = Verdict(3, 2, 7, Origin.RECOVERED, blocks_settled=1)
    assert session.receive(verdict) is not None
    assert session.receive(verdict) is None
    assert session.committed.list() == [1, 2, 3, 4, 5, 7]
    assert session.num_blocks_in_flight == 0


def test_commits_say_what_was_added_and_by_whom() -> None:
    """A commit carries position, tokens and origins; the session keeps every origin."""
    session = live()
    commit = session.receive(Verdict(3, 2, 7, Origin.RECOVERED, blocks_settled=1))
    assert commit is not None
    assert (commit.position, commit.token_ids) == (3, (4, 5, 7))
    assert commit.origins == (Origin.ACCEPTED, Origin.ACCEPTED, Origin.RECOVERED) == tuple(session.origins)


def test_settling_more_than_was_sent_grants_nothing() -> None:
    """Blocks in flight never fall below zero, whatever the verifier claims."""
    session = live()
    session.receive(Verdict(3, 0, 7, Origin.RECOVERED, blocks_settled=1000))
    assert session.num_blocks_in_flight == 0
    session.block(4, (1,), (0.5,), How.ONE_HOT)
    assert session.num_blocks_in_flight == 1


def test_a_newer_block_may_settle_first() -> None:
    """Tokens of an older block can still be accepted after a newer one was settled."""
    session = live()  # block 1: 4 5 6 after 3
    session.receive(Verdict(3, 0, 4, Origin.FILLED))  # the verifier wrote 4 itself before any block came
    session.block(4, (5,), (0.5,), How.ONE_HOT)  # block 2, which overtakes block 1
    session.receive(Verdict(4, 1, 6, Origin.BONUS, blocks_settled=1))
    session.block(6, (8,), (0.5,), How.ONE_HOT)
    session.receive(Verdict(6, 1, 7, Origin.BONUS, blocks_settled=3))
    assert session.committed.list() == [1, 2, 3, 4, 5, 6, 8, 7]


def test_a_longer_older_block_survives_a_shorter_newer_one() -> None:
    """What is forgotten is decided by content: the older block's rest is still known."""
    session = EdgeSession(Open((1,), 8))
    session.open()
    session.receive(Opened(10, 4, 4, committed_length=1))
    session.block(1, (2, 3, 4, 5), (0.5,) * 4, How.ONE_HOT)
    session.block(1, (2,), (0.5,), How.ONE_HOT)
    session.receive(Verdict(1, 1, 3, Origin.BONUS, blocks_settled=1))
    commit = session.receive(Verdict(3, 2, 6, Origin.BONUS, blocks_settled=2))
    assert commit is not None
    assert commit.token_ids == (4, 5, 6)


def test_an_error_is_raised_with_its_owner_and_cure() -> None:
    """What the verifier says went wrong reaches the caller word for word, with an exit code."""
    session = live()
    message = ErrorMessage(Status.RESOURCE_EXHAUSTED, "BUSY", "full", "sessions", "retry", 1.5, True, 0)
    with pytest.raises(RemoteError) as caught:
        session.receive(message)
    error = caught.value
    assert (error.status, error.reason, error.field, error.cure) == (
        message.status,
        "BUSY",
        "sessions",
        "retry",
    )
    assert (error.retry_after_s, error.exit_code, str(error)) == (
        1.5,
        4,
        "sessions: full (retry after 1.5 s)",
    )


def test_after_a_refused_block_nothing_sent_may_become_text() -> None:
    """Which block was refused is unknown, so a verdict that accepts one is refused until the session reopens."""
    session = live()
    with pytest.raises(RemoteError):
        session.receive(
            ErrorMessage(Status.INVALID_ARGUMENT, "BAD_DRAFT", "bad", fatal=False, blocks_settled=1)
        )
    with pytest.raises(BadReply, match="0 drafted"):
        session.receive(Verdict(3, 2, 7, Origin.RECOVERED, blocks_settled=1))


def test_reopening_carries_the_text_and_starts_counting_anew() -> None:
    """After a lost stream Open has everything committed, and no block is in flight."""
    session = live()
    session.receive(Verdict(3, 2, 7, Origin.RECOVERED, blocks_settled=0))
    again = session.open()
    assert again.committed_token_ids == (4, 5, 7)
    assert (session.num_blocks_in_flight, session.phase) == (0, EdgePhase.OPENING)
    session.receive(Opened(10, 4, 4, committed_length=6, stop_token_ids=(STOP,)))
    assert session.phase is EdgePhase.LIVE


def test_what_one_relay_contradicted_another_hop_may_accept() -> None:
    """After a lost stream blocks are judged anew, those that hang on what a relay had contradicted as well."""
    session = live()
    opinion = Verdict(3, next_token_id=8, next_origin=Origin.RECOVERED, blocks_settled=1)
    session.receive(Provisional(opinion))
    session.open()
    session.receive(Opened(10, 4, 4, committed_length=3, stop_token_ids=(STOP,)))
    session.block(3, (4,), (0.5,), How.ONE_HOT)
    session.block(4, (5, 6), (0.5,) * 2, How.ONE_HOT, base_hash=Prefix((1, 2, 3, 4)).hash_at(4))
    commit = session.receive(Verdict(3, 3))
    assert commit is not None
    assert commit.token_ids == (4, 5, 6)


def test_draining_is_remembered() -> None:
    """A draining verifier still finishes what it has."""
    session = live()
    assert session.receive(Draining(3.0)) is None
    assert session.draining


# --- the verifier's end -----------------------------------------------------------------------------------------------


def verifier(**changes: object) -> VerifierSession:
    """A live verifier session of a three-token prompt."""
    session = VerifierSession(Open((1, 2, 3), 8, fill=FillPolicy.OFF, **changes), Limits(10, 64, 4, 2))  # type: ignore[arg-type]
    session.opened()
    return session


def test_an_unreadable_block_gives_its_credit_back() -> None:
    """A block that could not be decoded counts as settled."""
    session = verifier()
    session.on_unreadable_draft()
    assert session.blocks_settled == 1


def test_a_stale_block_is_answered_at_once() -> None:
    """A block that says nothing new is dropped with an empty verdict, which gives its credit back."""
    session = verifier()
    assert session.on_draft(Draft(2, session.text.hash_at(2), (9,), (), How.ONE_HOT)) == [
        Verdict(3, blocks_settled=1)
    ]


TREE = Draft(3, 0, (4, 5, 6, 7, 8), (), How.ONE_HOT, parents=(-1, 0, -1, 2, 2))


@pytest.mark.parametrize(
    ("judgement", "text", "cached"),
    [
        (Judgement(0, 1, Origin.RECOVERED), [1], 3),
        (Judgement(2, 1, Origin.BONUS, 1), [4, 5, 1], 5),
        (Judgement(1, 1, Origin.RECOVERED, 0), [4, 1], 4),
        (Judgement(2, 1, Origin.BONUS, 4), [6, 8, 1], 3),
    ],
)
def test_what_stands_of_a_tree_is_cached_only_where_it_lies_in_place(
    judgement: Judgement, text: list[int], cached: int
) -> None:
    """The first path lies in the cache as the text has it; the rest of an accepted path is run again."""
    session = VerifierSession(Open((1, 2, 3), 8, fill=FillPolicy.OFF), TREE_LIMITS)
    session.on_draft(replace(TREE, prefix_hash=session.text.hash_at(3)))
    work = session.next_work(10)
    assert work is not None
    assert (work.token_ids, work.parents, work.num_logits) == ((1, 2, 3, 4, 5, 6, 7, 8), TREE.parents, 6)
    (verdict,) = session.on_judged(work, judgement)
    assert isinstance(verdict, Verdict)
    assert (verdict.num_accepted, verdict.accepted_node) == (judgement.num_accepted, judgement.accepted_node)
    assert (verdict.num_judged, verdict.blocks_settled) == (5, 1)
    assert session.text.list(3) == text
    assert session._cached == cached


def test_a_stop_token_inside_a_path_ends_the_text() -> None:
    """The verdict names the stop token's node, and nothing below it is committed."""
    session = VerifierSession(Open((1, 2, 3), 8, fill=FillPolicy.OFF, stop_token_ids=(6,)), TREE_LIMITS)
    session.on_draft(replace(TREE, prefix_hash=session.text.hash_at(3)))
    work = session.next_work(10)
    assert work is not None
    assert session.on_judged(work, Judgement(2, 1, Origin.BONUS, 4)) == [
        Verdict(3, 1, blocks_settled=1, num_judged=5, accepted_node=2),
        Finished(FinishReason.STOP, 4),
    ]


def test_trees_are_refused_unless_both_ends_named_them() -> None:
    """A verifier whose engine takes none, a client that did not say it sends some, and a relay agreed on chains."""
    chains = frozenset({Feature.RESUME})
    for session in (
        VerifierSession(Open((1, 2, 3), 8), Limits(10, 64)),
        VerifierSession(Open((1, 2, 3), 8, features=chains), TREE_LIMITS),
        SteeredSession(Steered(Open((1, 2, 3), 8), 0), TREE_LIMITS),
    ):
        with pytest.raises(BadDraft, match="not agreed on") as caught:
            session.on_draft(replace(TREE, prefix_hash=session.text.hash_at(3)))
        assert (caught.value.field, caught.value.fatal, session.blocks_settled) == ("parents", False, 1)


TREE_LIMITS = Limits(10, 64, features=frozenset(Feature))


def test_prompt_is_cached_in_chunks_before_anything_is_judged() -> None:
    """A prompt longer than a chunk is run piece by piece; without drafts and fill nothing follows."""
    session = verifier()
    lengths = []
    while (work := session.next_work(1)) is not None:
        lengths.append((work.past_length, len(work.token_ids), work.num_logits))
        session.on_prefilled(work)
    assert lengths == [(0, 1, 0), (1, 1, 0)]


def test_an_adopted_cache_is_not_read_again() -> None:
    """Work begins after it; what the engine may hold is known at every moment."""
    session = VerifierSession(Open((1, 2, 3, 4), 8, fill=FillPolicy.UNLIMITED), TREE_LIMITS)
    session.adopt(2, 9)
    (opened,) = session.opened()
    assert isinstance(opened, Opened)
    assert (opened.cached_length, session.num_held) == (2, 9)
    work = session.next_work(10)
    assert work is not None
    assert (work.past_length, work.token_ids) == (2, (3, 4))
    session.on_judged(work, Judgement(0, 5, Origin.BONUS))
    assert (list(session.cached_token_ids), session.num_held) == ([1, 2, 3, 4], 4)


def test_a_finished_session_ignores_results_and_cancels() -> None:
    """After Cancel no result commits, and a second Cancel says nothing."""
    session = verifier()
    session.on_draft(Draft(3, session.text.hash_at(3), (4,), (), How.ONE_HOT))
    work = session.next_work(10)
    assert work is not None
    assert session.on_cancel() == [Finished(FinishReason.CANCELLED, 3)]
    assert session.on_judged(work, Judgement(1, 5, Origin.BONUS)) == []
    assert session.on_cancel() == []
    assert session.next_work(10) is None


def test_a_resumed_text_that_is_complete_finishes_at_once() -> None:
    """Opening with a text that has its length or ends with a stop token is answered with Finished."""
    for committed, reason in (((4,) * 8, FinishReason.LENGTH), ((4, 5), FinishReason.STOP)):
        opening = Open((1, 2, 3), 8, committed_token_ids=committed, stop_token_ids=(5,))
        assert VerifierSession(opening, Limits(10, 64)).opened()[1] == Finished(reason, 3 + len(committed))
