"""Traces by OpenTelemetry. Imported only where they are asked for; the exporter is chosen by the standard variables."""

import time
from collections.abc import Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from paceline.common import tracing
from paceline.common.tracing import TRACEPARENT, Attribute, Headers

_PREFIX = "paceline."
_PROPAGATOR = TraceContextTextMapPropagator()


class _Span:
    """See `paceline.common.tracing.Span`; thread-safe."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span
        self._context = trace.set_span_in_context(span)

    @property
    def headers(self) -> Headers:
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, self._context)
        return tuple(carrier.items())

    def record(self, name: str, seconds: float, **attributes: Attribute) -> None:
        now_ns = time.time_ns()
        began_ns = now_ns - round(seconds * 1e9)
        span = self._tracer.start_span(
            name, self._context, attributes=_named(attributes), start_time=began_ns
        )
        span.end(now_ns)

    def end(self, **attributes: Attribute) -> None:
        self._span.set_attributes(_named(attributes))
        self._span.end()


def trace_with(provider: Any) -> None:
    """Trace from now on.

    Args:
        provider: an OpenTelemetry `TracerProvider`.
    """
    tracer = provider.get_tracer("paceline")

    def begin(name: str, caller: str, attributes: Mapping[str, Attribute]) -> tracing.Span:
        context = _PROPAGATOR.extract({TRACEPARENT: caller})
        return _Span(tracer, tracer.start_span(name, context, attributes=_named(attributes)))

    tracing.install(begin)


def provider_from_environment(exporter_name: str) -> TracerProvider:
    """A provider that exports by `OTEL_EXPORTER_OTLP_*`, as `OTEL_SERVICE_NAME` and `OTEL_TRACES_SAMPLER` say.

    Args:
        exporter_name: `otlp` or `console`.
    """
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

    exporter: SpanExporter
    if exporter_name == "console":
        import sys

        exporter = ConsoleSpanExporter(out=sys.stderr)
    else:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter()
    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "paceline"}))
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _named(attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
    return {_PREFIX + name: value for name, value in attributes.items()}
