"""`paceline topology` as a program: output, exit codes, one line on stderr."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from paceline.cli.topology import app
from paceline.common.config import TopologyError, topology_schema

TOPOLOGIES = Path(__file__).parents[2] / "deploy" / "topologies"


def test_check_prints_the_hops_and_ok() -> None:
    """A sound file prints every hop with its role, and ok."""
    result = CliRunner().invoke(app, ["check", str(TOPOLOGIES / "edge-cloud.yaml")])

    assert result.exit_code == 0
    assert all(word in result.stdout for word in ("device", "drafter", "cloud", "verifier", "ok"))


def test_check_shows_the_way_past_an_optional_hop() -> None:
    """A relay the chain can do without is marked, and the hop below shows where else it may go."""
    result = CliRunner().invoke(app, ["check", str(TOPOLOGIES / "edge-metro-cloud.yaml")])

    assert result.exit_code == 0
    assert all(word in result.stdout for word in ("relay", "(optional)", "or cloud.example:7443"))
    assert "note" not in result.stdout


def test_check_json_is_one_object() -> None:
    """With --json, stdout is one object with the derived addresses."""
    result = CliRunner().invoke(app, ["check", "--json", str(TOPOLOGIES / "laptop.yaml")])

    report = json.loads(result.stdout)
    assert report["ok"] is True
    assert [hop["role"] for hop in report["hops"]] == ["drafter", "relay", "verifier"]
    assert report["hops"][0]["upstream"] == "127.0.0.1:7444"
    assert report["hops"][0]["upstreams"] == ["127.0.0.1:7444", "127.0.0.1:7443"]


SECRETS = {
    "WHO": "waldorf",
    "PORT": "61234",
    "MODEL": "secret/model",
    "CLOUD": "hidden.example:9876",
    "KIND": "ngram",
}
FROM_ENVIRONMENT = """\
version: 1
hops:
  - {name: phone, upstream: "${CLOUD}", drafter: {kind: "${KIND}"}}
  - {name: "${WHO}", listen: "0.0.0.0:${PORT}", insecure: true, target: {model: "${MODEL}"}}
  - {name: last, listen: "0.0.0.0:1${NOTHING:-234}", insecure: true, target: {model: "models/base"}}
"""


@pytest.mark.parametrize(
    "command",
    [
        ("check",),
        ("check", "--json"),
        ("graph",),
        ("graph", "--format", "mermaid"),
        ("graph", "--format", "dot"),
    ],
    ids=" ".join,
)
def test_what_comes_from_the_environment_is_not_shown(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every picture of a chain a reference stands for its value."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "chain.yaml"
    file.write_text(FROM_ENVIRONMENT)
    result = CliRunner().invoke(app, [*command, str(file)])

    assert result.exit_code == 0, result.output
    assert not [value for value in SECRETS.values() if value in result.output]
    assert "${WHO}" in result.output
    assert "${MODEL}" in result.output


def test_a_graph_has_every_hop_and_every_way() -> None:
    """Three hops, two links, and a dashed way past the middle one, in both languages."""
    file = str(TOPOLOGIES / "edge-metro-cloud.yaml")
    mermaid = CliRunner().invoke(app, ["graph", "--format", "mermaid", file]).stdout.splitlines()
    dot = CliRunner().invoke(app, ["graph", "--format", "dot", file]).stdout
    boxes = CliRunner().invoke(app, ["graph", file]).stdout

    assert mermaid[0] == "flowchart LR"
    assert [line.split("[")[0].strip() for line in mermaid[1:4]] == ["h0", "h1", "h2"]
    assert mermaid[4:] == ["    h0 -->|5 ms| h1", "    h0 -.-> h2", "    h1 -->|100 ms| h2"]
    assert dot.startswith("digraph chain {")
    assert dot.count("->") == 3
    assert dot.count("style=dashed") == 2
    assert [boxes.index(name) for name in ("phone", "metro", "cloud")] == sorted(
        boxes.index(name) for name in ("phone", "metro", "cloud")
    )


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
