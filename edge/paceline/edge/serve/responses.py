"""`/v1/responses`: one text for one input. Nothing is stored, so there is nothing to go on from by id."""

import time
from collections.abc import Iterable
from typing import Any

from paceline.edge.serve import report
from paceline.edge.serve.chat import chat_messages
from paceline.edge.serve.endpoint import Endpoint
from paceline.edge.serve.errors import ApiError
from paceline.edge.serve.generation import Piece, Text, generation_request
from paceline.edge.serve.reply import Event, Reply, to_json
from paceline.edge.serve.schema import Message, ResponsesRequest


class ResponsesReply(Reply):
    """One answer.

    Args:
        fields: the request.
    Raises:
        ApiError: a value is wrong.
    """

    terminator = b""

    def __init__(self, endpoint: Endpoint, fields: ResponsesRequest, request_id: str) -> None:
        given = (
            [Message(role="user", content=fields.input)] if isinstance(fields.input, str) else fields.input
        )
        system = [] if fields.instructions is None else [Message(role="system", content=fields.instructions)]
        request = generation_request(
            endpoint,
            fields,
            endpoint.chat_prompt(chat_messages([*system, *given])),
            request_id=request_id,
            max_new_tokens=fields.max_output_tokens,
        )
        texts = [Text(endpoint, request)]
        super().__init__(endpoint, endpoint.require_model(fields.model), request_id, texts, time.time())
        self._fields = fields
        self._item_id = f"msg_{request_id}"
        self._num_events = 0

    def encode(self, event: Event) -> bytes:
        """See `Reply.encode`; each event is named and numbered."""
        numbered = {**event, "sequence_number": self._num_events}
        self._num_events += 1
        return b"event: %s\ndata: %s\n\n" % (str(event["type"]).encode(), to_json(numbered))

    def failure(self, error: ApiError) -> bytes:
        """See `Reply.failure`."""
        return self.encode(
            {"type": "error", "code": error.code, "message": error.message, "param": error.param}
        )

    def whole(self) -> Event:
        """See `Reply.whole`."""
        is_whole = self._text.finish_reason == "stop"
        return self._response("completed" if is_whole else "incomplete", [self._item("completed")])

    def opening(self) -> Iterable[Event]:
        """See `Reply.opening`."""
        started = self._response("in_progress", [])
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        return [
            {"type": "response.created", "response": started},
            {"type": "response.in_progress", "response": started},
            {
                "type": "response.output_item.added",
                "output_index": 0,
                "item": {**self._item("in_progress"), "content": []},
            },
            {"type": "response.content_part.added", **self._place, "part": part},
        ]

    def piece(self, index: int, piece: Piece) -> Iterable[Event]:
        """See `Reply.piece`."""
        if piece.text:
            yield {"type": "response.output_text.delta", **self._place, "delta": piece.text, "logprobs": []}

    def ending(self, index: int) -> Iterable[Event]:
        """See `Reply.ending`."""
        item, whole = self._item("completed"), self.whole()
        part = item["content"][0]
        return [
            {"type": "response.output_text.done", **self._place, "text": part["text"], "logprobs": []},
            {"type": "response.content_part.done", **self._place, "part": part},
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {"type": f"response.{whole['status']}", "response": whole},
        ]

    @property
    def _text(self) -> Text:
        return self.texts[0]

    @property
    def _place(self) -> Event:
        return {"item_id": self._item_id, "output_index": 0, "content_index": 0}

    def _item(self, status: str) -> Event:
        content = {
            "type": "output_text",
            "text": self._text.growing.text,
            "annotations": [],
            "logprobs": [],
        }
        return {
            "type": "message",
            "id": self._item_id,
            "status": status,
            "role": "assistant",
            "content": [content],
        }

    def _response(self, status: str, output: list[Event]) -> Event:
        fields, sampling = self._fields, self._text.request.sampling
        ended: dict[str, Any] = {"usage": None}
        if status != "in_progress":
            ended = {"usage": self._usage, **self.account}
        return {
            "id": f"resp_{self.request_id}",
            "object": "response",
            "created_at": self.created_s,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": fields.instructions,
            "max_output_tokens": self._text.request.max_new_tokens,
            "metadata": fields.metadata or {},
            "model": self.model,
            "output": output,
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": sampling.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "top_p": sampling.top_p,
            "truncation": "disabled",
            **ended,
        }

    @property
    def _usage(self) -> Event:
        counts = report.usage_of(self.texts)
        return {
            "input_tokens": counts["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": counts["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": counts["total_tokens"],
        }
