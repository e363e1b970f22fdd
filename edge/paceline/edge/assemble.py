"""From the names a user gives to a drafter and a tokenizer that are ready to work."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paceline.common.errors import InvalidRequest, MissingDependency
from paceline.common.model_files import check_model_files
from paceline.common.tokenizer import Tokenizer
from paceline.edge.drafters import Drafter, drafter_from_section

_NEEDS_MODEL = ("onnx", "torch")
_CONFIGS = ("generation_config.json", "config.json", "genai_config.json")


@dataclass(frozen=True, slots=True)
class EdgeModel:
    """What a client on the device needs."""

    tokenizer: Tokenizer
    drafter: Drafter | None
    """None if nothing will be drafted (mode `cloud`)."""
    eos_token_ids: tuple[int, ...] = ()
    """The draft model's own ends of text; empty if it does not say."""
    tokenizer_dir: Path = Path()
    """Where the tokenizer is, and its chat template if it has one."""


def assemble(
    draft_model: str | Path | None,
    *,
    kind: str = "onnx",
    tokenizer: str | Path | None = None,
    drafts: bool = True,
    precision: Any = None,
    device: str = "cpu",
    num_threads: int = 1,
    digest: str | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> EdgeModel:
    """Load the drafter and the tokenizer.

    Args:
        draft_model: an exported or Hugging Face folder. Needed unless nothing is drafted and `tokenizer` is given.
        kind: a drafter's name.
        tokenizer: a folder or `tokenizer.json`; default: the draft model's.
        drafts: False loads no drafter at all.
        precision: of the ONNX export; None takes what is there.
        device: where the torch drafter runs.
        num_threads: cores the draft model may use.
        digest: what `paceline models digest` printed for `draft_model`; None takes it as it is.
        progress: told before anything slow begins.
    Raises:
        InvalidRequest: something is missing or unreadable.
        MissingDependency: the drafter's runtime is not installed.
    """
    if draft_model is None and (tokenizer is None or (drafts and kind in _NEEDS_MODEL)):
        raise InvalidRequest(
            "none is given", field="draft_model", cure="--draft-model DIR, for example models/pico"
        )
    folder = Path(draft_model) if draft_model is not None else None
    section: dict[str, Any] = {"kind": kind}
    if kind in _NEEDS_MODEL:
        section |= {"model": folder, "num_threads": num_threads, "digest": digest}
        section |= {"device": device} if kind == "torch" else {"precision": precision}
    return _assemble(section, (folder, digest), tokenizer, drafts=drafts, progress=progress)


def assemble_section(
    section: Mapping[str, Any],
    *,
    tokenizer: str | Path | None = None,
    drafts: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> EdgeModel:
    """Load what the `drafter` section of a topology describes, and the tokenizer.

    Args:
        section: `kind`, its options, and `drafters` of the same form, as plain values.
        tokenizer: a folder or `tokenizer.json`; default: the first model's.
        drafts: False loads no drafter at all.
        progress: told before anything slow begins.
    Raises:
        InvalidRequest: something is missing or unreadable.
        MissingDependency: a drafter's runtime is not installed.
    """
    first = next(_models(section), (None, None))
    if first[0] is None and tokenizer is None:
        raise InvalidRequest("no drafter has a model", field="tokenizer", cure="--tokenizer DIR")
    return _assemble(section, first, tokenizer, drafts=drafts, progress=progress)


_Pinned = tuple[Path | None, str | None]
"""A model's folder, and the digest it must have."""


def _models(section: Mapping[str, Any]) -> Iterator[_Pinned]:
    if section.get("model") is not None:
        yield Path(section["model"]), section.get("digest")
    for part in section.get("drafters") or ():
        yield from _models(part)


def _assemble(
    section: Mapping[str, Any],
    model: _Pinned,
    tokenizer: str | Path | None,
    *,
    drafts: bool,
    progress: Callable[[str], None],
) -> EdgeModel:
    folder, digest = model
    if folder is not None and not folder.is_dir():
        raise InvalidRequest(f"there is no model folder {folder}", field="draft_model", cure="check the path")
    if folder is None and digest is not None:
        raise InvalidRequest("there is no draft model to compare", field="digest", cure="--draft-model DIR")
    place = Path(tokenizer) if tokenizer is not None else _tokenizer_of(folder)
    if folder is not None and not (drafts and any(_models(section))):  # else drafters check theirs
        check_model_files(folder, digest)
    drafter = _load(section, progress) if drafts else None
    return EdgeModel(
        tokenizer=Tokenizer(place),
        drafter=drafter,
        eos_token_ids=_eos(folder) if folder is not None else (),
        tokenizer_dir=place if place.is_dir() else place.parent,
    )


def _tokenizer_of(folder: Path | None) -> Path:
    """A model folder's tokenizer; an exported one may have left it one folder up."""
    assert folder is not None, "checked by the caller"
    for place in (folder, folder.parent):
        if (place / "tokenizer.json").is_file():
            return place
    raise InvalidRequest(
        f"{folder} holds no tokenizer.json",
        field="draft_model",
        cure="name a Hugging Face or exported model folder, or give --tokenizer",
    )


def _load(section: Mapping[str, Any], progress: Callable[[str], None]) -> Drafter:
    try:
        return drafter_from_section(section, progress=progress)
    except ModuleNotFoundError as missing:
        extra = "cloud" if missing.name in ("torch", "transformers") else "edge"
        raise MissingDependency(
            f"{missing.name} is not installed", field="drafter", cure=f"pip install 'paceline[{extra}]'"
        ) from None


def _eos(folder: Path) -> tuple[int, ...]:
    """End-of-text ids from the first configuration that names any."""
    for directory in (folder, folder.parent):
        for name in _CONFIGS:
            found = _eos_of(directory / name)
            if found:
                return found
    return ()


def _eos_of(file: Path) -> tuple[int, ...]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()
    value = config.get(
        "eos_token_id", config.get("model", {}).get("eos_token_id") if "model" in config else None
    )
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (int(value),)
