"""A real gRPC server on loopback with a table target, in the test's own process and event loop."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.wire.keys import SECRET, Keys

from paceline.cli.authority import Authority
from paceline.cloud.config import ServerConfig, VerifierConfig
from paceline.cloud.engine.table import TableEngine
from paceline.cloud.server import Server
from paceline.cloud.verifier import TargetInfo, Verifier
from paceline.common.hops.base import Hop
from paceline.common.hops.grpc import GrpcHop
from paceline.common.hops.inproc import InProcessHop
from paceline.common.sampling.history import History
from paceline.common.sampling.law import greedy_token, target_law
from paceline.common.sampling.noise import gumbel_pick
from paceline.edge.client import Client
from paceline.edge.drafters.ngram import NgramDrafter
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.request import GenerationRequest
from paceline.relay.relay import Relay

VOCAB = 64
FINGERPRINT = b"table tokenizer."


def agreeing(agreement: float = 0.8, vocab_size: int = VOCAB) -> TableDrafter:
    """A drafter of that agreement with the served target."""
    return TableDrafter(vocab_size, target_seed=0, agreement=agreement, scale=2.0)


DRAFTERS: dict[str, Callable[[], Any]] = {"table": agreeing, "ngram": lambda: NgramDrafter(min_ngram=1)}


@dataclass
class Served:
    """A running server."""

    server: Server
    engine: TableEngine

    @property
    def address(self) -> str:
        """Where it listens."""
        return self.server.address

    @property
    def verifier(self) -> Verifier:
        """Who answers."""
        return self.server.verifier

    def client(self, drafter: Any = None, hop: str = "grpc") -> Client:
        """A client with an agreeing drafter, over gRPC or in process."""
        link = GrpcHop(self.address) if hop == "grpc" else InProcessHop(self.verifier)
        return Client(link, agreeing(vocab_size=self.engine.vocab_size) if drafter is None else drafter)

    def text(self, request: GenerationRequest) -> list[int]:
        """What the target writes alone, by a loop that knows nothing of sessions."""
        params, text, generated = request.sampling, list(request.prompt_token_ids), []
        history = History(text)
        while len(generated) < request.max_new_tokens:
            logits = self.engine.logits_after(text)
            if params.is_greedy:
                token_id = greedy_token(logits, params, history)
            else:
                token_id = gumbel_pick(target_law(logits, params, history), request.seed, len(text))
            text.append(token_id)
            history.push(token_id)
            generated.append(token_id)
            if token_id in request.stop_token_ids:
                break
        return generated


Serve = Callable[..., AbstractAsyncContextManager[Served]]


@asynccontextmanager
async def served(
    engine: Any = None,
    config: VerifierConfig | None = None,
    info: TargetInfo | None = None,
    listening: ServerConfig | None = None,
) -> AsyncIterator[Served]:
    """Serve a table target, or whatever engine is given, on a free loopback port."""
    engine = engine or TableEngine(VOCAB, spread=2.0, max_context=1024)
    info = info or TargetInfo("table", "test", tokenizer_fingerprint=FINGERPRINT)
    server = Server(Verifier(engine, info, config), listening or ServerConfig("127.0.0.1:0"))
    await server.start()
    try:
        yield Served(server, engine)
    finally:
        await server.stop(0)


@asynccontextmanager
async def relayed(
    served: Served, engines: Sequence[TableEngine], hop: str = "grpc"
) -> AsyncIterator[tuple[list[Relay], Hop]]:
    """Relays with these engines in front of a server, the last one next to it, and the way to the first."""
    above: Hop = GrpcHop(served.address) if hop == "grpc" else InProcessHop(served.verifier)
    relays: list[Relay] = []
    async with AsyncExitStack() as stack:
        for index, engine in reversed(list(enumerate(engines))):
            info = TargetInfo(f"table {index}", "test", tokenizer_fingerprint=FINGERPRINT)
            relay = Relay(Verifier(engine, info), above, name=f"relay-{index}")
            server = Server(relay, ServerConfig("127.0.0.1:0"))
            await server.start()
            stack.push_async_callback(server.stop, 0)
            await relay.connected()  # who asks it before is told that nobody is there
            above = GrpcHop(server.address) if hop == "grpc" else InProcessHop(relay)
            relays.insert(0, relay)
        yield relays, above


@pytest.fixture
def relay() -> Any:
    """Puts relays in front of a server."""
    return relayed


@pytest.fixture
def serve() -> Serve:
    """Starts servers."""
    return served


@pytest.fixture
def drafters() -> dict[str, Callable[[], Any]]:
    """Makers of drafters, by name."""
    return DRAFTERS


@pytest.fixture
def fingerprint() -> bytes:
    """The served target's tokenizer fingerprint."""
    return FINGERPRINT


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """A CA, and a verifier's certificate for loopback."""
    keys = Keys(tmp_path, Authority.create())
    keys.authority.save(tmp_path)
    keys.pair("server", hosts=["127.0.0.1"], tenant="relay")
    (tmp_path / "secret").write_bytes(SECRET)
    return keys
