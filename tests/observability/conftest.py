"""A chain of three hops over real gRPC in one process: edge, relay `metro`, verifier `cloud`."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from paceline.cloud.config import ServerConfig, VerifierConfig
from paceline.cloud.engine.table import TableEngine
from paceline.cloud.server import Server
from paceline.cloud.verifier import TargetInfo, Verifier
from paceline.common.hops.grpc import GrpcHop
from paceline.edge.client import Client
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.metrics import EdgeMetrics
from paceline.relay.relay import Relay

ROOT = Path(__file__).resolve().parents[2]
VOCAB = 64


@dataclass
class Chain:
    """What runs, and what each hop counts."""

    client: Client
    relay: Relay
    verifier: Verifier
    edge_metrics: EdgeMetrics

    @property
    def registries(self) -> list[Any]:
        """Of all three hops."""
        return [
            self.edge_metrics.registry,
            self.relay.verifier.metrics.registry,
            self.verifier.metrics.registry,
        ]


def _verifier(hop: str, max_sessions: int = 8, **engine: Any) -> Verifier:
    config = VerifierConfig(hop_name=hop, max_sessions=max_sessions)
    return Verifier(TableEngine(VOCAB, spread=2.0, **engine), TargetInfo(hop, "test"), config)


@asynccontextmanager
async def _chain(max_sessions: int = 8) -> AsyncIterator[Chain]:
    async with AsyncExitStack() as stack:

        async def serve(verifier: Any) -> str:
            server = Server(verifier, ServerConfig("127.0.0.1:0"))
            await server.start()
            stack.push_async_callback(server.stop, 0)
            return server.address

        cloud = _verifier("cloud", max_sessions)
        metro = _verifier("metro", seed=1, resembles=0, agreement=0.8)
        above = EdgeMetrics("metro", metro.metrics.registry)
        relay = Relay(metro, GrpcHop(await serve(cloud)), name="metro", above=above)
        address = await serve(relay)
        await relay.connected()
        metrics = EdgeMetrics("edge")
        drafter = TableDrafter(VOCAB, target_seed=0, agreement=0.8, scale=2.0)
        client = await stack.enter_async_context(Client(GrpcHop(address), drafter, metrics=metrics))
        yield Chain(client, relay, cloud, metrics)


@pytest.fixture
def chain() -> Callable[..., Any]:
    """Starts chains."""
    return _chain


@pytest.fixture(scope="session")
def root() -> Path:
    """Of the repository."""
    return ROOT
