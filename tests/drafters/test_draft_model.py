"""Draft models are found in whatever form people have them, and exported once if need be."""

import shutil
import threading
import time
from pathlib import Path

import pytest

from paceline.common.errors import InvalidRequest
from paceline.edge import draft_model
from paceline.edge.draft_model import default_cache_dir, resolve_draft_model
from paceline.edge.drafters.onnx import OnnxDrafter


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch, exported: dict[str, Path]) -> list[str]:
    """Stands in for the export, which takes seconds: copies a finished one and records the precision."""
    made: list[str] = []

    def copy(model_dir: Path, out_dir: Path, precision: str, *, all_rows: bool) -> Path:
        made.append(f"{precision} with all rows" if all_rows else precision)
        time.sleep(0.05)
        shutil.copytree(exported[precision], out_dir)
        return out_dir

    monkeypatch.setattr(draft_model, "export", copy)
    return made


def test_exported_folder_is_taken_as_it_is(exported: dict[str, Path]) -> None:
    """An exported folder needs nothing more."""
    found = resolve_draft_model(exported["int4"])
    assert found.onnx_dir == exported["int4"]
    assert found.precision == "int4"
    assert found.tokenizer_json == exported["int4"] / "tokenizer.json"
    assert not found.was_exported


def test_export_beside_the_model_is_taken(model_dir: Path, exported: dict[str, Path], tmp_path: Path) -> None:
    """A Hugging Face folder that brings its export in `onnx/` is never exported again."""
    folder = shutil.copytree(model_dir, tmp_path / "model")
    shutil.copytree(exported["int8"], folder / "onnx")
    (folder / "onnx" / "tokenizer.json").unlink()
    found = resolve_draft_model(folder)
    assert found.onnx_dir == folder / "onnx"
    assert found.tokenizer_json == folder / "tokenizer.json"


def test_other_precision_than_the_one_beside_is_exported(
    model_dir: Path, exported: dict[str, Path], tmp_path: Path, exports: list[str]
) -> None:
    """Asking for a precision that is not there makes it."""
    folder = shutil.copytree(model_dir, tmp_path / "model")
    shutil.copytree(exported["int8"], folder / "onnx")
    found = resolve_draft_model(folder, "int4", tmp_path / "cache")
    assert found.precision == "int4"
    assert exports == ["int4"]


def test_export_without_the_rows_asked_for_is_made_again(
    model_dir: Path, exported: dict[str, Path], tmp_path: Path, exports: list[str]
) -> None:
    """An export that gives one logits row does where one is enough; all rows are exported apart from it."""
    folder = shutil.copytree(model_dir, tmp_path / "model")
    shutil.copytree(exported["int8"], folder / "onnx")
    assert not resolve_draft_model(folder).all_rows
    made = resolve_draft_model(folder, cache_dir=tmp_path / "cache", all_rows=True)
    assert made.onnx_dir.parent == tmp_path / "cache" / "drafters"
    assert made.onnx_dir != resolve_draft_model(model_dir, cache_dir=tmp_path / "cache").onnx_dir
    assert exports == ["int8 with all rows", "int8"]


def test_bare_export_without_the_rows_asked_for_is_refused(exported: dict[str, Path]) -> None:
    """An export without its model cannot be made again, so what it lacks is said."""
    with pytest.raises(InvalidRequest, match="holds no model with all logits rows"):
        resolve_draft_model(exported["int8"], all_rows=True)


def test_plain_folder_is_exported_once(model_dir: Path, tmp_path: Path, exports: list[str]) -> None:
    """The first use exports and says so; the second finds the result, wherever the folder was moved to."""
    told: list[str] = []
    first = resolve_draft_model(model_dir, cache_dir=tmp_path / "cache", progress=told.append)
    moved = shutil.copytree(model_dir, tmp_path / "elsewhere")
    second = resolve_draft_model(moved, cache_dir=tmp_path / "cache", progress=told.append)
    assert first.was_exported
    assert not second.was_exported
    assert first.onnx_dir == second.onnx_dir
    assert exports == ["int8"]
    assert len(told) == 1
    assert "once" in told[0]


