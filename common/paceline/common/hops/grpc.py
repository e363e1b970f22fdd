"""A verifier across the network. Only here and in `diagnosis` do grpc's exceptions become ours."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc
import grpc.aio

from paceline.common.codec import RequestWriter, decode_description, describe_request, parse_response
from paceline.common.errors import BadReply, InvalidRequest, PacelineError, Status, Unreachable
from paceline.common.hops.base import Stream, Traffic, stream_headers
from paceline.common.hops.diagnosis import may_pass, translate
from paceline.common.hops.links import Links
from paceline.common.hops.security import Calling
from paceline.common.messages import ClientMessage, Description, ErrorMessage, ServerMessage
from paceline.v1 import verifier_pb2 as pb
from paceline.v1.verifier_pb2_grpc import VerifierServiceStub

# Every name is checked against the installed binary by a test: grpc ignores misspelt options in silence.
CLIENT_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.enable_retries", 0),  # the core would replay draft blocks on its own
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
_DECODE = f"/{pb.DESCRIPTOR.services_by_name['VerifierService'].full_name}/Decode"
PEER_TIMEOUT_S = 10.0
"""How long a peer that has died or frozen without a word may go unnoticed while a stream is open."""
PEER_TIMEOUT_RANGE_S = (2.0, 3600.0)
"""What it may be set to: verifiers take a client that pings more than twice a second for a nuisance."""


def check_peer_timeout(peer_timeout_s: float) -> None:
    """Refuse what keepalive cannot do.

    Raises:
        InvalidRequest: naming the range.
    """
    least, most = PEER_TIMEOUT_RANGE_S
    if not least <= peer_timeout_s <= most:
        raise InvalidRequest(
            f"{peer_timeout_s:g} is not in {least:g}..{most:g}", field="peer_timeout_s", cure="for example 10"
        )


def keepalive_options(peer_timeout_s: float) -> tuple[tuple[str, int], ...]:
    """For either end. Half of the time the other may say nothing, half it has to answer a ping: a pause of less than
    half passes for what it is."""
    half_ms = round(500 * peer_timeout_s)
    return (
        ("grpc.keepalive_time_ms", half_ms),
        ("grpc.keepalive_timeout_ms", half_ms),
        # Without it a frozen peer is noticed after 60 s, whatever keepalive says.
        ("grpc.http2.ping_timeout_ms", half_ms),
    )


class GrpcHop:
    """A link to one verifier.

    Args:
        address: `HOST:PORT`.
        calling: certificates and token; without, a plain link.
        connect_timeout_s: how long `describe` waits for the verifier to answer.
        peer_timeout_s: how long a verifier that has frozen goes unnoticed at most.
    Raises:
        InvalidRequest: the address is malformed, the time out of range, or a file is unusable.
    """

    def __init__(
        self,
        address: str,
        *,
        calling: Calling | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        peer_timeout_s: float = PEER_TIMEOUT_S,
    ) -> None:
        check_address(address, "verifier")
        check_peer_timeout(peer_timeout_s)
        calling = calling or Calling()
        calling.check(address)
        self.address = address
        self._connect_timeout_s = connect_timeout_s
        self._silence_s = peer_timeout_s / 2
        self._is_encrypted = calling.is_encrypted
        self._token = calling.watch_token()
        self._links = Links(address, calling, (*CLIENT_OPTIONS, *keepalive_options(peer_timeout_s)))

    async def describe(self) -> Description:
        """What the verifier serves; waits up to `connect_timeout_s` for it to come up."""
        async with self._links.use() as channel:
            reply = await self._describe(_stub(channel).Describe, self._metadata())
        _require_readable(reply)
        return decode_description(reply)

    async def _describe(self, ask: Any, metadata: "_Metadata") -> Any:
        """First without patience: only a call that does not wait says what is wrong with certificates."""
        request, timeout_s = describe_request(), self._connect_timeout_s
        try:
            return await ask(request, timeout=timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            fault = self._translate(error)
            is_late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            if is_late or not may_pass(fault):
                raise fault from None
        try:
            return await ask(request, timeout=timeout_s, metadata=metadata, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            later = self._translate(error)
            raise (fault if type(later) is Unreachable else later) from None

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Stream]:
        """A new stream; leaving the context cancels it if it is still open."""
        async with self._links.use() as channel:
            metadata = self._metadata()
            call = channel.stream_stream(_DECODE)(metadata=(*metadata, *stream_headers.get()))
            ask = partial(self._require_life, channel)
            stream = _GrpcStream(
                call, self._translate, lambda: self._metadata() != metadata, self._silence_s, ask
            )
            try:
                yield stream
            finally:
                await stream.end()

    async def _require_life(self, channel: grpc.aio.Channel) -> None:
        """The core of a process answers pings whatever has become of the rest: only a call shows whether that lives."""
        ask, request, timeout_s = _stub(channel).Describe, describe_request(), self._silence_s
        try:
            await ask(request, timeout=timeout_s, metadata=self._metadata())
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE):
                raise self._translate(error) from None

    async def close(self) -> None:
        """Close the link."""
        await self._links.close()

    def _metadata(self) -> "_Metadata":
        """What shows who calls, as it is now."""
        if self._token is None:
            return ()
        self._token.refresh()
        return (("authorization", f"Bearer {self._token.value}"),)

    def _translate(self, error: grpc.aio.AioRpcError) -> PacelineError:
        return translate(error, self.address, is_encrypted=self._is_encrypted)


_Metadata = tuple[tuple[str, str], ...]


def _stub(channel: grpc.aio.Channel) -> Any:
    return VerifierServiceStub(channel)  # type: ignore[no-untyped-call]  # generated


class _GrpcStream:
    def __init__(
        self,
        call: Any,
        translate: Any,
        has_new_token: Callable[[], bool],
        silence_s: float,
        require_life: Callable[[], Awaitable[None]],
    ) -> None:
        self.traffic = Traffic()
        self._call = call
        self._writer = RequestWriter()
        self._writing = asyncio.Lock()
        """The core takes one message at a time, and fails the whole call over a second one."""
        self._reading: asyncio.Future[Any] | None = None
        """Outlives whoever waits for it: of a read that is cancelled grpc.aio keeps the message for good."""
        self._translate = translate
        self._has_new_token = has_new_token
        self._silence_s = silence_s
        self._require_life = require_life
        """Raises what is wrong; asked whenever nothing has come for `silence_s`."""

    async def send(self, message: ClientMessage) -> None:
        request = self._writer.write(message)
        self.traffic.bytes_up += len(request)
        try:
            async with self._writing:
                await self._call.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # The stream has ended. Why is said by what is still to be received: in-band error first, status second.
            return

    async def receive(self) -> ServerMessage | None:
        try:
            data = await self._read()
            if data is grpc.aio.EOF:
                await self._raise_for_status()
                return None
        except grpc.aio.AioRpcError as error:
            translated = self._translate(error)
            self._require_same_token(translated.status)
            raise translated from None
        self.traffic.bytes_down += len(data)
        message = parse_response(data)
        if isinstance(message, ErrorMessage):
            self._require_same_token(message.status)
        return message

    async def _read(self) -> Any:
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._call.read())
        while not (await asyncio.wait({self._reading}, timeout=self._silence_s))[0]:
            try:
                await self._require_life()
            except Unreachable:
                if not self._reading.done():  # what the stream itself says meanwhile says more
                    raise
        data, self._reading = self._reading.result(), None
        return data

    async def end(self) -> None:
        """Cancel it where it is still open."""
        self._call.cancel()
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)

    def _require_same_token(self, status: Status) -> None:
        """A token that ran out while there is a fresh one is a lost link: whoever opens again shows that one."""
        if status is Status.UNAUTHENTICATED and self._has_new_token():
            raise Unreachable("the token ran out; there is a fresh one", field="verifier", cure="try again")

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


__all__ = [
    "CLIENT_OPTIONS",
    "CONNECT_TIMEOUT_S",
    "PEER_TIMEOUT_RANGE_S",
    "PEER_TIMEOUT_S",
    "GrpcHop",
    "check_address",
    "check_peer_timeout",
    "keepalive_options",
]
