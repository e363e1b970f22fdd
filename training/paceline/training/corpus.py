"""Training text: which files are read, and which are held out.

By default the text is the running interpreter's own standard library: it is on every machine that has
Python, and its licence allows it. The split is decided by a hash of each file's path alone, so it is the
same on every machine and does not move when files are added.
"""

import fnmatch
import hashlib
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paceline.training.errors import CorpusError

EXCLUDED_FOLDERS = frozenset(
    {
        "test",
        "tests",
        "idle_test",
        "idlelib",
        "lib2to3",
        "site-packages",
        "dist-packages",
        "__pycache__",
        # Tables, not code: they would teach the models to recite numbers.
        "encodings",
        "pydoc_data",
    }
)
"""Folder names that never count as training text, at any depth."""


@dataclass(frozen=True)
class CorpusConfig:
    """Where the text comes from and how it is split."""

    folder: Path | None = None
    """Folder of text files; ``None`` means the interpreter's standard library."""
    pattern: str = "*.py"
    """Glob, matched at any depth below ``folder``."""
    heldout_fraction: float = 0.05
    """Expected fraction of files held out, in (0, 0.5]."""
    max_file_bytes: int = 400_000
    """Larger files are skipped: they are generated tables more often than text."""


@dataclass(frozen=True)
class Module:
    """One text file: its path below the corpus folder, and its text."""

    name: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """The two halves of the split; both are sorted by name and share no file."""

    train: tuple[Module, ...]
    heldout: tuple[Module, ...]


def standard_library() -> Path:
    """Folder of the running interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def is_heldout(name: str, fraction: float) -> bool:
    """Whether the file called ``name`` is held out: a pure function of the path."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def build_corpus(config: CorpusConfig) -> Corpus:
    """Read every admissible file below the folder and split by path.

    Raises:
        CorpusError: no such folder, no admissible file, or one half of the split is empty.
    """
    if not 0.0 < config.heldout_fraction <= 0.5:
        raise CorpusError("heldout_fraction", config.heldout_fraction, "choose a fraction in (0, 0.5]")
    folder = config.folder or standard_library()
    if not folder.is_dir():
        raise CorpusError("folder", str(folder), "give an existing folder of text files")
    modules = tuple(_read_modules(folder, config))
    train = tuple(m for m in modules if not is_heldout(m.name, config.heldout_fraction))
    heldout = tuple(m for m in modules if is_heldout(m.name, config.heldout_fraction))
    if not train or not heldout:
        raise CorpusError(
            "folder",
            str(folder),
            f"{len(modules)} files match {config.pattern!r}, which leaves one half of the split empty: "
            "add files, or raise heldout_fraction",
        )
    return Corpus(train=train, heldout=heldout)


def _read_modules(folder: Path, config: CorpusConfig) -> Iterator[Module]:
    """Yield the admissible files in the order of their names."""
    for path in sorted(_admissible(folder, config.pattern)):
        if not 0 < path.stat().st_size <= config.max_file_bytes:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # A few library files are written in other encodings on purpose.
        if text.strip():
            yield Module(name=path.relative_to(folder).as_posix(), text=text)


def _admissible(folder: Path, pattern: str) -> Iterator[Path]:
    """Files that match, outside excluded folders, which are not even entered: some hold 10,000 files."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in EXCLUDED_FOLDERS]
        yield from (Path(parent, name) for name in fnmatch.filter(files, pattern))
