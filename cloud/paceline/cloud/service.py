"""The gRPC face of a verifier: decode, submit, encode. No maths, no torch.

Errors go in-band first and as the status second; exception text never leaves the process.
"""

import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from paceline.common.codec import encode_description, encode_response, parse_request
from paceline.common.errors import PacelineError
from paceline.common.hops.base import Verifying
from paceline.common.messages import ClientMessage, ErrorMessage
from paceline.v1 import verifier_pb2 as pb

log = logging.getLogger(__name__)

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["VerifierService"].full_name


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
            return encode_description(self._verifier.describe())
        except PacelineError as error:
            await context.abort(getattr(grpc.StatusCode, error.status), str(error))
            raise

    async def _decode(self, requests: AsyncIterator[bytes], context: Any) -> None:
        fatal: ErrorMessage | None = None
        async for message in self._verifier.decode(_parsed(requests)):
            await context.write(encode_response(message))
            if isinstance(message, ErrorMessage) and message.fatal:
                fatal = message
        if fatal is not None:
            await context.abort(getattr(grpc.StatusCode, fatal.status), f"{fatal.reason}: {fatal.message}")


async def _parsed(requests: AsyncIterator[bytes]) -> AsyncIterator[ClientMessage | PacelineError]:
    async for data in requests:
        yield parse_request(data)
