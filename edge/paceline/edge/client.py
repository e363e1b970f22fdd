"""The edge as a library: connect to a verifier, generate texts.

client = Client(GrpcHop("127.0.0.1:7443"), drafter)
await client.connect()
async for event in client.generate(request):
    ...
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from paceline.common import padding, tracing
from paceline.common.drafter import Drafter
from paceline.common.errors import Incompatible, InvalidRequest, UnsupportedVersion
from paceline.common.hops.base import Hop
from paceline.common.messages import PROTOCOL_VERSION, Description, Feature
from paceline.common.padding import check_padding, tokens_that_fit
from paceline.common.session.limits import check_logprobs, check_rule, check_sampling
from paceline.common.tokens import Rule
from paceline.edge.drafters.prediction import predicted
from paceline.edge.drafting import Drafting, DraftWorker, ThreadWorker
from paceline.edge.modes import MODES
from paceline.edge.pacing.estimates import Estimates
from paceline.edge.pacing.lookahead import without_race
from paceline.edge.request import Event, GenerationRequest, Report, TokensEvent
from paceline.edge.run import Run

if TYPE_CHECKING:  # whoever wants no metrics needs no prometheus_client
    from paceline.edge.metrics import EdgeMetrics

_MAX_UINT32 = (1 << 32) - 1


class Client:
    """Generates texts with a drafter here and a verifier there; any number at a time, on one event loop.

    Args:
        hop: the verifier; None if only mode `local` is used. Closed with the client.
        drafter: None if only mode `cloud` is used.
        tokenizer_fingerprint: of the vocabulary the prompt was encoded with; b"" skips the comparison.
        eos_token_ids: the draft model's, for mode `local` and where the drafter goes on alone.
        worker: where the drafter runs; a thread of its own unless something else is given.
        metrics: told of every text; None counts nothing.
    """

    def __init__(
        self,
        hop: Hop | None,
        drafter: Drafter | None = None,
        *,
        tokenizer_fingerprint: bytes = b"",
        eos_token_ids: tuple[int, ...] = (),
        worker: DraftWorker | None = None,
        metrics: "EdgeMetrics | None" = None,
    ) -> None:
        self.metrics = metrics
        self.verifier: Description | None = None
        self._hop = hop
        self._drafter = drafter
        self._fingerprint = tokenizer_fingerprint
        self._eos_token_ids = eos_token_ids
        self._worker = worker or ThreadWorker()
        self.estimates = Estimates()
        """What was measured of drafter, verifier and link."""

    async def __aenter__(self) -> Self:
        if self._hop is not None:
            await self.connect()
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def has_verifier(self) -> bool:
        """Whether there is one to connect to."""
        return self._hop is not None

    async def connect(self) -> Description:
        """Ask the verifier what it serves and check that both ends fit.

        Raises:
            Unreachable: nobody answers.
            Incompatible: version or vocabulary differ.
        """
        if self._hop is None:
            raise InvalidRequest("there is no verifier to connect to", field="verifier", cure="name one")
        verifier = await self._hop.describe()
        if verifier.protocol_version != PROTOCOL_VERSION:
            raise UnsupportedVersion(
                f"the verifier speaks protocol {verifier.protocol_version}, this side {PROTOCOL_VERSION}",
                field="protocol_version",
                cure="update the older end",
            )
        if self._fingerprint and verifier.tokenizer_fingerprint not in (b"", self._fingerprint):
            raise Incompatible(
                f"the draft model's vocabulary is not that of the target {verifier.model_name}",
                field="draft_model",
                cure="use a draft model that shares the target's tokenizer",
            )
        self.verifier = verifier
        return verifier

    async def close(self) -> None:
        """Close the link and stop the drafter's thread."""
        if self._hop is not None:
            await self._hop.close()
        self._worker.stop()

    def generate(
        self,
        request: GenerationRequest,
        mode: str = "auto",
        writer: Drafting | None = None,
        comes_back: Callable[[], bool] = lambda: False,
    ) -> "Generation":
        """Start a text; iterate the result for its events, read `.report` afterwards.

        Args:
            writer: writes this text ahead instead of the client's drafter.
            comes_back: asked when the text is left in the middle: whether the verifier is to keep its cache, for the
                same `session_id`.
        Raises:
            InvalidRequest: the mode is unknown, or the request is malformed.
        """
        if mode not in MODES:
            raise InvalidRequest(
                f"there is no mode {mode!r}", field="mode", cure=f"one of {', '.join(MODES)}"
            )
        check_request(request)
        self._check_logprobs(request, mode)
        drafter = predicted(self._drafter, request.prediction_token_ids)
        request = evenly(without_race(request, drafter))
        report = Report(mode, request.effective_rule, len(request.prompt_token_ids))
        run = Run(
            request,
            report,
            self._worker,
            hop=self._hop,
            verifier=self.verifier,
            drafter=drafter,
            writer=writer,
            tokenizer_fingerprint=self._fingerprint,
            eos_token_ids=self._eos_token_ids,
            estimates=self.estimates,
            comes_back=comes_back,
        )
        return Generation(run, self.metrics)

    def _check_logprobs(self, request: GenerationRequest, mode: str) -> None:
        """Only the target's are told."""
        if request.logprobs is None:
            return
        if mode == "local":
            raise InvalidRequest(
                "no target sees a text of mode local",
                field="logprobs",
                cure="leave them out, or ask a verifier",
            )
        features = self.verifier.features if self.verifier is not None else frozenset(Feature)
        check_logprobs(request.logprobs, features)

    async def complete(self, request: GenerationRequest, mode: str = "auto") -> Report:
        """Generate a whole text and return its report."""
        generation = self.generate(request, mode)
        async for _ in generation:
            pass
        return generation.report


