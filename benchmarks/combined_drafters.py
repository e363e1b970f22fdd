"""What drafters made of drafters bring, as a table: `python benchmarks/combined_drafters.py MODELS`.

MODELS is the folder of the shipped models. The target's text is written once per held-out prompt; under greedy and
coupled rules it is the same whatever drafts, so every contestant replays textbook rounds against it: propose a block,
learn how far it stands and the target's own token, go on. Reported are

- tokens per target pass, and drafted tokens per pass;
- draft time per pass, milliseconds of processor time of this process, so that other load on the machine counts less;
- tokens per second of a round that takes the draft time, a round trip, and a verification of 30 + 0.2 n ms; this is
  arithmetic on the other columns, not a measurement.

The adaptive drafter is told that arithmetic's time, for each round trip in a run of its own.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from paceline.common.drafter import Drafter
from paceline.common.sampling.choose import Chooser
from paceline.common.tokenizer import Tokenizer
from paceline.common.tokens import Rule, SamplingParams
from paceline.edge.drafters.adaptive import AdaptiveDrafter
from paceline.edge.drafters.cascade import CascadeDrafter
from paceline.edge.drafters.ngram import NgramDrafter
from paceline.edge.drafters.onnx import OnnxDrafter
from paceline.edge.drafters.torch import TorchDrafter
from paceline.edge.drafters.vertical import VerticalDrafter

VERIFY_S, VERIFY_TOKEN_S = 0.030, 0.0002
ROUND_TRIPS_S = (0.0, 0.1)
LAWS = {"greedy": (Rule.GREEDY, SamplingParams()), "coupled": (Rule.COUPLED, SamplingParams(0.8, top_p=0.95))}


class Clock:
    """Seconds of a generation as the arithmetic has it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """Seconds so far, those of the drafting now under way included."""
        return self.now_s + time.process_time()


@dataclass
class Sums:
    """What one contestant's rounds add up to."""

    num_tokens: int = 0
    num_drafted: int = 0
    num_rounds: int = 0
    draft_s: float = 0.0

    def row(self, round_trips_s: Sequence[float]) -> dict[str, float]:
        """The columns of the table."""
        found = {
            "tokens_per_pass": round(self.num_tokens / self.num_rounds, 3),
            "drafted_per_pass": round(self.num_drafted / self.num_rounds, 2),
            "draft_ms_per_pass": round(1e3 * self.draft_s / self.num_rounds, 3),
        }
        for round_trip_s in round_trips_s:
            fixed_s = self.num_rounds * (round_trip_s + VERIFY_S) + self.num_drafted * VERIFY_TOKEN_S
            found[f"tokens_per_s_at_{1e3 * round_trip_s:.0f}_ms"] = round(
                self.num_tokens / (self.draft_s + fixed_s), 2
            )
        return found


@dataclass(frozen=True)
class Text:
    """A prompt and what the target makes of it."""

    prompt: tuple[int, ...]
    continuation: tuple[int, ...]
    chooser: Chooser


def replay(drafter: Drafter, texts: Sequence[Text], length: int, clock: Clock, round_trip_s: float) -> Sums:
    """Textbook rounds over every text."""
    sums = Sums()
    for text in texts:
        session = drafter.start(text.prompt, text.chooser)
        written = 0
        while written < len(text.continuation):
            began_s = time.process_time()
            drafts = session.propose(min(length, len(text.continuation) - written)).token_ids
            draft_s = time.process_time() - began_s
            truth = text.continuation[written:]
            num_right = next(
                (i for i, (a, b) in enumerate(zip(drafts, truth, strict=False)) if a != b), len(drafts)
            )
            committed = truth[: num_right + 1]
            clock.now_s += round_trip_s + VERIFY_S + VERIFY_TOKEN_S * len(drafts)
            began_s = time.process_time()
            session.observe(len(text.prompt) + written, committed)
            sums.draft_s += draft_s + time.process_time() - began_s
            sums.num_tokens += len(committed)
            sums.num_drafted += len(drafts)
            sums.num_rounds += 1
            written += len(committed)
        session.close()
    return sums


