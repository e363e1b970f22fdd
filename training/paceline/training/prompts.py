"""Prompts cut from held-out files: what acceptance is measured on, and what examples and benchmarks use."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from paceline.training.corpus import Corpus, Module
from paceline.training.errors import TrainingError

OPENINGS = ("def ", "class ", '"""', "async def ", "if ", "for ", "with ", "@", "return ")
"""A prompt prefers to end on a line that begins like this: the next line is then an interesting one."""


@dataclass(frozen=True)
class Prompt:
    """A piece of a held-out file."""

    prompt: str
    """Text; ends with a whole line, but without its line break. The tokenizer joins a line break to the
    indentation that follows, so a text that ends in a bare one would claim that no indentation follows."""
    source: str
    """The file, below the corpus folder."""


@dataclass(frozen=True)
class PromptPlan:
    """How many prompts to cut, and how long."""

    count: int = 192
    min_tokens: int = 24
    max_tokens: int = 400
    long_count: int = 10
    long_tokens: int = 1500
    """Length of the long ones, at most, in tokens."""
    seed: int = 0


def cut_heldout_prompts(corpus: Corpus, tokenizer: Tokenizer, plan: PromptPlan) -> tuple[Prompt, ...]:
    """Cut ``plan.count`` different prompts at line borders, none of which occurs in a training file.

    Raises:
        TrainingError: the held-out files do not yield that many.
    """
    rng = np.random.default_rng(plan.seed)
    sizes = np.array([len(module.text) for module in corpus.heldout], dtype=float)
    training_text = "\n".join(module.text for module in corpus.train)
    found: dict[str, Prompt] = {}
    for _ in range(50 * plan.count):
        if len(found) == plan.count:
            return tuple(found.values())
        # The square root gives small files a fair share.
        module = corpus.heldout[int(rng.choice(len(sizes), p=np.sqrt(sizes) / np.sqrt(sizes).sum()))]
        prompt = _cut(module, tokenizer, plan, rng)
        if prompt is not None and prompt.prompt not in training_text:
            found[prompt.prompt] = prompt
    raise TrainingError(
        "count", plan.count, f"the held-out files yield only {len(found)} prompts: ask for fewer"
    )


def _cut(module: Module, tokenizer: Tokenizer, plan: PromptPlan, rng: np.random.Generator) -> Prompt | None:
    """A prompt of random length that ends at a random, preferably interesting line, or ``None``."""
    lines = module.text.splitlines(keepends=True)
    liked = [number for number, line in enumerate(lines) if line.strip().startswith(OPENINGS)]
    written = [number for number, line in enumerate(lines) if line.strip()]
    ends = liked if liked and rng.random() < 0.75 else written
    end = int(rng.choice(ends)) + 1
    # Uniform in the logarithm: as many short prompts as long ones.
    wanted = int(math.exp(rng.uniform(math.log(plan.min_tokens), math.log(plan.max_tokens))))
    start, total = end, 0
    while start > 0:
        total += len(tokenizer.encode(lines[start - 1]).ids)
        if total > wanted:
            break
        start -= 1
    text = "".join(lines[start:end]).rstrip()
    if not plan.min_tokens <= len(tokenizer.encode(text).ids) <= plan.max_tokens:
        return None
    return Prompt(text, module.name)


def cut_long_prompts(corpus: Corpus, tokenizer: Tokenizer, plan: PromptPlan) -> tuple[Prompt, ...]:
    """Cut ``plan.long_count`` prompts of nearly ``plan.long_tokens`` tokens; small files are run together."""
    pieces = list(_long_pieces(corpus.heldout, tokenizer, plan.long_tokens))
    if len(pieces) < plan.long_count:
        raise TrainingError("long_count", plan.long_count, f"the held-out files yield only {len(pieces)}")
    chosen = np.linspace(0, len(pieces) - 1, plan.long_count).round().astype(int)
    return tuple(pieces[number] for number in chosen)


def _long_pieces(modules: Sequence[Module], tokenizer: Tokenizer, max_tokens: int) -> Iterator[Prompt]:
    """Cut the held-out files, in order, into pieces just below ``max_tokens`` tokens."""
    lines: list[str] = []
    names: list[str] = []
    total = 0
    for module in modules:
        for line in module.text.splitlines(keepends=True):
            # A line break and the next line's indentation are one token: count them together.
            size = len(tokenizer.encode("\n" + line.rstrip("\n")).ids)
            if total + size > max_tokens and lines:
                yield Prompt("".join(lines).rstrip(), ", ".join(names))
                lines, names, total = [], [], 0
            if module.name not in names:
                names.append(module.name)
            lines.append(line)
            total += size


def write_prompts(prompts: Sequence[Prompt], path: Path) -> None:
    """Write one JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(prompt), ensure_ascii=False) + "\n" for prompt in prompts))


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """Read what :func:`write_prompts` wrote.

    Raises:
        TrainingError: no such file, or a line without the two fields.
    """
    if not path.is_file():
        raise TrainingError("prompts", str(path), "no such file")
    try:
        return tuple(Prompt(**json.loads(line)) for line in path.read_text().splitlines())
    except (TypeError, json.JSONDecodeError) as error:
        raise TrainingError(
            "prompts", str(path), 'every line must be {"prompt": text, "source": file name}'
        ) from error
