"""`/v1/chat/completions`."""

import time
from collections.abc import Iterable
from typing import Any

from paceline.common.tokens import LogprobsRequest
from paceline.edge.serve import report
from paceline.edge.serve.endpoint import Endpoint
from paceline.edge.serve.errors import refusal
from paceline.edge.serve.generation import Piece, Text, generation_request, repeated
from paceline.edge.serve.reply import Event, Reply, finite, scored
from paceline.edge.serve.schema import ChatRequest, Message, text_of
from paceline.edge.serve.text import WrittenToken


def chat_messages(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Messages as templates know them: a developer speaks as the system."""
    return [
        {
            "role": "system" if one.role == "developer" else one.role,
            "content": text_of(one.content),
            **({} if one.name is None else {"name": one.name}),
        }
        for one in messages
    ]


class ChatReply(Reply):
    """One answer to a conversation, or several.

    Args:
        fields: the request.
    Raises:
        ApiError: a value is wrong.
    """

    def __init__(self, endpoint: Endpoint, fields: ChatRequest, request_id: str) -> None:
        if fields.top_logprobs is not None and not fields.logprobs:
            raise refusal("top_logprobs needs logprobs to be true", "top_logprobs")
        if fields.max_tokens is not None and fields.max_completion_tokens is not None:
            raise refusal("give max_completion_tokens alone", "max_tokens")
        prompt = endpoint.chat_prompt(chat_messages(fields.messages), **fields.chat_template_kwargs)
        request = generation_request(
            endpoint,
            fields,
            prompt,
            request_id=request_id,
            max_new_tokens=fields.max_completion_tokens or fields.max_tokens,
            logprobs=LogprobsRequest(fields.top_logprobs or 0) if fields.logprobs else None,
            prediction=fields.prediction,
        )
        texts = [Text(endpoint, one, fields.stop) for one in repeated(request, fields.n)]
        super().__init__(endpoint, endpoint.require_model(fields.model), request_id, texts, time.time())
        self._wants_logprobs = fields.logprobs
        self._wants_usage = fields.stream_options is not None and fields.stream_options.include_usage

    def whole(self) -> Event:
        """See `Reply.whole`."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text.growing.text, "refusal": None},
                "logprobs": self._logprobs(text, text.growing.tokens),
                "finish_reason": text.finish_reason,
            }
            for index, text in enumerate(self.texts)
        ]
        return {**self._head("chat.completion"), "choices": choices, "usage": self._usage, **self.account}

    def opening(self) -> Iterable[Event]:
        """See `Reply.opening`."""
        first = {"role": "assistant", "content": ""}
        return [self._chunk(index, first) for index in range(len(self.texts))]

    def piece(self, index: int, piece: Piece) -> Iterable[Event]:
        """See `Reply.piece`."""
        logprobs = self._logprobs(self.texts[index], piece.tokens)
        if piece.text or (logprobs is not None and logprobs["content"]):
            yield self._chunk(index, {"content": piece.text}, logprobs)

    def ending(self, index: int) -> Iterable[Event]:
        """See `Reply.ending`."""
        yield self._chunk(index, {}, finish_reason=self.texts[index].finish_reason)

    def closing(self) -> Iterable[Event]:
        """See `Reply.closing`."""
        usage = {"usage": self._usage} if self._wants_usage else {}
        yield {**self._head("chat.completion.chunk"), "choices": [], **usage, **self.account}

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> Event:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return {
            **self._head("chat.completion.chunk"),
            "choices": [choice],
            **({"usage": None} if self._wants_usage else {}),
        }

    def _head(self, kind: str) -> Event:
        return {
            "id": f"chatcmpl-{self.request_id}",
            "object": kind,
            "created": self.created_s,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    @property
    def _usage(self) -> Event:
        return report.usage_of(self.texts)

    def _logprobs(self, text: Text, tokens: list[WrittenToken]) -> dict[str, Any] | None:
        """Of the text's own tokens: one that only ends it is left out."""
        if not self._wants_logprobs:
            return None
        own = [one for one in tokens if not (text.ended_by_token and one is text.growing.tokens[-1])]
        return {
            "content": [
                {
                    **self._one(token.token_id, logprobs.logprob),
                    "top_logprobs": [self._one(*top) for top in logprobs.top],
                }
                for token, logprobs in scored(own)
            ],
            "refusal": None,
        }

    def _one(self, token_id: int, logprob: float) -> dict[str, Any]:
        token = self.token(token_id)
        is_whole = "\N{REPLACEMENT CHARACTER}" not in token
        return {
            "token": token,
            "logprob": finite(logprob),
            "bytes": list(token.encode()) if is_whole else None,
        }