class Generation:
    """A text on its way: an async iterator of events with a report."""

    def __init__(self, run: Run, metrics: "EdgeMetrics | None" = None) -> None:
        self.report = run.report
        self._run = run
        self._metrics = metrics

    async def __aiter__(self) -> AsyncGenerator[Event, None]:
        loop, report = asyncio.get_running_loop(), self.report
        began_s = loop.time()
        counted = self._metrics.follow(report, began_s) if self._metrics else None
        self._run.span = _span(self._run)
        error: BaseException | None = None
        try:
            async with aclosing(MODES[report.mode](self._run)) as events:
                async for event in events:
                    if isinstance(event, TokensEvent):
                        if not report.token_ids:
                            report.ttft_s = loop.time() - began_s
                        report.token_ids.extend(event.token_ids)
                        report.origins.extend(event.origins)
                        report.authors.extend(event.authors)
                    if counted is not None:
                        counted.on_event(event, loop.time())
                    yield event
        except BaseException as raised:
            error = raised
            raise
        finally:
            report.total_s = loop.time() - began_s
            if counted is not None:
                counted.on_end(error, loop.time())
            self._run.span.end(**_outcome(report, error))


def _span(run: Run) -> tracing.Span:
    request = run.request
    return tracing.begin(
        "generation",
        hop=request.path[-1] if request.path else "edge",
        request_id=request.request_id,
        mode=run.report.mode,
        rule=run.report.rule,
        num_prompt_tokens=len(request.prompt_token_ids),
    )


def _outcome(report: Report, error: BaseException | None) -> dict[str, tracing.Attribute]:
    ended = type(error).__name__ if error is not None else report.finish_reason or ""
    return {
        "ended": ended,
        "num_tokens": len(report.token_ids),
        "num_drafted": report.drafted_tokens,
        "num_accepted": report.accepted_tokens,
        "num_reconnects": report.num_reconnects,
    }


def check_request(request: GenerationRequest) -> None:
    """Refuse what no verifier could serve, before anything is sent.

    Raises:
        InvalidRequest: naming the field.
    """
    if not request.prompt_token_ids:
        raise InvalidRequest("the prompt is empty", field="prompt", cure="give at least one token")
    for name in ("prompt_token_ids", "stop_token_ids", "prediction_token_ids"):
        for index, token_id in enumerate(getattr(request, name)):
            if not 0 <= token_id <= _MAX_UINT32:
                raise InvalidRequest(
                    f"{token_id} is no token id", field=f"{name}[{index}]", cure="use the target's tokenizer"
                )
    if not 1 <= request.max_new_tokens <= _MAX_UINT32:
        raise InvalidRequest(
            f"{request.max_new_tokens} is not in 1..{_MAX_UINT32}", field="max_new_tokens", cure="at least 1"
        )
    if request.num_speculative_tokens is not None and request.num_speculative_tokens < 1:
        raise InvalidRequest(
            f"{request.num_speculative_tokens} is not at least 1",
            field="num_speculative_tokens",
            cure="or auto",
        )
    if not 0 <= request.seed < 1 << 64:
        raise InvalidRequest(
            f"{request.seed} is not an unsigned 64-bit number", field="seed", cure="0 to 2**64 - 1"
        )
    check_sampling(request.sampling)
    check_rule(request.effective_rule, request.sampling, frozenset(Rule))
    check_padding(request.pad_to, request.effective_rule)
    wanted = request.num_speculative_tokens
    if request.pad_to and wanted is not None and wanted > tokens_that_fit(request.pad_to):
        raise InvalidRequest(
            f"blocks of {wanted} tokens do not fit messages of {request.pad_to} bytes",
            field="num_speculative_tokens",
            cure=f"at most {tokens_that_fit(request.pad_to)}, or a larger pad_to",
        )


def evenly(request: GenerationRequest) -> GenerationRequest:
    """The request with blocks of one length, if it is padded: how long they take to write would tell of the text."""
    if not request.pad_to or request.num_speculative_tokens is not None:
        return request
    return replace(request, num_speculative_tokens=padding.BLOCK)
