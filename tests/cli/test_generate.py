"""`paceline edge generate`: one text, a batch of them, for people and for programs."""

import json

import pytest

PROMPT = "def add(a, b):\n    "
TOP = {
    "text",
    "token_ids",
    "finish_reason",
    "mode",
    "rule",
    "verified",
    "usage",
    "speculation",
    "timing",
    "reconnects",
    "hops",
    "decisions",
}
SPECULATION = {
    "rounds",
    "drafted_tokens",
    "accepted_tokens",
    "acceptance_rate",
    "mean_acceptance_length",
    "target_passes",
    "bytes_up",
    "bytes_down",
}
HOP = {
    "name",
    "role",
    "judged_tokens",
    "accepted_tokens",
    "acceptance_rate",
    "written_tokens",
    "passes",
    "model_s",
    "bytes_up",
    "bytes_down",
    "round_trip_s",
    "reconnects",
}
TIMING = {"ttft_s", "total_s", "tokens_per_s", "draft_s", "verify_s", "network_s"}


def check_contract(result: dict, *more: str) -> None:
    """Every promised key is there, and no other."""
    assert result.keys() == TOP | set(more)
    assert result["usage"].keys() == {"prompt_tokens", "completion_tokens"}
    assert result["speculation"].keys() == SPECULATION
    assert result["timing"].keys() == TIMING
    assert all(hop.keys() == HOP for hop in result["hops"])
    assert result["hops"][0]["role"] == "drafter"
    assert sum(hop["written_tokens"] for hop in result["hops"]) == len(result["token_ids"])
    assert result["usage"]["completion_tokens"] == len(result["token_ids"])
    assert result["finish_reason"] in ("stop", "length")
    accepted, drafted = result["speculation"]["accepted_tokens"], result["speculation"]["drafted_tokens"]
    assert 0 <= accepted <= drafted
    assert result["timing"]["total_s"] >= result["timing"]["ttft_s"] > 0


@pytest.fixture(scope="session")
def link(verifier, pico) -> list:
    """The options that connect both ends."""
    return ["--verifier", verifier, "--draft-model", pico]


def test_json_is_one_object_with_the_whole_contract(paceline, link) -> None:
    """`--json` prints exactly one line on stdout and nothing on stderr."""
    outcome = paceline("edge", "generate", *link, "--prompt", PROMPT, "--max-new-tokens", 24, "--json")
    assert outcome.code == 0
    assert outcome.err == ""
    assert outcome.out.count("\n") == 1
    result = json.loads(outcome.out)
    check_contract(result)
    assert (result["mode"], result["rule"], result["verified"]) == ("auto", "greedy", True)
    assert result["speculation"]["bytes_up"] > 0
    assert not result["text"].startswith(PROMPT)


def test_a_pipe_gets_the_text_alone(paceline, link) -> None:
    """Without a terminal stdout holds the text and a line end, uncoloured; costs go to stderr."""
    options = ["edge", "generate", *link, "--max-new-tokens", 24]
    from_option = paceline(*options, "--prompt", PROMPT)
    from_stdin = paceline(*options, "-", stdin=PROMPT)
    result = json.loads(paceline(*options, "--prompt", PROMPT, "--json").out)
    assert from_option.out == from_stdin.out == result["text"] + "\n"
    assert "tokens/s" in from_option.err
    assert "\x1b" not in from_option.out + from_option.err


def test_a_text_may_be_sampled_streamed_or_drafted_by_copying(paceline, link) -> None:
    """With one seed, mode cloud, the n-gram drafter and the one-hot rule give the text of mode sync."""
    options = ["edge", "generate", *link, "--prompt", PROMPT, "--max-new-tokens", 16, "--json"]
    options += ["--temperature", 0.8, "--top-p", 0.95, "--seed", 5]
    results = [
        json.loads(paceline(*options, *more).out)
        for more in ((), ("--mode", "cloud"), ("--drafter", "ngram", "--rule", "one-hot"))
    ]
    assert len({tuple(result["token_ids"]) for result in results}) == 1
    assert [result["rule"] for result in results] == ["coupled", "coupled", "one-hot"]
    for result in results:
        check_contract(result)
    assert results[1]["speculation"]["rounds"] == 0


COMBINED = """\
version: 1
hops:
  - name: device
    upstream: cloud
    drafter: {kind: vertical, drafters: [{kind: torch, model: PICO, num_threads: 1}, {kind: ngram, min_ngram: 1}]}
  - {name: cloud, listen: 127.0.0.1:7443, target: {kind: table}}
"""


