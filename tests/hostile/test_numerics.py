"""A target that writes NaN or infinity: no token comes of it, under any rule, in chains, trees and fill."""

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from tests.hostile.raw import Raw, opening

from paceline.cloud.engine.base import Row
from paceline.cloud.engine.table import TableEngine
from paceline.common.codec import encode_request
from paceline.common.errors import Status
from paceline.common.messages import ClientMessage, ErrorMessage, FillPolicy, Open, Opened
from paceline.common.prefix import Prefix
from paceline.common.sampling import law as law_module
from paceline.common.sampling.quantised import LATTICE, QuantisedLaw
from paceline.common.sampling.rows import NumpyLogitRows
from paceline.common.tokens import Draft, How, Rule, SamplingParams, Verdict
from paceline.common.trees import chain
from paceline.simulation.faults import Violation
from paceline.simulation.fuzz import VOCAB_SIZE, Siege

NUM_TOKENS = 4
PROMPT = (1, 2, 3)
HARM = ("all NaN", "one NaN", "one +inf", "all -inf", "NaN and +inf")
SHAPES = ("chain", "tree", "fill")


class Harmed(TableEngine):
    """Sessions whose text begins with 1 get one broken row: the one for this position."""

    def __init__(self, harm: str, position: int, vocab_size: int = VOCAB_SIZE, seed: int = 0) -> None:
        super().__init__(vocab_size, seed, max_context=96)
        self.harm = harm
        self.position = position
        self.num_harmed = 0

    def step(self, rows: Sequence[Row]) -> list[NumpyLogitRows]:
        """A step, with one row of it broken."""
        results = super().step(rows)
        return [self._harmed(row, result) for row, result in zip(rows, results, strict=True)]

    def _harmed(self, row: Row, result: NumpyLogitRows) -> NumpyLogitRows:
        if not row.num_logits or self._texts[row.key][0] != 1:
            return result
        logits = np.stack([result.row(index) for index in range(len(result))])
        positions = (*range(row.past_length, row.past_length + len(row.token_ids)),)
        if row.parents:
            positions = tuple(row.positions)
        for index, at in enumerate(positions[-row.num_logits :]):
            if at + 1 == self.position:
                self.num_harmed += 1
                broken(logits[index], self.harm)
        return NumpyLogitRows(logits)


def broken(row: Any, harm: str) -> None:
    """Break a row of logits."""
    match harm:
        case "all NaN":
            row[:] = np.nan
        case "one NaN":
            row[len(row) // 2] = np.nan
        case "one +inf":
            row[0] = np.inf
        case "all -inf":
            row[:] = -np.inf
        case _:
            row[-1], row[0] = np.nan, np.inf


def drafted(text: Prefix, engine: TableEngine, how: How, shape: str) -> Draft:
    """What the target writes greedily, as a chain or with a second branch at its root."""
    token_ids: list[int] = []
    for _ in range(NUM_TOKENS):
        token_ids.append(int(engine.logits_after([*text.list(), *token_ids]).argmax()))
    parents: tuple[int, ...] = ()
    if shape == "tree":
        parents = (*chain(NUM_TOKENS), -1)
        token_ids.append((token_ids[0] + 1) % VOCAB_SIZE)
    laws = tuple(QuantisedLaw((one,), (LATTICE,)) for one in token_ids) if how is How.SAMPLED else ()
    return Draft(len(text), text.hash_at(len(text)), tuple(token_ids), (), how, laws, parents)


def met(rule: Rule, harm: str, shape: str, at: int, seed: int, penalty: float) -> bool:
    """Write a text into whose way a broken row is put, `at` tokens after the prompt; whether it was met."""
    engine = Harmed(harm, len(PROMPT) + at, seed=seed)
    siege = Siege(random.Random(seed), engine)
    siege.listed = siege.listed | {"TARGET_NUMERICS"}
    sampling = SamplingParams(0.0 if rule is Rule.GREEDY else 0.9, repetition_penalty=penalty)
    fill = FillPolicy.UNLIMITED if shape == "fill" else FillPolicy.OFF
    how = How.SAMPLED if rule is Rule.REJECTION else How.ONE_HOT
    port, length = siege.connect(), len(PROMPT)
    saying: ClientMessage = Open(PROMPT, 12, sampling, rule, fill, seed, ignore_eos=True)
    for _ in range(60):
        heard = siege.say(port, encode_request(saying).SerializeToString())
        siege.step()
        for message in [*heard, *siege.hear(port)]:
            if isinstance(message, Verdict):
                length += (
                    message.num_accepted + len(message.filled_token_ids) + (message.next_token_id is not None)
                )
            elif isinstance(message, ErrorMessage):
                assert (message.status, message.reason, message.fatal) == (
                    Status.INTERNAL,
                    "TARGET_NUMERICS",
                    True,
                )
                assert "incident " in message.cure
        assert port.session is not None
        assert length == len(port.session.text) <= len(PROMPT) + max(at, 12 * (not engine.num_harmed))
        assert max(port.session.text.list()) < VOCAB_SIZE
        if port.has_ended:
            break
        saying = (
            drafted(port.session.text, engine, how, shape) if shape != "fill" else Draft(0, 0, (), (), how)
        )
    siege.desk.on_gone(port)
    siege.finish()
    assert port.has_ended
    return length < len(PROMPT) + 12


def all_met(count: int) -> int:
    """Run that many texts over every rule, harm, shape and position; how many met their broken row."""
    cases = itertools.cycle(itertools.product(Rule, HARM, SHAPES, range(1, 12), (1.0, 1.3)))
    return sum(
        met(*case[:4], seed, case[4]) for seed, case in zip(range(count), _strided(cases), strict=False)
    )


def _strided(cases: Iterator[Any]) -> Iterator[Any]:
    """One case in 37, so that few of them differ in everything."""
    return itertools.islice(cases, 0, None, 37)


def test_broken_rows_commit_nothing() -> None:
    """INTERNAL with an incident, nothing committed from the broken row on, no id outside the vocabulary, and beside it
    a text as ever: every rule, in chains, trees and fill."""
    assert all_met(40) > 25


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_broken_rows_commit_nothing_in_many_texts(record_property: Any) -> None:
    """The same over every case there is, and more."""
    num_met = all_met(2000)
    record_property("broken rows", num_met)
    assert num_met > 1500


async def test_the_operator_finds_the_incident(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Through the wire: in-band, then as the status; the log names the incident that the client is told."""
    async with serve(Harmed("all NaN", 4, 64)) as served, Raw(served.address) as raw:
        await raw.send(opening(max_new_tokens=9, fill=FillPolicy.UNLIMITED))
        opened, *_, error = await raw.until_end()
        assert isinstance(opened, Opened)
        assert isinstance(error, ErrorMessage)
        assert (error.status, error.reason) == (Status.INTERNAL, "TARGET_NUMERICS")
        assert await raw.status() is Status.INTERNAL
        assert error.cure.split("incident ")[1].split()[0] in caplog.text


def test_a_target_that_is_believed_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody looks whether logits are finite, the test fails."""
    monkeypatch.setattr(law_module, "_check_finite", lambda top: None)
    with pytest.raises((AssertionError, Violation)), np.errstate(all="ignore"):
        all_met(60)
