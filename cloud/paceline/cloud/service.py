"""The gRPC face of a verifier: decode, submit, encode. No maths, no torch.

Errors go in-band first and as the status second; exception text never leaves the process.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio

from paceline.cloud.identity import Caller, current_caller
from paceline.common import tracing
from paceline.common.codec import encode_description, encode_response, parse_request
from paceline.common.errors import PacelineError, Unauthenticated
from paceline.common.hops.base import Verifying
from paceline.common.logs import set_about
from paceline.common.messages import ClientMessage, ErrorMessage, ServerMessage
from paceline.v1 import verifier_pb2 as pb

log = logging.getLogger(__name__)

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["VerifierService"].full_name
IN_BAND = {f"/{SERVICE_NAME}/Decode": encode_response}
"""Streams that say what is wrong before their status does."""
_WRITE_GRACE_S = 2.0
"""How long a message may still be on its way to a client whose token has run out."""


class VerifierService:
    """Serves `paceline.v1.VerifierService`.

    Args:
        verifier: who answers.
    """

    def __init__(self, verifier: Verifying) -> None:
        self._verifier = verifier

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with a server. Requests arrive as bytes: a deserialiser that raises would leak its exception."""
        handlers = {
            "Describe": grpc.unary_unary_rpc_method_handler(
                self._describe, response_serializer=pb.DescribeResponse.SerializeToString
            ),
            "Decode": grpc.stream_stream_rpc_method_handler(
                self._decode, response_serializer=pb.DecodeResponse.SerializeToString
            ),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),))

    async def _describe(self, _request: bytes, context: Any) -> pb.DescribeResponse:
        try:
            return encode_description(current_caller.get().describe(self._verifier.describe()))
        except PacelineError as error:
            await context.abort(getattr(grpc.StatusCode, error.status), str(error))
            raise

    async def _decode(self, requests: AsyncIterator[bytes], context: Any) -> None:
        fatal: ErrorMessage | None = None
        caller = current_caller.get()
        tracing.called_by(dict(context.invocation_metadata() or ()))
        set_about(tenant=caller.tenant)
        ends_s = _on_loop(caller.expires_s)
        async with aclosing(_answers(self._verifier.decode(_parsed(requests, caller)), ends_s)) as answers:
            async for message in answers:
                if not await _written(context, message, ends_s):
                    fatal = ErrorMessage.of(_expired())
                    break
                if isinstance(message, ErrorMessage) and message.fatal:
                    fatal = message
        if fatal is not None:
            await context.abort(getattr(grpc.StatusCode, fatal.status), f"{fatal.reason}: {fatal.message}")


def _on_loop(unix_s: float | None) -> float | None:
    """The same moment by the event loop's clock."""
    return None if unix_s is None else asyncio.get_running_loop().time() + unix_s - time.time()


def _expired() -> PacelineError:
    return Unauthenticated("the token has expired", field="token", cure="open again with a fresh one")


async def _answers(
    answers: AsyncIterator[ServerMessage], ends_s: float | None
) -> AsyncGenerator[ServerMessage, None]:
    """The answers while the caller's proof holds; then an error."""
    if ends_s is None:
        async for message in answers:
            yield message
        return
    loop = asyncio.get_running_loop()
    while loop.time() < ends_s:
        try:
            async with asyncio.timeout_at(ends_s):
                answer = await anext(answers, None)
        except TimeoutError:
            break
        if answer is None:
            return
        yield answer
    yield ErrorMessage.of(_expired())


async def _written(context: Any, message: ServerMessage, ends_s: float | None) -> bool:
    """Whether the client takes a message; one that reads nothing is not waited for past the end of its proof."""
    if ends_s is None:
        await context.write(encode_response(message))
        return True
    try:
        async with asyncio.timeout_at(ends_s + _WRITE_GRACE_S):
            await context.write(encode_response(message))
    except TimeoutError:
        return False
    return True


async def _parsed(
    requests: AsyncIterator[bytes], caller: Caller
) -> AsyncIterator[ClientMessage | PacelineError]:
    async for data in requests:
        yield caller.admitted(parse_request(data))
