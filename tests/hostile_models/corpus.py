"""Hostile Hugging Face folders: each entry spoils a sound one, and says what the refusal must name."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile_models.conftest import pickled, tarred

Spoil = Callable[[Path, Path], None]
"""Spoils a folder; its code would make the sentinel."""


def set_keys(file: Path, **keys: Any) -> None:
    """Set keys of a JSON file, which may be new."""
    content = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(content | keys))


def _only(name: str, content: Callable[[Path], bytes]) -> Spoil:
    """Weights in one file of another format."""

    def spoil(folder: Path, sentinel: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(content(sentinel))

    return spoil


def _names_code(file: str, **keys: Any) -> Spoil:
    def spoil(folder: Path, sentinel: Path) -> None:
        (folder / "modeling_evil.py").write_text(
            f"import os\nos.mkdir({str(sentinel)!r})\nclass Evil: pass\n"
        )
        set_keys(folder / file, **keys)

    return spoil


def _versioned(folder: Path, sentinel: Path) -> None:
    _names_code("config.5.0.0.json", auto_map=AUTO_MAP)(folder, sentinel)
    set_keys(folder / "config.json", configuration_files=["config.5.0.0.json"])


def _weights(content: bytes, size: int | None = None) -> Spoil:
    def spoil(folder: Path, sentinel: Path) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(content)
        if size is not None:
            os.truncate(file, size)

    return spoil


def _header(tensors: dict[str, tuple[int, int]], data: int) -> bytes:
    """A safetensors file of bytes with a header of one's own."""
    header = {
        name: {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
        for name, (begin, end) in tensors.items()
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


def _index(where: str) -> Spoil:
    """An index that has the weights elsewhere, where they really are."""

    def spoil(folder: Path, sentinel: Path) -> None:
        outside = folder.parent / "outside.safetensors"
        (folder / "model.safetensors").rename(outside)
        (folder / "pytorch_model.bin").write_bytes(pickled(sentinel))
        name = where.format(outside=outside)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))

    return spoil


def _linked(name: str) -> Spoil:
    """A file that is a link to one outside."""

    def spoil(folder: Path, sentinel: Path) -> None:
        (folder / name).rename(folder.parent / "outside")
        (folder / name).symlink_to("../outside")

    return spoil


def _linked_folder(folder: Path, sentinel: Path) -> None:
    outside = folder.parent / "elsewhere"
    outside.mkdir()
    (folder / "extra").symlink_to(outside)


def _pipe(folder: Path, sentinel: Path) -> None:
    os.mkfifo(folder / "generation_config.json.new")


AUTO_MAP = {"AutoConfig": "modeling_evil.Evil", "AutoModelForCausalLM": "modeling_evil.Evil"}

CORPUS: dict[str, tuple[Spoil, str]] = {
    "pickle .bin": (_only("pytorch_model.bin", pickled), "pytorch_model.bin"),
    "pickle .pt": (_only("model.pt", pickled), "model.pt"),
    "pickle .pth": (_only("consolidated.00.pth", pickled), "consolidated.00.pth"),
    "pickle .ckpt": (_only("model.ckpt", pickled), "model.ckpt"),
    "old tar .bin": (_only("pytorch_model.bin", tarred), "pytorch_model.bin"),
    "pickle called safetensors": (_only("model.safetensors", pickled), "model.safetensors"),
    "config auto_map": (_names_code("config.json", auto_map=AUTO_MAP), "auto_map"),
    "config auto_map on the hub": (
        _names_code("config.json", auto_map={"AutoConfig": "evil/repository--evil.Evil"}),
        "auto_map",
    ),
    "nested auto_map": (_names_code("config.json", text_config={"auto_map": AUTO_MAP}), "auto_map"),
    "auto_map for this version": (_versioned, "config.5.0.0.json"),
    "tokenizer auto_map": (
        _names_code("tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling_evil.Evil", None]}),
        "tokenizer_config.json",
    ),
    "processor auto_map": (_names_code("processor_config.json", auto_map=AUTO_MAP), "processor_config.json"),
    "custom_code": (_names_code("config.json", custom_code="modeling_evil.py"), "custom_code"),
    "custom_pipelines": (
        _names_code("config.json", custom_pipelines={"evil": {"impl": "modeling_evil.Evil"}}),
        "custom_pipelines",
    ),
    "kernel of the hub": (
        _names_code("config.json", attn_implementation="evil/attention"),
        "attn_implementation",
    ),
    "adapter to another folder": (
        _names_code("adapter_config.json", base_model_name_or_path="../other"),
        "adapter_config.json",
    ),
    "weights named elsewhere": (
        _names_code("config.json", transformers_weights="../outside.safetensors"),
        "transformers_weights",
    ),
    "index with ..": (_index("../outside.safetensors"), "../outside.safetensors"),
    "index with a path": (_index("{outside}"), "no safetensors file beside it"),
    "index of pickles": (_index("pytorch_model.bin"), "pytorch_model.bin"),
    "index without its file": (_index("model-1.safetensors"), "lacks model-1.safetensors"),
    "linked weights": (_linked("model.safetensors"), "model.safetensors is a link"),
    "linked configuration": (_linked("config.json"), "config.json is a link"),
    "linked folder": (_linked_folder, "extra is a link"),
    "named pipe": (_pipe, "no plain file"),
    "empty weights": (_weights(b""), "model.safetensors is damaged"),
    "header longer than the file": (_weights(struct.pack("<Q", 1 << 20) + b"{}"), "damaged"),
    "header of 2**63": (_weights(struct.pack("<Q", 1 << 63) + b"{}"), "damaged"),
    "header over 100 MB": (
        _weights(struct.pack("<Q", 100_000_001) + b"{}", size=100_000_100),
        "header too large",
    ),
    "header that is no JSON": (_weights(struct.pack("<Q", 8) + b"\x80\x04pickle"), "damaged"),
    "overlapping tensors": (_weights(_header({"a": (0, 8), "b": (4, 12)}, 12)), "damaged"),
    "tensor past the end": (_weights(_header({"a": (0, 1 << 40)}, 12)), "damaged"),
    "tensor before the beginning": (_weights(_header({"a": (8, 4)}, 12)), "damaged"),
    "bytes of no tensor": (_weights(_header({"a": (0, 8)}, 12)), "damaged"),
}
