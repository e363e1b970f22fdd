"""Under rejection nothing fills while blocks are drafted whose pace depends on their tokens."""

import pytest

from paceline.common.drafter import Drafter
from paceline.common.errors import InvalidRequest
from paceline.common.messages import FillPolicy
from paceline.common.tokens import Rule, SamplingParams
from paceline.edge.drafters.adaptive import AdaptiveDrafter
from paceline.edge.drafters.cascade import CascadeDrafter
from paceline.edge.drafters.ngram import NgramDrafter
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.drafters.vertical import VerticalDrafter
from paceline.edge.pacing.lookahead import without_race
from paceline.edge.request import GenerationRequest

MODEL, COPIES = TableDrafter(), NgramDrafter()
CASCADE, VERTICAL = CascadeDrafter([MODEL, COPIES], tokens=[2]), VerticalDrafter([MODEL, COPIES])
UNEVEN = [CASCADE, VERTICAL, AdaptiveDrafter([MODEL, CASCADE])]
EVEN = [MODEL, COPIES, AdaptiveDrafter([MODEL, COPIES]), None]


def request(rule: Rule, fill: FillPolicy | None = None) -> GenerationRequest:
    """A sampled text under `rule`."""
    return GenerationRequest((1, 2), 8, SamplingParams(temperature=1.0), rule, fill=fill)


@pytest.mark.parametrize("drafter", UNEVEN)
def test_uneven_drafters_are_not_raced_under_rejection(drafter: Drafter) -> None:
    """Fill is off unless asked for, and asking for it is refused."""
    assert without_race(request(Rule.REJECTION), drafter).fill is FillPolicy.OFF
    assert without_race(request(Rule.REJECTION, FillPolicy.OFF), drafter).fill is FillPolicy.OFF
    with pytest.raises(InvalidRequest, match=r"fill: unlimited would bias .*use the rule coupled"):
        without_race(request(Rule.REJECTION, FillPolicy.UNLIMITED), drafter)


@pytest.mark.parametrize("drafter", EVEN)
def test_even_drafters_may_be_raced(drafter: Drafter | None) -> None:
    """A request with one of these is left as it is."""
    asked = request(Rule.REJECTION, FillPolicy.UNLIMITED)
    assert without_race(asked, drafter) is asked


@pytest.mark.parametrize("rule", [Rule.COUPLED, Rule.ONE_HOT])
def test_other_rules_may_be_raced(rule: Rule) -> None:
    """Where the target's own pick is committed either way, it does not matter who comes first."""
    asked = request(rule, FillPolicy.UNLIMITED)
    assert all(without_race(asked, drafter) is asked for drafter in UNEVEN)
