"""What the files in deploy/ say, against the program and against each other."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from paceline.cli.main import app

UNITS = ("paceline-edge.service", "paceline-verifier.service")


def settings(unit: Path) -> dict[str, list[str]]:
    """A unit's settings; repeated ones in order."""
    text = unit.read_text().replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, is_setting, value = line.partition("=")
        if is_setting and not line.startswith(("#", "[")):
            found.setdefault(name, []).append(value)
    return found


def commands(deploy: Path) -> Iterator[tuple[str, list[str]]]:
    """Every `paceline` command line in deploy/, and where it stands."""
    for file in deploy.glob("docker/*.Dockerfile"):
        (line,) = re.findall(r"^CMD (\[.*\])$", file.read_text(), re.M)
        yield file.name, json.loads(line)
    for name, service in yaml.safe_load((deploy / "compose.yaml").read_text())["services"].items():
        if "build" in service:
            yield f"compose {name}", service["command"]
    for unit in UNITS:
        (line,) = settings(deploy / "systemd" / unit)["ExecStart"]
        yield unit, shlex.split(line)[1:]
    chart = (deploy / "helm/paceline/templates/deployment.yaml").read_text()
    yield "chart", ["cloud", "serve", *re.findall(r"- (--[a-z-]+)", chart)]


def unknown_options(command_line: list[str]) -> list[str]:
    """Options, or commands, that the program does not have."""
    command: Any = get_command(app)
    rest = list(command_line)
    while rest and not rest[0].startswith("-"):
        if rest[0] not in getattr(command, "commands", {}):
            return [rest[0]]
        command = command.commands[rest.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}
    given = [word.partition("=")[0] for word in rest if word.startswith("--")]
    return [option for option in given if option not in known]


def test_every_option_in_deploy_exists(deploy: Path) -> None:
    """Images, compose, units and chart start the program with options it has."""
    lines = dict(commands(deploy))
    unknown = {where: found for where, line in lines.items() if (found := unknown_options(line))}

    assert unknown == {}
    assert len(lines) == 7
    assert unknown_options(["cloud", "serve", "--drain", "3"]) == ["--drain"]


def test_nothing_is_killed_before_its_drain_is_over(deploy: Path) -> None:
    """Every supervisor waits longer than what it starts may drain."""
    service = yaml.safe_load((deploy / "compose.yaml").read_text())["services"]["verifier"]
    (drain_s,) = [float(one.partition("=")[2]) for one in service["command"] if one.startswith("--drain-s")]
    assert int(service["stop_grace_period"].removesuffix("s")) > drain_s

    unit = settings(deploy / "systemd/paceline-verifier.service")
    words = shlex.split(unit["ExecStart"][0])
    assert float(unit["TimeoutStopSec"][0]) > float(words[words.index("--drain-s") + 1])


def test_images_run_as_nobody_in_particular(deploy: Path) -> None:
    """Every image ends as a user without a name, says how it is doing, and stops by SIGTERM."""
    for file in deploy.glob("docker/*.Dockerfile"):
        text = file.read_text()
        user = re.findall(r"^USER (\d+):\d+$", text, re.M)
        assert user, file
        assert int(user[-1]) > 0
        assert "HEALTHCHECK" in text
        assert "STOPSIGNAL SIGTERM" in text
        assert text.rindex("\nUSER ") > text.rindex("\nCOPY ")


def test_an_image_is_sent_what_it_copies_and_nothing_else(deploy: Path, root: Path) -> None:
    """The list of what reaches a build is what its file copies."""
    for file in deploy.glob("docker/*.Dockerfile"):
        copied = {
            source
            for line in re.findall(r"^COPY (?!--from)(.*)$", file.read_text(), re.M)
            for source in line.split()[:-1]
        }
        sent = Path(f"{file}.dockerignore").read_text().splitlines()
        assert {line[1:] for line in sent if line.startswith("!")} == copied
        assert "*" in sent
        assert [name for name in copied if not (root / name).exists()] == []


def test_units_take_keys_as_credentials_and_give_up_rights(deploy: Path) -> None:
    """Every file of a key that a unit names is handed over by systemd; the process has no right of its own."""
    for name in UNITS:
        unit = settings(deploy / "systemd" / name)
        handed = {one.partition(":")[0] for one in unit["LoadCredential"]}
        assert set(re.findall(r"%d/([a-z-]+)", unit["ExecStart"][0])) == handed
        for setting, value in {
            "DynamicUser": "yes",
            "ProtectSystem": "strict",
            "NoNewPrivileges": "yes",
        }.items():
            assert unit[setting] == [value]
        assert unit["CapabilityBoundingSet"] == [""]


def test_every_alert_says_what_to_do(deploy: Path, root: Path) -> None:
    """Each alert's runbook is a heading of the operations guide, and each of those an alert."""
    rules = yaml.safe_load((deploy / "prometheus/alerts.yaml").read_text())["groups"][0]["rules"]
    guide = (root / "docs/operations.md").read_text()
    headings = set(re.findall(r"^### (Paceline\w+)$", guide, re.M))

    assert {rule["alert"] for rule in rules} == headings
    for rule in rules:
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"


def test_prometheus_scrapes_what_compose_runs(deploy: Path) -> None:
    """Every target is a service, at a port its command opens."""
    services = yaml.safe_load((deploy / "compose.yaml").read_text())["services"]
    jobs = yaml.safe_load((deploy / "prometheus/prometheus.yaml").read_text())["scrape_configs"]
    targets = [one for job in jobs for static in job["static_configs"] for one in static["targets"]]
    for host, port in (target.split(":") for target in targets):
        assert any(one.endswith((f"--metrics-port={port}", f":{port}")) for one in services[host]["command"])
    assert len(targets) == 2


@pytest.mark.parametrize("name", ["compose.yaml", "prometheus/alerts.yaml", "prometheus/alerts_test.yaml"])
def test_no_key_is_given_twice(deploy: Path, name: str) -> None:
    """YAML's readers keep the last of two equal keys in silence."""

    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep) for key, _ in node.value]
            assert len(keys) == len(set(keys)), f"{name}:{node.start_mark.line + 1}"
            return super().construct_mapping(node, deep)

    assert yaml.load((deploy / name).read_text(), Strict)


def test_the_dashboard_is_complete(deploy: Path) -> None:
    """Panels have names and numbers of their own, do not overlap, and all follow the two choices at the top."""
    board = json.loads((deploy / "grafana/paceline.json").read_text())
    panels = board["panels"]
    cells = [
        (x, y)
        for one in panels
        for place in [one["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert all(x < 24 for x, _ in cells)
    assert len({one["id"] for one in panels}) == len({one["title"] for one in panels}) == len(panels)
    for target in (target for one in panels for target in one.get("targets", ())):
        assert target["datasource"]["uid"] == "${datasource}"
        assert target["expr"].count('hop=~"$hop"') == target["expr"].count("{hop")
