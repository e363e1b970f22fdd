"""Drafters made of drafters keep every promise that one drafter makes, and write what their parts would."""

from collections.abc import Callable, Sequence
from itertools import count

import pytest

from paceline.common.drafter import Drafter
from paceline.common.errors import InvalidRequest
from paceline.common.sampling.choose import Chooser
from paceline.common.sampling.quantised import LATTICE, QuantisedLaw
from paceline.common.tokens import How, Rule, SamplingParams
from paceline.edge.drafters.adaptive import AdaptiveDrafter
from paceline.edge.drafters.cascade import CascadeDrafter
from paceline.edge.drafters.conformance import (
    check_block_boundaries_do_not_matter,
    check_closing_ends_it,
    check_drafter,
    check_follows_another_writer,
    check_full_acceptance_equals_fresh,
    check_random_walks_equal_fresh,
    check_rollback_equals_fresh,
)
from paceline.edge.drafters.ngram import NgramDrafter
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.drafters.vertical import VerticalDrafter

PROMPT = [*range(64), 5, 6, 7, 8, 9, 10, 5, 6, 7]
"""Holds every token, so that there is always something to copy."""
WARM = SamplingParams(temperature=1.0)


def ticking() -> Callable[[], float]:
    """A clock that moves by a second whenever it is read."""
    ticks = count()
    return lambda: float(next(ticks))


def chooser(rule: Rule, seed: int = 3) -> Chooser:
    """The choices of a generation under `rule`."""
    params = SamplingParams() if rule is Rule.GREEDY else WARM
    return Chooser(rule, params, seed, 64)


def written(drafter: Drafter, rule: Rule, num_tokens: int, prompt: Sequence[int] = PROMPT) -> tuple[int, ...]:
    """What a fresh session writes in one block."""
    session = drafter.start(prompt, chooser(rule))
    token_ids = session.propose(num_tokens).token_ids
    session.close()
    return token_ids


# --- the kit ----------------------------------------------------------------------------------------------------------

TABLE = TableDrafter()
OTHER = TableDrafter(own_seed=9, agreement=0.2)
NGRAM = NgramDrafter(min_ngram=1)

DRAFTERS: dict[str, Callable[[], Drafter]] = {
    "cascade of one": lambda: CascadeDrafter([TABLE]),
    "cascade of equals": lambda: CascadeDrafter([TABLE, TableDrafter(), TABLE], tokens=[2, 3]),
    "vertical, copying inside": lambda: VerticalDrafter([TABLE, NGRAM]),
    "vertical, model inside": lambda: VerticalDrafter([TABLE, TableDrafter(agreement=1.0)], num_guesses=3),
    "vertical, equal inside": lambda: VerticalDrafter([TABLE, TableDrafter()], num_guesses=7),
    "vertical of three": lambda: VerticalDrafter([TABLE, OTHER, NGRAM], num_guesses=2),
    "vertical over a cascade": lambda: VerticalDrafter([TABLE, CascadeDrafter([OTHER, NGRAM], tokens=[2])]),
    "vertical over a choice": lambda: VerticalDrafter(
        [TABLE, AdaptiveDrafter([OTHER, NGRAM], clock=ticking())]
    ),
    "choice of equals": lambda: AdaptiveDrafter([TABLE, TableDrafter()], lengths=[16, 20], clock=ticking()),
    "choice in a cascade": lambda: CascadeDrafter(
        [AdaptiveDrafter([TABLE, TableDrafter()], lengths=[16], clock=ticking()), TABLE], tokens=[3]
    ),
}
"""Parts that write alike make it invisible which of them wrote, so every promise can be tested by equality."""


@pytest.mark.parametrize("name", DRAFTERS)
def test_combined_drafters_conform(name: str) -> None:
    """Every combination whose parts write alike keeps every promise under every rule."""
    check_drafter(DRAFTERS[name])


def test_cascades_of_different_drafters_conform() -> None:
    """Where tiers differ, the place in the block says who writes; every other promise is kept."""
    without = [check_block_boundaries_do_not_matter]
    check_drafter(lambda: CascadeDrafter([TABLE, NGRAM], tokens=[2]), without=without)
    check_drafter(lambda: CascadeDrafter([NGRAM, TABLE], tokens=[2]), without=without)
    check_drafter(lambda: CascadeDrafter([TABLE, OTHER, NGRAM], tokens=[1, 2, 3]), without=without)


def test_choices_between_different_drafters_conform() -> None:
    """Where arms differ, the record says who writes, and a fresh session has none; what guards the text is kept."""
    without = [
        check_block_boundaries_do_not_matter,
        check_rollback_equals_fresh,
        check_full_acceptance_equals_fresh,
        check_follows_another_writer,
        check_random_walks_equal_fresh,
        check_closing_ends_it,
    ]
    make = lambda: AdaptiveDrafter([TABLE, OTHER, NGRAM], lengths=[16], clock=ticking())  # noqa: E731
    check_drafter(make, without=without)


