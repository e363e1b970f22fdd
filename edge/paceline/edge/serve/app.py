"""Routes: what is asked for, checked and answered."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import HTMLResponse, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from paceline.common.errors import PacelineError
from paceline.edge.serve.chat import ChatReply
from paceline.edge.serve.completions import CompletionReply
from paceline.edge.serve.endpoint import Endpoint, as_api_error
from paceline.edge.serve.errors import ApiError, refusal, shown, unexpected
from paceline.edge.serve.guard import REQUEST_ID, TOO_LARGE, Guard, too_large
from paceline.edge.serve.playground import add_playground
from paceline.edge.serve.privacy import privacy, privacy_page
from paceline.edge.serve.reply import Reply, to_json
from paceline.edge.serve.responses import ResponsesReply
from paceline.edge.serve.schema import ChatRequest, CompletionRequest, ResponsesRequest

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_CLIENT_GONE = 499


class _Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return to_json(content)


def make_app(endpoint: Endpoint, *, version: str, verifier: str = "") -> ASGIApp:
    """The endpoint as an ASGI application.

    Args:
        endpoint: who answers; closed when the application is shut down.
        version: of this software.
        verifier: where the verifier is, in words.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await endpoint.close()

    app = FastAPI(
        title="Paceline local endpoint",
        version=version,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        default_response_class=_Json,
    )
    _add_texts(app, endpoint)
    _add_facts(app, endpoint, version, verifier)
    add_playground(app, endpoint, partial(_answer, endpoint, is_stream=True))
    _add_refusals(app)
    config = endpoint.config
    guarded: ASGIApp = Guard(app, config, endpoint.metrics)
    if config.cors_origins:
        guarded = CORSMiddleware(
            guarded,
            allow_origins=config.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "Content-Type", "X-Request-ID"),
            expose_headers=("X-Request-ID", "Retry-After"),
        )
    return guarded


