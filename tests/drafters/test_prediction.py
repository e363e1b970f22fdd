"""The caller's own guess of a text, drafted."""

import pytest

from paceline.cloud.engine.table import TableEngine
from paceline.cloud.verifier import TargetInfo, Verifier
from paceline.common.hops.inproc import InProcessHop
from paceline.common.sampling.choose import Chooser
from paceline.common.tokens import Rule, SamplingParams
from paceline.edge.client import Client
from paceline.edge.drafters.conformance import check_drafter
from paceline.edge.drafters.prediction import PredictionDrafter, count_accepted, predicted
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.request import GenerationRequest

EXPECTED = (5, 6, 7, 8, 9, 10, 5, 6, 7, 3, 4)


@pytest.mark.parametrize("inner", [None, TableDrafter()], ids=["alone", "before a model"])
def test_it_keeps_what_drafters_owe(inner) -> None:
    """Under every rule, alone and before another drafter."""
    check_drafter(lambda: predicted(inner, EXPECTED))


def test_it_writes_the_prediction_until_the_text_departs() -> None:
    """Then goes on where the last three tokens stand in it, further on if it can; else it says nothing."""
    session = PredictionDrafter(EXPECTED).start((1, 2), Chooser(Rule.GREEDY, SamplingParams(), 0, 64))
    assert session.propose(3).token_ids == (5, 6, 7)
    session.observe(2, (5, 6, 40))
    assert session.propose(4).token_ids == ()
    session.observe(5, (8, 9, 10))
    assert session.propose(9).token_ids == (5, 6, 7, 3, 4)
    session.observe(8, (41, 5, 6, 7))
    assert session.propose(9).token_ids == (8, 9, 10, 5, 6, 7, 3, 4)


def test_of_two_places_the_later_one_is_taken_up() -> None:
    """A text that leaves a passage for one that stands in the prediction before and after goes on after it."""
    expected = (10, 11, 12, 20, 10, 11, 13, 21, 10, 11, 12, 22)
    session = PredictionDrafter(expected).start((1, 2), Chooser(Rule.GREEDY, SamplingParams(), 0, 64))
    session.observe(2, (10, 11, 12, 20, 10, 11, 12))
    assert session.propose(4).token_ids == (22,)


def test_what_was_expected_is_counted() -> None:
    """Tokens that stood where the prediction had them, whoever wrote them first."""
    assert count_accepted(EXPECTED, EXPECTED) == len(EXPECTED)
    assert count_accepted(EXPECTED, (5, 6, 40, 8, 9, 10, 5, 6)) == 4
    assert count_accepted(EXPECTED, (40, 41)) == 0
    assert count_accepted((), (5,)) == 0


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("drafter", [None, TableDrafter(agreement=0.3)], ids=["no drafter", "a bad one"])
async def test_a_right_prediction_saves_passes_and_changes_nothing(temperature, drafter) -> None:
    """The text is the target's; of a right prediction nearly all stands, of a wrong one nothing is lost."""
    verifier = Verifier(TableEngine(64), TargetInfo("table", "test"))
    verifier.start()
    request = GenerationRequest(
        (1, 2, 3), max_new_tokens=48, sampling=SamplingParams(temperature=temperature), seed=3
    )
    async with Client(InProcessHop(verifier), drafter) as client:
        alone = (await client.complete(request, "cloud")).token_ids
        for expected, most in ((alone, 12), ([*alone[:20], 1, 1, *alone[20:]], 20), ([9] * 30, 49)):
            guided = GenerationRequest(
                request.prompt_token_ids,
                max_new_tokens=48,
                sampling=request.sampling,
                seed=3,
                prediction_token_ids=tuple(expected),
                num_speculative_tokens=8,
            )
            report = await client.complete(guided, "sync")
            assert report.token_ids == alone
            assert report.num_passes <= most
    verifier.stop()
