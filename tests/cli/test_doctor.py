"""`paceline doctor`: what it finds, what it calls a fault, and its exit code."""

import json
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import typer
from tokenizers import Tokenizer as RawTokenizer
from tokenizers.models import WordLevel
from typer.testing import CliRunner

from paceline.cli import doctor
from paceline.cli.doctor import Outcome
from paceline.cloud.config import ServerConfig
from paceline.cloud.engine.table import TableEngine
from paceline.cloud.server import Server
from paceline.cloud.verifier import TargetInfo, Verifier
from paceline.common.tokenizer import Tokenizer

INFO = TargetInfo(name="table", software_version="0.0", device="cpu", dtype="float32")


def model_folder(folder: Path, words: tuple[str, ...] = ("a", "b")) -> Path:
    """A folder with a tokenizer and a configuration."""
    folder.mkdir()
    vocabulary = {word: index for index, word in enumerate(words)}
    RawTokenizer(WordLevel(vocabulary, unk_token=words[0])).save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def app() -> typer.Typer:
    """The command alone."""
    alone = typer.Typer()
    alone.command()(doctor.doctor)
    return alone


def outcomes(checks: list[doctor.Check]) -> dict[str, Outcome]:
    """Check name to outcome."""
    return {check.name: check.outcome for check in checks}


def test_versions_name_what_is_installed() -> None:
    """Every package Paceline can use is listed with its version."""
    checks = outcomes(list(doctor.check_versions()))

    assert checks["python"] is Outcome.OK
    assert checks["grpcio"] is Outcome.OK
    assert {"torch", "onnxruntime", "onnxruntime-genai"} <= set(checks)


def test_a_missing_optional_package_is_a_warning_with_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torch the row warns and names the extra that brings it."""

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", missing)

    rows = {check.name: check for check in doctor.check_versions()}
    assert rows["torch"].outcome is Outcome.WARN
    assert rows["torch"].cure == "pip install 'paceline[cloud]'"
    assert rows["grpcio"].outcome is Outcome.FAIL


def test_devices_name_the_processor() -> None:
    """The processor, its cores and the accelerator are listed; none of them is a fault."""
    checks = list(doctor.check_devices())

    assert [check.name for check in checks] == ["cpu", "cuda"]
    assert Outcome.FAIL not in outcomes(checks).values()


def test_a_draft_model_shows_its_vocabulary(tmp_path: Path) -> None:
    """A readable model folder passes and gives its fingerprint."""
    folder = model_folder(tmp_path / "m")

    check, fingerprint = doctor.check_draft_model(folder)

    assert check.outcome is Outcome.OK
    assert fingerprint == Tokenizer(folder).fingerprint


def test_a_folder_without_a_model_fails(tmp_path: Path) -> None:
    """A missing folder, and a tokenizer without a model, fail with a cure."""
    (model_folder(tmp_path / "m") / "config.json").unlink()

    for folder in (tmp_path / "m", tmp_path / "nowhere"):
        check, _ = doctor.check_draft_model(folder)
        assert check.outcome is Outcome.FAIL
        assert check.cure


async def test_a_verifier_is_asked_timed_and_compared(tmp_path: Path) -> None:
    """A verifier whose target shares the vocabulary passes every check over the real link."""
    fingerprint = Tokenizer(model_folder(tmp_path / "m")).fingerprint
    server = Server(
        Verifier(TableEngine(64), replace(INFO, tokenizer_fingerprint=fingerprint)),
        ServerConfig("127.0.0.1:0"),
    )
    await server.start()
    try:
        same = await doctor.check_verifier(server.address, fingerprint)
        other = await doctor.check_verifier(server.address, b"x" * 16)
        unknown = await doctor.check_verifier(server.address, None)
    finally:
        await server.stop()

    assert set(outcomes(same).values()) == {Outcome.OK}
    assert "p50" in next(check.found for check in same if check.name == "round trip")
    assert outcomes(other)["vocabulary"] is Outcome.FAIL
    assert outcomes(unknown)["vocabulary"] is Outcome.WARN


def test_nobody_there_fails_with_exit_3(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address where nobody listens fails the run; --json is one object all the same."""
    monkeypatch.setattr(doctor, "GrpcHop", partial(doctor.GrpcHop, connect_timeout_s=0.2))

    result = CliRunner().invoke(app, ["--verifier", "127.0.0.1:9", "--json"])

    report = json.loads(result.stdout)
    assert result.exit_code == 3
    assert report["ok"] is False
    assert [check["name"] for check in report["checks"] if check["outcome"] == "fail"] == ["127.0.0.1:9"]


def test_a_table_for_people_ends_with_the_verdict(app: typer.Typer, tmp_path: Path) -> None:
    """Without --json the rows are a table, and the last line counts what failed."""
    good = CliRunner().invoke(app, ["--draft-model", str(model_folder(tmp_path / "m"))])
    bad = CliRunner().invoke(app, ["--draft-model", str(tmp_path / "nowhere")])

    assert good.exit_code == 0
    assert good.stdout.rstrip().endswith("nothing failed")
    assert bad.exit_code == 3
    assert bad.stdout.rstrip().endswith("1 failed")
