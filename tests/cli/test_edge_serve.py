"""`paceline edge serve` as a user runs it: its own process, the shipped models, curl and the official clients."""

import json
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator

import openai
import pytest

from paceline.cli.endpoint import READY_PREFIX
from paceline.cli.verifier_process import endpoint_process

PROMPT = "def read_lines(path):"


def started(start, *options: object) -> tuple["subprocess.Popen[str]", str]:
    """A process, and its URL."""
    process = start("edge", "serve", "--listen", "127.0.0.1:0", *options)
    line = process.stdout.readline()
    assert line.startswith(READY_PREFIX), process.stderr.read()
    return process, line.removeprefix(READY_PREFIX).strip()


@pytest.fixture(scope="module")
def url(verifier, pico) -> Iterator[str]:
    """An endpoint before the shipped target."""
    with endpoint_process(verifier, ["--draft-model", str(pico)]) as endpoint:
        yield endpoint.address


def test_texts_are_those_of_the_command_and_of_the_target(url, paceline, verifier, pico, models) -> None:
    """Greedy and sampled, at the same seed; a chat's is that of its rendered prompt."""
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        for temperature, mode in ((0, "auto"), (0.8, "cloud")):
            done = paceline(
                "edge", "generate", "--verifier", verifier, "--draft-model", pico, "--prompt", PROMPT,
                "--max-new-tokens", 32, "--temperature", temperature, "--seed", 7, "--json", "--mode", mode,
            )  # fmt: skip
            text = json.loads(done.out)["text"]
            options = {"model": "base", "temperature": temperature, "seed": 7, "max_tokens": 32}
            reply = client.completions.create(prompt=PROMPT, **options)
            assert reply.choices[0].text == text
            messages = [{"role": "user", "content": PROMPT}]
            chat = client.chat.completions.create(messages=messages, **options)
            assert chat.choices[0].message.content == text


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl_can_ask(url) -> None:
    """As the documentation shows it, whole and streamed."""
    body = json.dumps({"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 8, "stream": True})
    command = ["curl", "-sN", f"{url}/chat/completions", "-H", "Content-Type: application/json", "-d", body]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    events = [line.removeprefix("data: ") for line in done.stdout.splitlines() if line]
    assert events[-1] == "[DONE]"
    assert json.loads(events[0])["choices"][0]["delta"]["role"] == "assistant"


def test_it_starts_before_its_verifier(start, pico, unused_ports) -> None:
    """Health says 503 and why until one answers; SIGTERM ends it well."""
    (port,) = unused_ports(1)
    process, url = started(start, "--verifier", f"127.0.0.1:{port}", "--draft-model", pico)
    with pytest.raises(urllib.error.HTTPError) as unwell:
        urllib.request.urlopen(url.replace("/v1", "/health"), timeout=10)
    assert unwell.value.code == 503
    assert json.load(unwell.value)["status"] == "unavailable"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert "not ready yet" in process.stderr.read()


def test_sigterm_lets_texts_end(start, verifier, pico) -> None:
    """New requests are refused meanwhile; the one under way is whole."""
    process, url = started(start, "--verifier", verifier, "--draft-model", pico)
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        stream = client.completions.create(
            model="base", prompt=PROMPT, temperature=0, max_tokens=200, stream=True
        )
        events = iter(stream)
        next(events)
        process.send_signal(signal.SIGTERM)
        reasons = [chunk.choices[0].finish_reason for chunk in events if chunk.choices]
    assert reasons[-1] in ("length", "stop")
    assert process.wait(20) == 0


def test_a_topology_file_says_where_and_with_what(start, verifier, pico, tmp_path) -> None:
    """Drafter, sampling and verifier of its first hop."""
    file = tmp_path / "chain.yaml"
    file.write_text(
        f"version: 1\nsampling: {{temperature: 0}}\nmax_new_tokens: 5\nhops:\n"
        f"  - {{name: phone, drafter: {{kind: onnx, model: {pico}}}, upstream: '{verifier}'}}\n"
        f"  - {{name: cloud, listen: '{verifier}', target: {{kind: table, vocab_size: 64}}}}\n"
    )
    _, url = started(start, "--topology", file)
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        reply = client.chat.completions.create(model="base", messages=[{"role": "user", "content": PROMPT}])
        assert reply.usage.completion_tokens == 5
        assert reply.model_extra["paceline"]["verified"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--listen", "0.0.0.0:8080"], ("listen", "--api-key-file", "--insecure-listen")),
        (["--listen", "nowhere"], ("listen", "HOST:PORT")),
        (["--api-key-file", "missing"], ("api_key_file", "missing")),
        (["--mode", "fast"], ("mode", "fast")),
        (["--temperature", "-1"], ("temperature",)),
        (["--draft-model", "nowhere"], ("draft_model", "nowhere")),
    ],
)
def test_what_cannot_be_served_is_refused(inline, options, words) -> None:
    """In one line, exit code 2, before anything is loaded."""
    inline("edge", "serve", *options).complains(*words)


def test_a_key_that_can_be_guessed_is_refused(inline, monkeypatch) -> None:
    """From the environment as from a file."""
    monkeypatch.setenv("PACELINE_API_KEY", "hunter2")
    inline("edge", "serve").complains("api_key", "guessed")


def test_a_port_in_use_is_refused(inline, pico, url) -> None:
    """After everything else."""
    port = url.rpartition(":")[2].partition("/")[0]
    outcome = inline("edge", "serve", "--draft-model", pico, "--listen", f"127.0.0.1:{port}", "--local-only")
    outcome.complains("listen", port)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm")
def test_the_official_node_client_can_ask(url, tmp_path) -> None:
    """Installed from the registry: chat, stream, usage, errors."""
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "openai"]
    done = subprocess.run(install, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    if done.returncode:
        pytest.skip("the openai package cannot be installed from here")
    script = f"""
    import OpenAI from "openai";
    const client = new OpenAI({{baseURL: {json.dumps(url)}, apiKey: "none", maxRetries: 0}});
    const options = {{model: "base", messages: [{{role: "user", content: {json.dumps(PROMPT)}}}], temperature: 0}};
    const whole = await client.chat.completions.create({{...options, max_tokens: 16}});
    const stream = await client.chat.completions.create(
      {{...options, max_tokens: 16, stream: true, stream_options: {{include_usage: true}}}});
    let text = "", usage = null;
    for await (const chunk of stream) {{
      text += chunk.choices[0]?.delta?.content ?? "";
      usage = chunk.usage ?? usage;
    }}
    let code = "";
    try {{ await client.chat.completions.create({{...options, tools: []}}); }} catch (error) {{ code = error.code; }}
    const reply = await client.responses.create({{model: "base", input: "a", max_output_tokens: 4}});
    console.log(JSON.stringify({{same: text === whole.choices[0].message.content, usage, code, out: reply.usage}}));
    """
    (tmp_path / "ask.mjs").write_text(script)
    done = subprocess.run(
        ["node", "ask.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["same"] is True
    assert told["usage"]["completion_tokens"] == 16
    assert told["code"] == "unsupported_parameter"
    assert told["out"]["output_tokens"] == 4
