"""Between the port and everything that answers on it: who is not known does not get in, and no exception gets out.

Every method of every service is guarded unless it is named in `OPEN_METHODS`; there is no list of what to guard.
"""

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc
import grpc.aio

from paceline.cloud.identity import Authenticator, Caller, current_caller
from paceline.cloud.incidents import incident
from paceline.common.errors import PacelineError
from paceline.common.messages import ErrorMessage

log = logging.getLogger(__name__)

OPEN_METHODS = frozenset({"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"})
"""What load balancers ask, who are nobody."""

Write = Callable[[ErrorMessage], Any]


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """See above.

    Args:
        authenticator: finds out who calls.
        in_band: makes a message of an error, for each streaming method that says errors in its messages first.
    """

    def __init__(self, authenticator: Authenticator, in_band: Mapping[str, Write]) -> None:
        self._authenticator = authenticator
        self._in_band = in_band

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """See `grpc.aio.ServerInterceptor`."""
        handler, method = await continuation(handler_call_details), handler_call_details.method
        if handler is None or method in OPEN_METHODS:
            return handler
        kind = ("stream" if handler.request_streaming else "unary") + (
            "_stream" if handler.response_streaming else "_unary"
        )
        guarded = self._guarded(getattr(handler, kind), method)
        return handler._replace(**{kind: guarded})

    def _guarded(self, behaviour: Any, method: str) -> Any:
        """The same kind of function: grpc looks at which it is."""
        if inspect.isasyncgenfunction(behaviour):

            async def generate(request: Any, context: Any) -> AsyncIterator[Any]:
                current_caller.set(await self._let_in(context, method))
                async for reply in behaviour(request, context):
                    yield reply

            return generate

        async def call(request: Any, context: Any) -> Any:
            current_caller.set(await self._let_in(context, method))
            try:
                return await behaviour(request, context)
            except grpc.aio.AbortError:
                raise
            except grpc.aio.InternalError:  # the core takes nothing more for this call
                log.info("the caller of %s has gone", method)
                return None
            except Exception:
                return await self._refuse(context, method, incident(f"serving {method}"))

        return call

    async def _let_in(self, context: Any, method: str) -> Caller:
        try:
            return self._authenticator.caller(context.auth_context(), context.invocation_metadata() or ())
        except PacelineError as error:
            log.info("refused %s of %s: %s", method, context.peer(), error)
            fault = error
        except Exception:
            fault = incident("finding out who calls")
        await self._refuse(context, method, fault)
        raise AssertionError("a call that is aborted does not go on")

    async def _refuse(self, context: Any, method: str, error: PacelineError) -> None:
        if method in self._in_band:
            await context.write(self._in_band[method](ErrorMessage.of(error)))
        await context.abort(getattr(grpc.StatusCode, error.status), str(error))
