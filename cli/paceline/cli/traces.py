"""Whether this process sends traces, and where. Nothing of OpenTelemetry is imported unless it does."""

import atexit
import os
from collections.abc import Mapping

from paceline.common.errors import InvalidRequest, MissingDependency

_EXPORTERS = ("otlp", "console", "none")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def exporter_of(environment: Mapping[str, str], *, is_asked: bool) -> str:
    """Which exporter OpenTelemetry's standard variables choose; empty for none.

    Raises:
        InvalidRequest: one that is not there.
    """
    named = environment.get("OTEL_TRACES_EXPORTER", "").strip()
    if named not in ("", *_EXPORTERS):
        raise InvalidRequest(
            f"there is no exporter {named!r} here", field="OTEL_TRACES_EXPORTER", cure="otlp, console or none"
        )
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or named == "none":
        return ""
    if named:
        return named
    return "otlp" if is_asked or any(environment.get(name) for name in _ENDPOINTS) else ""


def trace_if_asked(is_asked: bool) -> None:
    """Trace from now on if `--trace` or the environment says so.

    Raises:
        MissingDependency: OpenTelemetry is not installed.
    """
    exporter = exporter_of(os.environ, is_asked=is_asked)
    if not exporter:
        return
    try:
        from paceline.common.otel import provider_from_environment, trace_with

        provider = provider_from_environment(exporter)
    except ModuleNotFoundError as missing:
        raise MissingDependency(
            f"{missing.name} is not installed", field="trace", cure="pip install 'paceline[otel]'"
        ) from None
    trace_with(provider)
    atexit.register(provider.shutdown)
