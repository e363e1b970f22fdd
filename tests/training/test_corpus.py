"""The split of the text."""

from pathlib import Path

import pytest

from paceline.training import CorpusConfig, CorpusError, build_corpus


def test_split_is_disjoint() -> None:
    """No file of the standard library is in both halves, and about one in twenty is held out."""
    corpus = build_corpus(CorpusConfig())
    train, heldout = ({module.name for module in half} for half in (corpus.train, corpus.heldout))

    assert not train & heldout
    assert 0.02 < len(heldout) / (len(train) + len(heldout)) < 0.09


def test_split_is_the_same_twice() -> None:
    """Reading the text again gives the same files in the same order."""
    first, second = build_corpus(CorpusConfig()), build_corpus(CorpusConfig())

    assert [module.name for module in first.train] == [module.name for module in second.train]
    assert first.heldout == second.heldout


def test_split_does_not_move_when_a_file_is_added(tmp_path: Path) -> None:
    """Whether a file is held out depends on its own path alone."""
    config = CorpusConfig(folder=tmp_path, heldout_fraction=0.5)
    for number in range(10):
        (tmp_path / f"module_{number}.py").write_text("value = 1\n")
    before = {module.name for module in build_corpus(config).heldout}
    (tmp_path / "another.py").write_text("value = 2\n")
    after = {module.name for module in build_corpus(config).heldout}

    assert before == after - {"another.py"}


def test_test_folders_are_not_read() -> None:
    """Nothing below a test folder or an installed package counts as text."""
    corpus = build_corpus(CorpusConfig())
    names = [module.name for module in (*corpus.train, *corpus.heldout)]

    assert not [name for name in names if {"test", "tests", "site-packages"} & set(name.split("/"))]


def test_undecodable_and_oversized_files_are_skipped(tmp_path: Path) -> None:
    """A file that is not UTF-8, or larger than the limit, is left out."""
    for number in range(10):
        (tmp_path / f"module_{number}.py").write_text("value = 1\n")
    (tmp_path / "latin.py").write_bytes(b"# caf\xe9\n")
    (tmp_path / "table.py").write_text("0, " * 1000)
    corpus = build_corpus(CorpusConfig(folder=tmp_path, heldout_fraction=0.5, max_file_bytes=2000))

    assert len(corpus.train) + len(corpus.heldout) == 10


@pytest.mark.parametrize("fraction", [0.0, -0.1, 0.6])
def test_absurd_fractions_are_refused(fraction: float) -> None:
    """A held-out fraction outside (0, 0.5] is refused, naming the field."""
    with pytest.raises(CorpusError, match=r"heldout_fraction=.*\(0, 0\.5\]"):
        build_corpus(CorpusConfig(heldout_fraction=fraction))


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    """A folder that does not exist is refused, naming it."""
    with pytest.raises(CorpusError, match="nowhere"):
        build_corpus(CorpusConfig(folder=tmp_path / "nowhere"))


def test_text_too_small_to_split_is_refused(tmp_path: Path) -> None:
    """A folder that leaves one half of the split empty is refused, with the cure."""
    (tmp_path / "only.py").write_text("value = 1\n")

    with pytest.raises(CorpusError, match="add files"):
        build_corpus(CorpusConfig(folder=tmp_path))
