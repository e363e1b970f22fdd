"""A pinned model is the one that was meant, to the last byte, or it is not opened."""

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from paceline.cloud.loading import load_target
from paceline.common.errors import InvalidRequest
from paceline.common.model_files import model_digest
from paceline.edge.assemble import assemble, assemble_section
from paceline.edge.drafters.torch import TorchDrafter

DOCUMENTED = r"""
cd "$1" && find -L . -type f -not -path '*/.*' -printf '%P\0' | LC_ALL=C sort -z |
while IFS= read -r -d '' name; do printf '%s\0%s\n' "$name" "$(sha256sum < "$name" | cut -c1-64)"; done |
sha256sum | cut -c1-64
"""

LOADERS: dict[str, Callable[[Path, str], object]] = {
    "target": lambda folder, digest: load_target(str(folder), digest=digest),
    "torch drafter": lambda folder, digest: TorchDrafter(folder, digest=digest),
    "drafter by name": lambda folder, digest: assemble(folder, kind="torch", digest=digest),
    "drafter of a file": lambda folder, digest: assemble_section(
        {"kind": "torch", "model": str(folder), "digest": digest}
    ),
    "part of a drafter": lambda folder, digest: assemble_section(
        {
            "kind": "cascade",
            "tokens": [2],
            "drafters": [{"kind": "ngram"}, {"kind": "torch", "model": str(folder), "digest": digest}],
        }
    ),
    "tokenizer alone": lambda folder, digest: assemble(folder, kind="torch", digest=digest, drafts=False),
    "tokenizer of a copier": lambda folder, digest: assemble(folder, kind="ngram", digest=digest),
}


def test_the_digest_is_what_the_documentation_says(tmp_path: Path) -> None:
    """One line per file, by name: the name, a zero byte, its SHA-256; hidden files do not count."""
    for name, content in {
        "b": b"2",
        "a/z": b"1",
        "a.b": b"3",
        ".cache/x": b"4",
        "a/.y": b"5",
        "ä": b"",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    lines = [
        name.encode() + b"\0" + hashlib.sha256(content).hexdigest().encode() + b"\n"
        for name, content in (("a.b", b"3"), ("a/z", b"1"), ("b", b"2"), ("ä", b""))
    ]

    assert model_digest(tmp_path) == "sha256:" + hashlib.sha256(b"".join(lines)).hexdigest()
    command = ["bash", "-c", DOCUMENTED, "bash", str(tmp_path)]
    shell = subprocess.run(command, capture_output=True, text=True, check=True)
    assert model_digest(tmp_path) == f"sha256:{shell.stdout.strip()}"


def test_the_command_of_the_documentation_is_the_one_tested() -> None:
    """SECURITY.md has it word for word."""
    text = (Path(__file__).resolve().parents[2] / "SECURITY.md").read_text(encoding="utf-8")

    assert all(line in text for line in DOCUMENTED.replace('"$1"', "FOLDER").strip().splitlines())


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_the_model_that_was_meant_is_taken(folder: Path, load: Callable[[Path, str], object]) -> None:
    """With its own digest a model loads as ever, wherever the pin is given."""
    load(folder, model_digest(folder))


def _flip(folder: Path) -> None:
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a bit of the weights": _flip,
    "a new file": lambda folder: (folder / "notes.txt").write_text(""),
    "a file less": lambda folder: (folder / "generation_config.json").unlink(),
    "another name": lambda folder: (folder / "generation_config.json").rename(folder / "generation.json"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_any_other_is_refused(folder, loaders, load, change) -> None:
    """One changed bit, or file, is another model: refused before any weight is read, with both digests."""
    pinned = model_digest(folder)
    change(folder)

    with pytest.raises(InvalidRequest) as caught:
        load(folder, pinned)

    assert caught.value.field == "digest"
    assert pinned in str(caught.value)
    assert model_digest(folder) in str(caught.value)
    assert loaders == []


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:" + "A" * 64, "md5:" + "0" * 32, "0" * 64])
def test_what_is_no_digest_compares_to_nothing(folder: Path, digest: str) -> None:
    """A misspelt pin is an error, not a pin that is ignored."""
    with pytest.raises(InvalidRequest, match="is no digest"):
        load_target(str(folder), digest=digest)


def test_a_hub_id_has_no_digest() -> None:
    """What lies in the hub's cache is not all of a repository; its commit is its pin."""
    with pytest.raises(InvalidRequest, match="only directories have a digest") as caught:
        load_target("owner/tiny", digest="sha256:" + "0" * 64)
    assert "--local-dir" in caught.value.cure


def test_a_pin_without_a_model_is_refused(folder: Path) -> None:
    """A pin that nothing is compared with would only seem to protect."""
    with pytest.raises(InvalidRequest, match="no draft model to compare"):
        assemble(None, kind="ngram", tokenizer=folder, digest="sha256:" + "0" * 64)
