"""Serves an endpoint until it is told to stop."""

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from paceline.common.errors import InvalidRequest
from paceline.edge.serve.app import make_app
from paceline.edge.serve.endpoint import Endpoint

_CUT_S = 2.0
"""What is left of the requests after the drain has so long to end."""


class EndpointServer:
    """A listening endpoint.

    Args:
        endpoint: who answers; closed with the server.
        version: of this software.
        verifier: where the verifier is, in words.
    Raises:
        InvalidRequest: the address is malformed or taken, or gives the device away.
    """

    def __init__(self, endpoint: Endpoint, *, version: str, verifier: str = "") -> None:
        config = endpoint.config
        config.check()
        self._endpoint = endpoint
        self._socket = _listen(config.listen)
        self._server = _Uvicorn(
            uvicorn.Config(
                make_app(endpoint, version=version, verifier=verifier),
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=round(_CUT_S),
                h11_max_incomplete_event_size=64 << 10,
            )
        )

    @property
    def url(self) -> str:
        """What an OpenAI client is given as its base URL."""
        host, _, _ = self._endpoint.config.listen.rpartition(":")
        return f"http://{host}:{self._socket.getsockname()[1]}/v1"

    async def serve(self, on_ready: Callable[[str], None] = lambda _: None) -> None:
        """Serve until `stop` is called.

        Args:
            on_ready: called with the URL.
        """
        self._server.on_ready = lambda: on_ready(self.url)
        await self._server.serve(sockets=[self._socket])

    async def stop(self, drain_s: float | None = None) -> None:
        """Refuse new requests, let those under way end for up to `drain_s` seconds, then stop."""
        self._endpoint.is_draining = True
        drain_s = self._endpoint.config.drain_s if drain_s is None else drain_s
        ends_s = asyncio.get_running_loop().time() + drain_s
        while self._endpoint.num_requests and asyncio.get_running_loop().time() < ends_s:  # noqa: ASYNC110 - requests end one by one
            await asyncio.sleep(0.02)
        self._server.should_exit = True

    def stop_at_once(self) -> None:
        """Do not wait for anybody."""
        self._server.should_exit = self._server.force_exit = True


class _Uvicorn(uvicorn.Server):
    """Leaves signals to whoever runs it, and says when it listens."""

    on_ready: Callable[[], None] = staticmethod(lambda: None)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self.on_ready()


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), int(port)), family=family, backlog=2048)
    except OSError as error:
        raise InvalidRequest(
            f"cannot listen on {address}: {str(error.strerror).partition(' (')[0]}",
            field="listen",
            cure="choose another port, or port 0 for a free one",
        ) from None


async def serve_until_signal(server: EndpointServer, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; a second signal ends at once."""
    loop = asyncio.get_running_loop()
    stopping: list[asyncio.Task[Any]] = []

    def on_signal() -> None:
        if stopping:
            server.stop_at_once()
        else:
            stopping.append(asyncio.create_task(server.stop()))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    await server.serve(on_ready)
    for task in stopping:
        task.cancel()
