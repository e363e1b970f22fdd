"""Stop-watches inside both ends, so that what is not the model's time can be told apart."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from paceline.cloud.engine.base import Row, TargetEngine
from paceline.common.drafter import Drafter, DraftSession, KeepGoing, Proposal, always
from paceline.common.sampling.choose import Chooser
from paceline.common.sampling.rows import LogitRows
from paceline.edge.drafters.model import Logits, ModelRunner


@dataclass(slots=True)
class Stopwatch:
    """Seconds spent in something, summed until read."""

    total_s: float = 0.0

    def timed(self, work: Callable[[], Any]) -> Any:
        """Do it, counting its time."""
        began_s = time.perf_counter()
        try:
            return work()
        finally:
            self.total_s += time.perf_counter() - began_s

    def read(self) -> float:
        """The sum so far; starts anew."""
        total_s, self.total_s = self.total_s, 0.0
        return total_s


@dataclass(frozen=True, slots=True)
class Step:
    """One engine step that yielded logits."""

    num_tokens: int
    step_s: float
    forward_s: float
    """The model's own share of it; 0 if no model reports."""


@dataclass(slots=True)
class TimedEngine:
    """Another engine, with a record of its steps."""

    engine: TargetEngine
    forward: Stopwatch = field(default_factory=Stopwatch)
    steps: list[Step] = field(default_factory=list)

    @property
    def vocab_size(self) -> int:
        """See `TargetEngine`."""
        return self.engine.vocab_size

    @property
    def max_context(self) -> int:
        """See `TargetEngine`."""
        return self.engine.max_context

    @property
    def capacity_tokens(self) -> int:
        """See `TargetEngine`."""
        return self.engine.capacity_tokens

    @property
    def page_size(self) -> int:
        """See `TargetEngine`."""
        return self.engine.page_size

    @property
    def takes_trees(self) -> bool:
        """See `TargetEngine`."""
        return self.engine.takes_trees

    def step(self, rows: Sequence[Row]) -> Sequence[LogitRows]:
        """One step, timed."""
        self.forward.read()
        began_s = time.perf_counter()
        logits = self.engine.step(rows)
        step_s = time.perf_counter() - began_s
        if any(row.num_logits for row in rows):
            num_tokens = sum(len(row.token_ids) for row in rows)
            self.steps.append(Step(num_tokens, step_s, self.forward.read()))
        return logits

    def take(self) -> list[Step]:
        """The steps since last asked."""
        steps, self.steps = self.steps, []
        return steps

    def release(self, key: int) -> None:
        """See `TargetEngine`."""
        self.engine.release(key)

    def cached_tokens(self) -> int:
        """See `TargetEngine`."""
        return self.engine.cached_tokens()

    def check_integrity(self) -> None:
        """See `TargetEngine`."""
        self.engine.check_integrity()


def time_forward(model: Any, watch: Stopwatch) -> None:
    """Count the seconds of every forward pass of a torch module."""
    began_s = [0.0]

    def before(*_: Any) -> None:
        began_s[0] = time.perf_counter()

    def after(*_: Any) -> None:
        watch.total_s += time.perf_counter() - began_s[0]

    model.register_forward_pre_hook(before)
    model.register_forward_hook(after)


class TimedOrtSession:
    """An ONNX Runtime session whose runs are counted; everything else is the session's."""

    def __init__(self, session: Any, watch: Stopwatch) -> None:
        self._session = session
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any) -> None:
        """Run the graph."""
        self._watch.timed(lambda: self._session.run_with_iobinding(binding))


class TimedRunner:
    """Another draft model whose forward passes are counted."""

    def __init__(self, runner: ModelRunner, watch: Stopwatch) -> None:
        self._runner = runner
        self._watch = watch

    @property
    def vocab_size(self) -> int:
        """See `ModelRunner`."""
        return self._runner.vocab_size

    @property
    def max_length(self) -> int:
        """See `ModelRunner`."""
        return self._runner.max_length

    def forward(self, past_length: int, token_ids: Sequence[int]) -> Logits:
        """See `ModelRunner`."""
        logits: Logits = self._watch.timed(lambda: self._runner.forward(past_length, token_ids))
        return logits

    def close(self) -> None:
        """See `ModelRunner`."""
        self._runner.close()


class TimedDrafter:
    """Another drafter; notes how much of every block was its model's time.

    Args:
        drafter: whose model `watch` counts.
        watch: of `TimedOrtSession` or `TimedRunner`.
    """

    def __init__(self, drafter: Drafter, watch: Stopwatch) -> None:
        self.model_s: list[float] = []
        """Per block, in order."""
        self.watch = watch
        self._drafter = drafter

    @property
    def name(self) -> str:
        """See `Drafter`."""
        return self._drafter.name

    @property
    def vocab_size(self) -> int | None:
        """See `Drafter`."""
        return self._drafter.vocab_size

    def start(self, prompt_token_ids: Sequence[int], chooser: Chooser) -> "DraftSession":
        """See `Drafter`."""
        return _TimedSession(self._drafter.start(prompt_token_ids, chooser), self)

    def take(self) -> list[float]:
        """Model times of the blocks since last asked."""
        model_s, self.model_s = self.model_s, []
        return model_s


class _TimedSession:
    def __init__(self, session: DraftSession, drafter: TimedDrafter) -> None:
        self._session = session
        self._drafter = drafter

    @property
    def length(self) -> int:
        return self._session.length

    def propose(self, limit: int, keep_going: KeepGoing = always) -> Proposal:
        proposal = self._session.propose(limit, keep_going)
        self._drafter.model_s.append(self._drafter.watch.read())
        return proposal

    def observe(self, position: int, token_ids: Sequence[int]) -> int:
        return self._session.observe(position, token_ids)

    def follow(self, position: int, token_ids: Sequence[int]) -> None:
        self._session.follow(position, token_ids)

    def close(self) -> None:
        self._session.close()
