"""A verifier process: gRPC server with health and reflection, graceful on SIGTERM."""

import asyncio
import logging
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from paceline.cloud.config import ServerConfig
from paceline.cloud.guard import Guard
from paceline.cloud.identity import Authenticator
from paceline.cloud.metrics import VerifierMetrics
from paceline.cloud.service import IN_BAND, SERVICE_NAME, VerifierService
from paceline.common.errors import InvalidRequest
from paceline.common.hops.base import Verifying
from paceline.common.hops.grpc import check_address, keepalive_options
from paceline.common.hops.security import SERVING_NAMES, Pair

log = logging.getLogger(__name__)

# Every name is checked against the installed binary by a test: grpc ignores misspelt options in silence.
SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.http2.min_ping_interval_without_data_ms", 500),  # clients choose how soon they notice
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 65_536),
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.max_send_message_length", 1 << 20),
    ("grpc.absolute_max_metadata_size", 16_384),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.so_reuseport", 0),  # two verifiers must not share a port by mistake
)
_LOOK_S = 0.05
AGE_OPTION, GRACE_OPTION = "grpc.max_connection_age_ms", "grpc.max_connection_age_grace_ms"


class Serving(Verifying, Protocol):
    """What a server runs: a verifier, or a relay."""

    metrics: VerifierMetrics
    """Counts who is not let in, besides what it does itself."""

    @property
    def num_sessions(self) -> int:
        """Live texts."""

    @property
    def num_streams(self) -> int:
        """Streams that have, or had, a text."""

    @property
    def is_stuck(self) -> bool:
        """Whether the engine does not come back."""

    def start(self) -> None:
        """Start serving, on the running event loop."""

    def drain(self, grace_s: float) -> None:
        """Refuse new texts and tell the live ones that this server is going away."""

    async def close(self) -> None:
        """End every text."""


