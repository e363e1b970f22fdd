"""What every kind of reply is made of: texts, said whole or piece by piece."""

import asyncio
import json
import math
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Any

from paceline.common.tokens import TokenLogprobs
from paceline.edge.serve import report
from paceline.edge.serve.endpoint import Endpoint
from paceline.edge.serve.errors import ApiError
from paceline.edge.serve.generation import Piece, Text
from paceline.edge.serve.text import WrittenToken

Event = dict[str, Any]
_IMPOSSIBLE = -9999.0
"""Stands for the logarithm of 0, which JSON cannot say; vLLM's number."""


class Reply(ABC):
    """One answer under way.

    Args:
        endpoint: who answers.
        model: the name to answer with.
        request_id: of the request.
        texts: in the order of their indices.
        created_s: Unix time.
    """

    def __init__(
        self, endpoint: Endpoint, model: str, request_id: str, texts: Sequence[Text], created_s: float
    ) -> None:
        self.endpoint = endpoint
        self.model = model
        self.request_id = request_id
        self.texts = texts
        self.created_s = int(created_s)

    @abstractmethod
    def whole(self) -> Event:
        """All of it at once."""

    def opening(self) -> Iterable[Event]:
        """Said before any text."""
        return ()

    @abstractmethod
    def piece(self, index: int, piece: Piece) -> Iterable[Event]:
        """A text grew."""

    @abstractmethod
    def ending(self, index: int) -> Iterable[Event]:
        """A text is complete."""

    def closing(self) -> Iterable[Event]:
        """All texts are complete."""
        return ()

    terminator = b"data: [DONE]\n\n"
    """After the last event."""

    def failure(self, error: ApiError) -> bytes:
        """The end of a stream that cannot go on; nothing follows it."""
        return b"data: " + to_json(error.body) + b"\n\n"

    def encode(self, event: Event) -> bytes:
        """An event as server-sent events have it."""
        return b"data: " + to_json(event) + b"\n\n"

    async def complete(self) -> Event:
        """Write all texts, then say them."""
        tasks = [asyncio.create_task(text.complete()) for text in self.texts]
        try:
            await asyncio.gather(*tasks)
        finally:
            await _cancel(tasks)
        return self.whole()

    async def stream(self) -> AsyncGenerator[Event, None]:
        """Events as the texts grow, none before there is text; leaving it early ends the texts everywhere."""
        has_begun = False
        async with aclosing(_merged(self.texts)) as pieces:
            async for index, piece in pieces:
                for event in () if has_begun else self.opening():
                    yield event
                has_begun = True
                for event in self.ending(index) if piece is None else self.piece(index, piece):
                    yield event
        for event in self.closing():
            yield event

    @property
    def account(self) -> Event:
        """How the texts came about."""
        reports = [text.report for text in self.texts]
        request = self.texts[0].request
        return {
            "metrics": report.speculative(reports, request.num_speculative_tokens),
            "timings": report.timings(reports),
            "paceline": {"request_id": self.request_id, **report.account(reports, request.seed)},
        }

    @property
    def fingerprint(self) -> str:
        """Of what wrote the text, as far as this side knows."""
        return f"paceline-{self.model}-{self.endpoint.tokenizer.fingerprint.hex()[:8]}"

    def token(self, token_id: int) -> str:
        """What one token stands for."""
        return self.endpoint.tokenizer.token(token_id)


async def _merged(texts: Sequence[Text]) -> AsyncGenerator[tuple[int, Piece | None], None]:
    """Pieces of all texts as they come, each with its text's index; None after a text's last."""
    if len(texts) == 1:
        async with aclosing(texts[0].pieces()) as pieces:
            async for one in pieces:
                yield 0, one
        yield 0, None
        return
    queue: asyncio.Queue[tuple[int, Piece | None]] = asyncio.Queue()

    async def pump(index: int) -> None:
        async with aclosing(texts[index].pieces()) as pieces:
            async for piece in pieces:
                queue.put_nowait((index, piece))
        queue.put_nowait((index, None))

    tasks = [asyncio.create_task(pump(index)) for index in range(len(texts))]
    for task in tasks:
        task.add_done_callback(lambda _: queue.put_nowait((-1, None)))
    num_left = len(texts)
    try:
        while num_left:
            index, piece = await queue.get()
            if index < 0:
                for task in tasks:
                    if task.done():
                        task.result()
                num_left -= 1
            else:
                yield index, piece
    finally:
        await _cancel(tasks)


async def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def to_json(value: Any) -> bytes:
    """Compact JSON; half characters, which a caller may have sent, are replaced."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(
        "utf-8", "replace"
    )


def finite(logprob: float) -> float:
    """A logarithm that JSON can say."""
    return logprob if math.isfinite(logprob) else _IMPOSSIBLE


def scored(tokens: Iterable[WrittenToken]) -> list[tuple[WrittenToken, TokenLogprobs]]:
    """Tokens that come with a probability."""
    return [(token, token.logprobs) for token in tokens if token.logprobs is not None]


__all__ = ["Event", "Reply", "finite", "scored", "to_json"]
