"""Every drafter keeps every promise, and the kit notices drafters that do not."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from paceline.common.sampling.choose import Choice, Chooser
from paceline.common.tokens import How, Rule, SamplingParams
from paceline.edge.drafters import Drafter, DraftSession, KeepGoing, Proposal, always
from paceline.edge.drafters.conformance import SETTINGS, DrafterFault, check_drafter
from paceline.edge.drafters.model import ModelDrafter, ModelRunner, ModelSession
from paceline.edge.drafters.ngram import NgramDrafter
from paceline.edge.drafters.onnx import OnnxDrafter
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.drafters.torch import TorchDrafter
from paceline.edge.export import PRECISIONS


@pytest.mark.parametrize("agreement", [0.0, 0.7, 1.0])
def test_table_drafter_conforms(agreement: float) -> None:
    """The table drafter keeps every promise however much it agrees with its target."""
    check_drafter(lambda: TableDrafter(agreement=agreement))


@pytest.mark.parametrize(("shortest", "longest"), [(1, 1), (1, 3), (2, 8)])
def test_ngram_drafter_conforms(shortest: int, longest: int) -> None:
    """The copying drafter keeps every promise under every rule, whatever lengths it matches."""
    check_drafter(lambda: NgramDrafter(min_ngram=shortest, max_ngram=longest))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_onnx_drafter_conforms(exported: dict[str, Path], precision: str) -> None:
    """The ONNX drafter keeps every promise in every precision."""
    check_drafter(lambda: OnnxDrafter(exported[precision]))


@pytest.mark.usefixtures("one_torch_thread")
def test_torch_drafter_conforms(model_dir: Path) -> None:
    """The torch drafter keeps every promise."""
    check_drafter(lambda: TorchDrafter(model_dir), settings=SETTINGS[1:4])


class _BrokenDrafter(ModelDrafter):
    """A table drafter whose sessions are of a broken class."""

    def __init__(self, session_class: type[ModelSession]) -> None:
        table = TableDrafter()
        super().__init__("broken", table._make_runner, 64)
        self._session_class = session_class

    def start(self, prompt_token_ids: Sequence[int], chooser: Chooser) -> ModelSession:
        return self._session_class(prompt_token_ids, chooser, self._make_runner(), 0, _forget)


def _forget(runner: ModelRunner, cached: list[int]) -> None:
    runner.close()


class _ForgetsToTruncate(ModelSession):
    """Rolls the text back, but not the model's cache."""

    def _truncated(self, length: int) -> None:
        pass


class _RerollsNoise(ModelSession):
    """Draws anew whenever a position is drafted again."""

    _num_drawn = 0

    def _next(self) -> Choice | None:
        self._num_drawn += 1
        choice = super()._next()
        if choice is None or self._num_drawn <= self.length - self._num_prompt + 1:
            return choice
        return self._chooser.choose(self._runner.forward(self._num_cached, [0]), self.length, self._history)


class _DropsUnlikelyTokens(ModelSession):
    """Drops a sampled token for its low probability (methods E11)."""

    def _next(self) -> Choice | None:
        choice = super()._next()
        return None if choice is None or choice.prob < 0.2 else choice


class _StopsWithoutKeeping(ModelSession):
    """Takes back the token that ended the block."""

    def propose(self, limit: int, keep_going: KeepGoing = always) -> Proposal:
        proposal = super().propose(limit, keep_going)
        if len(proposal) in (0, limit):
            return proposal
        self._truncate(self.length - 1)
        return Proposal(proposal.base, proposal.token_ids[:-1], proposal.probs[:-1], proposal.how)


class _NeverReadsItsLastDraft(ModelSession):
    """Believes it consumed its own last token, so full acceptance leaves a hole (methods E6)."""

    def _appended(self, token_id: int) -> None:
        if self._num_cached == len(self._tokens) - 2:
            self._num_cached += 1


class _StartsOneLate(ModelSession):
    """Names the position after its first token as the base."""

    def propose(self, limit: int, keep_going: KeepGoing = always) -> Proposal:
        proposal = super().propose(limit, keep_going)
        return Proposal(proposal.base + 1, proposal.token_ids, proposal.probs, proposal.how, proposal.laws)


class _IgnoresTheLimit(ModelSession):
    """Writes one token more than asked."""

    def propose(self, limit: int, keep_going: KeepGoing = always) -> Proposal:
        return super().propose(limit + 1, keep_going)


