"""`paceline models`: train, distil, export and describe models. Thin: the work is done by `paceline.training` and
`paceline.edge.export`."""

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from paceline.common.errors import InvalidRequest, MissingDependency
from paceline.common.model_files import model_digest

app = typer.Typer(
    name="models", help="Train, distil, export, describe and identify models.", no_args_is_help=True
)


class Precision(StrEnum):
    """Of an export's weights."""

    INT4 = "int4"
    INT8 = "int8"
    FP32 = "fp32"


Output = Annotated[
    Path, typer.Option(help="Folder the model is written to.", envvar="PACELINE_OUTPUT", show_default=False)
]
Text = Annotated[
    Path | None,
    typer.Option(
        help="Folder of text to learn from.",
        envvar="PACELINE_TEXT",
        show_default="this Python's standard library",
    ),
]
Pattern = Annotated[str, typer.Option(help="Which files of --text to read.", envvar="PACELINE_TEXT_PATTERN")]
HeldoutFraction = Annotated[
    float, typer.Option(help="Share of files that is never trained on.", envvar="PACELINE_HELDOUT_FRACTION")
]
Work = Annotated[
    Path,
    typer.Option(help="Folder for checkpoints; a run that stopped goes on there.", envvar="PACELINE_WORK"),
]
Steps = Annotated[int, typer.Option(min=1, help="Optimiser steps.", envvar="PACELINE_STEPS")]
Minutes = Annotated[
    float | None,
    typer.Option(
        help="Wall-time budget; fewer steps if they do not fit.",
        envvar="PACELINE_MINUTES",
        show_default="none",
    ),
]
BatchTokens = Annotated[int, typer.Option(min=1, help="Tokens per step.", envvar="PACELINE_BATCH_TOKENS")]
Window = Annotated[int, typer.Option(min=2, help="Tokens per window.", envvar="PACELINE_WINDOW")]
LongWindow = Annotated[
    int, typer.Option(min=2, help="Tokens per window at the end of the run.", envvar="PACELINE_LONG_WINDOW")
]
LearningRate = Annotated[float, typer.Option(help="Peak rate of AdamW.", envvar="PACELINE_LEARNING_RATE")]
Seed = Annotated[int, typer.Option(min=0, help="Of weights and order.", envvar="PACELINE_SEED")]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processor threads; fix it to repeat a run.",
        envvar="PACELINE_THREADS",
        show_default="torch's own",
    ),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile/--no-compile", help="Compile first; needs a C++ compiler.", envvar="PACELINE_COMPILE"
    ),
]
HiddenSize = Annotated[int, typer.Option(min=1, help="Channels.", envvar="PACELINE_HIDDEN_SIZE")]
NumLayers = Annotated[int, typer.Option(min=1, help="Layers.", envvar="PACELINE_NUM_LAYERS")]
NumHeads = Annotated[
    int,
    typer.Option(min=1, help="Query heads; each has a multiple of 32 channels.", envvar="PACELINE_NUM_HEADS"),
]
NumKvHeads = Annotated[int, typer.Option(min=1, help="Key/value heads.", envvar="PACELINE_NUM_KV_HEADS")]
MlpSize = Annotated[int, typer.Option(min=1, help="Inner width of the MLP.", envvar="PACELINE_MLP_SIZE")]


@app.callback()
def group() -> None:
    """Train, distil, export, describe and identify models."""


