"""Same target, prompt, seed and sampling: same tokens, whatever drafts, however far ahead, over however many hops,
beside however many others, and whatever breaks. The real client, relays and verifiers on a virtual clock."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import pytest

from paceline.common.session import VerifierSession
from paceline.common.tokens import Rule, SamplingParams
from paceline.edge.request import GenerationRequest
from paceline.simulation.faults import Violation, run_schedule
from paceline.simulation.worlds import VOCAB_SIZE, Fault, Form, Text, World

DRAFTERS = {"matching": 1.0, "other model": 0.7, "random": 0.0, "adversarial": -1.0, "none": None}
"""Agreement with the target; the adversarial one drafts what the target likes least."""
LENGTHS = (1, 2, 4, 8, 16)
FORMS: tuple[tuple[int, Form], ...] = ((0, "straight"), (1, "relay"), (2, "two relays"))
LOADS = (1, 8, 64)
FAULTS = ("none", "cut", "verifier lost", "drain")
SEED = 0
"""Of the target."""
NUM_PROMPTS = 20
NUM_TOKENS = 128
NUM_BESIDE = 32
"""Tokens of texts that only keep a place busy."""
NUM_PARTS = 29
"""Prime, so that each has a bit of everything."""


@dataclass(frozen=True)
class Cell:
    """One point of the matrix."""

    drafter: str
    length: int
    num_relays: int
    load: int
    """Texts that begin together."""
    fault: str


CELLS = [
    Cell(drafter, length, relays, load, fault)
    for drafter, length, (relays, _), load, fault in product(DRAFTERS, LENGTHS, FORMS, LOADS, FAULTS)
    if drafter != "none" or length == 1
]


def plan(cell: Cell, num_tokens: Sequence[int], first: int = 0) -> World:
    """A world with one fault or a few in the middle of its texts.

    Args:
        num_tokens: of each text.
        first: which prompt the first text has; the others follow.
    """
    form = dict(FORMS)[cell.num_relays]
    num_links = cell.num_relays + 1
    return World(
        seed=SEED,
        family="all",
        form=form,
        round_trips_s=(0.02,) * num_links,
        lag_s=0.0,
        step_s=0.01,
        draft_s=0.002,
        agreement=DRAFTERS[cell.drafter] or 0.0,
        relay_agreement=0.8,
        max_sessions=64,
        park_s=30.0,
        max_parked=64,
        texts=tuple(_text(cell, first + index, count) for index, count in enumerate(num_tokens)),
        faults=_faults(cell.fault, num_links),
    )


def _text(cell: Cell, number: int, num_tokens: int) -> Text:
    # Which text it is depends on its number alone: every cell has to write the same.
    temperature = (0.0, 0.9)[number % 2]
    request = GenerationRequest(
        prompt_token_ids=tuple((number * 3 + at) % VOCAB_SIZE for at in range(5)),
        max_new_tokens=num_tokens,
        sampling=SamplingParams(temperature, frequency_penalty=(0.0, 0.3)[number // 2 % 2]),
        rule=Rule.GREEDY if not temperature else Rule.COUPLED,
        seed=number,
        num_speculative_tokens=cell.length,
        reconnect_s=120.0,
        request_id=str(number),
    )
    mode = "cloud" if cell.drafter == "none" else ("stream", "sync", "auto")[number % 3]
    return Text(request, mode, 0.01 * (number % cell.load), None)


def _faults(fault: str, num_links: int) -> tuple[Fault, ...]:
    match fault:
        case "cut":
            return tuple(Fault(0.15 + 0.1 * at, "reset", at % num_links, 0.1) for at in range(3))
        case "verifier lost":
            return (Fault(0.2, "crash", num_links - 1, 0.5),)
        case "drain":
            return (Fault(0.15, "drain", num_links - 1, 0.5, grace_s=0.1),)
        case _:
            return ()


def tokens_of(cell: Cell, num_prompts: int, num_tokens: int = NUM_TOKENS) -> int:
    """Write so many prompts, as many at a time as the load says, if need be beside others; each is compared in full
    with what the target alone writes. How many tokens."""
    total = 0
    for first in range(0, num_prompts, cell.load):
        num_long = min(cell.load, num_prompts - first)
        counts = [num_tokens] * num_long + [min(num_tokens, NUM_BESIDE)] * (cell.load - num_long)
        total += run_schedule(plan(cell, counts, first)).num_tokens
    return total


def test_the_text_is_one_wherever_it_is_written() -> None:
    """A sample of the cells."""
    assert sum(tokens_of(cell, 1, 12) for cell in CELLS[::83]) > 1000


@pytest.mark.slow
@pytest.mark.vast
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(NUM_PARTS))
def test_the_text_is_one_in_every_cell(part: int, record_property: Any) -> None:
    """Twenty prompts of 128 tokens in every cell, in parts that can go side by side."""
    cells = CELLS[part::NUM_PARTS]
    record_property("cells", len(cells))
    tokens = sum(tokens_of(cell, NUM_PROMPTS) for cell in cells)
    record_property("tokens", tokens)
    beside = sum(-NUM_PROMPTS % cell.load for cell in cells)
    assert tokens == len(cells) * NUM_PROMPTS * NUM_TOKENS + beside * NUM_BESIDE, "every text is whole"


@pytest.mark.parametrize("fault", ["cut", "verifier lost", "drain"])
def test_the_faults_happen(fault: str) -> None:
    """Streams break while texts are written."""
    outcome = run_schedule(plan(Cell("other model", 4, 1, 1, fault), [32]))
    assert outcome.num_broken > 0


def test_a_draw_by_attempt_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where randomness depends on how often a text was opened, the matrix fails."""
    right = VerifierSession.__init__

    def init(self: VerifierSession, request: Any, limits: Any) -> None:
        right(self, request, limits)
        self.request = replace(request, seed=request.seed + len(request.committed_token_ids))

    monkeypatch.setattr(VerifierSession, "__init__", init)
    with pytest.raises(Violation):
        tokens_of(Cell("other model", 4, 0, 1, "cut"), 4, 32)
