"""What a model folder may hold, checked before any loader opens it, and its digest.

A loader reads whatever a folder's files point it to: code that a configuration names, weights that an index or a link
has elsewhere, pickles. Here all of that is refused by name, for targets and draft models alike. ONNX files have rules
of their own (`paceline.edge.onnx_files`). The folder must not change between check and use: see SECURITY.md.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from paceline.common.errors import InvalidRequest

DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"
"""Form of a digest, also in topology files."""
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_OTHER_WEIGHTS = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".gguf", ".h5", ".msgpack", ".onnx"})
_CODE_KEYS = {
    "auto_map": "names code to run",
    "custom_code": "names code to run",
    "custom_pipelines": "names code to run",
    "transformers_weights": "names other files as the weights",
}
"""Keys of any JSON file that send a loader elsewhere, and how."""
_KERNEL_KEYS = ("attn_implementation", "experts_implementation")
"""Ends of keys whose value may name a repository of compiled code."""
_DATA = ("tokenizer.json", "vocab.json")
"""Large JSON files whose keys mean nothing to a loader."""


def check_model_files(folder: Path, digest: str | None = None) -> None:
    """Refuse a folder that names code, leads out of itself, or is not the one that was meant.

    Args:
        folder: of a model, in any format; must be there.
        digest: `sha256:…`, as `model_digest` gives it; None compares nothing.
    Raises:
        InvalidRequest: naming the file and what is wrong with it.
    """
    with _readable(folder):
        files = model_files(folder)
        if digest is not None:
            _compare(folder, files, digest)
        for _, path in files:
            if path.name == "adapter_config.json":
                raise InvalidRequest(
                    f"{path} makes this an adapter to another model, which would be loaded from wherever it says",
                    field="model",
                    cure="merge the adapter into its model and save that",
                )
            if path.suffix == ".json" and path.name not in _DATA and not path.name.endswith(".index.json"):
                _check_keys(path)


def model_digest(folder: Path) -> str:
    """`sha256:` and 64 hexadecimal digits over the names and contents of a folder's files; see `digest_of`.

    Files and folders whose name begins with a dot are left out: no loader reads them, and downloads leave some.

    Raises:
        InvalidRequest: it is no folder, or something in it leads out of it.
    """
    if not folder.is_dir():
        raise InvalidRequest(f"there is no model folder {folder}", field="model", cure="check the path")
    with _readable(folder):
        return f"sha256:{digest_of(model_files(folder))}"


def digest_of(files: Iterable[tuple[str, Path]]) -> str:
    """SHA-256, in hexadecimal, over one line per file in the order of their names' UTF-8 bytes: the name, a zero byte,
    SHA-256 of the content in hexadecimal, a line feed."""
    digest = hashlib.sha256()
    for name, path in sorted(files, key=lambda file: os.fsencode(file[0])):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(os.fsencode(name) + f"\0{content}\n".encode())
    return digest.hexdigest()


def model_files(folder: Path) -> list[tuple[str, Path]]:
    """Every file of a folder and of those in it: its name relative to the folder, with slashes, and where it is.

    Links may stay inside the folder. They may leave it in one way, that of the Hugging Face hub's cache: from
    `snapshots/COMMIT/` to a file right in the `blobs/` beside `snapshots/`.

    Raises:
        InvalidRequest: a link leads elsewhere, or something is neither file nor folder.
    """
    found = []
    root = folder.resolve()
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in [*folders, *(name for name in names if not name.startswith("."))]:
            path = Path(place, name)
            if path.is_symlink():
                _check_link(path, root)
            if name not in folders:
                if not stat.S_ISREG(path.stat().st_mode):
                    raise InvalidRequest(f"{path} is no plain file", field="model", cure="remove it")
                found.append((path.relative_to(folder).as_posix(), path))
    return found


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a Hugging Face folder, all of them in it.

    Raises:
        InvalidRequest: there are none, one is missing, or the index names something else.
    """
    index = folder / INDEX
    names = _indexed(index) if index.is_file() else []
    if (folder / WEIGHTS).is_file():
        names.append(WEIGHTS)
    if not names:
        _refuse_other_weights(folder)
    for name in names:
        if not (folder / name).is_file():
            raise InvalidRequest(
                f"{folder} lacks {name}, which its index names", field="model", cure="download it again"
            )
    return [folder / name for name in names]


