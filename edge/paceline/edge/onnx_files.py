"""Where an ONNX file keeps its weights, checked before the runtime opens it.

An ONNX file may name other files as the place of its weights, at any path, and runtimes have followed such names out of
the folder more than once: by `..`, absolute paths, links, links to a parent, hard links. Here each one must be a plain
file beside the ONNX file. The edge has no `onnx` package, and parsing gigabytes for a few names would copy them, so
this walks the protobuf encoding and skips everything else.
"""

import mmap
import stat
from collections.abc import Iterator
from pathlib import Path

from paceline.common.errors import InvalidRequest
from paceline.common.model_files import is_plain_name

HOLDERS: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},
}
"""Messages that hold tensors: the fields that lead to one, by number (a test compares this with the `onnx` package)."""
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
CURE = "export the model again; its files must be plain files in one folder, not links"


def check_onnx(path: Path) -> None:
    """Refuse an ONNX file whose weights are anywhere but in itself or in plain files beside it.

    Raises:
        InvalidRequest: naming the file.
    """
    if not is_plain_name(path.name) or path.suffix != ".onnx" or not path.is_file():
        raise InvalidRequest(f"{path} is no .onnx file in the model's folder", field="model", cure=CURE)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            names = set(external_files(data))
    except (ValueError, IndexError):
        raise InvalidRequest(f"{path} is no ONNX model", field="model", cure=CURE) from None
    for name in sorted(names):
        if why := _why_refused(path.parent, name):
            raise InvalidRequest(f"{path} has weights in {name!r:.80}, which {why}", field="model", cure=CURE)


def external_files(data: bytes | mmap.mmap) -> Iterator[str]:
    """Names of the files in which the tensors of a serialised ModelProto lie.

    Raises:
        ValueError: it is none.
        IndexError: it ends too soon.
    """
    waiting = [("ModelProto", 0, len(data))]
    while waiting:
        kind, start, end = waiting.pop()
        entry = {1: b"", 2: b""}
        for number, begin, finish in _fields(data, start, end):
            if kind == "StringStringEntryProto":
                entry[number] = data[begin:finish]
            elif number in HOLDERS[kind]:
                waiting.append((HOLDERS[kind][number], begin, finish))
        if entry[1] == b"location":
            yield entry[2].decode()


def _fields(data: bytes | mmap.mmap, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, beginning and end of every field of a message that has a length; others are skipped, and groups, which
    ONNX does not use, are refused."""
    while position < end:
        tag, position = _varint(data, position, most=5)
        size, wire = 0, tag & 7
        if wire == _VARINT:
            _, position = _varint(data, position, most=10)
        elif wire == _LENGTH:
            size, position = _varint(data, position, most=5)
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            position += 8 if wire == _EIGHT_BYTES else 4
        else:
            raise ValueError("no such wire type")
        if position + size > end:
            raise ValueError("a field ends after its message")
        if wire == _LENGTH:
            yield tag >> 3, position, position + size
        position += size


def _varint(data: bytes | mmap.mmap, position: int, most: int) -> tuple[int, int]:
    """A number of at most `most` bytes, and where it ends. Five are for 32 bits: parsers differ about the rest."""
    value = 0
    for place in range(most):
        byte = data[position + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            if most == 5 and value >> 32:
                break
            return value, position + place + 1
    raise ValueError("a number is too long")


def _why_refused(folder: Path, name: str) -> str | None:
    if not is_plain_name(name):
        return "is not beside it"
    try:
        found = (folder / name).lstat()
    except OSError:
        return "is not there"
    if not stat.S_ISREG(found.st_mode):
        return "is no plain file"
    return "has another name elsewhere (a hard link)" if found.st_nlink != 1 else None
