"""What stands behind every route: the client, the tokenizer, the chat template, and room for so many texts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from paceline.common.errors import PacelineError, Unreachable
from paceline.common.messages import Description
from paceline.common.tokenizer import Tokenizer
from paceline.edge.client import Client
from paceline.edge.metrics import EdgeMetrics
from paceline.edge.serve.chat_template import ChatTemplate
from paceline.edge.serve.config import ServeConfig
from paceline.edge.serve.errors import ApiError, api_error, refusal, shown
from paceline.edge.serve.metrics import EndpointMetrics

_HEALTH_S = 2.0
"""How long a health check waits for the verifier."""
_FRESH_S = 1.0
"""How long its answer holds."""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether texts can be written now."""

    is_well: bool
    reason: str
    verifier: Description | None = None
    error: PacelineError | None = None


class Endpoint:
    """Answers for one client.

    Args:
        client: closed with the endpoint. In mode `local` it has no verifier.
        tokenizer: the models'.
        template: turns messages into prompts; None if the model has none.
        config: see `ServeConfig`.
        draft_name: what the model is called where no verifier says its name.
    """

    def __init__(
        self,
        client: Client,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        config: ServeConfig,
        *,
        draft_name: str = "draft",
    ) -> None:
        self.client = client
        self.tokenizer = tokenizer
        self.template = template
        self.config = config
        self.metrics = EndpointMetrics()
        if client.metrics is None:
            client.metrics = EdgeMetrics(registry=self.metrics.registry)
        self.slots = asyncio.Semaphore(config.max_concurrent)
        self.is_draining = False
        self._draft_name = draft_name
        self._num_requests = 0
        self._health = Health(False, "no verifier was asked yet")
        self._checked_s = float("-inf")
        self._checking = asyncio.Lock()

    async def close(self) -> None:
        """Let go of the verifier and the drafter."""
        await self.client.close()

    # --- who answers --------------------------------------------------------------------------------------------------

    async def health(self) -> Health:
        """Ask the verifier whether it is there; an answer holds for a second."""
        if self.is_draining:
            return Health(False, "this endpoint is going away")
        if self.config.is_local_only:
            return Health(True, "local only: no verifier is asked")
        async with self._checking:
            if asyncio.get_running_loop().time() - self._checked_s >= _FRESH_S:
                self._health = await self._ask()
                self._checked_s = asyncio.get_running_loop().time()
                self.metrics.heard(is_up=self._health.verifier is not None)
        return self._health

    async def _ask(self) -> Health:
        try:
            async with asyncio.timeout(_HEALTH_S):
                verifier = await self.client.connect()
        except TimeoutError:
            fault: PacelineError = Unreachable(
                f"no verifier answered within {_HEALTH_S:g} s", cure="is one running, and the address right?"
            )
        except PacelineError as error:
            fault = error
        else:
            return Health(True, "the verifier answers", verifier)
        if self.config.template.offline and isinstance(fault, Unreachable):
            return Health(True, f"going on alone: {fault}")
        return Health(False, str(fault), error=fault)

    async def require_verifier(self) -> None:
        """What a verifier serves has to be known before the first text; afterwards each text finds out for itself.

        Raises:
            PacelineError: it does not answer, or does not fit.
        """
        if self.config.is_local_only or self.client.verifier is not None:
            return
        if (fault := (await self.health()).error) is not None:
            raise fault

    @property
    def model_name(self) -> str:
        """What the model is called here."""
        if self.client.verifier is not None and not self.config.is_local_only:
            return self.client.verifier.model_name or "target"
        return self._draft_name

    @property
    def model_names(self) -> tuple[str, ...]:
        """All names callers may give it. One that began without a verifier goes on by the name it had then."""
        alone = (self._draft_name,) if self.config.template.offline else ()
        return tuple(dict.fromkeys((self.model_name, *self.config.model_names, *alone)))

    def require_model(self, name: str | None) -> str:
        """The name to answer with.

        Raises:
            ApiError: the caller wants another model.
        """
        if name is None:
            return self.model_name
        if name not in self.model_names:
            known = ", ".join(self.model_names)
            raise ApiError(
                404, f"there is no model {shown(name)!r} here, only {known}", "model", "model_not_found"
            )
        return name

    # --- room ---------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """A place for one request.

        Raises:
            ApiError: all are taken, or this endpoint is going away.
        """
        if self.is_draining:
            raise ApiError(503, "this endpoint is going away", None, "draining")
        if self._num_requests >= self.config.max_concurrent:
            raise ApiError(
                429,
                f"{self._num_requests} requests are under way, as many as may be",
                None,
                "too_many_requests",
            )
        self._num_requests += 1
        try:
            yield
        finally:
            self._num_requests -= 1

    @property
    def num_requests(self) -> int:
        """Requests that are being answered."""
        return self._num_requests

    # --- prompts ------------------------------------------------------------------------------------------------------

    def chat_prompt(self, messages: list[dict[str, Any]], **more: Any) -> tuple[int, ...]:
        """The prompt that messages make.

        Raises:
            ApiError: the model has no chat template.
            InvalidRequest: the template refuses them.
        """
        if self.template is None:
            raise refusal(
                "this model has no chat template: use /v1/completions, or serve with --chat-template FILE "
                "(or plain, for one message after another)",
                "messages",
                "no_chat_template",
            )
        return self.tokenizer.encode(self.template.render(messages, **more), as_is=True)


def as_api_error(error: PacelineError | ApiError) -> ApiError:
    """Either, for the caller."""
    return error if isinstance(error, ApiError) else api_error(error)
