"""The playground: one page that shows who writes each token. It uses nothing that a caller could not."""

from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from pydantic import Field

from paceline.edge.modes import MODES
from paceline.edge.request import Report
from paceline.edge.serve.chat import chat_messages
from paceline.edge.serve.endpoint import Endpoint
from paceline.edge.serve.errors import ApiError, refusal, shown
from paceline.edge.serve.generation import generation_request
from paceline.edge.serve.page import ASSETS, HEADERS, asset
from paceline.edge.serve.reply import to_json
from paceline.edge.serve.schema import Message, Sampled
from paceline.edge.serve.telling import Teller

_DEVICE = "device"


class PlaygroundRequest(Sampled):
    """POST /playground/generate"""

    prompt: str = ""
    messages: list[Message] = Field(default=[], max_length=4096)
    mode: str | None = None
    max_tokens: Annotated[int | None, Field(ge=1, le=(1 << 32) - 1)] = None
    provisional: bool = True


Answer = Callable[[Request, Callable[[str], Any]], Coroutine[Any, Any, Response]]


def add_playground(app: FastAPI, endpoint: Endpoint, answer: Answer) -> None:
    """Add the page and what it asks for.

    Args:
        answer: streams the reply that is made for a request id.
    """
    for path, (name, media_type) in ASSETS.items():
        page = _page(asset(name), media_type)
        app.add_api_route(path, page, include_in_schema=False, response_model=None)

    @app.get("/playground/about", include_in_schema=False)
    async def about() -> Any:
        """What the page may offer."""
        health = await endpoint.health()
        return {
            "modes": list(_modes(endpoint)),
            "mode": endpoint.config.mode,
            "chain": _chain(endpoint),
            "is_up": health.is_well,
            "reason": health.reason if endpoint.config.is_local_only or not health.is_well else "",
            "has_chat_template": endpoint.template is not None,
        }

    @app.post("/playground/generate", include_in_schema=False)
    async def generate(fields: PlaygroundRequest, request: Request) -> Response:
        """Write a text and tell all about it."""
        return await answer(request, lambda request_id: PlaygroundReply(endpoint, fields, request_id))


def _page(content: bytes, media_type: str) -> Callable[[], Response]:
    return lambda: Response(content, media_type=media_type, headers=HEADERS)


def _modes(endpoint: Endpoint) -> tuple[str, ...]:
    return ("local",) if endpoint.config.is_local_only else tuple(MODES)


def _chain(endpoint: Endpoint) -> list[str]:
    """Who takes part, from the device to the last hop."""
    verifier = endpoint.client.verifier
    if endpoint.config.is_local_only or verifier is None:
        return [_DEVICE]
    hops = verifier.hops
    return (
        [_DEVICE, *(one.name or one.model_name or "verifier" for one in hops)]
        if hops
        else [_DEVICE, "verifier"]
    )


class PlaygroundReply:
    """One text, told event by event.

    Raises:
        ApiError: a value is wrong.
    """

    terminator = b""

    def __init__(self, endpoint: Endpoint, fields: PlaygroundRequest, request_id: str) -> None:
        mode = fields.mode or endpoint.config.mode
        if mode not in _modes(endpoint):
            raise refusal(f"{shown(mode)!r} is none of {', '.join(_modes(endpoint))}", "mode")
        if fields.messages:
            prompt = endpoint.chat_prompt(chat_messages(fields.messages))
        else:
            prompt = endpoint.tokenizer.encode(fields.prompt)
        request = generation_request(
            endpoint, fields, prompt, request_id=request_id, max_new_tokens=fields.max_tokens
        )
        self._endpoint = endpoint
        self._mode = mode
        self._request = replace(request, provisional=fields.provisional)

    async def stream(self) -> AsyncGenerator[Mapping[str, Any], None]:
        """The events; leaving it early ends the text everywhere."""
        endpoint = self._endpoint
        async with endpoint.slots:
            generation = endpoint.client.generate(self._request, self._mode)
            report = generation.report
            teller = Teller(
                endpoint.tokenizer, report, endpoint.client.estimates, is_direct=len(_chain(endpoint)) == 2
            )
            endpoint.metrics.began()
            reason = "abandoned"
            yield {"type": "start", "at_s": 0.0, "chain": _chain(endpoint), "mode": self._mode}
            try:
                async with aclosing(aiter(generation)) as events:
                    async for event in events:
                        for told in teller.tell(event):
                            yield told
                reason = str(report.finish_reason)
                yield {"type": "done", "at_s": report.total_s, "summary": _summary(report)}
            finally:
                endpoint.metrics.ended(report, reason)

    def encode(self, event: Mapping[str, Any]) -> bytes:
        """As server-sent events have it."""
        return b"data: " + to_json(event) + b"\n\n"

    def failure(self, error: ApiError) -> bytes:
        """The end of a text that cannot go on."""
        return self.encode({"type": "error", "message": error.message})


def _summary(report: Report) -> str:
    """A text in one line."""
    parts = [
        f"{len(report.token_ids)} tokens in {report.total_s:.2f} s",
        f"{report.tokens_per_s:.0f} tokens/s",
    ]
    if report.drafted_tokens:
        parts.append(f"{report.acceptance_rate:.0%} of {report.drafted_tokens} drafted tokens accepted")
    if report.num_reconnects:
        parts.append(f"link lost and found again {report.num_reconnects}×")
    return " · ".join([*parts, f"rule {report.rule}, mode {report.mode}, ended: {report.finish_reason}"])
