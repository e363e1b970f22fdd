"""An ONNX drafter keeps its weights in itself or in plain files beside it; nothing else reaches the runtime."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from google.protobuf.descriptor import Descriptor
from hypothesis import given
from hypothesis import strategies as st
from tests.hostile_models.conftest import pickled

from paceline.common.errors import InvalidRequest
from paceline.edge.drafters.onnx import OnnxDrafter
from paceline.edge.onnx_files import HOLDERS, check_onnx, external_files

DATA = "model.onnx.data"


def _located(location: str) -> Callable[[Path], None]:
    """Weights that the ONNX file says are there; and they are."""

    def spoil(folder: Path) -> None:
        stolen = folder.parent / "stolen.bin"
        stolen.write_bytes((folder / DATA).read_bytes())
        (folder / "linked").symlink_to("..")
        relocate(folder, location.format(stolen=stolen))

    return spoil


def relocate(folder: Path, location: str) -> None:
    """Have the ONNX file name another place for its weights."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def _linked_data(folder: Path) -> None:
    (folder / DATA).rename(folder.parent / "stolen.bin")
    (folder / DATA).symlink_to("../stolen.bin")


def _linked_beside(folder: Path) -> None:
    (folder / DATA).rename(folder / "real.data")
    (folder / DATA).symlink_to("real.data")


def _hard_linked(folder: Path) -> None:
    os.link(folder / DATA, folder.parent / "stolen.bin")


def _in_a_node(folder: Path) -> None:
    """A constant deep in a branch, where initialisers are not looked for."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    tensor = onnx.TensorProto(data_type=onnx.TensorProto.FLOAT, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../stolen.bin")
    constant = onnx.helper.make_node("Constant", [], ["stolen"], value=tensor)
    branch = onnx.helper.make_graph([constant], "branch", [], [])
    model.graph.node.append(onnx.helper.make_node("If", ["no"], ["out"], then_branch=branch))
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def _named(filename: str) -> Callable[[Path], None]:
    """A configuration that has the ONNX file elsewhere; and there it is."""

    def spoil(folder: Path) -> None:
        outside = folder.parent / "outside.onnx"
        outside.write_bytes((folder / "model.onnx").read_bytes())
        (folder / "model.ort").write_bytes(outside.read_bytes())
        config = json.loads((folder / "genai_config.json").read_text())
        config["model"]["decoder"]["filename"] = filename.format(outside=outside)
        (folder / "genai_config.json").write_text(json.dumps(config))

    return spoil


def _pickle(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(pickled(folder.parents[1] / "sentinel"))


CORPUS: dict[str, tuple[Callable[[Path], None], str]] = {
    "..": (_located("../stolen.bin"), "not beside it"),
    ".. in the middle": (_located("linked/../../stolen.bin"), "not beside it"),
    "absolute": (_located("{stolen}"), "not beside it"),
    "link to the folder above": (_located("linked/stolen.bin"), "linked is a link"),
    "an address in memory": (_located("*/_ORT_MEM_ADDR_/*"), "linked is a link"),
    "link out": (_linked_data, "is a link"),
    "link to a file beside": (_linked_beside, "no plain file"),
    "hard link": (_hard_linked, "hard link"),
    "in a node of a branch": (_in_a_node, "not beside it"),
    "ONNX file above": (_named("../outside.onnx"), "not beside it"),
    "ONNX file at a path": (_named("{outside}"), "not beside it"),
    "another format": (_named("model.ort"), "no .onnx file"),
    "a pickle": (_pickle, "no ONNX model"),
    "an empty file": (lambda folder: (folder / "model.onnx").write_bytes(b""), "no ONNX model"),
}


@pytest.mark.parametrize(("spoil", "named"), CORPUS.values(), ids=CORPUS)
def test_hostile_exports_are_refused(exported, loaders, sentinel, spoil, named) -> None:
    """Refused with a message that says why, before the runtime opens anything; nothing of theirs runs."""
    spoil(exported)
    if (exported / "linked").exists() and named != "linked is a link":
        (exported / "linked").unlink()

    with pytest.raises(InvalidRequest) as caught:
        OnnxDrafter(exported)

    assert named in str(caught.value)
    assert caught.value.cure
    assert loaders == []
    assert not sentinel.exists()


@pytest.mark.parametrize(
    "location", ["../stolen.bin", "linked/stolen.bin", "*/_ORT_MEM_ADDR_/*", ".hidden", ""]
)
def test_the_file_itself_is_checked_too(exported: Path, location: str) -> None:
    """Whoever has only an ONNX file is told the same, whatever else lies in its folder."""
    (exported.parent / "stolen.bin").write_bytes(b"")
    (exported / ".hidden").write_bytes(b"")
    (exported / "linked").symlink_to("..")
    relocate(exported, location)

    with pytest.raises(InvalidRequest, match="not beside it"):
        check_onnx(exported / "model.onnx")


def test_sound_exports_load(exported: Path, loaders: list[str]) -> None:
    """The shipped drafter, whose weights lie in a file beside it, is taken."""
    OnnxDrafter(exported)

    assert loaders == ["InferenceSession"]
    assert set(external_files((exported / "model.onnx").read_bytes())) == {DATA}


def test_every_message_that_can_hold_a_tensor_is_followed() -> None:
    """The table of fields is what the `onnx` package's own description of the format comes to."""
    leading: dict[str, dict[int, str]] = {}

    def leads(message: Descriptor, seen: frozenset[str]) -> bool:
        return message.name in ("TensorProto",) or any(
            field.message_type.name not in seen
            and leads(field.message_type, seen | {field.message_type.name})
            for field in message.fields
            if field.message_type
        )

    waiting = [onnx.ModelProto.DESCRIPTOR]
    while waiting:
        message = waiting.pop()
        if message.name in leading or message.name == "TensorProto":
            continue
        held = [
            field for field in message.fields if field.message_type and leads(field.message_type, frozenset())
        ]
        leading[message.name] = {field.number: field.message_type.name for field in held}
        waiting += [field.message_type for field in held]
    fields = onnx.TensorProto.DESCRIPTOR.fields_by_name
    leading["TensorProto"] = {fields["external_data"].number: "StringStringEntryProto"}

    assert leading == HOLDERS


@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """Bytes that are no model give ValueError or IndexError and nothing else; what `onnx` takes is taken alike."""
    try:
        found = list(external_files(data))
    except (ValueError, IndexError):
        return
    assert all(isinstance(name, str) for name in found)


@given(st.lists(st.text(max_size=8), max_size=4), st.binary(max_size=32))
def test_names_come_out_as_they_went_in(names: list[str], noise: bytes) -> None:
    """Every name that `onnx` writes is found, whatever stands around it."""
    model = onnx.ModelProto(producer_name="someone", ir_version=10)
    for name in names:
        tensor = model.graph.initializer.add(name="weight", raw_data=noise, dims=[3, 1 << 40])
        tensor.external_data.add(key="offset", value="4096")
        tensor.external_data.add(key="location", value=name)

    assert sorted(external_files(model.SerializeToString())) == sorted(names)
