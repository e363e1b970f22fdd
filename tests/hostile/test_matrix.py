"""Same target, prompt, seed and sampling: same tokens, whatever drafts, however far ahead, over however many hops,
beside however many others, and whatever breaks. The real client, relays and verifiers on a virtual clock."""

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import pytest

from paceline.common.session import VerifierSession
from paceline.common.tokens import Rule, SamplingParams
from paceline.edge.request import GenerationRequest
from paceline.simulation.faults import Violation, run_schedule
from paceline.simulation.worlds import VOCAB_SIZE, Fault, Form, Text, World

DRAFTERS = {"matching": 1.0, "resembling": 0.7, "random": 0.0, "none": None}
"""Agreement with the target."""
LENGTHS = (1, 2, 4, 8, 16)
FORMS: tuple[tuple[int, Form], ...] = ((0, "straight"), (1, "relay"), (2, "two relays"))
LOADS = (1, 8)
FAULTS = ("none", "cut", "verifier lost", "drain")
NUM_TOKENS = 32
NUM_PARTS = 7
"""Prime, so that each has a bit of everything."""


@dataclass(frozen=True)
class Cell:
    """One point of the matrix."""

    drafter: str
    length: int
    num_relays: int
    load: int
    fault: str


CELLS = [
    Cell(drafter, length, relays, load, fault)
    for drafter, length, (relays, _), load, fault in product(DRAFTERS, LENGTHS, FORMS, LOADS, FAULTS)
    if drafter != "none" or length == 1
]


def plan(cell: Cell, seed: int, num_tokens: int = NUM_TOKENS) -> World:
    """A world with as many texts as the load says, and one fault in the middle of them."""
    form = dict(FORMS)[cell.num_relays]
    num_links = cell.num_relays + 1
    return World(
        seed=seed,
        family="all",
        form=form,
        round_trips_s=(0.02,) * num_links,
        lag_s=0.0,
        step_s=0.01,
        draft_s=0.002,
        agreement=DRAFTERS[cell.drafter] or 0.0,
        relay_agreement=0.8,
        max_sessions=16,
        park_s=30.0,
        max_parked=16,
        texts=tuple(_text(cell, seed, index, num_tokens) for index in range(cell.load)),
        faults=_faults(cell.fault, num_links),
    )


def _text(cell: Cell, seed: int, index: int, num_tokens: int) -> Text:
    # Which text it is depends on seed and index alone: every cell has to write the same.
    temperature = (0.0, 0.9)[(seed + index) % 2]
    request = GenerationRequest(
        prompt_token_ids=tuple((seed * 5 + index * 3 + at) % VOCAB_SIZE for at in range(5)),
        max_new_tokens=num_tokens,
        sampling=SamplingParams(temperature, frequency_penalty=(0.0, 0.3)[seed // 2 % 2]),
        rule=Rule.GREEDY if not temperature else Rule.COUPLED,
        seed=seed * 100 + index,
        num_speculative_tokens=cell.length,
        reconnect_s=120.0,
        request_id=f"{seed}-{index}",
    )
    mode = "cloud" if cell.drafter == "none" else ("stream", "sync", "auto")[(seed + index) % 3]
    return Text(request, mode, 0.01 * index, None)


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


def tokens_of(cells: list[Cell], seeds: range, num_tokens: int = NUM_TOKENS) -> int:
    """Write every text of these cells; each is compared in full with what the target alone writes. How many tokens."""
    return sum(run_schedule(plan(cell, seed, num_tokens)).num_tokens for cell in cells for seed in seeds)


def test_the_text_is_one_wherever_it_is_written() -> None:
    """A sample of the cells."""
    assert tokens_of(CELLS[::41], range(1), 12) > 300


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(NUM_PARTS))
def test_the_text_is_one_in_every_cell(part: int, record_property: Any) -> None:
    """Every cell, in parts that can go side by side."""
    cells = CELLS[part::NUM_PARTS]
    record_property("cells", len(cells))
    record_property("tokens", tokens_of(cells, range(1)))


@pytest.mark.parametrize("fault", ["cut", "verifier lost", "drain"])
def test_the_faults_happen(fault: str) -> None:
    """Streams break while texts are written."""
    outcome = run_schedule(plan(Cell("resembling", 4, 1, 1, fault), 1))
    assert outcome.num_broken > 0


def test_a_draw_by_attempt_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where randomness depends on how often a text was opened, the matrix fails."""
    right = VerifierSession.__init__

    def init(self: VerifierSession, request: Any, limits: Any) -> None:
        right(self, request, limits)
        self.request = replace(request, seed=request.seed + len(request.committed_token_ids))

    monkeypatch.setattr(VerifierSession, "__init__", init)
    with pytest.raises(Violation):
        tokens_of([Cell("resembling", 4, 0, 1, "cut")], range(1, 4))
