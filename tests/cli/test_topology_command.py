"""`paceline topology` as a program: output, exit codes, one line on stderr."""

import json
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from paceline.cli.topology import app
from paceline.common.config import TopologyError, topology_schema

TOPOLOGIES = Path(__file__).parents[2] / "deploy" / "topologies"


def test_check_prints_the_hops_and_ok() -> None:
    """A sound file prints every hop with its role, and ok."""
    result = CliRunner().invoke(app, ["check", str(TOPOLOGIES / "edge-cloud.yaml")])

    assert result.exit_code == 0
    assert all(word in result.stdout for word in ("device", "drafter", "cloud", "verifier", "ok"))


def test_check_says_what_cannot_be_run() -> None:
    """A chain with relays checks, and the output says that this version does not run it."""
    result = CliRunner().invoke(app, ["check", str(TOPOLOGIES / "edge-metro-cloud.yaml")])

    assert result.exit_code == 0
    assert "this version runs chains of 2" in result.stdout


def test_check_json_is_one_object() -> None:
    """With --json, stdout is one object with the derived addresses."""
    result = CliRunner().invoke(app, ["check", "--json", str(TOPOLOGIES / "laptop.yaml")])

    report = json.loads(result.stdout)
    assert report["ok"] is True
    assert report["runnable"] is True
    assert [hop["role"] for hop in report["hops"]] == ["drafter", "verifier"]
    assert report["hops"][0]["upstream"] == "127.0.0.1:7443"


def test_schema_prints_the_schema() -> None:
    """`schema` prints what editors can use."""
    assert json.loads(CliRunner().invoke(app, ["schema"]).stdout) == topology_schema()


def test_an_error_leaves_the_command_as_ours(tmp_path: Path) -> None:
    """The command raises the error whose text `main` prints."""
    file = tmp_path / "chain.yaml"
    file.write_text("version: 1\nhop: []\n")

    result = CliRunner().invoke(app, ["check", str(file)])

    assert isinstance(result.exception, TopologyError)


def test_a_bad_file_is_one_line_on_stderr_and_exit_2(tmp_path: Path) -> None:
    """A bad file gives exit code 2, one line on stderr, nothing on stdout, no traceback."""
    file = tmp_path / "chain.yaml"
    file.write_text("version: 1\nhop: []\n")

    done = subprocess.run(
        [sys.executable, "-m", "paceline.cli.main", "topology", "check", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"error: {file}:2: hop: there is no such key (did you mean 'hops'?)\n"
