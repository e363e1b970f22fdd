"""Bad input: one line that names the field, the value and the cure; nothing on stdout; never a traceback."""

import json
import os

import pytest

GENERATE = ("edge", "generate")
LOCAL = ("--mode", "local")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("prompt", "--prompt TEXT", "--prompt-file FILE")),
        (("--prompt", ""), ("prompt", "empty")),
        (("-",), ("prompt", "empty")),
        (("--prompt", "a", "-"), ("prompt", "exactly one")),
        (("--prompt", "a", "--prompt-file", "b"), ("prompt", "exactly one")),
        (("words",), ("prompt", "'words'", "--prompt TEXT")),
        (("--prompt-file", "absent.txt"), ("prompt_file", "absent.txt", "No such file", "check the path")),
        (("--prompt-file", "."), ("prompt_file", "Is a directory")),
        (("--prompts-file", "absent.jsonl", "--prompt", "a"), ("prompts_file", "no other prompt")),
        (("--prompt", "a", "--output", "x"), ("output", "--prompts-file")),
        (("--prompt", "a", "--temperature", "-1"), ("temperature", "-1", "0", "100")),
        (("--prompt", "a", "--temperature", "nan"), ("temperature", "nan")),
        (("--prompt", "a", "--temperature", "inf"), ("temperature", "inf")),
        (("--prompt", "a", "--top-p", "0"), ("top_p", "0.0", "1")),
        (("--prompt", "a", "--top-p", "1.5"), ("top_p", "1.5")),
        (("--prompt", "a", "--top-k", "-1"), ("top_k", "-1", "0 keeps all")),
        (("--prompt", "a", "--min-p", "2"), ("min_p", "2.0")),
        (("--prompt", "a", "--presence-penalty", "3"), ("presence_penalty", "3.0", "-2", "2")),
        (("--prompt", "a", "--repetition-penalty", "0"), ("repetition_penalty", "0.0")),
        (("--prompt", "a", "--seed", "-1"), ("seed", "-1", "2**64")),
        (("--prompt", "a", "--seed", str(2**64)), ("seed", str(2**64))),
        (("--prompt", "a", "--max-new-tokens", "0"), ("max_new_tokens", "0", "at least 1")),
        (("--prompt", "a", "--rule", "fair"), ("rule", "'fair'", "auto, greedy, coupled")),
        (("--prompt", "a", "--rule", "coupled"), ("rule", "temperature above 0")),
        (("--prompt", "a", "--rule", "greedy", "--temperature", "1"), ("rule", "temperature 0", "coupled")),
        (("--prompt", "a", "--mode", "fast"), ("mode", "'fast'", "sync")),
        (("--prompt", "a", "--num-speculative-tokens", "0"), ("num_speculative_tokens", "'0'", "auto")),
        (("--prompt", "a", "--num-speculative-tokens", "many"), ("num_speculative_tokens", "'many'", "auto")),
        (("--prompt", "a", "--pad-to", "100"), ("pad_to", "100", "128..4096", "256")),
        (
            ("--prompt", "a", "--pad-to", "256", "--rule", "rejection", "--temperature", "1"),
            ("pad_to", "rejection sends laws", "coupled"),
        ),
        (
            ("--prompt", "a", "--pad-to", "128", "--num-speculative-tokens", "12"),
            ("num_speculative_tokens", "12", "128 bytes", "at most 11"),
        ),
        (("--prompt", "a", "--stop-token-id", "-5"), ("stop_token_ids", "-5")),
        (("--prompt", "a"), ("draft_model", "--draft-model DIR")),
        (("--prompt", "a", "--draft-model", "absent"), ("draft_model", "absent", "check the path")),
        (("--prompt", "a", "--draft-model", "/"), ("draft_model", "tokenizer.json")),
        (("--prompt", "a", "--drafter", "ngram"), ("draft_model", "--draft-model DIR")),
    ],
)
def test_a_request_nobody_could_serve_is_refused_at_once(
    inline, tmp_path, monkeypatch, arguments, words
) -> None:
    """Without a model loaded or a verifier asked."""
    monkeypatch.chdir(tmp_path)
    inline(*GENERATE, *arguments).complains(*words)


@pytest.mark.parametrize("address", ["nonsense", "host:", ":1", "host:port", "host:70000", "127.0.0.1:-1"])
def test_a_malformed_address_is_refused(inline, pico, address) -> None:
    """The example shows what an address looks like."""
    arguments = ("--prompt", "a", "--draft-model", pico, "--verifier", address)
    inline(*GENERATE, *arguments).complains("verifier", repr(address), "127.0.0.1:7443")


