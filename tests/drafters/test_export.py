"""Exports reproduce their model, say what they are, and refuse what cannot be exported."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from paceline.common.errors import InvalidRequest, MissingDependency
from paceline.edge import export as export_module
from paceline.edge.export import PRECISIONS, ExportJob, export, export_all, source_digest


def test_export_describes_itself(exported: dict[str, Path], model_dir: Path) -> None:
    """Every export records its source, precision, versions and how near it comes to the model."""
    for precision, folder in exported.items():
        description = json.loads((folder / "paceline.json").read_text())
        assert description["precision"] == precision
        assert description["source_digest"] == source_digest(model_dir)
        assert description["versions"]["onnxruntime-genai"].startswith("0.")
        assert 0.5 <= description["law_overlap"] <= 1.0 + 1e-6


def test_finer_precision_is_nearer_the_model(exported: dict[str, Path]) -> None:
    """fp32 is exact, int8 nearly so, int4 less."""
    overlaps = {
        precision: json.loads((folder / "paceline.json").read_text())["law_overlap"]
        for precision, folder in exported.items()
    }
    assert overlaps["int4"] < overlaps["int8"] < overlaps["fp32"]
    assert overlaps["fp32"] == pytest.approx(1.0, abs=1e-5)


def test_export_holds_exactly_what_is_needed(exported: dict[str, Path], model_dir: Path) -> None:
    """Graph, weights, description and the model's own tokenizer; no links, no leftovers beside it."""
    for folder in exported.values():
        names = {path.name for path in folder.iterdir()}
        assert {"model.onnx", "model.onnx.data", "genai_config.json", "paceline.json"} <= names
        assert (folder / "tokenizer.json").read_bytes() == (model_dir / "tokenizer.json").read_bytes()
        assert not any(path.is_symlink() for path in folder.iterdir())
        assert sorted(path.name for path in folder.parent.iterdir()) == sorted(PRECISIONS)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("architecture", ["Llama", "Qwen2", "Qwen3"])
def test_architectures_export_in_every_precision(
    architecture: str, tmp_path: Path, make_tiny_model: Callable[..., Path]
) -> None:
    """Llama, Qwen2 and Qwen3 export in int4, int8 and fp32; fp32 equals torch within 1e-3."""
    model = make_tiny_model(tmp_path / "model", architecture)
    export_all([ExportJob(model, tmp_path / precision, precision) for precision in PRECISIONS])
    found = {p: json.loads((tmp_path / p / "paceline.json").read_text()) for p in PRECISIONS}
    assert found["fp32"]["max_logit_difference"] < 1e-3
    assert found["fp32"]["argmax_agreement"] == 1.0
    assert found["int8"]["law_overlap"] > 0.97
    assert found["int4"]["law_overlap"] > 0.75


def test_unknown_precision_is_refused(model_dir: Path, tmp_path: Path) -> None:
    """Only the listed precisions exist."""
    with pytest.raises(InvalidRequest, match="one of int4, int8, fp32"):
        export(model_dir, tmp_path / "out", "int3")  # type: ignore[arg-type]  # the point of the test


def test_incomplete_folders_are_refused_by_file(model_dir: Path, tmp_path: Path) -> None:
    """A folder without its config or tokenizer is refused before anything is started, naming the file."""
    for name in ("config.json", "tokenizer.json"):
        copy = shutil.copytree(model_dir, tmp_path / name)
        (copy / name).unlink()
        with pytest.raises(InvalidRequest, match=f"holds no {name}"):
            export(copy, tmp_path / "out")


def test_used_output_folder_is_refused(model_dir: Path, exported: dict[str, Path]) -> None:
    """An export never overwrites anything."""
    with pytest.raises(InvalidRequest, match="is in use"):
        export(model_dir, exported["int8"])


def test_missing_tools_name_the_line_to_run(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the export tools the error says which are missing and what to install."""
    monkeypatch.setattr(
        export_module, "find_spec", lambda name: None if name == "onnxruntime_genai" else object()
    )
    with pytest.raises(MissingDependency, match=r"needs onnxruntime_genai.*pip install 'paceline\[export\]'"):
        export(model_dir, tmp_path / "out")


def test_failure_is_told_with_its_last_line(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The builder's last line is the message, its last thirty are in the notes, and nothing is left behind."""
    output = "\n".join([*(f"line {i}" for i in range(50)), "NotImplementedError: no such thing", ""])

    def fail(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, output)

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(
        InvalidRequest, match=r"cannot be exported: NotImplementedError: no such thing"
    ) as caught:
        export(model_dir, tmp_path / "out")
    assert caught.value.__notes__[0].splitlines()[0] == "line 21"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_unsupported_architecture_is_refused_with_the_reason(model_dir: Path, tmp_path: Path) -> None:
    """What the builder cannot export is refused with its own reason, and nothing is left behind."""
    copy = shutil.copytree(model_dir, tmp_path / "model")
    config = json.loads((copy / "config.json").read_text())
    config["architectures"] = ["NoSuchForCausalLM"]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidRequest, match=r"cannot be exported: .*not.* supported") as caught:
        export(copy, tmp_path / "out")
    assert caught.value.__notes__
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_digest_depends_on_content_alone(model_dir: Path, tmp_path: Path) -> None:
    """A copy has the same digest; a changed weight or config another; other files do not matter."""
    copy = shutil.copytree(model_dir, tmp_path / "copy")
    assert source_digest(copy) == source_digest(model_dir)
    (copy / "README.md").write_text("hello")
    assert source_digest(copy) == source_digest(model_dir)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(bytes(weights))
    assert source_digest(copy) != source_digest(model_dir)