@app.command("train")
def train(
    output: Output,
    text: Text = None,
    pattern: Pattern = "*.py",
    heldout_fraction: HeldoutFraction = 0.05,
    work: Work = Path(".work/train"),
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a tokenizer to share.", envvar="PACELINE_TOKENIZER", show_default="a new one"
        ),
    ] = None,
    vocab_size: Annotated[
        int, typer.Option(min=257, help="Entries of a new tokenizer.", envvar="PACELINE_VOCAB_SIZE")
    ] = 2048,
    max_positions: Annotated[
        int, typer.Option(min=2, help="Longest context, tokens.", envvar="PACELINE_MAX_POSITIONS")
    ] = 2048,
    hidden_size: HiddenSize = 256,
    num_layers: NumLayers = 8,
    num_heads: NumHeads = 4,
    num_kv_heads: NumKvHeads = 2,
    mlp_size: MlpSize = 704,
    steps: Steps = 1400,
    minutes: Minutes = None,
    batch_tokens: BatchTokens = 4096,
    window: Window = 256,
    long_window: LongWindow = 2048,
    learning_rate: LearningRate = 3e-3,
    seed: Seed = 0,
    threads: Threads = None,
    compile_first: Compile = False,
) -> None:
    """Train a small Llama-style model on text; the defaults are the shipped target's.

    `python -m paceline.training --recipe shipped` makes the whole shipped family again.
    """
    with training_errors():
        from paceline import training

        corpus = training.CorpusConfig(text, pattern, heldout_fraction)
        folder = tokenizer or work / "tokenizer"
        if not (folder / "tokenizer.json").is_file() and tokenizer is None:
            fresh = training.train_tokenizer(training.build_corpus(corpus).train, vocab_size=vocab_size)
            training.save_tokenizer(fresh, folder, max_length=max_positions)
        size = training.load_tokenizer(folder).get_vocab_size()
        shape = training.ModelShape(
            hidden_size,
            num_layers,
            num_heads,
            num_kv_heads,
            mlp_size,
            vocab_size=size,
            max_positions=max_positions,
        )
        run = training.RunSettings(
            steps=steps,
            batch_tokens=batch_tokens,
            window=window,
            long_window=long_window,
            learning_rate=learning_rate,
            seed=seed,
            minutes=minutes,
            compile=compile_first,
            threads=threads,
        )
        training.train(training.TrainConfig(output, folder, work, shape, run, corpus))
    _say_done(output)


@app.command("distill")
def distill(
    target: Annotated[
        Path, typer.Option(help="Folder of the finished target.", envvar="PACELINE_MODEL", show_default=False)
    ],
    output: Output,
    start: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a model to begin with.", envvar="PACELINE_START", show_default="fresh weights"
        ),
    ] = None,
    text: Text = None,
    pattern: Pattern = "*.py",
    heldout_fraction: HeldoutFraction = 0.05,
    work: Work = Path(".work/distill"),
    windows: Annotated[
        int,
        typer.Option(
            min=1,
            help="Windows the target writes at each of the temperatures 0, 0.7 and 1, and as many of the text itself.",
            envvar="PACELINE_WINDOWS",
        ),
    ] = 1024,
    long_windows: Annotated[
        int, typer.Option(min=1, help="Long windows of the text itself.", envvar="PACELINE_LONG_WINDOWS")
    ] = 96,
    hidden_size: HiddenSize = 128,
    num_layers: NumLayers = 2,
    num_heads: NumHeads = 4,
    num_kv_heads: NumKvHeads = 2,
    mlp_size: MlpSize = 352,
    steps: Steps = 2400,
    minutes: Minutes = None,
    batch_tokens: BatchTokens = 4096,
    window: Window = 256,
    long_window: LongWindow = 2048,
    learning_rate: LearningRate = 3e-3,
    seed: Seed = 0,
    threads: Threads = None,
    compile_first: Compile = False,
) -> None:
    """Teach a draft model a target's law, on text that the target writes itself; the defaults are `pico`'s."""
    with training_errors():
        from paceline import training

        config = training.load_model(target).config
        shape = training.ModelShape(
            hidden_size,
            num_layers,
            num_heads,
            num_kv_heads,
            mlp_size,
            vocab_size=config.vocab_size,
            max_positions=config.max_position_embeddings,
        )
        run = training.RunSettings(
            steps=steps,
            batch_tokens=batch_tokens,
            window=window,
            long_window=long_window,
            learning_rate=learning_rate,
            seed=seed,
            minutes=minutes,
            compile=compile_first,
            threads=threads,
        )
        lengths = _prompt_lengths(window)
        short = [training.Portion(windows, window, heat, lengths) for heat in (0.0, 0.7, 1.0, None)]
        training.distill(
            training.DistillConfig(
                target=target,
                output=output,
                work=work,
                transcripts=work / "transcripts",
                run=run,
                short=tuple(short),
                long=(training.Portion(long_windows, long_window, None, batch=8),),
                heldout=training.Portion(min(64, windows), window, 0.0, lengths),
                start=start,
                shape=None if start is not None else shape,
                weights=training.LossWeights(divergence=1.0, variation=1.0),
                corpus=training.CorpusConfig(text, pattern, heldout_fraction),
            )
        )
    _say_done(output)


