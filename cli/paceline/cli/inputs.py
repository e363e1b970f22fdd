"""Where prompts come from."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paceline.common.errors import InvalidRequest
from paceline.common.tokenizer import Tokenizer
from paceline.edge.request import GenerationRequest

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
    text = prompt if prompt is not None else sys.stdin.read() if source == "-" else read_text(prompt_file)
    if not text:
        raise InvalidRequest("the prompt is empty", field="prompt")
    return text


def read_text(file: Path | None) -> str:
    """A UTF-8 file.

    Raises:
        InvalidRequest: it cannot be read.
    """
    assert file is not None, "one of the three is given"
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(
            f"{file}: {error.strerror}", field="prompt_file", cure="check the path"
        ) from None
    except UnicodeDecodeError:
        raise InvalidRequest(f"{file} is not UTF-8 text", field="prompt_file") from None


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
    lines = read_text(file).splitlines()
    items = [
        BatchItem(index, _request(line, template, tokenizer, f"{file}:{index + 1}"))
        for index, line in enumerate(lines)
        if line.strip()
    ]
    if not items:
        raise InvalidRequest(f"{file} has no lines", field="prompts_file", cure='one {"prompt": …} per line')
    return items


def _request(line: str, template: GenerationRequest, tokenizer: Tokenizer, where: str) -> GenerationRequest:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise InvalidRequest(f"not JSON: {error}", field=where) from None
    if not isinstance(fields, dict) or not fields.keys() <= _KEYS:
        unknown = sorted(set(fields) - _KEYS) if isinstance(fields, dict) else [type(fields).__name__]
        raise InvalidRequest(
            f"unknown {', '.join(unknown)}", field=where, cure=f"keys: {', '.join(sorted(_KEYS))}"
        )
    if ("prompt" in fields) == ("prompt_token_ids" in fields):
        raise InvalidRequest("give prompt or prompt_token_ids", field=where, cure="exactly one of them")
    sampling = template.sampling
    if "temperature" in fields:
        sampling = replace(
            sampling, temperature=float(_number(fields["temperature"], f"{where}: temperature"))
        )
    return replace(
        template,
        prompt_token_ids=_prompt(fields, tokenizer, where),
        sampling=sampling,
        seed=int(_number(fields.get("seed", template.seed), f"{where}: seed")),
        max_new_tokens=int(
            _number(fields.get("max_new_tokens", template.max_new_tokens), f"{where}: max_new_tokens")
        ),
    )


def _number(value: Any, where: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f"{value!r} is not a number", field=where)
    return value


def _prompt(fields: dict[str, Any], tokenizer: Tokenizer, where: str) -> tuple[int, ...]:
    if "prompt" in fields:
        if not isinstance(fields["prompt"], str):
            raise InvalidRequest(f"{fields['prompt']!r} is not text", field=f"{where}: prompt")
        return tokenizer.encode(fields["prompt"])
    token_ids = fields["prompt_token_ids"]
    if not isinstance(token_ids, list) or not all(
        type(token_id) is int and token_id >= 0 for token_id in token_ids
    ):
        raise InvalidRequest("not a list of token ids", field=f"{where}: prompt_token_ids")
    return tuple(token_ids)
