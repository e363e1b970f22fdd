"""Options of the commands that write texts on a device."""

from pathlib import Path
from typing import Annotated

import typer

from paceline.cli.from_file import take_first_hop

Verifier = Annotated[
    list[str],
    typer.Option(
        help="HOST:PORT of the verifier; repeat for alternatives, the best first. Mode local needs none.",
        envvar="PACELINE_VERIFIER",
    ),
]
TopologyFile = Annotated[
    Path | None,
    typer.Option(
        help="Take what the first hop of this file says as defaults: drafter, sampling, rule, verifier.",
        envvar="PACELINE_TOPOLOGY",
        callback=take_first_hop,
        is_eager=True,
    ),
]
LOOPBACK = ["127.0.0.1:7443"]
DraftModel = Annotated[
    str | None,
    typer.Option(
        help="Exported folder, or a Hugging Face folder (exported once into the cache).",
        envvar="PACELINE_DRAFT_MODEL",
    ),
]
DrafterKind = Annotated[
    str,
    typer.Option(
        help="onnx, torch, ngram, or one that is installed; a topology file also knows drafters made of drafters.",
        envvar="PACELINE_DRAFTER",
    ),
]
TokenizerPath = Annotated[
    str | None,
    typer.Option(help="Folder with tokenizer.json. Default: the draft model's.", envvar="PACELINE_TOKENIZER"),
]
ModeName = Annotated[
    str,
    typer.Option(
        help="auto, stream, sync, cloud or local. auto: whatever is fastest here and now.",
        envvar="PACELINE_MODE",
    ),
]
Fill = Annotated[
    str,
    typer.Option(
        help="Whether the verifier decodes on while no draft is there (modes auto and stream): "
        "mode, off, bounded, unlimited or auto. mode: as the mode has it.",
        envvar="PACELINE_FILL",
    ),
]
MaxBlocksInFlight = Annotated[
    str,
    typer.Option(
        help="Blocks sent ahead of their verdicts (modes auto and stream), or auto.",
        envvar="PACELINE_MAX_BLOCKS_IN_FLIGHT",
    ),
]
ObjectiveName = Annotated[
    str,
    typer.Option(
        help="What mode auto maximises: latency, throughput (tokens per target pass), or a weight between, 0 to 1.",
        envvar="PACELINE_OBJECTIVE",
    ),
]
Offline = Annotated[
    bool,
    typer.Option(
        "--offline/--no-offline",
        help="Go on alone while no verifier can be reached; what is written then is verified once one is.",
        envvar="PACELINE_OFFLINE",
    ),
]
ReconnectS = Annotated[
    float,
    typer.Option(min=0, help="Seconds a broken link is tried again.", envvar="PACELINE_RECONNECT_S"),
]
WaitS = Annotated[
    float,
    typer.Option(min=0, help="Seconds to wait for a place at a full verifier.", envvar="PACELINE_WAIT_S"),
]
Provisional = Annotated[
    bool,
    typer.Option(
        "--provisional/--no-provisional",
        help="Show drafts, dim, before they are verified (on a terminal).",
        envvar="PACELINE_PROVISIONAL",
    ),
]
PadTo = Annotated[
    int,
    typer.Option(
        help="Padded mode: every message has so many bytes, 128 to 4096, so that sizes say nothing. 0: off.",
        envvar="PACELINE_PAD_TO",
    ),
]
RuleName = Annotated[
    str,
    typer.Option(
        help="auto, greedy, coupled, rejection or one-hot. auto: greedy at temperature 0, else coupled.",
        envvar="PACELINE_RULE",
    ),
]
MaxNewTokens = Annotated[
    int, typer.Option(help="Tokens to generate at most.", envvar="PACELINE_MAX_NEW_TOKENS")
]
Temperature = Annotated[float, typer.Option(help="0 is greedy.", envvar="PACELINE_TEMPERATURE")]
TopK = Annotated[int, typer.Option(help="Keep the k likeliest tokens; 0 keeps all.", envvar="PACELINE_TOP_K")]
TopP = Annotated[
    float, typer.Option(help="Keep the likeliest tokens up to this mass.", envvar="PACELINE_TOP_P")
]
MinP = Annotated[
    float, typer.Option(help="Drop tokens below this share of the likeliest.", envvar="PACELINE_MIN_P")
]
RepetitionPenalty = Annotated[
    float, typer.Option(help="Above 1 discourages repetition.", envvar="PACELINE_REPETITION_PENALTY")
]
PresencePenalty = Annotated[float, typer.Option(help="-2..2.", envvar="PACELINE_PRESENCE_PENALTY")]
FrequencyPenalty = Annotated[float, typer.Option(help="-2..2.", envvar="PACELINE_FREQUENCY_PENALTY")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same text.", envvar="PACELINE_SEED")]
StopTokenId = Annotated[
    list[int] | None, typer.Option(help="Ends the text, besides the model's own; repeatable.")
]
NumSpeculativeTokens = Annotated[
    str,
    typer.Option(
        "--num-speculative-tokens",
        "--draft-max",
        help="Tokens per draft block, or auto.",
        envvar="PACELINE_NUM_SPECULATIVE_TOKENS",
    ),
]
DraftDevice = Annotated[str, typer.Option(help="For the torch drafter.", envvar="PACELINE_DRAFT_DEVICE")]
DraftThreads = Annotated[
    int, typer.Option(min=1, help="Cores the draft model may use.", envvar="PACELINE_DRAFT_THREADS")
]