def test_an_unknown_drafter_is_refused(inline, pico) -> None:
    """The message lists the drafters there are."""
    arguments = ("--prompt", "a", "--draft-model", pico, "--drafter", "oracle")
    inline(*GENERATE, *arguments).complains("'oracle'", "ngram", "onnx", "torch")


def test_a_topology_without_a_drafter_to_load_is_refused(inline, tmp_path) -> None:
    """A file that is not there, and a drafter without models or tokenizer."""
    last = "  - {name: b, listen: 127.0.0.1:1, target: {kind: table}}"
    copies = tmp_path / "copies.yml"
    drafter = "{kind: cascade, tokens: [2], drafters: [{kind: ngram}, {kind: ngram}]}"
    copies.write_text(f"version: 1\nhops:\n  - {{name: a, upstream: b, drafter: {drafter}}}\n{last}\n")
    for file, words in (
        (tmp_path / "absent.yaml", ("no such file",)),
        (copies, ("tokenizer", "no drafter has a model", "--tokenizer DIR")),
    ):
        inline("edge", "generate", "--prompt", "a", "--topology", file).complains(*words)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", ("not JSON",)),
        ("[" * 100_000, ("not JSON",)),
        ('["a"]', ("not a JSON object",)),
        ('"a"', ("not a JSON object",)),
        ("{}", ("prompt or prompt_token_ids", "exactly one")),
        ('{"prompt": "a", "prompt_token_ids": [1]}', ("exactly one",)),
        ('{"prompt": "a", "top": 1}', ("unknown top", "max_new_tokens, prompt")),
        ('{"prompt": 3}', ("prompt", "3 is not text")),
        ('{"prompt": ""}', ("prompt", "empty")),
        ('{"prompt": "\\ud800"}', ("prompt", "not valid Unicode")),
        ('{"prompt_token_ids": "1 2"}', ("prompt_token_ids", "not a list of token ids")),
        ('{"prompt_token_ids": []}', ("prompt", "empty")),
        ('{"prompt_token_ids": [1.5]}', ("prompt_token_ids", "not a list of token ids")),
        ('{"prompt_token_ids": [true]}', ("prompt_token_ids", "not a list of token ids")),
        ('{"prompt_token_ids": [-1]}', ("prompt_token_ids", "-1")),
        ('{"prompt": "a", "seed": 1.5}', ("seed", "1.5 is not a whole number")),
        ('{"prompt": "a", "seed": -1}', ("seed", "-1")),
        ('{"prompt": "a", "seed": "x"}', ("seed", "'x' is not a whole number")),
        ('{"prompt": "a", "seed": true}', ("seed", "True is not a whole number")),
        ('{"prompt": "a", "temperature": "warm"}', ("temperature", "'warm' is not a number")),
        ('{"prompt": "a", "temperature": NaN}', ("temperature", "nan")),
        ('{"prompt": "a", "temperature": 1e999}', ("temperature", "inf")),
        ('{"prompt": "a", "max_new_tokens": 0}', ("max_new_tokens", "0")),
        ('{"prompt": "a", "max_new_tokens": 1e999}', ("max_new_tokens", "inf is not a whole number")),
    ],
    ids=range(24),
)
def test_a_malformed_batch_line_is_refused_before_anything_runs(inline, pico, tmp_path, line, words) -> None:
    """The complaint names file, line and key, and the good lines around it were not run."""
    file, output = tmp_path / "prompts.jsonl", tmp_path / "texts.jsonl"
    file.write_text('{"prompt": "good"}\n\n' + line + '\n{"prompt": "good"}\n')
    output.write_text("kept\n")
    arguments = ("--prompts-file", file, "--output", output, "--draft-model", pico, *LOCAL)
    inline(*GENERATE, *arguments).complains(f"{file}:3", *words)
    assert output.read_text() == "kept\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\n \n", ("prompts_file", "no lines")),
        (b"\xff\xfe", ("prompts_file", "not UTF-8")),
        (None, ("prompts_file", "No such file")),
    ],
)
def test_a_batch_without_lines_is_refused(inline, pico, tmp_path, content, words) -> None:
    """So is one in another encoding, and one that is not there."""
    file = tmp_path / "prompts.jsonl"
    if content is not None:
        file.write_bytes(content)
    inline(*GENERATE, "--prompts-file", file, "--draft-model", pico, *LOCAL).complains(*words)


