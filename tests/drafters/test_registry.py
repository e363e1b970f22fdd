"""Drafters are found by name, options are checked, and nothing heavy is imported unasked."""

import importlib.metadata
import os
import subprocess
import sys

import pytest

from paceline.common.errors import InvalidRequest
from paceline.edge import drafters
from paceline.edge.drafters import DRAFTERS, drafter_from_section, drafter_names, load_drafter
from paceline.edge.drafters.table import TableDrafter


def test_every_name_in_the_table_leads_to_a_drafter() -> None:
    """Each entry imports and names itself as the table does."""
    assert load_drafter("table").name == "table"
    assert load_drafter("ngram").name == "ngram"
    for kind in DRAFTERS:
        assert callable(drafters._factory(kind))


def test_options_reach_the_drafter() -> None:
    """Options are the factory's keyword arguments."""
    assert load_drafter("table", {"vocab_size": 99}).vocab_size == 99


def test_a_section_describes_drafters_made_of_drafters() -> None:
    """Plain nested values make a drafter and its parts, and options for all reach those that have them."""
    copies = {"kind": "ngram", "min_ngram": 1, "num_speculative_tokens": "auto", "model": None}
    models = {"kind": "vertical", "drafters": [{"kind": "table", "vocab_size": 99}, copies], "num_guesses": 3}
    section = {"kind": "cascade", "drafters": [models, copies], "tokens": [4]}
    drafter = drafter_from_section(section, vocab_size=7, progress=print)
    assert drafter.name == "cascade(table(ngram),ngram)"
    assert drafter.vocab_size == 99
    with pytest.raises(InvalidRequest, match="drafter 'ngram' has no option 'agreement'"):
        drafter_from_section({"kind": "cascade", "drafters": [{"kind": "ngram", "agreement": 1}]})


def test_unknown_name_lists_the_known_ones() -> None:
    """A wrong name is answered with every right one."""
    with pytest.raises(
        InvalidRequest,
        match=r"no drafter 'onxx'.*known: adaptive, cascade, ngram, onnx, siblings, table, torch, union, vertical",
    ):
        load_drafter("onxx")


def test_misspelt_option_names_the_nearest() -> None:
    """A misspelt option is an error, with a guess at what was meant."""
    with pytest.raises(InvalidRequest, match=r"no option 'max_ngrams'.*did you mean 'max_ngram'"):
        load_drafter("ngram", {"max_ngrams": 3})
    with pytest.raises(InvalidRequest, match=r"no option 'zz'.*options: min_ngram, max_ngram"):
        load_drafter("ngram", {"zz": 3})


def test_missing_option_is_named() -> None:
    """A drafter that needs a model says so."""
    with pytest.raises(InvalidRequest, match=r"drafter\.model: drafter 'onnx' needs 'model'"):
        load_drafter("onnx")


def test_entry_points_add_drafters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another package's drafter is loaded by its entry point, like a built-in one."""
    group = drafters.ENTRY_POINT_GROUP
    point = importlib.metadata.EntryPoint("mine", "paceline.edge.drafters.table:TableDrafter", group)

    def installed(**params: str) -> importlib.metadata.EntryPoints:
        return importlib.metadata.EntryPoints([point]).select(**params)

    monkeypatch.setattr(drafters, "entry_points", installed)
    assert isinstance(load_drafter("mine"), TableDrafter)
    assert drafter_names() == [
        "adaptive",
        "cascade",
        "mine",
        "ngram",
        "onnx",
        "siblings",
        "table",
        "torch",
        "union",
        "vertical",
    ]


@pytest.mark.parametrize("kind", ["onnx", "ngram", "table", "cascade", "vertical", "adaptive"])
def test_torch_is_not_imported_unasked(kind: str) -> None:
    """Only the torch drafter imports torch or transformers; only the ONNX drafter imports onnxruntime."""
    program = f"""
import sys
from paceline.edge import drafters
drafters._factory({kind!r})
import paceline.edge.draft_model
heavy = {{"torch", "transformers", "onnx", "onnxruntime_genai", "onnxruntime"}} & set(sys.modules)
assert heavy == ({{"onnxruntime"}} if {kind!r} == "onnx" else set()), heavy
"""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONPATH": path})


def test_an_installed_package_s_drafter_is_found(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what pip writes down of a package, and nothing else; its options are checked like any other's."""
    (tmp_path / "somebodys.py").write_text(
        "from paceline.edge.drafters.ngram import NgramDrafter\n\n\n"
        "def make(*, longest: int = 4):\n    return NgramDrafter(min_ngram=1, max_ngram=longest)\n"
    )
    metadata = tmp_path / "somebodys-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[paceline.drafters]\nlookup = somebodys:make\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "lookup" in drafter_names()
    assert load_drafter("lookup", {"longest": 6}).name == "ngram"
    with pytest.raises(InvalidRequest, match="did you mean 'longest'"):
        load_drafter("lookup", {"longst": 6})
