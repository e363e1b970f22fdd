"""No hostile Hugging Face folder gets as far as a loader of weights: as target, as draft model or in training."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from tests.hostile_models.conftest import pickled, tarred
from tests.hostile_models.corpus import AUTO_MAP, CORPUS, set_keys
from transformers import AutoConfig, dynamic_module_utils

from paceline.cloud.loading import load_target
from paceline.common.errors import InvalidRequest
from paceline.common.model_files import check_model_files
from paceline.edge.draft_model import resolve_draft_model
from paceline.edge.drafters.torch import TorchDrafter
from paceline.training.storage import load_model

LOADERS: dict[str, Callable[[Path], object]] = {
    "target": lambda folder: load_target(str(folder)),
    "torch drafter": TorchDrafter,
    "onnx drafter": lambda folder: resolve_draft_model(folder, cache_dir=folder.parent / "cache"),
    "training": load_model,
}


@pytest.mark.parametrize("content", [pickled, tarred])
def test_unpickling_would_run_the_payload(sentinel: Path, content: Callable[[Path], bytes]) -> None:
    """The sentinel tells: a loader that unpickles makes it."""
    file = sentinel.with_suffix(".bin")
    file.write_bytes(content(sentinel))
    with suppress(Exception):  # once the payload has run, the rest need not be a checkpoint
        torch.load(file, weights_only=False)

    assert sentinel.exists()


def test_trusting_remote_code_would_run_it(
    folder: Path, sentinel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentinel tells: a loader that follows `auto_map` makes it."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    CORPUS["config auto_map"][0](folder, sentinel)
    with suppress(Exception):  # as above
        AutoConfig.from_pretrained(folder, trust_remote_code=True)

    assert sentinel.exists()


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize(("spoil", "named"), CORPUS.values(), ids=CORPUS)
def test_hostile_folders_are_refused(folder, sentinel, loaders, load, spoil, named) -> None:
    """Refused with a message that names what is wrong, before any weight is read; nothing of theirs runs."""
    spoil(folder, sentinel)

    with pytest.raises(InvalidRequest) as caught:
        load(folder)

    assert named in str(caught.value)
    assert caught.value.cure
    assert loaders == []
    assert not sentinel.exists()


@pytest.mark.parametrize("load", [LOADERS["target"], LOADERS["torch drafter"], LOADERS["training"]])
def test_pickles_beside_safetensors_are_never_opened(folder, sentinel, loaders, load) -> None:
    """Many published models have both; the pickles are as good as absent."""
    for name in ("pytorch_model.bin", "model.pt", "optimizer.ckpt"):
        (folder / name).write_bytes(pickled(sentinel))
    (folder / "handler.py").write_text(f"import os\nos.mkdir({str(sentinel)!r})")

    load(folder)

    assert "from_pretrained" in loaders
    assert "load" not in loaders
    assert not sentinel.exists()


def in_hub_cache(folder: Path) -> Path:
    """The same files as the hub's cache keeps them: links from a snapshot to blobs."""
    repository = folder.parent / "models--owner--tiny"
    snapshot, blobs = repository / "snapshots" / "0123abcd", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd")
    return snapshot


def test_links_of_the_hub_s_cache_are_taken(folder: Path) -> None:
    """A snapshot's links lead to the blobs beside it, and that is the one way out of a folder."""
    assert load_target(str(in_hub_cache(folder))).vocab_size == 64


@pytest.mark.parametrize("target", ["../../refs/main", "../../blobs/deeper/0", "../../../other/blobs/0"])
def test_other_links_of_the_hub_s_cache_are_not(folder: Path, target: str) -> None:
    """A snapshot may link to files right in its own `blobs`, and to nothing else."""
    snapshot = in_hub_cache(folder)
    (snapshot / "extra.json").symlink_to(target)
    end = snapshot / target
    end.parent.mkdir(parents=True, exist_ok=True)
    end.write_text("{}")

    with pytest.raises(InvalidRequest, match=r"extra\.json is a link"):
        check_model_files(snapshot)


def test_a_blob_may_not_lead_further(folder: Path) -> None:
    """A link to a blob that is itself a link out of the cache is followed to its end, and refused."""
    snapshot = in_hub_cache(folder)
    blob = snapshot.parents[1] / "blobs" / "0"
    blob.rename(folder.parent / "outside")
    blob.symlink_to(folder.parent / "outside")

    with pytest.raises(InvalidRequest, match="is a link"):
        check_model_files(snapshot)


def test_models_of_the_hub_are_checked_too(folder, sentinel, loaders, monkeypatch) -> None:
    """What a hub id stands for is downloaded first, then checked like any folder."""
    snapshot = in_hub_cache(folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder.parent))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load_target("owner/tiny").name == "owner/tiny"
    loaders.clear()

    blob = (snapshot / "config.json").resolve()
    set_keys(blob, auto_map=AUTO_MAP)

    with pytest.raises(InvalidRequest, match="auto_map"):
        load_target("owner/tiny")
    assert loaders == []


def test_empty_keys_are_no_code(folder: Path) -> None:
    """Configurations that say that they name no code are taken."""
    set_keys(folder / "config.json", auto_map=None, custom_pipelines={}, attn_implementation="eager")

    check_model_files(folder)