def _add_texts(app: FastAPI, endpoint: Endpoint) -> None:
    @app.post("/v1/chat/completions")
    async def chat(fields: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        return await _answer(endpoint, request, lambda id_: ChatReply(endpoint, fields, id_), fields.stream)

    @app.post("/v1/completions")
    async def completions(fields: CompletionRequest, request: Request) -> Response:
        """Continue a text."""
        return await _answer(
            endpoint, request, lambda id_: CompletionReply(endpoint, fields, id_), fields.stream
        )

    @app.post("/v1/responses")
    async def responses(fields: ResponsesRequest, request: Request) -> Response:
        """Answer an input."""
        return await _answer(
            endpoint, request, lambda id_: ResponsesReply(endpoint, fields, id_), fields.stream
        )


def _add_facts(app: FastAPI, endpoint: Endpoint, version: str, verifier: str) -> None:
    def model_object(name: str) -> dict[str, Any]:
        found = endpoint.client.verifier
        length = {"max_model_len": found.max_context} if found is not None else {}
        return {"id": name, "object": "model", "created": 0, "owned_by": "paceline", **length}

    @app.get("/v1/models")
    async def models() -> Any:
        """What can be asked."""
        await endpoint.require_verifier()
        return {"object": "list", "data": [model_object(name) for name in endpoint.model_names]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Any:
        """One of them."""
        await endpoint.require_verifier()
        return model_object(endpoint.require_model(name))

    @app.get("/health")
    async def health() -> Response:
        """Whether texts can be written now; if not, why."""
        found = await endpoint.health()
        told = {
            "status": "ok" if found.is_well else "unavailable",
            "reason": found.reason,
            "mode": endpoint.config.mode,
            "model": endpoint.model_name if found.is_well else None,
            "requests": endpoint.num_requests,
        }
        return _Json(told, 200 if found.is_well else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(endpoint.metrics.text(), media_type=_METRICS_TYPE)

    @app.get("/version")
    async def version_() -> Any:
        """Of this software."""
        return {"version": version}

    @app.get("/privacy")
    async def privacy_(request: Request) -> Response:
        """What leaves the device."""
        told = privacy(endpoint.config, verifier)
        wants_page = "text/html" in request.headers.get("accept", "")
        return HTMLResponse(privacy_page(told)) if wants_page else _Json(told)


def _add_refusals(app: FastAPI) -> None:
    def refused(error: ApiError) -> Response:
        return _Json(error.body, error.http_status, error.headers)

    @app.exception_handler(PacelineError)
    async def ours(_: Request, error: PacelineError) -> Response:
        return refused(as_api_error(error))

    @app.exception_handler(ApiError)
    async def api(_: Request, error: ApiError) -> Response:
        return refused(error)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        return refused(_named(error))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        if request.scope.get(TOO_LARGE):
            return refused(too_large(0))
        code = "not_found" if error.status_code == 404 else None
        answer = refused(
            ApiError(
                error.status_code, f"{request.method} {shown(request.url.path)}: {error.detail}", None, code
            )
        )
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def bug(_: Request, error: Exception) -> Response:
        return refused(unexpected())


def _named(error: RequestValidationError) -> ApiError:
    """The first thing that is wrong, by its name; a field nobody knows before all others."""
    errors = sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    first = errors[0]
    if first["type"] == "json_invalid" or first["loc"] == ("body",):
        return refusal("the body is not a JSON object sent as application/json", None, "malformed")
    place = [one for one in first["loc"] if one != "body"]
    param = "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in place).strip(".")
    if first["type"] == "extra_forbidden":
        return refusal(f"{shown(param)} is not supported here", shown(param), "unsupported_parameter")
    if first["type"] == "missing":
        return refusal(f"{shown(param)} is missing", shown(param), "missing_required_parameter")
    what = f"{shown(param)}: " if param else ""
    return refusal(f"{what}{first['msg']}", shown(param) or None)


async def _answer(
    endpoint: Endpoint, request: Request, make: Callable[[str], Reply], is_stream: bool
) -> Response:
    def reply() -> Reply:
        return make(request.scope[REQUEST_ID])

    if is_stream:
        frames = _frames(endpoint, reply)
        first = await _until_gone(request, anext(frames))
        return Response(status_code=_CLIENT_GONE) if first is None else _EventStream(first, frames)
    body = await _until_gone(request, _whole(endpoint, reply))
    return Response(status_code=_CLIENT_GONE) if body is None else _Json(body)


async def _whole(endpoint: Endpoint, make: Callable[[], Reply]) -> Any:
    async with endpoint.admitted():
        await endpoint.require_verifier()
        return await make().complete()


_Frame = tuple[bytes, Reply]


async def _frames(endpoint: Endpoint, make: Callable[[], Reply]) -> AsyncGenerator[_Frame, None]:
    """A stream's bytes; the first come with the first text, so that what is refused has its own status."""
    async with endpoint.admitted():
        await endpoint.require_verifier()
        reply = make()
        async with aclosing(reply.stream()) as events:
            async for event in events:
                yield reply.encode(event), reply
        if reply.terminator:
            yield reply.terminator, reply


async def _until_gone(request: Request, work: Coroutine[Any, Any, Any]) -> Any:
    """The outcome of some work; None, and the work is given up, where the caller has left."""
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _EventStream(StreamingResponse):
    """Server-sent events. Whatever becomes of the caller, the texts end with it."""

    def __init__(self, first: _Frame, frames: AsyncGenerator[_Frame, None]) -> None:
        self._frames = frames
        super().__init__(
            _sent(first, frames), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._frames.aclose()


async def _sent(first: _Frame, frames: AsyncGenerator[_Frame, None]) -> AsyncIterator[bytes]:
    """The bytes of a stream; an error in the middle is its last event."""
    frame, reply = first
    yield frame
    try:
        async for frame, _ in frames:
            yield frame
    except (PacelineError, ApiError) as error:
        yield reply.failure(as_api_error(error))
    except Exception:
        yield reply.failure(unexpected())