def test_an_output_that_cannot_be_written_is_refused_before_anything_runs(inline, pico, tmp_path) -> None:
    """Here the output is a folder."""
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "good"}\n')
    arguments = ("--prompts-file", file, "--output", tmp_path, "--draft-model", pico, *LOCAL)
    inline(*GENERATE, *arguments).complains("output", str(tmp_path), "Is a directory", "writable")


def test_another_vocabulary_is_refused(paceline, verifier, stranger) -> None:
    """Both ends work, but do not fit: exit code 3, and the cure is another draft model."""
    outcome = paceline(*GENERATE, "--verifier", verifier, "--draft-model", stranger, "--prompt", "a")
    outcome.complains("draft_model", "vocabulary", "base", "shares the target's tokenizer", code=3)


def test_an_absent_verifier_is_named_with_the_cure(paceline, pico, tmp_path) -> None:
    """Exit code 4; the output of an earlier batch is still there."""
    file, output = tmp_path / "prompts.jsonl", tmp_path / "texts.jsonl"
    file.write_text('{"prompt": "good"}\n')
    output.write_text("kept\n")
    arguments = ("--verifier", "127.0.0.1:1", "--draft-model", pico, "--prompts-file", file)
    outcome = paceline(*GENERATE, *arguments, "--output", output)
    outcome.complains("verifier", "127.0.0.1:1", "paceline cloud serve", code=4)
    assert output.read_text() == "kept\n"


def test_a_text_beyond_the_context_is_refused(paceline, verifier, pico, tmp_path) -> None:
    """Alone or in a batch, both lengths and the limit are named."""
    link = ("--verifier", verifier, "--draft-model", pico)
    alone = paceline(*GENERATE, *link, "-", stdin="x = 1\n" * 3000)
    alone.complains("max_new_tokens", "2048", "shorten the prompt")
    file = tmp_path / "prompts.jsonl"
    file.write_text(
        json.dumps({"prompt": "good"}) + "\n" + json.dumps({"prompt": "x", "max_new_tokens": 2048})
    )
    batch = paceline(*GENERATE, *link, "--prompts-file", file)
    batch.complains("line 2", "max_new_tokens", "2048", "ask for fewer")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "./absent"), ("model", "absent", "config.json")),
        (("--model", "."), ("model", "config.json")),
        (("--model", "BASE", "--listen", "nonsense"), ("listen", "'nonsense'", "127.0.0.1:7443")),
        (("--model", "BASE", "--device", "tpu"), ("device", "'tpu'", "auto, cpu or cuda")),
        (("--model", "BASE", "--dtype", "int3"), ("dtype", "'int3'", "float32")),
        (("--model", "BASE", "--require-receipts"), ("require_receipts", "--receipt-key")),
        (("--model", "BASE", "--receipt-key", "absent"), ("receipt_key", "cannot read absent", "secrets")),
    ],
)
def test_a_verifier_that_cannot_start_says_why(
    inline, models, tmp_path, monkeypatch, arguments, words
) -> None:
    """Model, address, device and number format are checked before it serves."""
    monkeypatch.chdir(tmp_path)
    given = [str(models / "base") if word == "BASE" else word for word in arguments]
    inline("cloud", "serve", *given).complains(*words)


def test_a_second_verifier_on_a_port_is_refused(inline, models, verifier) -> None:
    """Two processes never share a port by mistake, and the second says so before it loads anything."""
    outcome = inline("cloud", "serve", "--model", models / "base", "--listen", verifier)
    outcome.complains("listen", verifier, "Address already in use", "port 0")


def test_a_host_that_is_not_this_machine_is_refused(inline, models) -> None:
    """Listening needs an address of one's own."""
    outcome = inline("cloud", "serve", "--model", models / "base", "--listen", "192.0.2.1:7443")
    outcome.complains("listen", "192.0.2.1:7443", "assign requested address")


def test_a_closed_pipe_ends_a_command_quietly(start, pico) -> None:
    """`paceline … | head -c 1` gives no traceback."""
    process = start(
        *GENERATE, "--draft-model", pico, *LOCAL, "--max-new-tokens", 600, "--prompt", "import os\n"
    )
    os.read(process.stdout.fileno(), 1)
    process.stdout.close()
    process.stdin.close()
    assert process.wait(120) == 1
    assert "Traceback" not in process.stderr.read()