def check_safetensors(folder: Path) -> None:
    """Refuse weights that are not safetensors, lie elsewhere, or whose header does not fit them. Reads headers only.

    Raises:
        InvalidRequest: naming the file.
    """
    from safetensors import SafetensorError, safe_open

    for path in weight_files(folder):
        try:
            with safe_open(path, framework="np"):
                pass
        except SafetensorError as error:
            raise InvalidRequest(
                f"{path} is damaged: {error}", field="model", cure="download it again"
            ) from None


def is_plain_name(name: str) -> bool:
    """Whether a name that a file gives to another one means a visible file beside it."""
    return bool(name) and not name.startswith(".") and not re.search(r"[/\\\0]", name)


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidRequest(
            f"{error.filename or folder}: {error.strerror}", field="model", cure="check its permissions"
        ) from None


def _compare(folder: Path, files: Iterable[tuple[str, Path]], digest: str) -> None:
    if not re.fullmatch(DIGEST_PATTERN, digest):
        raise InvalidRequest(
            f"{digest!r:.80} is no digest",
            field="digest",
            cure=f"sha256: and 64 digits, as `paceline models digest --model {folder}` prints",
        )
    found = f"sha256:{digest_of(files)}"
    if found != digest:
        raise InvalidRequest(
            f"{folder} is another model: its digest is {found}, not {digest}",
            field="digest",
            cure="get the model that was meant, or see what changed before you take the new digest",
        )


def _check_link(path: Path, root: Path) -> None:
    target = path.resolve()
    inside = target.is_relative_to(root)
    caches = (place.parent.parent for place in (root, *root.parents) if place.parent.name == "snapshots")
    if not target.is_file() or not (inside or any(target.parent == cache / "blobs" for cache in caches)):
        raise InvalidRequest(
            f"{path} is a link that leads out of the folder, or to no file",
            field="model",
            cure="put a copy of the file in its place; links of the hub's cache, to ../../blobs/, are taken",
        )


def _check_keys(path: Path) -> None:
    """What Python cannot parse, no loader can either; they say so themselves."""
    try:
        waiting = [json.loads(path.read_bytes())]
    except (ValueError, RecursionError):
        return
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            for key, held in value.items():
                if held and (why := _why_refused(key, held)):
                    raise InvalidRequest(
                        f"{path}: {key!r} {why}; no code of a model is run, and nothing outside its folder is read",
                        field="model",
                        cure=f"if the model works without, take {key!r} out of the file; else choose another model",
                    )
        waiting.extend(
            value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        )


def _why_refused(key: str, value: Any) -> str | None:
    if key.endswith(_KERNEL_KEYS):
        named = value.values() if isinstance(value, dict) else (value,)
        return "names code to run" if any("/" in str(one) for one in named) else None
    return _CODE_KEYS.get(key)


def _indexed(index: Path) -> list[str]:
    """Names of the files that hold the weights, from their index."""
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        raise InvalidRequest(
            f"{index} is no index of weights", field="model", cure="download it again"
        ) from None
    for name in names:
        if not isinstance(name, str) or not is_plain_name(name) or not name.endswith(".safetensors"):
            raise InvalidRequest(
                f"{index} names {name!r:.80}, which is no safetensors file beside it",
                field="model",
                cure="save the model again with save_pretrained",
            )
    return names


def _refuse_other_weights(folder: Path) -> NoReturn:
    others = sorted(path.name for path in folder.iterdir() if path.suffix in _OTHER_WEIGHTS)
    found = f" (it has {', '.join(others[:3])})" if others else ""
    raise InvalidRequest(
        f"{folder} has no *.safetensors weights{found}",
        field="model",
        cure="convert them with save_pretrained; formats that can run code on loading are not read",
    )
