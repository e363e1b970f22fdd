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
from paceline.common.errors import InvalidRequest, PacelineError
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
        refused: told of every such stream that was not let in.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        in_band: Mapping[str, Write],
        refused: Callable[[PacelineError], None],
    ) -> None:
        self._refused = refused
        self._authenticator = authenticator
        self._in_band = in_band

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """See `grpc.aio.ServerInterceptor`."""
        handler, method = await continuation(handler_call_details), handler_call_details.method
        if handler is None:
            return handler
        kind = ("stream" if handler.request_streaming else "unary") + (
            "_stream" if handler.response_streaming else "_unary"
        )
        # A deserialiser that raises within grpc tells its exception to whoever called.
        guarded = self._guarded(getattr(handler, kind), method, _reading(handler))
        return handler._replace(request_deserializer=None, **{kind: guarded})

    def _guarded(self, behaviour: Any, method: str, read: Callable[[Any], Any]) -> Any:
        """The same kind of function: grpc looks at which it is."""
        if inspect.isasyncgenfunction(behaviour):

            async def generate(request: Any, context: Any) -> AsyncIterator[Any]:
                await self._enter(context, method)
                try:
                    async for reply in behaviour(read(request), context):
                        yield reply
                except grpc.aio.AbortError:
                    raise
                except Exception as error:
                    await self._refuse(context, method, _told(error, method))

            return generate

        async def call(request: Any, context: Any) -> Any:
            await self._enter(context, method)
            try:
                return await behaviour(read(request), context)
            except grpc.aio.AbortError:
                raise
            except grpc.aio.InternalError:  # the core takes nothing more for this call
                log.info("the caller of %s has gone", method)
                return None
            except Exception as error:
                return await self._refuse(context, method, _told(error, method))

        return call

    async def _enter(self, context: Any, method: str) -> None:
        if method not in OPEN_METHODS:
            current_caller.set(await self._let_in(context, method))

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
            self._refused(error)
            await context.write(self._in_band[method](ErrorMessage.of(error)))
        await context.abort(getattr(grpc.StatusCode, error.status), str(error))


def _told(error: Exception, method: str) -> PacelineError:
    return error if isinstance(error, InvalidRequest) else incident(f"serving {method}")


def _reading(handler: Any) -> Callable[[Any], Any]:
    """Makes of what arrives what the handler's method takes."""
    deserialise = handler.request_deserializer
    if deserialise is None:
        return lambda request: request

    def one(data: bytes) -> Any:
        try:
            return deserialise(data)
        except Exception:
            raise InvalidRequest(
                "the bytes are no request of this method", field="message", cure="use the published protocol"
            ) from None

    async def each(stream: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for data in stream:
            yield one(data)

    return each if handler.request_streaming else one
