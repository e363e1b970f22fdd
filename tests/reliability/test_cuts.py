"""Connections cut at every byte: the text is the same, nobody reconnects more than once for a cut, nothing is left."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.reliability.cuts import HOPS, Breaks, Links, Rig, Tally, encrypted

from paceline.simulation.proxy import BreakKind

MODES = ("sync", "stream", "auto", "cloud")
NUM_PARTS = 4
NUM_HALF_OPEN = 2000
NUM_RANDOM = 1000
CELLS = [(hop, is_encrypted) for hop in HOPS for is_encrypted in (False, True)]
RANDOM_CELLS = [*CELLS, *3 * CELLS[:1], CELLS[1]]
"""Ten times so many texts. More of them without a relay: its messages make three texts of one."""


def links(folder: Path, *, is_encrypted: bool, peer_timeout_s: float = 10.0) -> Links:
    """Plain ones, or with certificates."""
    return encrypted(folder, peer_timeout_s) if is_encrypted else Links(peer_timeout_s=peer_timeout_s)


def check(tally: Tally, record_property: Any, what: str, least: float = 0.3) -> None:
    """What P1 promises; says what was done. At least so many breaks make a text reconnect."""
    record_property(what, str(tally))
    assert tally.num_changed == 0
    assert tally.num_breaks > 0.5 * tally.num_texts, "the cuts come while there is a text"
    assert tally.num_reconnects > least * tally.num_breaks, "and texts survive them"
    assert tally.num_reconnects <= 1.05 * tally.num_breaks


async def sweep(folder: Path, hop: str, step: int, first: int = 1, *, is_encrypted: bool) -> Tally:
    """Texts over a connection that stands, each cut `step` bytes later than the one before."""
    async with Rig(links(folder, is_encrypted=is_encrypted)) as rig:
        async with rig.way(hop) as way:
            longest = max([(await way.text()).num_bytes for _ in range(8)])
        return await rig.texts(hop, (((count, "reset"),) for count in range(first, longest + 1, step)))


async def begin(folder: Path, hop: str, step: int, first: int = 1, *, is_encrypted: bool) -> Tally:
    """Texts over connections of their own, cut while they are made: until then there is no text to change."""
    async with Rig(links(folder, is_encrypted=is_encrypted)) as rig:
        async with rig.way(hop) as way:
            longest = way.num_bytes_before
        return await rig.connections(hop, (((count, "reset"),) for count in range(first, longest + 1, step)))


@pytest.mark.parametrize(("hop", "is_encrypted"), [(HOPS[0], True), *((hop, False) for hop in HOPS)])
async def test_a_cut_at_some_bytes_changes_nothing(
    tmp_path: Path, hop: str, is_encrypted: bool, record_property: Any
) -> None:
    """One byte in some hundreds, on every hop in the clear, and on one over TLS."""
    step = 193 if hop == HOPS[0] else 499
    tally = await sweep(tmp_path, hop, step, is_encrypted=is_encrypted)
    check(tally, record_property, hop)


@pytest.mark.parametrize("is_encrypted", [False, True])
async def test_a_cut_while_a_connection_is_made_changes_nothing(tmp_path: Path, is_encrypted: bool) -> None:
    """In handshakes too, and in the question what is served."""
    tally = await begin(tmp_path, HOPS[0], 997 if is_encrypted else 97, is_encrypted=is_encrypted)
    assert (tally.num_changed, tally.num_breaks) == (0, tally.num_texts)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(NUM_PARTS))
@pytest.mark.parametrize(("hop", "is_encrypted"), CELLS)
async def test_a_cut_at_every_byte_changes_nothing(
    tmp_path: Path, hop: str, is_encrypted: bool, part: int, record_property: Any
) -> None:
    """Every single byte of a text of 24 tokens, and one in 17 of those that make the connection, in four parts."""
    tally = await sweep(tmp_path, hop, NUM_PARTS, 1 + part, is_encrypted=is_encrypted)
    check(tally, record_property, hop)
    begun = await begin(tmp_path, hop, 17 * NUM_PARTS, 1 + 17 * part, is_encrypted=is_encrypted)
    record_property(f"{hop}, connections", str(begun))
    assert begun.num_changed == 0
    assert begun.num_reconnects <= 1.05 * begun.num_breaks


# --- other breaks -----------------------------------------------------------------------------------------------------


def half_open(count: int, most: int) -> Iterator[Breaks]:
    """So many breaks that only one direction sees, spread over a text."""
    ways: tuple[BreakKind, ...] = ("swallow up", "swallow down")
    for index in range(count):
        yield ((1 + index * most // count, ways[index % 2]),)


def several(seed: int, count: int) -> Iterator[Breaks]:
    """Texts with one to five breaks at random bytes."""
    dice = random.Random(seed)
    for _ in range(count):
        yield tuple((dice.randrange(1, 1500), "reset") for _ in range(dice.randint(1, 5)))


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_many_connections_that_swallow_one_direction_are_left(record_property: Any) -> None:
    """Nobody is told: either end notices by itself, and the text goes on over a new connection."""
    async with Rig(Links(peer_timeout_s=2.0), at_a_time=64) as rig:
        check(await rig.texts(HOPS[0], half_open(NUM_HALF_OPEN, 1100)), record_property, "half-open")


async def test_several_cuts_in_one_text_change_nothing(record_property: Any) -> None:
    """One to five of them, in every mode."""
    async with Rig(Links()) as rig:
        check(await rig.texts(HOPS[1], several(1, 8), MODES), record_property, HOPS[1])


@pytest.mark.slow
@pytest.mark.vast
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(2, 2 + len(RANDOM_CELLS)))
async def test_many_texts_with_several_cuts_are_the_same(
    tmp_path: Path, seed: int, record_property: Any
) -> None:
    """The same over ten times a thousand texts, spread over hops and encryption."""
    hop, is_encrypted = RANDOM_CELLS[seed - 2]
    async with Rig(links(tmp_path, is_encrypted=is_encrypted)) as rig:
        what = f"{hop}{', encrypted' if is_encrypted else ''}"
        tally = await rig.texts(hop, several(seed, NUM_RANDOM), MODES)
    # Over TLS many of them cut the handshakes of one reconnect.
    check(tally, record_property, what, 0.1 if is_encrypted else 0.3)
