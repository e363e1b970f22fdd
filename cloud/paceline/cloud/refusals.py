"""An error as a status, for clients that know no messages of ours: with `google.rpc.RetryInfo` and a pushback where
coming back later helps. Ours read the in-band error, which is sent first."""

from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status as RichStatus
from grpc_status import rpc_status

from paceline.common.errors import Status
from paceline.common.hops.base import REFUSAL_HEADER

PUSHBACK = "grpc-retry-pushback-ms"


async def abort(context: Any, status: Status, details: str, retry_after_s: float = 0.0) -> None:
    """End a call with this status."""
    code = getattr(grpc.StatusCode, status)
    told = _told(code, details, retry_after_s) if retry_after_s > 0 else ()
    await context.abort(code, details, ((REFUSAL_HEADER, "1"), *told))


def _told(code: Any, details: str, retry_after_s: float) -> tuple[tuple[str, str | bytes], ...]:
    """When to come back, as trailing metadata."""
    packed, delay = Packed(), Duration()
    delay.FromMilliseconds(round(1000 * retry_after_s))
    packed.Pack(RetryInfo(retry_delay=delay))
    rich = rpc_status.to_status(RichStatus(code=code.value[0], message=details, details=[packed]))
    return (*rich.trailing_metadata, (PUSHBACK, str(round(1000 * retry_after_s))))
