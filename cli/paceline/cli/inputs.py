"""Where prompts come from, and options in words that are not plain values."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from paceline.common.errors import InvalidRequest
from paceline.common.messages import FillPolicy
from paceline.common.tokenizer import Tokenizer
from paceline.common.tokens import Rule
from paceline.edge.client import check_request
from paceline.edge.modes import MODES
from paceline.edge.request import GenerationRequest

DraftModelDigest = Annotated[
    str | None,
    typer.Option(
        help="What `paceline models digest` printed for the draft model; any other is refused.",
        envvar="PACELINE_DRAFT_MODEL_DIGEST",
    ),
]
_KEYS = frozenset({"prompt", "prompt_token_ids", "seed", "temperature", "max_new_tokens"})


def read_prompt(source: str | None, prompt: str | None, prompt_file: Path | None) -> str:
    """The one prompt a user gave: --prompt, --prompt-file, or - for standard input.

    Raises:
        InvalidRequest: none or several were given, or the file cannot be read.
    """
    if source not in (None, "-"):
        raise InvalidRequest(
            f"unexpected argument {source!r}", field="prompt", cure="use --prompt TEXT, or - for stdin"
        )
    if sum(given is not None for given in (source, prompt, prompt_file)) != 1:
        raise InvalidRequest(
            "give exactly one",
            field="prompt",
            cure="--prompt TEXT, --prompt-file FILE, or - for standard input",
        )
    if prompt is None:
        prompt = _read_stdin() if source == "-" else read_text(prompt_file, "prompt_file")
    if not prompt:
        raise InvalidRequest("the prompt is empty", field="prompt", cure="give at least one character")
    return checked_text(prompt, "prompt")


def checked_text(text: str, field: str) -> str:
    """Refuse half characters, which JSON escapes and a shell's raw bytes can smuggle into a string.

    Raises:
        InvalidRequest: the text has no UTF-8 form.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidRequest("not valid Unicode", field=field, cure="give UTF-8 text") from None
    return text


def _read_stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest("standard input is not UTF-8 text", field="prompt", cure="convert it") from None


def read_text(file: Path | None, option: str) -> str:
    """A UTF-8 file, as it is: line ends are not translated.

    Raises:
        InvalidRequest: it cannot be read; names the option it was given by.
    """
    assert file is not None, "one of the three is given"
    try:
        return file.read_bytes().decode("utf-8")
    except OSError as error:
        raise InvalidRequest(f"{file}: {error.strerror}", field=option, cure="check the path") from None
    except UnicodeDecodeError:
        raise InvalidRequest(f"{file} is not UTF-8 text", field=option, cure="convert it") from None


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One line of a batch."""

    index: int
    request: GenerationRequest


def read_batch(file: Path, template: GenerationRequest, tokenizer: Tokenizer) -> list[BatchItem]:
    """Every request of a JSON-lines file; the whole file is checked before anything runs.

    Raises:
        InvalidRequest: naming file, line and key.
    """
    lines = read_text(file, "prompts_file").removeprefix("\ufeff").split("\n")
    items = [
        BatchItem(index, _request(line, template, tokenizer, f"{file}:{index + 1}"))
        for index, line in enumerate(lines)
        if line.strip()
    ]
    if not items:
        raise InvalidRequest(f"{file} has no lines", field="prompts_file", cure='one {"prompt": …} per line')
    return items


def _request(line: str, template: GenerationRequest, tokenizer: Tokenizer, where: str) -> GenerationRequest:
    fields = _fields(line, where)
    sampling = template.sampling
    if "temperature" in fields:
        sampling = replace(sampling, temperature=_number(fields["temperature"], f"{where}: temperature"))
    request = replace(
        template,
        prompt_token_ids=_prompt(fields, tokenizer, where),
        sampling=sampling,
        seed=_count(fields.get("seed", template.seed), f"{where}: seed"),
        max_new_tokens=_count(
            fields.get("max_new_tokens", template.max_new_tokens), f"{where}: max_new_tokens"
        ),
    )
    try:
        check_request(request)
    except InvalidRequest as error:
        error.field = f"{where}: {error.field}"
        raise
    return request


def _fields(line: str, where: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"not JSON: {error}", field=where, cure='one {"prompt": …} per line') from None
    if not isinstance(fields, dict):
        raise InvalidRequest("not a JSON object", field=where, cure='one {"prompt": …} per line')
    unknown = sorted(set(fields) - _KEYS)
    if unknown:
        raise InvalidRequest(
            f"unknown {', '.join(unknown)}", field=where, cure=f"keys: {', '.join(sorted(_KEYS))}"
        )
    if ("prompt" in fields) == ("prompt_token_ids" in fields):
        raise InvalidRequest("give prompt or prompt_token_ids", field=where, cure="exactly one of them")
    return fields


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f"{value!r} is not a number", field=where, cure="for example 0.8")
    return float(value)


def _count(value: Any, where: str) -> int:
    if type(value) is not int:
        raise InvalidRequest(f"{value!r} is not a whole number", field=where, cure="for example 32")
    return value


def _prompt(fields: dict[str, Any], tokenizer: Tokenizer, where: str) -> tuple[int, ...]:
    if "prompt" in fields:
        if not isinstance(fields["prompt"], str):
            raise InvalidRequest(
                f"{fields['prompt']!r} is not text", field=f"{where}: prompt", cure="put it in quotes"
            )
        return tokenizer.encode(checked_text(fields["prompt"], f"{where}: prompt"))
    token_ids = fields["prompt_token_ids"]
    if not isinstance(token_ids, list) or not all(type(token_id) is int for token_id in token_ids):
        raise InvalidRequest(
            "not a list of token ids", field=f"{where}: prompt_token_ids", cure="for example [12, 7]"
        )
    return tuple(token_ids)


def check_mode(mode: str) -> None:
    """Refuse an unknown mode before anything is loaded."""
    if mode not in MODES:
        raise InvalidRequest(f"there is no mode {mode!r}", field="mode", cure=f"one of {', '.join(MODES)}")


def parse_rule(rule: str) -> Rule | None:
    """None for auto."""
    if rule == "auto":
        return None
    if rule not in set(Rule):
        raise InvalidRequest(
            f"there is no rule {rule!r}", field="rule", cure=f"one of auto, {', '.join(Rule)}"
        )
    return Rule(rule)


def parse_count(number: str, field: str) -> int | None:
    """None for auto."""
    if number == "auto":
        return None
    if not number.isdecimal() or int(number) < 1:
        raise InvalidRequest(f"{number!r} is no count", field=field, cure="auto, or at least 1")
    return int(number)


def parse_fill(fill: str) -> FillPolicy | None:
    """None for whatever the mode has."""
    if fill == "mode":
        return None
    if fill not in set(FillPolicy):
        raise InvalidRequest(
            f"there is no fill policy {fill!r}", field="fill", cure=f"one of mode, {', '.join(FillPolicy)}"
        )
    return FillPolicy(fill)
