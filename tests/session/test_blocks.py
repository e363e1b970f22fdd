"""What a set of blocks means for a text: every case of `merge`, and of `DeadEnds`."""

from dataclasses import replace

import pytest

from paceline.common.prefix import Prefix, extend_hash
from paceline.common.sampling.quantised import QuantisedLaw
from paceline.common.session.blocks import DeadEnds, merge, orphans
from paceline.common.tokens import Draft, How

TEXT = Prefix([1, 2, 3, 4])


def block(prefix: list[int], *token_ids: int, how: How = How.ONE_HOT, more: bool = False) -> Draft:
    """A block that continues exactly this prefix."""
    laws = tuple(QuantisedLaw((t,), (1024,)) for t in token_ids) if how is How.SAMPLED else ()
    prefix_hash = Prefix(prefix).hash_at(len(prefix))
    return Draft(len(prefix), prefix_hash, token_ids, (0.5,) * len(token_ids), how, laws, more_follows=more)


@pytest.mark.parametrize(
    ("blocks", "tokens", "used", "stale"),
    [
        pytest.param([block([1, 2, 3, 4], 5, 6)], (5, 6), (0,), (), id="continues the text"),
        pytest.param([block([1, 2], 3, 4, 5)], (5,), (0,), (), id="overlaps and agrees"),
        pytest.param([block([1, 2], 3, 9, 5)], None, (), (0,), id="overlaps and contradicts"),
        pytest.param([block([1, 9], 3, 4, 5)], None, (), (0,), id="continues another text"),
        pytest.param([block([1, 2], 3, 4)], None, (), (0,), id="says nothing new"),
        pytest.param([block([1, 2, 3, 4])], (), (0,), (), id="asks for a step"),
        pytest.param([block([1, 2])], None, (), (0,), id="asked for a step long done"),
        pytest.param([block([1, 2, 3, 4, 5], 6)], None, (), (), id="early"),
        pytest.param(
            [block([1, 2, 3, 4], 5), block([1, 2, 3, 4, 5], 6)], (5, 6), (0, 1), (), id="two in a chain"
        ),
        pytest.param(
            [block([1, 2, 3, 4], 5), block([1, 2, 3, 4], 5, 6)], (5, 6), (0, 1), (), id="a longer repeat"
        ),
        pytest.param(
            [block([1, 2, 3, 4], 5, 6), block([1, 2, 3, 4], 5)], (5, 6), (0,), (), id="a shorter repeat"
        ),
        pytest.param([block([1, 2, 3, 4], 5), block([1, 2, 3, 4], 7)], (5,), (0,), (), id="another opinion"),
        pytest.param(
            [block([1, 2, 3, 4], 5), block([1, 2, 3, 4, 7], 8)], (5,), (0,), (), id="after another opinion"
        ),
        pytest.param([block([1, 2, 3, 4, 5], 6), block([1, 2, 3, 4], 5)], (5,), (1,), (), id="out of order"),
        pytest.param(
            [block([1, 2, 3, 4], 5), block([1, 2, 3, 4, 5], 6, how=How.SAMPLED)],
            (5,),
            (0,),
            (),
            id="chosen otherwise",
        ),
        pytest.param([], None, (), (), id="nothing"),
    ],
)
def test_merge(
    blocks: list[Draft], tokens: tuple[int, ...] | None, used: tuple[int, ...], stale: tuple[int, ...]
) -> None:
    """A block is usable, stale or early, by its content alone."""
    merged = merge(TEXT, blocks, max_tokens=10)
    assert (None if merged.draft is None else merged.draft.token_ids) == tokens
    assert (merged.used, merged.stale) == (used, stale)
    if merged.draft is not None:
        assert (merged.draft.base, merged.draft.prefix_hash) == (4, TEXT.hash_at(4))


def tree(prefix: list[int], parents: tuple[int, ...], *token_ids: int) -> Draft:
    """A tree that continues exactly this prefix."""
    return replace(block(prefix, *token_ids), parents=parents)


FORK = tree([1, 2, 3, 4], (-1, 0, -1), 5, 6, 7)


@pytest.mark.parametrize(
    ("blocks", "tokens", "used", "stale"),
    [
        pytest.param([FORK], (5, 6, 7), (0,), (), id="continues the text"),
        pytest.param([tree([1, 2, 3], (-1, -1), 4, 9)], None, (), (0,), id="the text has moved"),
        pytest.param([tree([1, 2, 3, 9], (-1, -1), 4, 9)], None, (), (0,), id="another text"),
        pytest.param([tree([1, 2, 3, 4, 5], (-1, -1), 6, 9)], None, (), (), id="early"),
        pytest.param([FORK, block([1, 2, 3, 4, 5, 6], 8)], (5, 6, 7), (0,), (), id="nothing is joined to it"),
        pytest.param([block([1, 2, 3, 4], 5), FORK], (5,), (0,), (), id="nor is it joined"),
        pytest.param([block([1, 2, 3, 4]), FORK], (), (0,), (), id="not even to an empty block"),
        pytest.param([FORK, block([1, 2], 3, 9)], (5, 6, 7), (0,), (1,), id="stale blocks stay stale"),
        pytest.param([FORK, FORK], (5, 6, 7), (0,), (), id="twice"),
    ],
)
def test_a_tree_is_usable_at_the_end_of_the_text_and_alone(
    blocks: list[Draft], tokens: tuple[int, ...] | None, used: tuple[int, ...], stale: tuple[int, ...]
) -> None:
    """Trees never chain, and are stale as soon as the text is longer than their base."""
    merged = merge(TEXT, blocks, max_tokens=10)
    assert (None if merged.draft is None else merged.draft.token_ids) == tokens
    assert (merged.used, merged.stale) == (used, stale)
    assert DeadEnds().stale(TEXT, blocks, len(TEXT)) == set(stale)