class _CutsOnDuplicates(ModelSession):
    """Takes every call for the newest and drops the drafts beyond it."""

    def observe(self, position: int, token_ids: Sequence[int]) -> int:
        agreed = super().observe(position, token_ids)
        if token_ids and position + len(token_ids) >= self._num_prompt:
            self._truncate(position + len(token_ids))
        return agreed


class _ClaimsSharedNoise(ModelSession):
    """Says its tokens were picked with shared noise whatever was done."""

    def propose(self, limit: int, keep_going: KeepGoing = always) -> Proposal:
        proposal = super().propose(limit, keep_going)
        return Proposal(proposal.base, proposal.token_ids, proposal.probs, How.SHARED_NOISE)


class _ForgetsTheHistory(ModelSession):
    """Does not take rejected tokens out of what penalties count."""

    def _truncate(self, length: int) -> None:
        if length < len(self._tokens):
            self._truncated(length)
            del self._tokens[length:]


class _WorksAfterClosing(ModelSession):
    """Goes on when closed."""

    def close(self) -> None:
        pass


class _FillsGaps(ModelSession):
    """Takes text from beyond a gap as if it followed."""

    def observe(self, position: int, token_ids: Sequence[int]) -> int:
        return super().observe(max(0, min(position, self.length)), token_ids)


class _SharesOneCache(ModelDrafter):
    """Lets all sessions run on one cache without looking whose it is."""

    def __init__(self) -> None:
        table = TableDrafter()
        super().__init__("broken", table._make_runner, 64)
        self._shared = table._make_runner()

    def start(self, prompt_token_ids: Sequence[int], chooser: Chooser) -> ModelSession:
        return ModelSession(prompt_token_ids, chooser, self._shared, 0, lambda runner, cached: None)


@pytest.mark.parametrize(
    "session_class",
    [
        _ForgetsToTruncate,
        _RerollsNoise,
        _DropsUnlikelyTokens,
        _StopsWithoutKeeping,
        _NeverReadsItsLastDraft,
        _StartsOneLate,
        _IgnoresTheLimit,
        _CutsOnDuplicates,
        _ClaimsSharedNoise,
        _ForgetsTheHistory,
        _WorksAfterClosing,
        _FillsGaps,
    ],
)
def test_kit_catches_broken_sessions(session_class: type[ModelSession]) -> None:
    """A session with a planted bug fails the kit."""
    with pytest.raises(DrafterFault):
        check_drafter(lambda: _BrokenDrafter(session_class))


def test_kit_accepts_the_session_the_mutants_are_made_of() -> None:
    """The mutants fail for their bugs, not for how they are built."""
    check_drafter(lambda: _BrokenDrafter(ModelSession))


def test_kit_catches_sessions_that_share_a_cache() -> None:
    """Two sessions on one cache disturb each other, and the kit says so."""
    with pytest.raises(DrafterFault):
        check_drafter(_SharesOneCache)


class _UnknownIds(NgramDrafter):
    """Copies ids from beyond the vocabulary."""

    def start(self, prompt_token_ids: Sequence[int], chooser: Chooser) -> "_Shifted":
        return _Shifted(super().start(prompt_token_ids, chooser))


class _Shifted:
    def __init__(self, inner: DraftSession) -> None:
        self._inner = inner
        self.observe: Callable[[int, Sequence[int]], int] = inner.observe
        self.close = inner.close

    @property
    def length(self) -> int:
        return self._inner.length

    def propose(self, limit: int, keep_going: KeepGoing = always) -> Proposal:
        proposal = self._inner.propose(limit, keep_going)
        ids = tuple(token_id + 64 for token_id in proposal.token_ids)
        return Proposal(proposal.base, ids, proposal.probs, proposal.how)


def test_kit_catches_unknown_token_ids() -> None:
    """Ids outside the vocabulary fail the kit."""
    with pytest.raises(DrafterFault, match="vocabulary"):
        check_drafter(_UnknownIds)


def test_fault_names_drafter_rule_and_promise() -> None:
    """The message tells a drafter's author what was promised and under which rule it broke."""
    make: Callable[[], Drafter] = lambda: _BrokenDrafter(_StartsOneLate)  # noqa: E731 - typed for the protocol
    with pytest.raises(DrafterFault, match=r"broken, rule greedy: base is \d+, but the text had \d+ tokens"):
        check_drafter(make, settings=[(Rule.GREEDY, SamplingParams())])
