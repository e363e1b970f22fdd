"""Who called, in metrics and log lines."""

import io
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
from prometheus_client import generate_latest

from paceline.cloud.config import AccessConfig, ServerConfig
from paceline.cloud.engine.table import TableEngine
from paceline.cloud.server import Server
from paceline.cloud.verifier import TargetInfo, Verifier
from paceline.common import logs
from paceline.common.errors import Unauthenticated
from paceline.common.hops.grpc import GrpcHop
from paceline.common.hops.security import Calling
from paceline.common.session.remote import RemoteError
from paceline.edge.client import Client
from paceline.edge.request import GenerationRequest

SECRET = "a secret that is long enough to be one"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What Paceline logs, as JSON."""
    stream, log = io.StringIO(), logging.getLogger("paceline")
    handler, level = logging.StreamHandler(stream), log.level
    handler.setFormatter(logs.formatter("json"))
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    yield stream
    log.removeHandler(handler)
    log.setLevel(level)


async def test_a_tenant_is_in_the_lines_of_its_texts_and_a_stranger_in_the_counts(
    tmp_path: Path, stream: io.StringIO
) -> None:
    """Lines about a text name the tenant that its token proved, and never the token; a stream without one is counted as
    refused, with the reason."""
    (tmp_path / "secret").write_text(SECRET)
    claims = {"sub": "acme", "aud": "paceline", "exp": int(time.time()) + 600}
    token = jwt.encode(claims, SECRET, algorithm="HS256")
    (tmp_path / "token").write_text(token)
    verifier = Verifier(TableEngine(64), TargetInfo("table", "test"))
    config = ServerConfig("127.0.0.1:0", access=AccessConfig(tmp_path / "secret"))
    server = Server(verifier, config)
    await server.start()
    try:
        calling = Calling(token_file=tmp_path / "token")
        async with Client(GrpcHop(server.address, calling=calling)) as client:
            await client.complete(GenerationRequest((1, 2, 3), 4, request_id="r-1"), "cloud")
            stranger = Client(GrpcHop(server.address))
            stranger.verifier = client.verifier
            with pytest.raises((RemoteError, Unauthenticated)):
                await stranger.complete(GenerationRequest((1, 2, 3), 4), "cloud")
            await stranger.close()
    finally:
        await server.stop(0)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    own = [one for one in lines if one.get("request_id") == "r-1"]

    assert own[0]["message"] == "session opened"
    assert {one.get("tenant") for one in own} == {"acme"}
    assert token not in stream.getvalue()
    counted = generate_latest(verifier.metrics.registry).decode()
    assert 'paceline_requests_refused_total{hop="cloud",reason="UNAUTHENTICATED",resource=""} 1.0' in counted
    assert 'paceline_request_success_total{finished_reason="length",hop="cloud"} 1.0' in counted
