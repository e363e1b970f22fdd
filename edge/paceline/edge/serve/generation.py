"""From a request's fields to texts under way."""

import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from paceline.common.sampling.noise import mix64
from paceline.common.tokens import FinishReason, LogprobsRequest, Rule
from paceline.edge.drafters.prediction import count_accepted
from paceline.edge.request import GenerationRequest, Report, TokensEvent
from paceline.edge.serve.endpoint import Endpoint
from paceline.edge.serve.errors import refusal, shown
from paceline.edge.serve.schema import Prediction, Repeated, Sampled, text_of
from paceline.edge.serve.text import GrowingText, WrittenToken

_SEED_BITS = 53
"""Of a seed nobody gave: JavaScript reads it without loss."""
_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)


@dataclass(frozen=True, slots=True)
class Piece:
    """What a text grew by."""

    text: str
    tokens: list[WrittenToken]


class Text:
    """One text under way.

    Args:
        endpoint: who writes it.
        request: what is asked for.
        stops: strings that end it.
    """

    def __init__(self, endpoint: Endpoint, request: GenerationRequest, stops: Sequence[str] = ()) -> None:
        self.request = request
        self.report = Report(endpoint.config.mode, request.effective_rule, len(request.prompt_token_ids))
        self.growing = GrowingText(endpoint.tokenizer, stops)
        self.finish_reason: str | None = None
        self._endpoint = endpoint

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The text as it grows; leaving it early ends it everywhere.

        Raises:
            PacelineError: it cannot be written.
        """
        endpoint, growing = self._endpoint, self.growing
        async with endpoint.slots:
            generation = endpoint.client.generate(self.request, endpoint.config.mode)
            self.report = generation.report
            endpoint.metrics.began()
            try:
                async with aclosing(aiter(generation)) as events:
                    async for event in events:
                        if isinstance(event, TokensEvent):
                            self._take(event)
                            if growing.stopped_by is not None:
                                break
                            yield Piece(*growing.take())
                growing.end()
                self.finish_reason = self._finish_reason()
                yield Piece(*growing.take(all_of_it=True))
            finally:
                endpoint.metrics.ended(self.report, self.finish_reason or "abandoned")

    async def complete(self) -> "Text":
        """Write all of it."""
        async with aclosing(self.pieces()) as pieces:
            async for _ in pieces:
                pass
        return self

    def _take(self, event: TokensEvent) -> None:
        told = event.logprobs or (None,) * len(event.token_ids)
        for token_id, logprobs in zip(event.token_ids, told, strict=True):
            self.growing.push(token_id, logprobs)

    def _finish_reason(self) -> str:
        if self.growing.stopped_by is not None:
            return "stop"
        return str(self.report.finish_reason or FinishReason.LENGTH)

    @property
    def ended_by_token(self) -> bool:
        """Whether its last token is one that ends texts, and no part of this one."""
        return self.finish_reason == "stop" and self.growing.stopped_by is None

    @property
    def expected(self) -> tuple[int, int] | None:
        """Of a prediction, the tokens that stand in the text and those that do not."""
        prediction = self.request.prediction_token_ids
        if not prediction:
            return None
        accepted = count_accepted(prediction, self.report.token_ids[: self.growing.num_tokens])
        return accepted, max(len(prediction) - accepted, 0)


def generation_request(
    endpoint: Endpoint,
    fields: Sampled,
    prompt: tuple[int, ...],
    *,
    request_id: str,
    max_new_tokens: int | None,
    logprobs: LogprobsRequest | None = None,
    prediction: Prediction | None = None,
) -> GenerationRequest:
    """What is asked for, where the request says nothing as the endpoint's own defaults have it.

    Args:
        max_new_tokens: None takes the default, or what the context still holds.
    """
    template = endpoint.config.template
    given = {name: getattr(fields, name, None) for name in _SAMPLING}
    more: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    stop_token_ids = template.stop_token_ids
    if isinstance(fields, Repeated):
        stop_token_ids = (*stop_token_ids, *fields.stop_token_ids)
        more |= {"logit_bias": _biases(endpoint, fields.logit_bias)} if fields.logit_bias else {}
    sampling = replace(template.sampling, **more)
    room = endpoint.client.verifier.max_context - len(prompt) if endpoint.client.verifier else None
    usual = template.max_new_tokens if room is None else min(template.max_new_tokens, max(room, 1))
    expected = endpoint.tokenizer.encode(text_of(prediction.content), as_is=True) if prediction else ()
    return replace(
        template,
        prompt_token_ids=prompt,
        max_new_tokens=usual if max_new_tokens is None else max_new_tokens,
        sampling=sampling,
        rule=None if template.rule is Rule.COUPLED and sampling.is_greedy else template.rule,
        seed=secrets.randbits(_SEED_BITS) if fields.seed is None else fields.seed % (1 << 64),
        stop_token_ids=stop_token_ids,
        ignore_eos=template.ignore_eos or fields.ignore_eos,
        request_id=request_id,
        logprobs=logprobs,
        prediction_token_ids=expected,
    )


def _biases(endpoint: Endpoint, biases: dict[str, float]) -> dict[int, float]:
    verifier = endpoint.client.verifier
    vocab_size = verifier.vocab_size if verifier is not None else 1 << 32
    for name in biases:
        if not (name.isascii() and name.isdecimal() and len(name) <= 10 and int(name) < vocab_size):
            raise refusal(f"{shown(name)!r} is no token id", "logit_bias")
    return {int(name): bias for name, bias in biases.items()}


def repeated(request: GenerationRequest, count: int) -> list[GenerationRequest]:
    """The same `count` times, each but the first with a seed of its own made from the first one's."""
    return [replace(request, seed=_seed(request.seed, index)) for index in range(count)]


def _seed(seed: int, index: int) -> int:
    return seed if index == 0 else mix64(seed ^ mix64(index))


__all__ = ["Piece", "Text", "generation_request", "repeated"]