@app.command("export")
def export(
    model: Annotated[
        Path,
        typer.Option(
            help="Hugging Face folder of the draft model.", envvar="PACELINE_MODEL", show_default=False
        ),
    ],
    output: Output,
    precision: Annotated[
        Precision, typer.Option(help="Of the weights; smaller is faster.", envvar="PACELINE_PRECISION")
    ] = Precision.INT8,
    all_rows: Annotated[
        bool,
        typer.Option(
            "--all-rows",
            help="Logits after every token, so that another drafter may guess for this one.",
            envvar="PACELINE_ALL_ROWS",
        ),
    ] = False,
) -> None:
    """Turn a Hugging Face folder into an ONNX drafter, which needs no torch."""
    from paceline.edge.export import export as run_export

    with Console(stderr=True).status(f"exporting {model} as {precision}"):
        folder = run_export(model, output, precision.value, all_rows=all_rows)
    _say_done(folder)


@app.command("card")
def card(
    model: Annotated[
        Path, typer.Option(help="Folder of the model.", envvar="PACELINE_MODEL", show_default=False)
    ],
    target: Annotated[
        Path | None,
        typer.Option(
            help="Target to measure acceptance under.", envvar="PACELINE_TARGET", show_default="none"
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help='Held-out prompts, JSON lines {"prompt": …, "source": …}. Needed with --target.',
            envvar="PACELINE_PROMPTS",
            show_default="none",
        ),
    ] = None,
    new_tokens: Annotated[
        int,
        typer.Option(min=1, help="Tokens the target continues each prompt by.", envvar="PACELINE_NEW_TOKENS"),
    ] = 64,
    text: Text = None,
    pattern: Pattern = "*.py",
    heldout_fraction: HeldoutFraction = 0.05,
) -> None:
    """Measure a model on text it has never seen, and write its card: loss, and acceptance under a target."""
    if target is not None and prompts is None:
        raise InvalidRequest(
            "none are given", field="prompts", cure="--prompts FILE, for example models/prompts/heldout.jsonl"
        )
    with training_errors():
        from paceline import training

        path = training.write_card(
            training.CardConfig(
                model=model,
                recipe_command="paceline models train",
                date=datetime.date.today().isoformat(),
                target=target,
                prompts=tuple(one.prompt for one in training.read_prompts(prompts)) if prompts else (),
                new_tokens=new_tokens,
                corpus_note="this Python's standard library" if text is None else f"the folder {text.name}",
                corpus=training.CorpusConfig(text, pattern, heldout_fraction),
            )
        )
    _say_done(path)


@app.command("digest")
def digest(
    model: Annotated[
        Path, typer.Option(help="Folder of the model.", envvar="PACELINE_MODEL", show_default=False)
    ],
) -> None:
    """Print the digest of a model folder, for --model-digest, --draft-model-digest and `digest` in a topology file."""
    print(model_digest(model))


@contextmanager
def training_errors() -> Iterator[None]:
    """Turn what `paceline.training` raises into errors with an exit code."""
    try:
        from paceline.training import TrainingError
    except ModuleNotFoundError as missing:
        raise MissingDependency(
            f"training needs {missing.name}", field="models", cure="pip install 'paceline[cloud]'"
        ) from None
    try:
        yield
    except TrainingError as error:
        raise InvalidRequest(f"{error.value!r} cannot be used", field=error.field, cure=error.cure) from None


def _prompt_lengths(window: int) -> tuple[int, ...]:
    """How many tokens of text the target's own windows begin with; short windows leave it room to write."""
    return (16, 48, 96) if window > 128 else (max(1, window // 4),)


def _say_done(path: Path) -> None:
    Console(highlight=False).print(f"wrote {path}", markup=False, soft_wrap=True)