def test_a_tree_is_cut_to_a_tree() -> None:
    """Its leading tokens are kept with their parents and laws; it is used up all the same."""
    laws = tuple(QuantisedLaw((t,), (1024,)) for t in FORK.token_ids)
    sampled = replace(FORK, how=How.SAMPLED, laws=laws)
    for room in range(4):
        merged = merge(TEXT, [sampled], max_tokens=room)
        assert merged.draft == replace(
            sampled,
            token_ids=(5, 6, 7)[:room],
            draft_probs=(0.5,) * room,
            laws=laws[:room],
            parents=(-1, 0, -1)[:room],
        )
        assert merged.used == (0,)


def test_merge_cuts_to_the_room_there_is() -> None:
    """Tokens beyond the limit stay out, and the block they are of is not reported as used."""
    merged = merge(TEXT, [block([1, 2, 3, 4], 5, 6), block([1, 2, 3, 4, 5, 6], 7, 8)], max_tokens=3)
    assert merged.draft is not None
    assert merged.draft.token_ids == (5, 6, 7)
    assert merged.used == (0,)


def test_merge_keeps_laws_beside_their_tokens() -> None:
    """Where a block overlaps the text, the laws of the overlap are dropped with it."""
    merged = merge(TEXT, [block([1, 2, 3], 4, 5, 6, how=How.SAMPLED, more=True)], max_tokens=10)
    assert merged.draft is not None
    assert [law.token_ids for law in merged.draft.laws] == [(5,), (6,)]
    assert merged.draft.more_follows
    assert merged.draft.how is How.SAMPLED


def test_blocks_after_a_refuted_draft_are_stale_at_once() -> None:
    """What hangs on a contradicted block is dropped, however far ahead it begins and whenever it arrives."""
    refuted, child = block([1, 2, 3], 9, 8), block([1, 2, 3, 9, 8], 7, 6)
    grandchild, late = block([1, 2, 3, 9, 8, 7, 6], 5), block([1, 2, 3, 9, 8, 7, 6, 5], 4)
    dead = DeadEnds()
    assert dead.stale(TEXT, [grandchild, child, refuted], len(TEXT)) == {0, 1, 2}
    assert dead.stale(TEXT, [late], len(TEXT)) == {0}


def test_blocks_after_a_usable_or_unknown_draft_are_kept() -> None:
    """A block is a dead end only if its prefix is known to be wrong."""
    right, child, stranger = block([1, 2, 3, 4], 5), block([1, 2, 3, 4, 5], 6), block([1, 2, 3, 4, 7], 6)
    assert DeadEnds().stale(TEXT, [right, child, stranger], len(TEXT)) == set()


def test_dead_ends_are_forgotten_once_the_text_is_past_them() -> None:
    """What is remembered lies beyond the text, so it is bounded by what was in flight."""
    dead, text = DeadEnds(), Prefix(TEXT)
    dead.stale(text, [block([1, 2, 3], 9, 8, 7)], len(text))
    assert len(dead._prefixes) == 2
    text.extend([5, 5, 5, 5])
    dead.stale(text, [], len(text))
    assert not dead._prefixes


def test_orphans_continue_neither_the_text_nor_a_block_before_them() -> None:
    """Where blocks arrive in order, what an orphan continues is gone for good."""
    right, child, inside = block([1, 2, 3, 4], 5, 6), block([1, 2, 3, 4, 5, 6], 7), block([1, 2, 3, 4, 5], 8)
    lost, after_lost = block([1, 2, 3, 4, 7], 6), block([1, 2, 3, 4, 7, 6], 5)
    stale = block([1, 2, 9], 3, 4)
    assert orphans(TEXT, [right, child, inside]) == set()
    assert orphans(TEXT, [lost, right, after_lost, child]) == {0, 2}
    assert orphans(TEXT, [stale]) == set(), "what contradicts the text is stale, not lost"
    assert orphans(TEXT, [child, right]) == {0}


def test_prefix_hash_is_pinned() -> None:
    """The hash is part of the protocol; these values never change."""
    prefix = Prefix([0, 1, 65535, 151_935])
    assert [prefix.hash_at(n) for n in range(5)] == PINNED
    assert extend_hash(PINNED[1], 1) == PINNED[2]


def test_prefix_truncates_to_what_it_was() -> None:
    """Truncating restores length, tokens and hash; it never grows the text."""
    prefix = Prefix([5, 6, 7])
    prefix.truncate(1)
    assert (prefix.list(), prefix.hash_at(1)) == ([5], Prefix([5]).hash_at(1))
    for length in (-1, 2):
        with pytest.raises(ValueError, match="cannot truncate"):
            prefix.truncate(length)


PINNED = [0, 2283521107298152996, 14302521269317973780, 1695651040509698846, 1836964545759558533]
