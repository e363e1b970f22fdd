"""Find the exported form of a draft model, exporting it once if need be.

Accepts what people have: an exported folder, a Hugging Face folder that brings its export in `onnx/`, or a
plain Hugging Face folder, whose export is then kept in the user's cache under a digest of its content.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from paceline.common.errors import InvalidRequest
from paceline.common.model_files import check_model_files, weight_files
from paceline.edge.export import DESCRIPTION, RECIPE, Precision, export, source_digest

SMALL_MODEL_BYTES = 64 << 20
"""Up to this size of weights int8 is as fast as int4, because they stay in the processor's cache, and is nearer the
model; beyond, drafting waits for memory and int4 halves the wait (docs/lab-notebook/drafters.md)."""
_CONFIG = "genai_config.json"


@dataclass(frozen=True, slots=True)
class DraftModelDir:
    """Where the parts of a draft model are."""

    onnx_dir: Path
    """Holds `model.onnx` and `genai_config.json`; `OnnxDrafter` loads it."""
    tokenizer_json: Path
    precision: str
    """int4, int8 or fp32; "unknown" for an export that does not say."""
    all_rows: bool
    """Whether it gives logits after every token; True for an export that does not say, for the builder's own do."""
    was_exported: bool
    """Whether this call made the export."""


def default_cache_dir() -> Path:
    """`$XDG_CACHE_HOME/paceline`, or `~/.cache/paceline`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "paceline"


def default_precision(folder: Path) -> Precision:
    """int8 for a small Hugging Face model, int4 for a larger one."""
    return (
        "int8"
        if sum(file.stat().st_size for file in folder.glob("*.safetensors")) <= SMALL_MODEL_BYTES
        else "int4"
    )


def resolve_draft_model(
    path: str | Path,
    precision: Precision | None = None,
    cache_dir: str | Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
    *,
    all_rows: bool = False,
    digest: str | None = None,
) -> DraftModelDir:
    """Find or make the exported form of the model at `path`.

    Args:
        path: an exported folder or a Hugging Face folder.
        precision: the one wanted; None takes what is there, else `default_precision`.
        cache_dir: where exports are kept; None means `default_cache_dir()`.
        progress: told in one line before anything slow begins.
        all_rows: only an export that gives logits after every token will do.
        digest: what `paceline models digest` printed for `path`; None takes it as it is.
    Raises:
        InvalidRequest: nothing usable is at `path`, or a file there may not be used, or the cache cannot be written.
        MissingDependency: an export is needed and its tools are not installed.
    """
    folder = Path(path)
    if not folder.is_dir():
        cure = (
            f"download it first: hf download {path} --local-dir FOLDER" if str(path).count("/") == 1 else ""
        )
        raise InvalidRequest(f"there is no model folder {path}", field="model", cure=cure or "check the path")
    exports = [place for place in (folder, folder / "onnx") if (place / _CONFIG).is_file()]
    if exports or (folder / "config.json").is_file():
        check_model_files(folder, digest)
    for place in exports:
        found = _described(place, was_exported=False)
        if precision in (None, found.precision) and (found.all_rows or not all_rows):
            return found
    if not (folder / "config.json").is_file():
        wanted = (f" in {precision}" if precision else "") + (" with all logits rows" if all_rows else "")
        raise InvalidRequest(
            f"{folder} holds no model{wanted}: neither {_CONFIG} nor config.json",
            field="model",
            cure="name a Hugging Face folder, or one made by `paceline export`",
        )
    weight_files(folder)
    cache = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    return _cached(folder, precision or default_precision(folder), cache, progress, all_rows=all_rows)


def _cached(
    folder: Path, precision: Precision, cache: Path, progress: Callable[[str], None], *, all_rows: bool
) -> DraftModelDir:
    rows = "-rows" if all_rows else ""
    target = cache / "drafters" / f"{source_digest(folder)[:32]}-{precision}{rows}-{RECIPE}"
    if (target / DESCRIPTION).is_file():
        return _described(target, was_exported=False)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_suffix(".lock")):
            if (target / DESCRIPTION).is_file():  # another process was faster
                return _described(target, was_exported=False)
            progress(f"exporting {folder} to {precision}, once; the result is kept in {target}")
            export(folder, target, precision, all_rows=all_rows)
    except OSError as error:
        raise InvalidRequest(
            f"{cache} cannot be written ({error})", field="cache_dir", cure="name a writable folder"
        ) from error
    return _described(target, was_exported=True)


def _described(onnx_dir: Path, *, was_exported: bool) -> DraftModelDir:
    """What `onnx_dir` says of itself; the tokenizer may also lie one folder up."""
    try:
        description = json.loads((onnx_dir / DESCRIPTION).read_text(encoding="utf-8"))
        precision, all_rows = str(description["precision"]), bool(description.get("all_rows", False))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        precision, all_rows = "unknown", True  # made by the builder directly
    candidates = [folder / "tokenizer.json" for folder in (onnx_dir, onnx_dir.parent)]
    tokenizer = next((file for file in candidates if file.is_file()), None)
    if tokenizer is None:
        raise InvalidRequest(
            f"{onnx_dir} holds no tokenizer.json", field="model", cure="copy the model's tokenizer.json there"
        )
    return DraftModelDir(onnx_dir, tokenizer, precision, all_rows, was_exported)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes from making the same export; without it both would, and the last rename would
    fail."""
    try:
        import fcntl
    except ImportError:  # Windows: two at once waste time, and the loser is told to try again
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
