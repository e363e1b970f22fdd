"""A client from the names a user gives, and one for programs without an event loop.

async with connect("127.0.0.1:7443", draft_model="models/pico") as client:
    async for event in client.generate(client.request("def main():")):
        ...

with SyncClient.connect("127.0.0.1:7443", draft_model="models/pico") as client:
    for event in client.generate(client.request("def main():")):
        ...
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from paceline.common.errors import InvalidRequest
from paceline.common.hops.first_reachable import connect_to
from paceline.common.hops.grpc import PEER_TIMEOUT_S
from paceline.common.hops.security import Calling
from paceline.common.tokenizer import Tokenizer
from paceline.edge.assemble import EdgeModel, assemble
from paceline.edge.client import Client
from paceline.edge.request import Event, GenerationRequest, Report

_T = TypeVar("_T")


class TextClient(Client):
    """A `Client` that has the tokenizer: texts in, texts out."""

    def __init__(
        self,
        verifiers: Sequence[str],
        model: EdgeModel,
        calling: Calling | None = None,
        peer_timeout_s: float = PEER_TIMEOUT_S,
    ) -> None:
        super().__init__(
            connect_to(verifiers, calling, peer_timeout_s) if verifiers else None,
            model.drafter,
            tokenizer_fingerprint=model.tokenizer.fingerprint,
            eos_token_ids=model.eos_token_ids,
        )
        self.tokenizer: Tokenizer = model.tokenizer

    def request(self, prompt: str, **fields: Any) -> GenerationRequest:
        """A request to continue a text; `fields` are those of `GenerationRequest`."""
        return GenerationRequest(self.tokenizer.encode(prompt), **fields)

    def text(self, report: Report) -> str:
        """What a generation wrote."""
        return self.tokenizer.decode(report.token_ids)


def connect(
    verifier: str | Sequence[str] = (),
    *,
    draft_model: str | Path | None = None,
    tokenizer: str | Path | None = None,
    drafter: str = "onnx",
    calling: Calling | None = None,
    peer_timeout_s: float = PEER_TIMEOUT_S,
    **options: Any,
) -> TextClient:
    """A client for the verifier at an address, or at several, the best first; it is asked when the client is entered.

    Args:
        verifier: `HOST:PORT`; none leaves mode `local`.
        draft_model: an exported or Hugging Face folder; None drafts nothing, if the drafter needs one (mode `cloud`).
        tokenizer: a folder or `tokenizer.json`; default: the draft model's.
        drafter: a drafter's name, installed ones included.
        calling: certificates and token; without, a plain link.
        peer_timeout_s: how long a verifier that has frozen goes unnoticed at most.
        options: as `paceline.edge.assemble.assemble` has them (`precision`, `device`, `num_threads`, `progress`).
    Raises:
        InvalidRequest: something is missing or unreadable.
        MissingDependency: the drafter's runtime is not installed.
    """
    drafts = draft_model is not None or drafter not in ("onnx", "torch")
    model = assemble(draft_model, kind=drafter, tokenizer=tokenizer, drafts=drafts, **options)
    return TextClient([verifier] if isinstance(verifier, str) else verifier, model, calling, peer_timeout_s)


class SyncClient:
    """A client for programs without an event loop: one runs in a thread of this object's own.

    Args:
        make: makes the client, on that loop.
    """

    def __init__(self, make: Callable[[], Client]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="paceline", daemon=True)
        self._thread.start()
        try:
            self._client = self._run(_entered(make))
        except BaseException:
            self._stop()
            raise

    @classmethod
    def connect(cls, verifier: str | Sequence[str] = (), **names: Any) -> Self:
        """As `connect`; the verifier is asked at once."""
        return cls(lambda: connect(verifier, **names))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def client(self) -> Client:
        """The client behind it."""
        return self._client

    def request(self, prompt: str, **fields: Any) -> GenerationRequest:
        """See `TextClient.request`."""
        return self._text_client.request(prompt, **fields)

    def text(self, report: Report) -> str:
        """See `TextClient.text`."""
        return self._text_client.text(report)

    def generate(self, request: GenerationRequest, mode: str = "auto") -> "SyncGeneration":
        """See `Client.generate`."""
        return SyncGeneration(self._run, self._client, request, mode)

    def complete(self, request: GenerationRequest, mode: str = "auto") -> Report:
        """Generate a whole text and return its report."""
        return self._run(self._client.complete(request, mode))

    def close(self) -> None:
        """Close the client and end the thread."""
        if self._thread.is_alive():
            self._run(self._client.close())
            self._stop()

    @property
    def _text_client(self) -> TextClient:
        if not isinstance(self._client, TextClient):
            raise InvalidRequest("this client has no tokenizer", field="tokenizer", cure="make it by connect")
        return self._client

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _entered(make: Callable[[], Client]) -> Client:
    client = make()
    try:
        return await client.__aenter__()
    except BaseException:
        await client.close()
        raise


class SyncGeneration:
    """A text on its way: an iterator of events with a report. Leaving it early ends the text."""

    def __init__(
        self,
        run: Callable[[Coroutine[Any, Any, Any]], Any],
        client: Client,
        request: GenerationRequest,
        mode: str,
    ) -> None:
        self._run = run
        self._generation = client.generate(request, mode)
        self.report = self._generation.report

    def __iter__(self) -> Iterator[Event]:
        events = aiter(self._generation)
        try:
            while (event := self._run(_next(events))) is not None:
                yield event
        finally:
            self._run(events.aclose())


async def _next(events: Any) -> Event | None:
    return await anext(events, None)
