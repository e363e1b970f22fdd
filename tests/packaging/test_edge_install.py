"""What a device gets: the wheel with the `edge` extra, no torch, little memory."""

import json
import subprocess
import sys

MAX_RSS_MB = 200
MEASURE = """
import json, os, resource, subprocess, sys, time
began_s = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)
first = os.read(process.stdout.fileno(), 1)
first_token_s = time.perf_counter() - began_s
text = first + process.stdout.read()
code = process.wait()
print(json.dumps({
    "code": code,
    "text": text.decode(),
    "first_token_s": first_token_s,
    "total_s": time.perf_counter() - began_s,
    "rss_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
}))
"""
"""Runs a command from a small process: a child's peak counts the memory of whoever started it."""
FORBIDDEN = ("torch", "transformers", "onnxruntime-genai", "safetensors", "openai")


def test_the_edge_extra_brings_no_torch(device, device_environment) -> None:
    """Neither torch nor transformers nor an exporter is installed, and every module of the edge can be imported."""
    script = """
import importlib.metadata, json, paceline.cli.main, paceline.edge.client, paceline.edge.drafters.onnx
import paceline.edge.serve.server
print(json.dumps([one.metadata["Name"].lower() for one in importlib.metadata.distributions()]))
print(paceline.edge.client.__file__)
"""
    done = subprocess.run(
        [device / "python", "-c", script],
        capture_output=True, text=True, timeout=120, check=False, cwd=device, env=device_environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names, where = done.stdout.splitlines()
    assert {"onnxruntime", "fastapi", "uvicorn"} <= set(json.loads(names))
    assert not set(FORBIDDEN) & set(json.loads(names))
    assert "site-packages" in where


def test_a_device_generates_in_little_memory(
    device, device_environment, verifier, draft_model, capsys, record_property
) -> None:
    """A cold `paceline edge generate` from the wheel writes the verified text within 200 MB; its times are printed."""
    command = [
        device / "paceline", "edge", "generate", "--verifier", verifier, "--draft-model", draft_model,
        "--max-new-tokens", "64", "--prompt", "def read_lines(path):",
    ]  # fmt: skip
    done = subprocess.run(
        [device / "python", "-c", MEASURE, *command],
        capture_output=True, text=True, timeout=120, check=False, cwd=device, env=device_environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    line = (
        f"edge process: {measured['rss_mb']:.0f} MB at most, first token after {measured['first_token_s']:.2f} s, "
        f"done after {measured['total_s']:.2f} s"
    )
    record_property("edge_process", line)
    with capsys.disabled():
        print(f"\n{line}")
    assert measured["code"] == 0, done.stderr
    assert len(measured["text"]) > 20
    assert measured["rss_mb"] <= MAX_RSS_MB


def test_a_device_without_torch_says_what_the_torch_drafter_needs(
    device, device_environment, draft_model
) -> None:
    """One line with the pip command, exit code 3; so does `cloud serve`."""
    drafter = ["edge", "generate", "--drafter", "torch", "--draft-model", draft_model, "--prompt", "a"]
    for arguments in (drafter, ["cloud", "serve", "--model", draft_model, "--listen", "127.0.0.1:0"]):
        done = subprocess.run(
            [device / "paceline", *arguments],
            capture_output=True, text=True, timeout=120, check=False, cwd=device, env=device_environment,
        )  # fmt: skip
        assert done.returncode == 3, done.stderr
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        assert "pip install 'paceline[cloud]'" in done.stderr


def test_a_generation_imports_neither_torch_nor_transformers(verifier, draft_model) -> None:
    """Where they are installed, the command line, the client and the ONNX drafter still leave them alone."""
    script = """
import sys
import paceline.edge.client
import paceline.cli.main
assert not {"torch", "transformers"} & set(sys.modules)
sys.argv = ["paceline", *sys.argv[1:]]
try:
    paceline.cli.main.main()
except SystemExit as ended:
    assert not ended.code
print(sorted({"torch", "transformers", "onnxruntime"} & set(sys.modules)))
"""
    arguments = ["--verifier", verifier, "--draft-model", draft_model, "--prompt", "import ", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", script, "edge", "generate", "--max-new-tokens", "8", *arguments],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result, imported = done.stdout.splitlines()
    assert json.loads(result)["usage"]["completion_tokens"] > 0
    assert imported == "['onnxruntime']"