class Server:
    """A listening verifier.

    Args:
        verifier: who answers; started and stopped with the server.
        config: where to listen and how to stop.
    """

    def __init__(self, verifier: Serving, config: ServerConfig) -> None:
        self.verifier = verifier
        self.config = config
        self.address = ""
        self._server: grpc.aio.Server | None = None
        self._ended: list[Any] = []
        """gRPC servers that accept no more; their streams may still be under way."""
        self._keeping: asyncio.Task[None] | None = None
        self._health = health.aio.HealthServicer()

    async def start(self) -> None:
        """Bind and serve.

        Raises:
            InvalidRequest: the address is malformed or taken, a file is unusable, or other machines could reach what
                only this one should.
        """
        check_address(self.config.listen, "listen")
        self.config.check()
        refused = partial(self.verifier.metrics.failed, is_open=False)
        self._guard = Guard(Authenticator(self.config), IN_BAND, refused)
        self._credentials = _credentials(self.config)
        port = self._bind(self.config.listen)
        host, _, _ = self.config.listen.rpartition(":")
        self.verifier.start()
        await self._serve()
        await self._say(is_well=True)
        self.address = f"{host}:{port}"
        self._keeping = asyncio.create_task(self._keep_serving())

    def _bind(self, address: str) -> int:
        """A new gRPC server at this address; its port."""
        self._server = grpc.aio.server(interceptors=(self._guard,), options=_options(self.config))
        by_name = _ByName(self._server)
        VerifierService(self.verifier).add_to(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, by_name)
        if self.config.reflection:
            names = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
            about = reflection.aio.ReflectionServicer(names)
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(about, by_name)
        try:
            if self._credentials is None:
                return int(self._server.add_insecure_port(address))
            return int(self._server.add_secure_port(address, self._credentials))
        except RuntimeError:
            raise InvalidRequest(
                f"cannot listen on {address}: the port is in use or not yours",
                field="listen",
                cure="choose another port, or port 0 for a free one",
            ) from None

    async def _serve(self) -> None:
        assert self._server is not None, "it is bound first"
        await self._server.start()

    async def _keep_serving(self) -> None:
        """Listen again where gRPC has stopped to by itself: a request whose path is no text ends grpc.aio's accept loop
        (grpcio 1.85.1). Streams under way go on where they are; the server that has them is kept until the end."""
        is_well = True
        while True:
            await asyncio.sleep(_LOOK_S)
            if self.verifier.is_stuck == is_well:
                is_well = not is_well
                await self._say(is_well=is_well)
            if self._is_accepting():
                continue
            log.error("gRPC has stopped accepting on %s by itself; listening again", self.address)
            self._ended.append(self._server)
            try:
                self._bind(self.address)
            except InvalidRequest:  # the old one has not let go of the port yet
                self._server = self._ended.pop()
                continue
            await self._serve()

    async def _say(self, *, is_well: bool) -> None:
        """To whoever asks for its health."""
        if not is_well:
            log.error("the engine does not come back from a step")
        status = health_pb2.HealthCheckResponse
        for name in (SERVICE_NAME, ""):
            await self._health.set(name, status.SERVING if is_well else status.NOT_SERVING)

    def _is_accepting(self) -> bool:
        assert self._server is not None, "it is bound first"
        return bool(self._server._server.is_running())  # grpc.aio itself has no such question

    async def stop(self, drain_s: float | None = None) -> None:
        """Tell clients, wait for live generations up to `drain_s` seconds, then end."""
        grace_s = self.config.drain_s if drain_s is None else drain_s
        assert self._server is not None, "stop follows start"
        assert self._keeping is not None, "stop follows start"
        self._keeping.cancel()
        await self._health.enter_graceful_shutdown()
        self.verifier.drain(grace_s)
        await self._wait_until_idle(grace_s)
        for server in (*self._ended, self._server):
            with suppress(UnicodeDecodeError):  # what ended it is raised once more
                await server.stop(0)
        await self.verifier.close()

    async def _wait_until_idle(self, grace_s: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_s
        while (self.verifier.num_sessions or self.verifier.num_streams) and loop.time() < deadline:  # noqa: ASYNC110  # they end in another thread
            await asyncio.sleep(0.02)


class _ByName:
    """Adds handlers that are found by name alone, none registered with the core: where the accept loop of grpc.aio
    1.85.1 ends by itself it frees what the core still writes into, one call per registered method (decision 0019)."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """Not passed on."""


def _options(config: ServerConfig) -> tuple[tuple[str, int], ...]:
    return (*SERVER_OPTIONS, *keepalive_options(config.peer_timeout_s), *_ages(config))


def _ages(config: ServerConfig) -> tuple[tuple[str, int], ...]:
    """Only links that prove something are made to prove it again."""
    if config.tls.cert is None:
        return ()
    return (
        (AGE_OPTION, round(1000 * config.max_connection_age_s)),
        (GRACE_OPTION, round(1000 * config.connection_grace_s)),
    )


def _credentials(config: ServerConfig) -> Any:
    """What a port speaks TLS with, renewed when its files change; None for a plain one."""
    if config.tls.cert is None:
        return None
    files = config.tls.watch(SERVING_NAMES)

    def renewed() -> Any:
        return _certificate(files.value) if files.refresh() else None

    return grpc.dynamic_ssl_server_credentials(
        _certificate(files.value), renewed, require_client_authentication=config.tls.authorities is not None
    )


def _certificate(pair: Pair) -> Any:
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.certificate)], pair.authorities)


async def serve_until_signal(server: Server, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; a second signal ends at once.

    Args:
        on_ready: called with the bound address.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await server.start()
    on_ready(server.address)
    await stopping.wait()
    impatient = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, impatient.set)
    stop = asyncio.create_task(server.stop())
    hurry = asyncio.create_task(impatient.wait())
    await asyncio.wait({stop, hurry}, return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if not stop.done():
        stop.cancel()
        await server.stop(0)  # a server left alone keeps its process from ending
