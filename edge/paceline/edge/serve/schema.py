"""What a request may say. A field that is not here is refused by name; null is as good as left out."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, model_validator

MAX_TEXTS = 128
"""Texts one request may ask for."""
_Count = Annotated[int, Field(ge=1, le=(1 << 32) - 1)]
_TokenId = Annotated[int, Field(ge=0, le=(1 << 32) - 1)]
_StopString = Annotated[str, Field(min_length=1, max_length=256)]


def _without_nulls(value: Any) -> Any:
    return (
        {key: one for key, one in value.items() if one is not None} if isinstance(value, Mapping) else value
    )


class _Object(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        return _without_nulls(value)


class StreamOptions(_Object):
    """How a stream ends."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class TextPart(_Object):
    """A part of a message: only text."""

    type: Literal["text", "input_text", "output_text"]
    text: str
    annotations: Annotated[list[Any], Field(max_length=0)] = []
    logprobs: Annotated[list[Any], Field(max_length=0)] = []


Content = str | Annotated[list[TextPart], Field(max_length=1024)]


class Message(_Object):
    """One turn of a conversation; what replies carry beside their text may be sent back while it is empty."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: str | None = None
    type: Literal["message"] = "message"
    id: str | None = None
    status: str | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] = []
    tool_calls: Annotated[list[Any], Field(max_length=0)] = []


class Prediction(_Object):
    """The caller's own guess of the text."""

    type: Literal["content"]
    content: Content


class TextFormat(_Object):
    """The only form a text has."""

    type: Literal["text"]


class ResponseText(_Object):
    """The same, as `/v1/responses` says it."""

    format: TextFormat = TextFormat(type="text")


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Sampled(_Object):
    """What every kind of request may say."""

    model: str | None = None
    temperature: Annotated[FiniteFloat | None, Field(ge=0, le=100)] = None
    top_p: Annotated[FiniteFloat | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=0, le=(1 << 32) - 1)] = None
    min_p: Annotated[FiniteFloat | None, Field(ge=0, le=1)] = None
    repetition_penalty: Annotated[FiniteFloat | None, Field(gt=0, le=100)] = None
    seed: Annotated[int | None, Field(ge=-(1 << 63), lt=1 << 64)] = None
    stream: bool = False
    ignore_eos: bool = False
    user: str | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: Literal[False] = False


class Repeated(Sampled):
    """What the two older kinds of request may say besides."""

    n: Annotated[int, Field(ge=1, le=MAX_TEXTS)] = 1
    stop: Annotated[list[_StopString], BeforeValidator(_one_or_more), Field(max_length=16)] = []
    stop_token_ids: Annotated[list[_TokenId], Field(max_length=64)] = []
    presence_penalty: Annotated[FiniteFloat | None, Field(ge=-2, le=2)] = None
    frequency_penalty: Annotated[FiniteFloat | None, Field(ge=-2, le=2)] = None
    logit_bias: dict[str, Annotated[FiniteFloat, Field(ge=-100, le=100)]] = {}
    stream_options: StreamOptions | None = None


class ChatRequest(Repeated):
    """POST /v1/chat/completions"""

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    prediction: Prediction | None = None
    response_format: TextFormat | None = None
    modalities: list[Literal["text"]] | None = None
    chat_template_kwargs: dict[str, bool | int | str] = {}


class CompletionRequest(Repeated):
    """POST /v1/completions"""

    prompt: str | list[str] | list[_TokenId] | list[list[_TokenId]]
    max_tokens: _Count = 16
    logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    echo: bool = False
    best_of: Annotated[int | None, Field(ge=1, le=MAX_TEXTS)] = None
    prediction: Prediction | None = None


class ResponsesRequest(Sampled):
    """POST /v1/responses"""

    input: str | Annotated[list[Message], Field(min_length=1, max_length=4096)]
    instructions: str | None = None
    max_output_tokens: _Count | None = None
    text: ResponseText | None = None
    truncation: Literal["disabled"] | None = None
    background: Literal[False] = False


def text_of(content: Content) -> str:
    """A content's text, its parts one after another."""
    return content if isinstance(content, str) else "".join(part.text for part in content)
