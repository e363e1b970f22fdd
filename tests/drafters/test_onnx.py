"""The exported model computes what torch computes, whatever was cut off and grown before; bad folders are refused."""

import json
import os
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from paceline.common.errors import InvalidRequest
from paceline.common.sampling.choose import Chooser
from paceline.common.tokens import Rule, SamplingParams
from paceline.edge.drafters import onnx as onnx_drafter
from paceline.edge.drafters.onnx import OnnxDrafter, OnnxModel, OnnxRunner

VOCAB_SIZE = 256
TEXT = [random.Random(0).randrange(VOCAB_SIZE) for _ in range(700)]


@pytest.fixture(scope="module")
def expected(model_dir: Path) -> npt.NDArray[np.float32]:
    """Logits after every prefix of TEXT, from one plain forward in torch. float32 [text, vocab]."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits: npt.NDArray[np.float32] = model(torch.tensor([TEXT])).logits[0].numpy()
    return logits


@pytest.fixture(scope="module")
def model(exported: dict[str, Path]) -> OnnxModel:
    """The fp32 export."""
    return OnnxModel(exported["fp32"])


def run(runner: OnnxRunner, past: int, end: int) -> npt.NDArray[np.float32]:
    return runner.forward(past, TEXT[past:end]).copy()


def test_logits_equal_torch_token_by_token(model: OnnxModel, expected: npt.NDArray[np.float32]) -> None:
    """Fed one token at a time, the fp32 export gives torch's logits."""
    runner = OnnxRunner(model, 1024)
    rows = np.stack([run(runner, i, i + 1) for i in range(100)])
    np.testing.assert_allclose(rows, expected[:100], atol=1e-3)


@pytest.mark.parametrize(("precision", "least"), [("int8", 0.98), ("int4", 0.8)])
def test_quantised_laws_overlap_torch(
    exported: dict[str, Path], expected: npt.NDArray[np.float32], precision: str, least: float
) -> None:
    """A quantised export's laws share nearly all (int8) or most (int4) of their mass with torch's."""
    runner = OnnxRunner(OnnxModel(exported[precision]), 1024)
    rows = np.stack([run(runner, i, i + 1) for i in range(100)])
    laws = [np.exp(logits - logits.max(axis=1, keepdims=True)) for logits in (rows, expected[:100])]
    shares = [law / law.sum(axis=1, keepdims=True) for law in laws]
    assert float(np.minimum(*shares).sum(axis=1).mean()) > least


def test_rollback_to_every_length_equals_fresh(model: OnnxModel, expected: npt.NDArray[np.float32]) -> None:
    """Cutting to any length and going on differently gives what a fresh cache gives."""
    runner = OnnxRunner(model, 1024)
    for cut in range(59, 0, -1):
        runner.forward(0, TEXT[:60])
        runner.forward(60, [1, 2, 3])
        np.testing.assert_allclose(run(runner, cut, cut + 1), expected[cut], atol=1e-3)
        different = [*TEXT[:cut], 7, 8]
        fresh = OnnxRunner(model, 1024).forward(0, different)
        np.testing.assert_allclose(runner.forward(cut, [7, 8]), fresh, atol=1e-3)


def test_cache_grows_by_doubling_and_keeps_its_content(
    model: OnnxModel, expected: npt.NDArray[np.float32]
) -> None:
    """Crossing each capacity, in one token or in many, changes no logits."""
    runner = OnnxRunner(model, 700)
    assert runner.capacity == 256
    for past, end in ((0, 250), (250, 256), (256, 257), (257, 510), (510, 513), (513, 700)):
        np.testing.assert_allclose(run(runner, past, end), expected[end - 1], atol=1e-3)
    assert runner.capacity == 700


