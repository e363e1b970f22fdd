"""A verifier across the network. The one place on the edge where grpc's exceptions become ours."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from paceline.common.codec import decode_description, decode_response, describe_request, encode_request
from paceline.common.errors import BadReply, Incompatible, InvalidRequest, PacelineError, Status, Unreachable
from paceline.common.hops.base import Stream, Traffic
from paceline.common.messages import ClientMessage, Description, ServerMessage
from paceline.v1.verifier_pb2_grpc import VerifierServiceStub

# Every name is checked against the installed binary by a test: grpc ignores misspelt options in silence.
CLIENT_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.enable_retries", 0),  # the core would replay draft blocks on its own
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    (
        "grpc.http2.ping_timeout_ms",
        5_000,
    ),  # without it a frozen peer is noticed after 60 s, whatever keepalive says
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.bdp_probe", 0),  # back-pressure is the protocol's credit window; this caps silent buffering
    ("grpc.http2.lookahead_bytes", 65_536),
    ("grpc.max_send_message_length", 4 << 20),
    ("grpc.max_receive_message_length", 1 << 20),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)
CONNECT_TIMEOUT_S = 5.0


class GrpcHop:
    """A channel to one verifier.

    Args:
        address: `HOST:PORT`.
        connect_timeout_s: how long `describe` waits for the verifier to answer.
    """

    def __init__(self, address: str, *, connect_timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        check_address(address, "verifier")
        self.address = address
        self._connect_timeout_s = connect_timeout_s
        self._channel: grpc.aio.Channel | None = None

    @property
    def _stub(self) -> Any:
        """Made on first use: a channel belongs to the event loop it is made on."""
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(self.address, options=CLIENT_OPTIONS)
        return VerifierServiceStub(self._channel)  # type: ignore[no-untyped-call]  # generated

    async def describe(self) -> Description:
        """What the verifier serves; waits up to `connect_timeout_s` for it to come up."""
        try:
            reply = await self._stub.Describe(
                describe_request(), timeout=self._connect_timeout_s, wait_for_ready=True
            )
        except grpc.aio.AioRpcError as error:
            raise self._translate(error) from None
        _require_readable(reply)
        return decode_description(reply)

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Stream]:
        """A new stream; leaving the context cancels it if it is still open."""
        call = self._stub.Decode()
        try:
            yield _GrpcStream(call, self._translate)
        finally:
            call.cancel()

    async def close(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    def _translate(self, error: grpc.aio.AioRpcError) -> PacelineError:
        code, details = error.code(), error.details() or ""
        # What grpc.aio says when the link breaks under a message that is being written.
        broke = code is grpc.StatusCode.INTERNAL and details == "Internal error from Core"
        # This side never cancels a call and then reads it: a cancelled one is that of a server that was stopped.
        gone = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
        if broke or code in gone:
            return Unreachable(
                f"no verifier answers at {self.address}",
                field="verifier",
                cure="start one with `paceline cloud serve`, or check the address",
            )
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return Incompatible(f"the server at {self.address} is not a Paceline verifier", field="verifier")
        translated = PacelineError(details or code.name, field="verifier")
        translated.status = Status(code.name) if code.name in Status.__members__ else Status.INTERNAL
        return translated


class _GrpcStream:
    def __init__(self, call: Any, translate: Any) -> None:
        self.traffic = Traffic()
        self._call = call
        self._writing = asyncio.Lock()
        """The core takes one message at a time, and fails the whole call over a second one."""
        self._translate = translate

    async def send(self, message: ClientMessage) -> None:
        request = encode_request(message)
        self.traffic.bytes_up += request.ByteSize()
        try:
            async with self._writing:
                await self._call.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # The stream has ended. Why is said by what is still to be received: in-band error first, status second.
            return

    async def receive(self) -> ServerMessage | None:
        try:
            reply = await self._call.read()
            if reply is grpc.aio.EOF:
                await self._raise_for_status()
                return None
        except grpc.aio.AioRpcError as error:
            raise self._translate(error) from None
        _require_readable(reply)
        self.traffic.bytes_down += reply.ByteSize()
        return decode_response(reply)

    async def _raise_for_status(self) -> None:
        code = await self._call.code()
        if code is not grpc.StatusCode.OK:
            raise grpc.aio.AioRpcError(
                code, grpc.aio.Metadata(), grpc.aio.Metadata(), await self._call.details()
            )


def _require_readable(reply: Any) -> None:
    if reply is None:  # grpc logs what it cannot parse and hands over nothing
        raise BadReply("the verifier's message cannot be read", field="message", cure="report this verifier")


def check_address(address: str, field: str) -> None:
    """Refuse what is not `HOST:PORT`.

    Raises:
        InvalidRequest: naming the field and the cure.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise InvalidRequest(f"{address!r} is not HOST:PORT", field=field, cure="for example 127.0.0.1:7443")


__all__ = ["CLIENT_OPTIONS", "CONNECT_TIMEOUT_S", "GrpcHop", "check_address"]
