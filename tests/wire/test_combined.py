"""Drafters made of drafters, through the wire: the target's own text, or its law; and the mistake that bends it."""

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from tests.wire.test_texts import PROMPT, SMALL, p_value, small_engine

from paceline.cloud.engine.table import TableEngine
from paceline.common.drafter import Drafter, KeepGoing, Proposal
from paceline.common.tokens import Rule, SamplingParams
from paceline.edge.drafters import adaptive
from paceline.edge.drafters.adaptive import AdaptiveDrafter, AdaptiveSession
from paceline.edge.drafters.cascade import CascadeDrafter
from paceline.edge.drafters.ngram import NgramDrafter
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.drafters.vertical import VerticalDrafter
from paceline.edge.modes import MODES
from paceline.edge.request import GenerationRequest

COPIES = NgramDrafter(min_ngram=1)


def ticking() -> Callable[[], float]:
    """A clock that moves by a second whenever it is read, so that the choice repeats."""
    ticks = count()
    return lambda: float(next(ticks))


def combinations(near: Drafter, far: Drafter) -> dict[str, Callable[[], Drafter]]:
    """Drafters made of these two and of copies."""
    return {
        "cascade": lambda: CascadeDrafter([near, COPIES], tokens=[2]),
        "copies first": lambda: CascadeDrafter([COPIES, near], tokens=[2]),
        "vertical": lambda: VerticalDrafter([near, far], num_guesses=3),
        "adaptive": lambda: AdaptiveDrafter([near, COPIES, far], lengths=[1, 4], clock=ticking()),
        "all at once": lambda: AdaptiveDrafter(
            [CascadeDrafter([VerticalDrafter([near, far]), COPIES], tokens=[1]), COPIES], clock=ticking()
        ),
    }


WIDE = combinations(
    TableDrafter(64, agreement=0.8, scale=2.0), TableDrafter(64, own_seed=9, agreement=0.4, scale=2.0)
)
NARROW = combinations(
    TableDrafter(SMALL, agreement=0.4, scale=1.5), TableDrafter(SMALL, own_seed=9, agreement=0.1, scale=2.0)
)


@pytest.mark.parametrize("rule", [Rule.GREEDY, Rule.COUPLED, Rule.ONE_HOT])
@pytest.mark.parametrize("name", WIDE)
async def test_text_is_the_targets(serve: Any, name: str, rule: Rule) -> None:
    """Under greedy, coupled and one-hot the text is the target's, whichever drafters write together."""
    sampling = SamplingParams(0.0 if rule is Rule.GREEDY else 0.8, top_p=0.95, frequency_penalty=0.2)
    async with serve() as served, served.client(WIDE[name]()) as client:
        for length in (1, 5, None):
            request = GenerationRequest(PROMPT, 24, sampling, rule, seed=5, num_speculative_tokens=length)
            for mode in (mode for mode in MODES if mode != "local"):
                report = await client.complete(request, mode)
                assert report.token_ids == served.text(request), (mode, length)


@pytest.mark.parametrize("mode", ["sync", "stream"])
@pytest.mark.parametrize("name", NARROW)
async def test_law_is_the_targets(serve: Any, name: str, mode: str) -> None:
    """Under rejection the texts pass a chi-square test against the target's exact law."""
    async with serve(small_engine()) as served:
        assert await p_value(served, NARROW[name](), Rule.REJECTION, 600, mode) > 1e-4


class _Peeks(AdaptiveSession):
    """Lets every arm draw a token, and keeps the one whose own token looks likelier to itself (methods E11)."""

    def _write(self, limit: int, keep_going: KeepGoing) -> list[Proposal]:
        base = self.length
        drawn = [session.propose(1, keep_going) for session in self._sessions] if limit else []
        if not drawn:
            return []
        best = max(drawn, key=lambda part: part.probs[0])
        self.follow(base, best.token_ids)
        return [best]


@pytest.mark.slow
async def test_choosing_by_the_token_just_drawn_is_caught(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same arms pass the chi-square test when chosen by record, and fail it when chosen by what they drew."""

    def choice() -> AdaptiveDrafter:
        first, second = (
            TableDrafter(SMALL, own_seed=seed, agreement=0.1, scale=2.0, target_seed=7) for seed in (9, 10)
        )
        return AdaptiveDrafter([first, second], lengths=[1], clock=ticking())

    async with serve(TableEngine(SMALL, spread=1.0, max_context=64)) as served:
        assert await p_value(served, choice(), Rule.REJECTION, 1000) > 1e-4
        monkeypatch.setattr(adaptive, "AdaptiveSession", _Peeks)
        assert await p_value(served, choice(), Rule.REJECTION, 1000) < 1e-6
