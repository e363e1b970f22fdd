"""Microseconds per row for the law and the noise pick, as JSON: `python benchmarks/sampling_speed.py`.

Rows are random logits: *peaked* ones have standard deviation 4 before the likeliest few are raised, which
gives nuclei of the size language models show; *flat* ones have standard deviation 1, the worst case for
every shortcut. Figures are the best and the median of many calls on different rows, so that other load on
the machine shows.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from paceline.common.acceptance import judge
from paceline.common.sampling.choose import Chooser
from paceline.common.sampling.history import History
from paceline.common.sampling.law import target_law
from paceline.common.sampling.noise import gumbel_pick
from paceline.common.sampling.rows import NumpyLogitRows, TargetRows
from paceline.common.tokens import Draft, Rule, SamplingParams

ROWS = 8


def rows_of(kind: str, vocab_size: int) -> NDArray[np.float32]:
    """Synthetic logits, float32 [ROWS, vocab]."""
    generator = np.random.default_rng(vocab_size)
    logits = generator.standard_normal((ROWS, vocab_size)) * (4.0 if kind == "peaked" else 1.0)
    if kind == "peaked":
        for row in logits:
            row[generator.integers(vocab_size, size=5)] += np.linspace(12.0, 4.0, 5)
    return logits.astype(np.float32)


def timed(work: Callable[[int], object], repeats: int) -> dict[str, float]:
    """Best and median duration of `work(index)`, microseconds."""
    for index in range(ROWS):
        work(index)
    durations = []
    for repeat in range(repeats):
        start = time.perf_counter()
        work(repeat % ROWS)
        durations.append((time.perf_counter() - start) * 1e6)
    return {"best_us": round(min(durations), 1), "median_us": round(statistics.median(durations), 1)}


def measure(vocab_size: int, kind: str, top_p: float, repeats: int) -> dict[str, object]:
    """One line of the report."""
    logits = rows_of(kind, vocab_size)
    params = SamplingParams(temperature=0.7, top_p=top_p)
    history = History()
    laws = [target_law(row, params, history) for row in logits]
    coupled = Chooser(Rule.COUPLED, params, 7, vocab_size)
    sampled = Chooser(Rule.REJECTION, params, 7, vocab_size)

    def verify(rule: Rule, chooser: Chooser) -> Callable[[int], object]:
        choices = [chooser.choose(row, index, history) for index, row in enumerate(logits[:-1])]
        token_ids = tuple(choice.token_id for choice in choices)
        laws = tuple(choice.law for choice in choices if choice.law)
        draft = Draft(0, 0, token_ids, tuple(choice.prob for choice in choices), chooser.how, laws)
        rows = TargetRows(NumpyLogitRows(logits), params, history, token_ids)
        return lambda _: judge(rule, draft, rows, 7)

    judged = timed(verify(Rule.COUPLED, coupled), repeats // ROWS + 1)
    rejected = timed(verify(Rule.REJECTION, sampled), repeats // ROWS + 1)
    return {
        "vocab": vocab_size,
        "logits": kind,
        "top_p": top_p,
        "support": round(statistics.mean(len(law.token_ids) for law in laws)),
        "law": timed(lambda i: target_law(logits[i], params, history), repeats),
        "gumbel_pick": timed(lambda i: gumbel_pick(laws[i], 7, i), repeats),
        "choose_coupled": timed(lambda i: coupled.choose(logits[i], i, history), repeats),
        "choose_rejection": timed(lambda i: sampled.choose(logits[i], i, history), repeats),
        "judge_coupled_per_row": {name: round(us / ROWS, 1) for name, us in judged.items()},
        "judge_rejection_per_row": {name: round(us / ROWS, 1) for name, us in rejected.items()},
    }


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200, help="calls per figure")
    repeats = parser.parse_args().repeats
    report = [
        measure(vocab_size, kind, top_p, repeats)
        for vocab_size in (2_048, 32_000, 152_000)
        for kind in ("peaked", "flat")
        for top_p in (0.95, 1.0)
    ]
    print(json.dumps({"numpy": np.__version__, "machine": platform.machine(), "rows": report}, indent=1))


if __name__ == "__main__":
    main()
