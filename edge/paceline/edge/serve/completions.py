"""`/v1/completions`."""

import time
from collections.abc import Iterable
from typing import Any

from paceline.common.tokens import LogprobsRequest, TokenLogprobs
from paceline.edge.serve import report
from paceline.edge.serve.endpoint import Endpoint
from paceline.edge.serve.errors import refusal
from paceline.edge.serve.generation import Piece, Text, generation_request, repeated
from paceline.edge.serve.reply import Event, Reply, finite
from paceline.edge.serve.schema import MAX_TEXTS, CompletionRequest
from paceline.edge.serve.text import WrittenToken

_Scored = tuple[int, int, TokenLogprobs | None]
"""A token, where it begins, and how likely it was."""


def _prompts(endpoint: Endpoint, given: Any) -> list[tuple[int, ...]]:
    """Each prompt as token ids."""
    if isinstance(given, str):
        return [endpoint.tokenizer.encode(given)]
    if given and isinstance(given[0], int):
        return [tuple(given)]
    return [endpoint.tokenizer.encode(one) if isinstance(one, str) else tuple(one) for one in given]


class CompletionReply(Reply):
    """Continuations of one prompt, or of several.

    Args:
        fields: the request.
    Raises:
        ApiError: a value is wrong.
    """

    def __init__(self, endpoint: Endpoint, fields: CompletionRequest, request_id: str) -> None:
        prompts = _prompts(endpoint, fields.prompt)
        if not 0 < len(prompts) * fields.n <= MAX_TEXTS:
            raise refusal(f"{len(prompts)} prompts times n {fields.n} is not in 1..{MAX_TEXTS}", "prompt")
        if fields.best_of not in (None, fields.n):
            raise refusal(f"only {fields.n}, as n, is served", "best_of")
        if fields.echo and fields.logprobs is not None and fields.stream:
            raise refusal("logprobs of the prompt are not streamed", "echo")
        logprobs = None if fields.logprobs is None else LogprobsRequest(fields.logprobs, fields.echo)
        texts = []
        for prompt in prompts:
            request = generation_request(
                endpoint,
                fields,
                prompt,
                request_id=request_id,
                max_new_tokens=fields.max_tokens,
                logprobs=logprobs,
                prediction=fields.prediction,
            )
            texts += [Text(endpoint, one, fields.stop) for one in repeated(request, fields.n)]
        super().__init__(endpoint, endpoint.require_model(fields.model), request_id, texts, time.time())
        self._echo = fields.echo
        self._wants_logprobs = fields.logprobs is not None
        self._wants_usage = fields.stream_options is not None and fields.stream_options.include_usage

    def whole(self) -> Event:
        """See `Reply.whole`."""
        choices = [self._choice(index, text) for index, text in enumerate(self.texts)]
        return {**self._head, "choices": choices, "usage": report.usage_of(self.texts), **self.account}

    def opening(self) -> Iterable[Event]:
        """See `Reply.opening`."""
        if not self._echo:
            return []
        return [self._chunk(index, self._prompt(text)) for index, text in enumerate(self.texts)]

    def piece(self, index: int, piece: Piece) -> Iterable[Event]:
        """See `Reply.piece`."""
        if piece.text or (self._wants_logprobs and piece.tokens):
            yield self._chunk(index, piece.text, self._logprobs(_own(piece.tokens)))

    def ending(self, index: int) -> Iterable[Event]:
        """See `Reply.ending`."""
        yield self._chunk(index, "", finish_reason=self.texts[index].finish_reason)

    def closing(self) -> Iterable[Event]:
        """See `Reply.closing`."""
        usage = {"usage": report.usage_of(self.texts)} if self._wants_usage else {}
        yield {**self._head, "choices": [], **usage, **self.account}

    def _choice(self, index: int, text: Text) -> Event:
        prompt = self._prompt(text) if self._echo else ""
        tokens = [(token_id, len(prompt) + at, one) for token_id, at, one in _own(text.growing.tokens)]
        if self._echo and self._wants_logprobs:
            tokens = [*self._prompt_tokens(text), *tokens]
        return {
            "index": index,
            "text": prompt + text.growing.text,
            "logprobs": self._logprobs(tokens),
            "finish_reason": text.finish_reason,
        }

    def _chunk(
        self, index: int, text: str, logprobs: Event | None = None, finish_reason: str | None = None
    ) -> Event:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
        return {**self._head, "choices": [choice], **({"usage": None} if self._wants_usage else {})}

    @property
    def _head(self) -> Event:
        return {
            "id": f"cmpl-{self.request_id}",
            "object": "text_completion",
            "created": self.created_s,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def _prompt(self, text: Text) -> str:
        return self.endpoint.tokenizer.decode(text.request.prompt_token_ids)

    def _prompt_tokens(self, text: Text) -> list[_Scored]:
        """The prompt's tokens; nothing says how likely the first was."""
        stream, offset, tokens = self.endpoint.tokenizer.stream(), 0, []
        for position, token_id in enumerate(text.request.prompt_token_ids):
            tokens.append((token_id, offset, text.report.prompt_logprobs.get(position)))
            offset += len(stream.push(token_id))
        return tokens

    def _logprobs(self, tokens: list[_Scored]) -> Event | None:
        if not self._wants_logprobs:
            return None
        return {
            "tokens": [self.token(token_id) for token_id, _, _ in tokens],
            "token_logprobs": [None if one is None else finite(one.logprob) for _, _, one in tokens],
            "top_logprobs": [
                None if one is None else self._top(token_id, one) for token_id, _, one in tokens
            ],
            "text_offset": [offset for _, offset, _ in tokens],
        }

    def _top(self, token_id: int, one: TokenLogprobs) -> dict[str, float]:
        """The likeliest tokens, and the one that stands there. Tokens that look alike: the likelier one's value."""
        found: dict[str, float] = {}
        for top_id, logprob in (*one.top, (token_id, one.logprob)):
            found.setdefault(self.token(top_id), finite(logprob))
        return found


def _own(tokens: list[WrittenToken]) -> list[_Scored]:
    return [(token.token_id, token.offset, token.logprobs) for token in tokens]
