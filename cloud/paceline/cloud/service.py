"""The gRPC face of a verifier: decode, submit, encode. No maths, no torch.

Errors go in-band first and as the status second; exception text never leaves the process.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio

from paceline.cloud.identity import Caller, current_caller
from paceline.cloud.quotas import Buckets
from paceline.cloud.refusals import abort
from paceline.common import tracing
from paceline.common.codec import ResponseWriter, encode_description, parse_request
from paceline.common.errors import PacelineError, Unauthenticated
from paceline.common.hops.base import Verifying
from paceline.common.logs import set_about
from paceline.common.messages import ClientMessage, ErrorMessage, ServerMessage
from paceline.v1 import verifier_pb2 as pb

log = logging.getLogger(__name__)

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["VerifierService"].full_name
IN_BAND = {f"/{SERVICE_NAME}/Decode": lambda error: next(ResponseWriter().write(error))}
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
        self._bytes = Buckets()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register with a server. Requests arrive as bytes: a deserialiser that raises would leak its exception. The
        answers of a stream leave as bytes, of which padded mode decides."""
        handlers = {
            "Describe": grpc.unary_unary_rpc_method_handler(
                self._describe, response_serializer=pb.DescribeResponse.SerializeToString
            ),
            "Decode": grpc.stream_stream_rpc_method_handler(self._decode),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),))

    async def _describe(self, _request: bytes, context: Any) -> pb.DescribeResponse:
        try:
            return encode_description(current_caller.get().describe(self._verifier.describe()))
        except PacelineError as error:
            await abort(context, error.status, str(error), error.retry_after_s)
            raise

    async def _decode(self, requests: AsyncIterator[bytes], context: Any) -> None:
        fatal: ErrorMessage | None = None
        writer = ResponseWriter()
        caller = current_caller.get()
        tracing.called_by(dict(context.invocation_metadata() or ()))
        set_about(tenant=caller.tenant)
        ends_s = _on_loop(caller.expires_s)
        messages = self._parsed(requests, caller)
        async with aclosing(_answers(self._verifier.decode(messages), ends_s)) as answers:
            async for message in answers:
                if not await self._written(context, writer.write(message), caller, ends_s):
                    fatal = ErrorMessage.of(_expired())
                    break
                if isinstance(message, ErrorMessage) and message.fatal:
                    fatal = message
        if fatal is not None:
            await abort(context, fatal.status, f"{fatal.reason}: {fatal.message}", fatal.retry_after_s)

    async def _parsed(
        self, requests: AsyncIterator[bytes], caller: Caller
    ) -> AsyncIterator[ClientMessage | PacelineError]:
        async for data in requests:
            yield caller.admitted(parse_request(data))
            await self._spend(caller, len(data))

    async def _written(
        self, context: Any, parts: Iterable[bytes], caller: Caller, ends_s: float | None
    ) -> bool:
        """Whether the client takes a message; one that reads nothing is not waited for past the end of its proof."""
        try:
            async with asyncio.timeout_at(None if ends_s is None else ends_s + _WRITE_GRACE_S):
                for data in parts:
                    await self._spend(caller, len(data))
                    await context.write(data)
        except TimeoutError:
            return False
        return True

    async def _spend(self, caller: Caller, num_bytes: int) -> None:
        """Count a message, and wait while the tenant has sent and received more than its quota: what is not read piles
        up at the other end, what is not written in the outbox, and then the session is not served."""
        if caller.quota.bytes_per_s is None:
            return
        loop, tenant = asyncio.get_running_loop(), caller.tenant
        self._bytes.spend(tenant, caller.quota.bytes_per_s, num_bytes, loop.time())
        while (wait_s := self._bytes.wait_s(tenant, loop.time())) > 0:  # noqa: ASYNC110 - others spend meanwhile
            await asyncio.sleep(wait_s)


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