def test_a_drafter_may_come_from_a_topology_file(inline, models, tmp_path) -> None:
    """The first hop's drafter is loaded whatever it is made of; with guesses pico writes what it writes alone."""
    file, pico = tmp_path / "chain.yaml", models / "pico"
    file.write_text(COMBINED.replace("PICO", str(pico)))
    options = ["--prompt", PROMPT, "--mode", "local", "--max-new-tokens", 24, "--json"]
    combined = json.loads(inline("edge", "generate", *options, "--topology", file).out)
    alone = json.loads(inline("edge", "generate", *options, "--drafter", "torch", "--draft-model", pico).out)
    check_contract(combined)
    assert combined["token_ids"] == alone["token_ids"]


@pytest.mark.parametrize("source", ["option", "file", "stdin"])
def test_local_mode_asks_no_verifier(inline, pico, tmp_path, source) -> None:
    """The drafter writes alone, wherever the prompt comes from, and the text is marked unverified."""
    file = tmp_path / "prompt.py"
    file.write_bytes(PROMPT.encode())
    given = {"option": ["--prompt", PROMPT], "file": ["--prompt-file", file], "stdin": ["-"]}[source]
    options = ["--draft-model", pico, "--mode", "local", "--max-new-tokens", 8, "--json"]
    outcome = inline("edge", "generate", *given, *options, stdin=PROMPT)
    result = json.loads(outcome.out)
    check_contract(result)
    assert result["verified"] is False
    assert result["mode"] == "local"
    assert result["usage"]["prompt_tokens"] > 4
    assert result["speculation"]["bytes_up"] == 0


def test_line_ends_tabs_and_form_feeds_of_a_prompt_survive(inline, pico, tmp_path, models) -> None:
    """A prompt file is taken byte for byte."""
    from paceline.common.tokenizer import Tokenizer

    text = "if x:\r\n\tpass\r\n\f\n"
    file = tmp_path / "prompt.py"
    file.write_bytes(text.encode())
    options = ["--draft-model", pico, "--mode", "local", "--max-new-tokens", 2, "--json"]
    result = json.loads(inline("edge", "generate", "--prompt-file", file, *options).out)
    assert result["usage"]["prompt_tokens"] == len(Tokenizer(models / "base").encode(text))


def test_a_batch_gives_each_line_its_own_text_in_order(paceline, link, tmp_path, models) -> None:
    """Lines override seed, temperature and length; each equals the single run with the same options."""
    from paceline.common.tokenizer import Tokenizer

    token_ids = Tokenizer(models / "base").encode(PROMPT)
    lines = [
        {"prompt": PROMPT},
        {"prompt_token_ids": token_ids, "temperature": 0.9, "seed": 7},
        {"prompt": "class Node:\n", "max_new_tokens": 5},
        {"prompt": "import ", "temperature": 1, "seed": 2**64 - 1, "max_new_tokens": 9},
    ]
    singles = [
        ["--prompt", PROMPT],
        ["--prompt", PROMPT, "--temperature", 0.9, "--seed", 7],
        ["--prompt", "class Node:\n", "--max-new-tokens", 5],
        ["--prompt", "import ", "--temperature", 1, "--seed", 2**64 - 1, "--max-new-tokens", 9],
    ]
    file, output = tmp_path / "prompts.jsonl", tmp_path / "texts.jsonl"
    file.write_text("\n\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    options = ["edge", "generate", *link, "--max-new-tokens", 16]
    outcome = paceline(*options, "--prompts-file", file, "--output", output, "--concurrency", 3)
    assert outcome.code == 0, outcome.err
    assert outcome.out == ""
    written = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [line["index"] for line in written] == [0, 2, 4, 6]
    for line, single in zip(written, singles, strict=True):
        check_contract(line, "index")
        assert line["token_ids"] == json.loads(paceline(*options, "--json", *single).out)["token_ids"]


def test_a_batch_without_an_output_file_goes_to_stdout(inline, pico, tmp_path) -> None:
    """Only JSON lines are there; the progress bar is for terminals."""
    file = tmp_path / "prompts.jsonl"
    file.write_text('\ufeff{"prompt": "a"}\n{"prompt": "b"}\n', encoding="utf-8")
    options = ["--draft-model", pico, "--mode", "local", "--max-new-tokens", 3]
    outcome = inline("edge", "generate", "--prompts-file", file, *options)
    results = [json.loads(line) for line in outcome.out.splitlines()]
    assert [result["index"] for result in results] == [0, 1]
    assert outcome.err.strip() == ""


def test_chat_continues_what_is_typed(paceline, link) -> None:
    """Each line is appended and continued with all that came before; an empty line ends."""
    typed = "def f(x):\\n\n# then\\n\n\nnever read\n"
    outcome = paceline("edge", "chat", *link, "--max-new-tokens", 8, stdin=typed)
    assert outcome.code == 0, outcome.err
    first = paceline("edge", "generate", *link, "--max-new-tokens", 8, "--prompt", "def f(x):\n").out
    assert outcome.out.startswith(first)
    assert outcome.err.count("tokens/s") == 2
