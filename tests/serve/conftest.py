"""An endpoint on a real port over a table target, in a thread of its own; callers are whatever a test likes."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from paceline.cloud.config import ServerConfig, VerifierConfig
from paceline.cloud.engine.table import TableEngine
from paceline.cloud.server import Server
from paceline.cloud.verifier import TargetInfo, Verifier
from paceline.common.hops.grpc import GrpcHop
from paceline.common.hops.inproc import InProcessHop
from paceline.common.sampling.history import History
from paceline.common.sampling.law import greedy_token, target_law
from paceline.common.sampling.noise import gumbel_pick
from paceline.common.tokenizer import Tokenizer
from paceline.common.tokens import SamplingParams
from paceline.edge.client import Client
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.serve.chat_template import find_chat_template
from paceline.edge.serve.config import ServeConfig
from paceline.edge.serve.endpoint import Endpoint
from paceline.edge.serve.server import EndpointServer

VOCAB = 2048
"""Of the shipped tokenizer."""
END = 0
PATIENCE_S = 20.0


@dataclass
class Running:
    """An endpoint, and everything behind it."""

    url: str
    endpoint: Endpoint
    verifier: Verifier
    engine: TableEngine
    tokenizer: Tokenizer
    loop: asyncio.AbstractEventLoop
    server: EndpointServer

    def openai(self, **options: Any) -> openai.OpenAI:
        """The official client, which tries once."""
        return openai.OpenAI(base_url=self.url, **{"api_key": "none", "max_retries": 0} | options)

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        """One plain request: status, headers, body (as JSON where it is)."""
        link = HTTPConnection(urlsplit(self.url).netloc, timeout=PATIENCE_S)
        sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        given = {"Content-Type": "application/json"} if body is not None else {}
        link.request(method, path, sent, given | (headers or {}))
        reply = link.getresponse()
        data = reply.read()
        link.close()
        found = {name.lower(): value for name, value in reply.getheaders()}
        is_json = found.get("content-type", "").startswith("application/json")
        return reply.status, found, json.loads(data) if is_json else data.decode()

    def alone(
        self, prompt: str, max_new_tokens: int, temperature: float = 0.0, seed: int = 0, **more: Any
    ) -> str:
        """What the target writes alone, by a loop that knows nothing of sessions."""
        params = SamplingParams(temperature, **more)
        text = list(self.tokenizer.encode(prompt, as_is=True))
        start, history = len(text), History(text)
        while len(text) < start + max_new_tokens and text[-1] != END:
            logits = self.engine.logits_after(text)
            if params.is_greedy:
                token_id = greedy_token(logits, params, history)
            else:
                token_id = gumbel_pick(target_law(logits, params, history), seed, len(text))
            text.append(token_id)
            history.push(token_id)
        return self.tokenizer.decode(text[start:])

    def settled(self) -> None:
        """Wait until nothing is under way, on either side."""
        deadline = time.monotonic() + PATIENCE_S
        while self.verifier.num_sessions or self.endpoint.num_requests:
            assert time.monotonic() < deadline, "something is left"
            time.sleep(0.01)


Serve = Callable[..., AbstractContextManager[Running]]


@contextmanager
def serving(
    models: Path,
    *,
    step_s: float = 0.0,
    verifier: VerifierConfig | None = None,
    over_grpc: bool = False,
    **config: Any,
) -> Iterator[Running]:
    """An endpoint on a free port, stopped at the end; its verifier is in this process, or behind a port of its own."""
    engine = TableEngine(VOCAB, spread=2.0, step_s=step_s)
    tokenizer = Tokenizer(models / "base")
    info = TargetInfo("table", "test", (END,), tokenizer.fingerprint)
    target = Verifier(engine, info, verifier or VerifierConfig(max_sessions=64))
    started: list[Running] = []
    ready = threading.Event()

    async def run() -> None:
        listening = Server(target, ServerConfig("127.0.0.1:0"))
        if over_grpc:
            await listening.start()
        else:
            target.start()
        template = find_chat_template(models / "base")
        settings = ServeConfig(**{"listen": "127.0.0.1:0"} | config)
        settings = replace(settings, template=replace(settings.template, reconnect_s=1.0))
        hop = GrpcHop(listening.address) if over_grpc else InProcessHop(target)
        client = Client(
            None if settings.is_local_only else hop,
            TableDrafter(VOCAB, agreement=0.8, scale=2.0),
            eos_token_ids=(END,),
        )
        endpoint = Endpoint(client, tokenizer, template, settings, draft_name="pico")
        server = EndpointServer(endpoint, version="test", verifier="this process")
        loop = asyncio.get_running_loop()
        running = Running(server.url, endpoint, target, engine, tokenizer, loop, server)
        started.append(running)
        await server.serve(lambda _: ready.set())
        if over_grpc:
            await listening.stop(0)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        assert ready.wait(PATIENCE_S)
        yield started[0]
    finally:
        if started:
            asyncio.run_coroutine_threadsafe(started[0].server.stop(0), started[0].loop)
        thread.join(PATIENCE_S)
        target.stop()
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def serve(models: Path) -> Serve:
    """Starts endpoints."""

    @contextmanager
    def start(**config: Any) -> Iterator[Running]:
        with serving(models, **config) as running:
            yield running

    return start


@pytest.fixture(scope="session")
def endpoint(serve: Serve) -> Iterator[Running]:
    """One that tests of replies share."""
    with serve() as running:
        yield running
        running.settled()


@pytest.fixture
def client(endpoint: Running) -> Iterator[openai.OpenAI]:
    """The official client."""
    with endpoint.openai() as client:
        yield client
