"""Requests made up from the endpoint's own OpenAPI document: none of them breaks anything."""

import json
from dataclasses import replace

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from paceline.cloud.config import VerifierConfig
from paceline.edge.serve.config import ServeConfig

SHORT = {"max_tokens": 4, "max_completion_tokens": 4, "max_output_tokens": 4}


def test_the_document_is_served(endpoint) -> None:
    """With every route, and no page that loads scripts from elsewhere."""
    status, _, document = endpoint.ask("GET", "/openapi.json")
    assert status == 200
    assert {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/models", "/health", "/metrics",
            "/version", "/privacy"} <= set(document["paths"])  # fmt: skip
    for path in ("/docs", "/redoc"):
        assert endpoint.ask("GET", path)[0] == 404


@pytest.mark.parametrize("count", [50, pytest.param(2000, marks=pytest.mark.slow)])
def test_no_generated_request_fails_here(serve, count) -> None:
    """Valid ones and wrong ones over all routes: no status of 500 or above, and JSON errors in the API's shape."""
    brief = replace(ServeConfig().template, max_new_tokens=4)
    with serve(verifier=VerifierConfig(max_sessions=200), max_concurrent=200, template=brief) as running:
        schema = schemathesis.openapi.from_dict(running.ask("GET", "/openapi.json")[2])
        operations = [one for found in schema.get_all_operations() if _says_something(one := found.ok())]
        seen: dict[int, int] = {}
        each = -(-count // (2 * len(operations) - 1)) + 1
        for operation in operations:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                if mode is GenerationMode.POSITIVE or len(operation.body):  # any path names a model
                    _probe(running, operation, mode, each, seen)
    assert max(seen) < 500, seen
    assert sum(seen.values()) >= count
    assert seen[200]
    assert seen[400]


def _says_something(operation) -> bool:
    """Whether a caller can say anything wrongly."""
    return bool(len(operation.body) or len(operation.path_parameters))


def _probe(running, operation, mode, count, seen) -> None:
    strategy = operation.as_strategy(generation_mode=mode)

    @settings(
        max_examples=count, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=strategy)
    def ask(case) -> None:
        kwargs = case.as_transport_kwargs(base_url="http://localhost")
        body = kwargs.get("json")
        if isinstance(body, dict):
            body = {**body, **{key: most for key, most in SHORT.items() if isinstance(body.get(key), int)}}
        sent = None if body is None else json.dumps(body).encode()
        path = kwargs["url"].removeprefix("http://localhost")
        status, _, reply = running.ask(case.method.upper(), path, sent)
        seen[status] = seen.get(status, 0) + 1
        if status >= 400 and path != "/health":
            assert set(reply["error"]) == {"message", "type", "param", "code"}, (path, body)

    ask()