def test_chunks_do_not_matter(
    model: OnnxModel, expected: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt fed in chunks of any size gives the logits of one run."""
    for chunk in (1, 7, 64, 300):
        monkeypatch.setattr(onnx_drafter, "MAX_CHUNK_TOKENS", chunk)
        np.testing.assert_allclose(run(OnnxRunner(model, 700), 0, 300), expected[299], atol=1e-3)


def test_context_is_never_exceeded(model: OnnxModel) -> None:
    """More tokens than the context holds are our own mistake, and loud."""
    with pytest.raises(ValueError, match="exceed"):
        OnnxRunner(model, 16).forward(0, TEXT[:17])


def test_max_length_caps_the_context(exported: dict[str, Path]) -> None:
    """A configured cap bounds the text; the model's own context bounds the cap."""
    greedy = Chooser(Rule.GREEDY, SamplingParams(), 0, VOCAB_SIZE)
    short = OnnxDrafter(exported["int8"], max_length=10)
    assert len(short.start(TEXT[:5], greedy).propose(99)) == 6
    assert OnnxDrafter(exported["int8"], max_length=10**9).start(TEXT[:5], greedy)._runner.max_length == 1024


def test_closed_runner_frees_its_buffers(model: OnnxModel) -> None:
    """Closing lets go of the cache."""
    runner = OnnxRunner(model, 1024)
    runner.forward(0, TEXT[:3])
    runner.close()
    assert runner.capacity == 0
    assert not runner._cache


def test_sessions_in_threads_do_not_disturb_each_other(exported: dict[str, Path]) -> None:
    """Sessions of one drafter may run in different threads at once."""
    drafter = OnnxDrafter(exported["int8"])

    def write(seed: int) -> tuple[int, ...]:
        chooser = Chooser(Rule.COUPLED, SamplingParams(temperature=1.0), seed, VOCAB_SIZE)
        session = drafter.start(TEXT[: 20 + seed], chooser)
        written = session.propose(150).token_ids
        session.close()
        return written

    alone = [write(seed) for seed in range(6)]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(write, range(6))) == alone


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_export_with_all_logits_rows_runs_too(
    model_dir: Path, tmp_path: Path, expected: npt.NDArray[np.float32]
) -> None:
    """A folder made by the builder directly writes a row per token; the last one is used."""
    folder = _with_all_rows(model_dir, tmp_path)
    model = OnnxModel(folder)
    assert not model.has_one_logits_row
    runner = OnnxRunner(model, 700)
    for past, end in ((0, 300), (300, 301), (301, 304), (304, 305)):
        np.testing.assert_allclose(run(runner, past, end), expected[end - 1], atol=1e-3)


def _with_all_rows(model_dir: Path, tmp_path: Path) -> Path:
    """An export as `python -m onnxruntime_genai.models.builder` makes it."""
    import subprocess
    import sys

    out = tmp_path / "all-rows"
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(model_dir), "-o", str(out)]
    options = ["-p", "fp32", "-e", "cpu", "-c", str(tmp_path / "cache")]
    subprocess.run([*command, *options], check=True, capture_output=True)
    return out


def _edit(folder: Path, change: Callable[[dict[str, dict[str, object]]], object]) -> None:
    path = folder / "genai_config.json"
    config = json.loads(path.read_text())
    change(config["model"])
    path.write_text(json.dumps(config))


@pytest.fixture
def copy(exported: dict[str, Path], tmp_path: Path) -> Path:
    """An export that may be damaged."""
    return shutil.copytree(exported["fp32"], tmp_path / "copy")


def test_damaged_descriptions_are_refused(copy: Path) -> None:
    """A config that names no names, other names or no numbers is refused with the file named."""
    for damage in (
        lambda model: model["decoder"].pop("head_size"),
        lambda model: model.pop("vocab_size"),
        lambda model: model["decoder"].update(filename="absent.onnx"),
        lambda model: model["decoder"]["inputs"].update(past_key_names="cache.%d"),
        lambda model: model["decoder"]["inputs"].update(past_key_names="no number"),
    ):
        before = (copy / "genai_config.json").read_text()
        _edit(copy, damage)
        with pytest.raises(InvalidRequest, match="copy"):
            OnnxModel(copy)
        (copy / "genai_config.json").write_text(before)
    OnnxModel(copy)


def test_truncated_weights_are_refused(copy: Path) -> None:
    """Half a weights file is refused when the model is loaded, not discovered while drafting."""
    weights = copy / "model.onnx.data"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InvalidRequest, match=r"model\.onnx cannot be loaded"):
        OnnxModel(copy)


@pytest.mark.parametrize("location", ["../stolen.bin", "/etc/hostname", "link.bin", "linked/stolen.bin"])
def test_weights_outside_the_folder_are_refused(copy: Path, location: str) -> None:
    """A model may not read files above its folder, at absolute paths, or through links."""
    onnx = pytest.importorskip("onnx")
    stolen = copy.parent / "stolen.bin"
    shutil.copy(copy / "model.onnx.data", stolen)
    os.symlink(stolen, copy / "link.bin")
    os.symlink(copy.parent, copy / "linked")
    graph = onnx.load(copy / "model.onnx", load_external_data=False)
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (copy / "model.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(InvalidRequest, match="plain files in one folder"):
        OnnxModel(copy)


def test_half_precision_interfaces_are_refused(copy: Path) -> None:
    """A model exported for a GPU, with float16 at its edges, is refused by name rather than fed wrong bytes."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(copy / "model.onnx")
    for value in (*graph.graph.input, *graph.graph.output):
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    half = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Cast", ["past_key_values.0.key"], ["logits"], to=onnx.TensorProto.FLOAT16),
            *(
                onnx.helper.make_node("Identity", [f"past_key_values.{i}.{kind}"], [f"present.{i}.{kind}"])
                for i in range(2)
                for kind in ("key", "value")
            ),
        ],
        "half",
        list(graph.graph.input),
        list(graph.graph.output),
    )
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(half, opset_imports=opsets, ir_version=8), copy / "model.onnx")
    with pytest.raises(InvalidRequest, match="float16"):
        OnnxModel(copy)