def contestants(models: Path, cache: Path) -> dict[str, tuple[Callable[[Clock], Drafter], int]]:
    """Makers of drafters with the length of the blocks asked for, by name."""
    pico, rows = OnnxDrafter(models / "pico"), OnnxDrafter(models / "pico", all_rows=True, cache_dir=cache)
    mid = TorchDrafter(models / "mid", num_threads=1)
    copies, long_copies = NgramDrafter(min_ngram=1), NgramDrafter(min_ngram=3)
    found: dict[str, tuple[Callable[[Clock], Drafter], int]] = {}
    for length in (4, 8):
        found[f"pico {length}"] = (lambda _: pico, length)
        found[f"pico, all rows {length}"] = (lambda _: rows, length)
        found[f"ngram 2.. {length}"] = (lambda _: NgramDrafter(), length)
        found[f"max-gram {length}"] = (lambda _: copies, length)
        found[f"vertical pico(max-gram) {length}"] = (lambda _: VerticalDrafter([rows, copies]), length)
        found[f"vertical pico(ngram 3..) {length}"] = (lambda _: VerticalDrafter([rows, long_copies]), length)
        found[f"mid {length}"] = (lambda _: mid, length)
        found[f"vertical mid(max-gram) {length}"] = (lambda _: VerticalDrafter([mid, copies]), length)
        found[f"vertical mid(pico) {length}"] = (lambda _: VerticalDrafter([mid, pico]), length)
        found[f"vertical mid(cascade pico 2, max-gram) {length}"] = (
            lambda _: VerticalDrafter([mid, CascadeDrafter([pico, copies], tokens=[2])]),
            length,
        )
    found["cascade mid 2, pico 6"] = (lambda _: CascadeDrafter([mid, pico], tokens=[2]), 8)
    found["cascade pico 4, max-gram 4"] = (lambda _: CascadeDrafter([pico, copies], tokens=[4, 4]), 8)
    found["cascade pico 4, ngram 3.. 4"] = (lambda _: CascadeDrafter([pico, long_copies], tokens=[4, 4]), 8)
    found["cascade pico 4, max-gram 10"] = (lambda _: CascadeDrafter([pico, copies], tokens=[4, 10]), 14)
    found["cascade ngram 3.. 8, pico 4"] = (lambda _: CascadeDrafter([long_copies, pico], tokens=[8, 4]), 8)
    found["adaptive {pico, max-gram} x {2,4,8}"] = (
        lambda clock: AdaptiveDrafter([pico, copies], clock=clock),
        8,
    )
    found["adaptive {pico} x {2,4,8}"] = (lambda clock: AdaptiveDrafter([pico], clock=clock), 8)
    found["adaptive {ngram 3.., pico} x {2,4,8}"] = (
        lambda clock: AdaptiveDrafter([long_copies, pico], clock=clock),
        8,
    )
    return found


def write_texts(models: Path, num_prompts: int, num_tokens: int, law: str) -> list[Text]:
    """Held-out prompts continued by the target."""
    tokenizer, target = Tokenizer(models / "base"), TorchDrafter(models / "base", num_threads=1)
    rule, params = LAWS[law]
    lines = (models / "prompts" / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    texts = []
    for seed, line in enumerate(lines[:num_prompts]):
        prompt = tuple(tokenizer.encode(json.loads(line)["prompt"]))
        chooser = Chooser(rule, params, seed, 2048)
        session = target.start(prompt, chooser)
        texts.append(Text(prompt, session.propose(num_tokens).token_ids, chooser))
        session.close()
    return texts


def main() -> None:
    """Print one JSON line per contestant and law."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", type=Path)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=128)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        makers = contestants(arguments.models, Path(cache))
        for law in LAWS:
            texts = write_texts(arguments.models, arguments.prompts, arguments.tokens, law)
            for name, (make, length) in makers.items():
                runs = ROUND_TRIPS_S if name.startswith("adaptive") else ROUND_TRIPS_S[:1]
                row: dict[str, object] = {"law": law, "drafter": name}
                for round_trip_s in runs:
                    clock = Clock()
                    drafter = make(clock)
                    replay(drafter, texts[:2], length, clock, round_trip_s)
                    sums = replay(drafter, texts, length, clock, round_trip_s)
                    found = sums.row([round_trip_s] if len(runs) > 1 else ROUND_TRIPS_S)
                    row |= found if len(runs) == 1 else {f"at {1e3 * round_trip_s:.0f} ms": found}
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