def test_larger_models_default_to_int4(
    model_dir: Path, tmp_path: Path, exports: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where weights outgrow the processor's cache, the smaller precision is the default."""
    monkeypatch.setattr(draft_model, "SMALL_MODEL_BYTES", 1000)
    assert resolve_draft_model(model_dir, cache_dir=tmp_path).precision == "int4"
    assert exports == ["int4"]


def test_changed_model_is_exported_anew(model_dir: Path, tmp_path: Path, exports: list[str]) -> None:
    """The cache goes by content: a fine-tuned model of the same name is another model."""
    folder = shutil.copytree(model_dir, tmp_path / "model")
    resolve_draft_model(folder, cache_dir=tmp_path / "cache")
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(weights))
    assert resolve_draft_model(folder, cache_dir=tmp_path / "cache").was_exported
    assert len(exports) == 2


def test_many_at_once_export_once(model_dir: Path, tmp_path: Path, exports: list[str]) -> None:
    """Callers that want the same export at the same time wait for one of them."""
    found = []

    def resolve() -> None:
        found.append(resolve_draft_model(model_dir, "int8", tmp_path / "cache"))

    threads = [threading.Thread(target=resolve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert exports == ["int8"]
    assert len({result.onnx_dir for result in found}) == 1
    assert sum(result.was_exported for result in found) == 1


def test_drafter_loads_a_plain_folder(model_dir: Path, tmp_path: Path, exports: list[str]) -> None:
    """The ONNX drafter takes a Hugging Face folder and exports on first use."""
    drafter = OnnxDrafter(model_dir, cache_dir=tmp_path)
    assert drafter.vocab_size == 256
    assert exports == ["int8"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_real_export_goes_through_the_cache(model_dir: Path, tmp_path: Path) -> None:
    """With the real tools too, the first call exports and the second does not."""
    assert resolve_draft_model(model_dir, "int4", tmp_path).was_exported
    assert not resolve_draft_model(model_dir, "int4", tmp_path).was_exported
    assert OnnxDrafter(model_dir, precision="int4", cache_dir=tmp_path).vocab_size == 256


def test_missing_folder_names_path_and_cure(tmp_path: Path) -> None:
    """A path that is not there is named; one that looks like a hub id gets the download line."""
    with pytest.raises(InvalidRequest, match=r"no model folder .*absent"):
        resolve_draft_model(tmp_path / "absent")
    with pytest.raises(InvalidRequest, match=r"hf download Qwen/Qwen3-0\.6B"):
        resolve_draft_model("Qwen/Qwen3-0.6B")


def test_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    """A folder with neither form of a model says what was looked for."""
    with pytest.raises(InvalidRequest, match=r"neither genai_config\.json nor config\.json"):
        resolve_draft_model(tmp_path)


def test_wrong_precision_without_a_source_is_refused(exported: dict[str, Path]) -> None:
    """An export alone cannot become another precision."""
    (exported["int8"] / "config.json").unlink(missing_ok=True)
    with pytest.raises(InvalidRequest, match="holds no model in int4"):
        resolve_draft_model(exported["int8"], "int4")


def test_export_without_tokenizer_is_refused(exported: dict[str, Path], tmp_path: Path) -> None:
    """A drafter without the target's tokenizer cannot be checked against it."""
    copy = shutil.copytree(exported["int8"], tmp_path / "model")
    (copy / "tokenizer.json").unlink()
    with pytest.raises(InvalidRequest, match=r"no tokenizer\.json"):
        resolve_draft_model(copy)


def test_unwritable_cache_is_named(model_dir: Path, tmp_path: Path, exports: list[str]) -> None:
    """A cache that cannot be written is named, with the cure."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequest, match="cannot be written"):
        resolve_draft_model(model_dir, cache_dir=tmp_path / "file")
    assert exports == []


def test_cache_follows_the_desktop_convention(monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_CACHE_HOME is honoured when absolute; otherwise ~/.cache is used."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/tmp/x")
    assert default_cache_dir() == Path("/var/tmp/x/paceline")
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert default_cache_dir() == Path.home() / ".cache" / "paceline"
