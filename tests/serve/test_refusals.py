"""What is refused, how, and that it harms nobody."""

from dataclasses import replace

import openai
import pytest

from paceline.cloud.config import VerifierConfig
from paceline.common.errors import InternalError, InvalidRequest, Unreachable
from paceline.common.logs import formatter
from paceline.edge.serve.config import ServeConfig

USER = [{"role": "user", "content": "a"}]
CHAT, PLAIN, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"


@pytest.mark.parametrize(
    ("path", "body", "param", "code"),
    [
        (CHAT, {"messages": USER, "tools": [{}]}, "tools", "unsupported_parameter"),
        (CHAT, {"messages": USER, "tempratur": 1}, "tempratur", "unsupported_parameter"),
        (CHAT, {"messages": USER, "temperature": "hot"}, "temperature", "invalid_value"),
        (CHAT, {"messages": USER, "temperature": 1e9}, "temperature", "invalid_value"),
        (CHAT, {"messages": USER, "n": 0}, "n", "invalid_value"),
        (CHAT, {"messages": USER, "n": True}, "n", "invalid_value"),
        (CHAT, {"messages": USER, "max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "invalid_value"),
        (CHAT, {"messages": USER, "max_tokens": 5000}, "max_tokens", "context_length_exceeded"),
        (CHAT, {"messages": USER, "top_logprobs": 2}, "top_logprobs", "invalid_value"),
        (CHAT, {"messages": USER, "logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        (CHAT, {"messages": USER, "logit_bias": {"x": 1}}, "logit_bias", "invalid_value"),
        (CHAT, {"messages": USER, "logit_bias": {"999999": 1}}, "logit_bias", "invalid_value"),
        (CHAT, {"messages": USER, "logit_bias": {"9" * 5000: 1}}, "logit_bias", "invalid_value"),
        (CHAT, {"messages": USER, "stop": [""]}, "stop[0]", "invalid_value"),
        (CHAT, {"messages": USER, "response_format": {"type": "json_object"}}, "response_format.type", "invalid_value"),
        (CHAT, {"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role", "invalid_value"),
        (CHAT, {"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        (CHAT, {}, "messages", "missing_required_parameter"),
        (CHAT, {"messages": []}, "messages", "invalid_value"),
        (CHAT, {"messages": [{"role": "user", "content": ""}]}, "prompt", "invalid_request"),
        (CHAT, {"messages": USER, "stop_token_ids": [70000]}, "stop_token_ids[0]", "invalid_request"),
        (PLAIN, {"prompt": ["a"] * 65, "n": 2}, "prompt", "invalid_value"),
        (PLAIN, {"prompt": "a", "echo": True, "logprobs": 1, "stream": True}, "echo", "invalid_value"),
        (RESPONSES, {"input": "a", "include": ["x"]}, "include", "unsupported_parameter"),
        (CHAT, [1], None, "malformed"),
        (CHAT, b"{", None, "malformed"),
        (CHAT, b'{"messages": "\xff"}', None, None),
        (CHAT, b"[" * 100_000, None, None),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(endpoint, path, body, param, code) -> None:
    """Status 400, the field, and a word programs can read."""
    status, _, reply = endpoint.ask("POST", path, body)
    assert status == 400, reply
    error = reply["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    if code is not None:
        assert error["code"] == code
    assert error["message"]
    assert len(error["message"]) < 300


def test_an_image_is_named_with_its_place(endpoint) -> None:
    """Only text is read."""
    part = {"type": "image_url", "image_url": {"url": "data:"}}
    status, _, reply = endpoint.ask("POST", CHAT, {"messages": [{"role": "user", "content": [part]}]})
    assert status == 400
    assert reply["error"]["param"].startswith("messages[0].content")


@pytest.mark.parametrize("name", ["\ud800", "x" * 9999, "\x00"])
def test_names_nobody_could_print_are_shown_all_the_same(endpoint, name) -> None:
    """Cut short, half characters replaced."""
    status, _, reply = endpoint.ask("POST", CHAT, {"messages": USER, name: 1})
    assert status == 400
    assert reply["error"]["code"] in ("unsupported_parameter", "malformed")
    status, _, reply = endpoint.ask("POST", CHAT, {"messages": USER, "model": name})
    assert status in (400, 404)


def test_half_a_character_in_a_prompt_is_refused(endpoint) -> None:
    """JSON can say it, UTF-8 cannot."""
    status, _, _ = endpoint.ask("POST", PLAIN, b'{"prompt": "\\ud800"}')
    assert status == 400


def test_another_model_is_not_found(client, serve) -> None:
    """The message says which there is; operators may give it further names."""
    with pytest.raises(openai.NotFoundError, match="only table") as refused:
        client.chat.completions.create(model="gpt-4o", messages=USER, max_tokens=1)
    assert refused.value.code == "model_not_found"
    assert [one.id for one in client.models.list()] == ["table"]
    assert client.models.retrieve("table").id == "table"
    with serve(model_names=("gpt-4o",)) as other, other.openai() as named:
        assert named.chat.completions.create(model="gpt-4o", messages=USER, max_tokens=1).model == "gpt-4o"


def test_other_names_and_other_pages_are_kept_out(endpoint, serve) -> None:
    """A name that points here is no permission (DNS rebinding), nor is a page that calls; operators may allow both."""
    assert endpoint.ask("GET", "/version", headers={"Host": "localhost:1"})[0] == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "", "localhost@evil.example"):
        assert endpoint.ask("GET", "/version", headers={"Host": host})[0] == 403, host
    for origin in ("http://evil.example", "null", "http://localhost:3000"):
        status, headers, reply = endpoint.ask("GET", "/version", headers={"Origin": origin})
        assert status == 403
        assert reply["error"]["code"] == "origin"
        assert "access-control-allow-origin" not in headers
    with serve(cors_origins=("http://localhost:3000",), allowed_hosts=("box",)) as open_one:
        status, headers, _ = open_one.ask(
            "GET", "/version", headers={"Origin": "http://localhost:3000", "Host": "box:80"}
        )
        assert (status, headers["access-control-allow-origin"]) == (200, "http://localhost:3000")
        asks = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
        assert open_one.ask("OPTIONS", CHAT, headers=asks)[0] == 200
        assert open_one.ask("GET", "/version", headers={"Origin": "http://evil.example"})[0] == 403


def test_a_key_is_asked_for(serve) -> None:
    """Everywhere but for health."""
    with serve(api_key="correct horse battery") as locked:
        for given in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic correct horse battery"},
        ):
            for path in ("/v1/models", "/metrics", "/privacy", "/version", "/openapi.json"):
                status, headers, reply = locked.ask("GET", path, headers=given)
                assert (status, headers["www-authenticate"]) == (401, "Bearer")
                assert reply["error"]["code"] == "invalid_api_key"
        assert locked.ask("GET", "/health")[0] == 200
        with locked.openai(api_key="correct horse battery") as client:
            assert client.models.list().data[0].id == "table"
        assert "correct" not in repr(locked.endpoint.config)


def test_long_bodies_are_refused(serve) -> None:
    """By what they say of themselves, and where they say nothing."""
    with serve(max_body_bytes=1000) as small:
        status, _, reply = small.ask("POST", PLAIN, {"prompt": "a" * 2000})
        assert (status, reply["error"]["code"]) == (413, "too_large")
        chunked = b"7d0\r\n" + b'{"prompt": "' + b"a" * 1988 + b"\r\n0\r\n\r\n"
        status, _, reply = small.ask(
            "POST", PLAIN, chunked, {"Transfer-Encoding": "chunked", "Content-Length": ""}
        )
        assert status in (400, 413)


def test_every_reply_has_the_request_s_id(endpoint, caplog) -> None:
    """The caller's own where it fits, refusals included; else a new one. The verifier's log has it too."""
    caplog.set_level("INFO", "paceline.cloud.desk")
    caplog.handler.setFormatter(formatter("text"))
    assert endpoint.ask("GET", "/version", headers={"X-Request-ID": "mine"})[1]["x-request-id"] == "mine"
    status, headers, _ = endpoint.ask("POST", CHAT, {}, {"X-Request-ID": "mine"})
    assert (status, headers["x-request-id"]) == (400, "mine")
    assert (
        endpoint.ask("GET", "/version", headers={"Host": "x", "X-Request-ID": "mine"})[1]["x-request-id"]
        == "mine"
    )
    assert len(endpoint.ask("GET", "/version", headers={"X-Request-ID": "x" * 65})[1]["x-request-id"]) == 24
    body = {"prompt": "a", "max_tokens": 1}
    _, _, reply = endpoint.ask("POST", PLAIN, body, {"X-Request-ID": "mine"})
    assert reply["id"] == "cmpl-mine"
    assert reply["paceline"]["request_id"] == "mine"
    assert 'request_id="mine"' in caplog.text


def test_too_many_requests_are_told_when_to_come_back(serve) -> None:
    """429 with Retry-After, from the endpoint and from the verifier alike; the official client tries again."""
    with serve(step_s=0.02, max_concurrent=1) as busy, busy.openai() as client:
        stream = client.completions.create(model="table", prompt="a", max_tokens=200, stream=True)
        next(iter(stream))
        status, headers, reply = busy.ask("POST", PLAIN, {"prompt": "a"})
        assert (status, headers["retry-after"]) == (429, "1")
        assert reply["error"]["type"] == "rate_limit_error"
        stream.close()
        busy.settled()
    with serve(verifier=VerifierConfig(max_sessions=1), step_s=0.02) as full, full.openai() as client:
        stream = client.completions.create(model="table", prompt="a", max_tokens=200, stream=True)
        next(iter(stream))
        status, headers, reply = full.ask("POST", PLAIN, {"prompt": "a"})
        assert (status, reply["error"]["code"]) == (429, "busy")
        assert int(headers["retry-after"]) >= 1
        stream.close()
        full.settled()


def test_a_dead_verifier_makes_the_endpoint_unwell(serve, monkeypatch) -> None:
    """Health is 503 with the reason, and so are texts; both mend themselves."""
    with serve() as running:

        async def gone() -> None:
            raise Unreachable("nobody answers", field="verifier")

        hop = running.endpoint.client._hop
        monkeypatch.setattr(hop, "describe", gone)
        status, _, reply = running.ask("GET", "/health")
        assert (status, reply["status"]) == (503, "unavailable")
        assert "nobody answers" in reply["reason"]
        status, headers, reply = running.ask("POST", PLAIN, {"prompt": "a", "stream": True})
        assert (status, reply["error"]["code"]) == (503, "unreachable")
        assert "retry-after" in headers
        monkeypatch.undo()
        running.endpoint._checked_s = float("-inf")
        assert running.ask("GET", "/health")[0] == 200
        assert running.ask("POST", PLAIN, {"prompt": "a", "max_tokens": 1})[0] == 200


def test_an_error_in_the_middle_is_the_stream_s_last_event(serve, monkeypatch) -> None:
    """The official client raises it; nothing says that the text is complete."""
    with serve(step_s=0.01) as running, running.openai() as client:
        stream = client.completions.create(model="table", prompt="a", max_tokens=400, stream=True)
        events = iter(stream)
        next(events)
        running.verifier._runner.submit(lambda: running.verifier._desk.fail_all(InternalError("a bug")))
        with pytest.raises(openai.APIError):
            list(events)


def test_a_model_without_a_chat_template_says_so(serve) -> None:
    """It still continues texts."""
    with serve() as running:
        running.endpoint.template = None
        status, _, reply = running.ask("POST", CHAT, {"messages": USER})
        assert (status, reply["error"]["code"]) == (400, "no_chat_template")
        assert running.ask("POST", PLAIN, {"prompt": "a", "max_tokens": 1})[0] == 200


def test_nothing_leaves_the_device_where_it_is_local_only(serve) -> None:
    """The draft model writes, replies say that nothing was verified, and logprobs are refused."""
    with serve(mode="local") as alone, alone.openai() as client:
        assert alone.ask("GET", "/health")[2]["mode"] == "local"
        assert [one.id for one in client.models.list()] == ["pico"]
        reply = client.completions.create(model="pico", prompt="a", max_tokens=8, temperature=0)
        assert reply.model_extra["paceline"]["verified"] is False
        assert reply.model_extra["paceline"]["bytes_up"] == 0
        assert alone.ask("GET", "/privacy")[2]["leaves_the_device"] == []
        with pytest.raises(openai.BadRequestError, match="no target sees") as refused:
            client.completions.create(model="pico", prompt="a", logprobs=1)
        assert refused.value.param == "logprobs"
        assert alone.verifier.num_streams == 0


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"listen": "0.0.0.0:8080"}, "listen"),
        ({"api_key": "short"}, "api_key"),
        ({"cors_origins": ("localhost",)}, "cors_origin"),
        ({"cors_origins": ("http://localhost/",)}, "cors_origin"),
    ],
)
def test_a_configuration_that_gives_the_device_away_is_refused(wrong, field) -> None:
    """Before anything is loaded."""
    with pytest.raises(InvalidRequest) as refused:
        ServeConfig(**wrong).check()
    assert refused.value.field == field


def test_metrics_tell_of_texts_and_refusals(serve) -> None:
    """vLLM's suffixes, with the hop as a label."""
    with serve() as running:
        running.ask("POST", PLAIN, {"prompt": "a", "max_tokens": 8, "temperature": 0})
        running.ask("POST", PLAIN, {})
        text = running.ask("GET", "/metrics")[2]
        for line in (
            'paceline_generation_tokens_total{hop="edge"} 8.0',
            'paceline_http_refusals_total{hop="edge",status="400"} 1.0',
            'paceline_num_requests_running{hop="edge"} 0.0',
            'paceline_time_to_first_token_seconds_count{hop="edge"} 1.0',
            'paceline_verifier_up{hop="edge"} 1.0',
        ):
            assert line in text


def test_one_that_may_begin_alone_keeps_its_name(serve, monkeypatch) -> None:
    """With `offline` it is well without a verifier, and answers to both names once there is one."""
    template = replace(ServeConfig().template, offline=True)
    with serve(template=template) as running, running.openai() as client:

        async def gone() -> None:
            raise Unreachable("nobody answers", field="verifier")

        monkeypatch.setattr(running.endpoint.client._hop, "describe", gone)
        assert running.ask("GET", "/health")[0] == 200
        assert [one.id for one in client.models.list()] == ["pico"]
        monkeypatch.undo()
        running.endpoint._checked_s = float("-inf")
        assert running.ask("GET", "/health")[2]["model"] == "table"
        assert [one.id for one in client.models.list()] == ["table", "pico"]
        reply = client.completions.create(model="pico", prompt="a", max_tokens=4, temperature=0)
        assert reply.model_extra["paceline"]["verified"] is True