# --- who writes -------------------------------------------------------------------------------------------------------


def test_a_block_passes_from_tier_to_tier() -> None:
    """The first tokens are the first drafter's, the next are the second's for the text with them."""
    ours = written(CascadeDrafter([TABLE, OTHER], tokens=[3]), Rule.COUPLED, 8)
    first = written(TABLE, Rule.COUPLED, 3)
    assert ours == first + written(OTHER, Rule.COUPLED, 5, [*PROMPT, *first])


def test_shares_bound_the_block() -> None:
    """With a share for every tier a block ends where the last one's does."""
    assert len(written(CascadeDrafter([TABLE, OTHER], tokens=[3, 2]), Rule.GREEDY, 9)) == 5


def test_a_tier_with_nothing_to_say_leaves_its_place() -> None:
    """Where nothing can be copied the next drafter writes from there on."""
    fresh_text = [1, 2, 3, 4]
    ours = written(CascadeDrafter([NgramDrafter(), TABLE], tokens=[4]), Rule.GREEDY, 4, fresh_text)
    assert ours == written(TABLE, Rule.GREEDY, 4, fresh_text)


def test_copied_tokens_travel_as_laws_of_one_token() -> None:
    """Under rejection a block of model and copy is sampled throughout, and a copy's law is certain of it."""
    session = CascadeDrafter([TABLE, NGRAM], tokens=[2]).start(PROMPT, chooser(Rule.REJECTION))
    block = session.propose(4)
    assert block.how is How.SAMPLED
    assert [len(law.token_ids) > 1 for law in block.laws] == [True, True, False, False]
    assert block.laws[2:] == tuple(QuantisedLaw((token_id,), (LATTICE,)) for token_id in block.token_ids[2:])
    assert max(block.probs[2:]) < 1.0


@pytest.mark.parametrize(
    ("rule", "how"),
    [(Rule.GREEDY, How.ONE_HOT), (Rule.ONE_HOT, How.ONE_HOT), (Rule.COUPLED, How.SHARED_NOISE)],
)
def test_mixed_blocks_say_the_choosers_how(rule: Rule, how: How) -> None:
    """Where the rule accepts any draft, the block says how the model's tokens were chosen, and has no laws."""
    block = CascadeDrafter([TABLE, NGRAM], tokens=[2]).start(PROMPT, chooser(rule)).propose(6)
    assert (block.how, block.laws) == (how, ())


def test_a_failing_part_leaves_the_text_as_it_was() -> None:
    """If the second drafter breaks, what the first wrote before it is withdrawn from every session."""
    broken = TableDrafter()
    broken.logits = lambda prefix_hash: 1 / 0  # type: ignore[method-assign,assignment]
    session = CascadeDrafter([TABLE, broken], tokens=[2]).start(PROMPT, chooser(Rule.GREEDY))
    with pytest.raises(ZeroDivisionError):
        session.propose(4)
    assert session.length == len(PROMPT)
    assert session.propose(2).token_ids == written(TABLE, Rule.GREEDY, 2)


def test_senseless_combinations_are_refused() -> None:
    """No drafters, shares that do not fit, lengths of nothing: each is refused with the field named."""
    for make, field in (
        (lambda: CascadeDrafter([]), "drafters"),
        (lambda: AdaptiveDrafter([]), "drafters"),
        (lambda: VerticalDrafter([TABLE]), "drafters"),
        (lambda: VerticalDrafter([NGRAM, TABLE]), "drafters"),
        (lambda: VerticalDrafter([TABLE, NGRAM], num_guesses=0), "num_guesses"),
        (lambda: CascadeDrafter([TABLE, NGRAM]), "tokens"),
        (lambda: CascadeDrafter([TABLE, NGRAM], tokens=[1, 2, 3]), "tokens"),
        (lambda: CascadeDrafter([TABLE, NGRAM], tokens=[0]), "tokens"),
        (lambda: AdaptiveDrafter([TABLE], lengths=[]), "lengths"),
        (lambda: AdaptiveDrafter([TABLE], lengths=[0]), "lengths"),
    ):
        with pytest.raises(InvalidRequest, match=rf"drafter\.{field}"):
            make()


def test_names_and_vocabularies_are_those_of_the_parts() -> None:
    """A combined drafter names its parts, and writes as many ids as the part that writes most."""
    assert CascadeDrafter([TABLE, NGRAM], tokens=[2]).name == "cascade(table,ngram)"
    assert VerticalDrafter([TABLE, OTHER, NGRAM]).name == "table(table(ngram))"
    assert CascadeDrafter([NGRAM, TABLE], tokens=[2]).vocab_size == 64
    assert CascadeDrafter([NGRAM]).vocab_size is None
    assert VerticalDrafter([TABLE, NGRAM]).vocab_size == 64
