"""Files that must be refused: each with the line, the key, what is wrong, and the cure."""

import re
from dataclasses import dataclass

import pytest

from paceline.common.config import TopologyError, parse_topology


@dataclass(frozen=True)
class Case:
    """What replaces what in the sound file, and what must be said about it."""

    name: str
    old: str
    new: str
    line: int
    key: str
    message: str
    cure: str


CASES = (
    # --- YAML ---
    Case("tab", "  - name: phone", "\t- name: phone", 6, "", "not YAML", "indentation"),
    Case("open-bracket", "seed: 7}", "seed: 7", 3, "", "not YAML", "brackets"),
    Case("top-is-a-list", "version: 1\n", "- version\n- 1\n#", 4, "", "not YAML", "indentation"),
    Case(
        "duplicate-key",
        "rule: coupled",
        "rule: greedy\nrule: coupled",
        4,
        "rule",
        "twice, first in line 3",
        "keep one",
    ),
    Case(
        "duplicate-nested-key",
        "top_p: 0.95",
        "top_p: 0.95, top_p: 1",
        2,
        "sampling.top_p",
        "twice",
        "keep one",
    ),
    Case("alias", "rule: coupled", "rule: &r coupled", 3, "", "anchors and aliases", "write the value out"),
    Case("second-document", "rule: coupled", "---\nrule: coupled", 3, "", "second document", "one topology"),
    Case(
        "python-object",
        "model: models/mid",
        "model: !!python/name:os.system x",
        12,
        "hops[1].target.model",
        "cannot be read",
        "quote",
    ),
    Case(
        "custom-tag",
        "{kind: onnx, model",
        "!evil {kind: onnx, model",
        8,
        "hops[0].drafter",
        "tag !evil",
        "leave the tag out",
    ),
    Case("number-as-key", "rule: coupled", "7: coupled", 3, "", "used as a key", "plain words"),
    Case("date", "name: phone", "name: 2026-01-01", 6, "hops[0].name", "reads as a date", "quote it"),
    Case("control-character", "name: phone", "name: ph\x07one", 6, "", "control character", "delete it"),
    Case(
        "deep",
        "max_new_tokens: 64",
        "max_new_tokens: " + "[" * 40 + "]" * 40,
        4,
        "",
        "nested more than",
        "indentation",
    ),
    # --- keys and kinds ---
    Case("unknown-top", "rule: coupled", "rules: coupled", 3, "rules", "no such key", "'rule'"),
    Case(
        "unknown-sampling",
        "temperature",
        "temprature",
        2,
        "sampling.temprature",
        "no such key",
        "'temperature'",
    ),
    Case(
        "unknown-hop",
        "listen: 0.0.0.0:7444",
        "lisen: 0.0.0.0:7444",
        10,
        "hops[1].lisen",
        "no such key",
        "'listen'",
    ),
    Case(
        "unknown-drafter",
        "{kind: onnx,",
        "{kinds: onnx,",
        8,
        "hops[0].drafter.kinds",
        "no such key",
        "'kind'",
    ),
    Case(
        "unknown-target",
        "max_draft_tokens",
        "max_draft_token",
        15,
        "hops[2].target.max_draft_token",
        "no such key",
        "'max_draft_tokens'",
    ),
    Case(
        "far-key",
        "optional: true",
        "zzz: true",
        11,
        "hops[1].zzz",
        "no such key",
        "keys: drafter, listen, name",
    ),
    Case("no-version", "version: 1\n", "", 1, "version", "missing", "set it"),
    Case("other-version", "version: 1", "version: 2", 1, "version", "2 is not a version", "version: 1"),
    Case("no-name", "- name: phone\n    upstream", "- upstream", 6, "hops[0].name", "missing", "set it"),
    Case(
        "empty-value",
        "max_new_tokens: 64",
        "max_new_tokens:",
        4,
        "max_new_tokens",
        "nothing",
        "leave the key out",
    ),
    Case(
        "text-for-number",
        "temperature: 0.7",
        "temperature: warm",
        2,
        "sampling.temperature",
        "'warm' is not a number",
        "0.7",
    ),
    Case("fraction-for-int", "seed: 7", "seed: 7.5", 2, "sampling.seed", "not a whole number", "8"),
    Case("truth-for-text", "name: phone", "name: on", 6, "hops[0].name", "true is not text", "quote it"),
    Case(
        "number-for-text",
        "listen: 0.0.0.0:7444",
        "listen: 7444",
        10,
        "hops[1].listen",
        "7444 is not text",
        "quote it",
    ),
    Case(
        "text-for-truth",
        "optional: true",
        "optional: maybe",
        11,
        "hops[1].optional",
        "not true or false",
        "true or false",
    ),
    Case(
        "text-for-mapping",
        "{kind: onnx, model: models/pico, num_speculative_tokens: 8}",
        "onnx",
        8,
        "hops[0].drafter",
        "not a mapping",
        "{key: value}",
    ),
    Case("unknown-rule", "rule: coupled", "rule: couple", 3, "rule", "no rule 'couple'", "'coupled'"),
    Case(
        "unknown-target-kind",
        "transformers, model: models/mid",
        "transformer, model: models/mid",
        12,
        "hops[1].target.kind",
        "no kind 'transformer'",
        "'transformers'",
    ),
    Case(
        "bad-device",
        "model: models/mid",
        "model: models/mid, device: gpu",
        12,
        "hops[1].target.device",
        "not a valid device",
        "cuda",
    ),
    Case(
        "empty-rules",
        "model: models/mid",
        "model: models/mid, rules: []",
        12,
        "hops[1].target.rules",
        "is empty",
        "at least one",
    ),
    Case(
        "odd-rule-in-list",
        "model: models/mid",
        "model: m, rules: [coupled, gredy]",
        12,
        "hops[1].target.rules[1]",
        "no rules 'gredy'",
        "'greedy'",
    ),
    # --- names and addresses ---
    Case("bad-name", "name: phone", "name: my phone", 6, "hops[0].name", "not a valid name", "dashes"),
    Case(
        "name-twice",
        "name: metro\n",
        "name: cloud\n",
        13,
        "hops[2].name",
        "also the name of hops[1]",
        "unique",
    ),
    Case(
        "address-twice",
        "0.0.0.0:7444",
        "0.0.0.0:7443",
        14,
        "hops[2].listen",
        "also where hops[1] listens",
        "own port",
    ),
    Case("no-port", "0.0.0.0:7444", "localhost", 10, "hops[1].listen", "is not HOST:PORT", "for example"),
    Case(
        "high-port",
        "0.0.0.0:7444",
        "localhost:70000",
        10,
        "hops[1].listen",
        "is not HOST:PORT",
        "for example",
    ),
    Case("port-zero", "0.0.0.0:7444", "localhost:0", 10, "hops[1].listen", "no fixed port", "7443"),
    Case(
        "scheme", "0.0.0.0:7444", "http://metro:7444", 10, "hops[1].listen", "is not HOST:PORT", "no scheme"
    ),
    Case("bare-ipv6", "0.0.0.0:7444", "::1:7444", 10, "hops[1].listen", "is not HOST:PORT", "brackets"),
    Case("bad-ipv6", "0.0.0.0:7444", "'[::g]:7444'", 10, "hops[1].listen", "not an IPv6", "[::1]"),
    Case(
        "any-upstream",
        "upstream: metro",
        "upstream: 0.0.0.0:7444",
        7,
        "hops[0].upstream",
        "cannot be connected to",
        "one host",
    ),
    Case(
        "unknown-upstream",
        "upstream: metro",
        "upstream: metr",
        7,
        "hops[0].upstream",
        "no hop 'metr'",
        "'metro'",
    ),
    Case(
        "own-upstream", "upstream: metro", "upstream: phone", 7, "hops[0].upstream", "would loop", "'metro'"
    ),
    Case(
        "looping-upstream",
        "optional: true",
        "upstream: phone",
        11,
        "hops[1].upstream",
        "would loop",
        "'cloud'",
    ),
    Case(
        "own-address",
        "0.0.0.0:7444",
        "metro:7444\n    upstream: metro:7444",
        11,
        "hops[1].upstream",
        "its own upstream",
        "next hop",
    ),
    Case(
        "skipping-upstream",
        "upstream: metro",
        "upstream: cloud",
        7,
        "hops[0].upstream",
        "not the next hop",
        "'metro'",
    ),
    Case(
        "last-upstream",
        "listen: 0.0.0.0:7443",
        "listen: 0.0.0.0:7443\n    upstream: x:1",
        15,
        "hops[2].upstream",
        "last hop has none",
        "leave it out",
    ),
    # --- roles ---
    Case("no-hops", "hops:", "hops: []\nx:", 6, "x", "no such key", "keys"),
    Case(
        "first-verifies",
        "drafter: {kind: onnx, model: models/pico, num_speculative_tokens: 8}",
        "target: {model: m}",
        8,
        "hops[0].target",
        "first hop drafts",
        "before it",
    ),
    Case(
        "relay-without-target",
        "    target: {kind: transformers, model: models/mid}\n",
        "",
        9,
        "hops[1].target",
        "relay needs a target",
        "transformers",
    ),
    Case(
        "relay-without-listen",
        "    listen: 0.0.0.0:7444\n",
        "",
        9,
        "hops[1].listen",
        "relay needs an address",
        "0.0.0.0:7443",
    ),
    Case(
        "relay-with-drafter",
        "optional: true",
        "drafter: {kind: ngram}",
        11,
        "hops[1].drafter",
        "its own target",
        "leave it out",
    ),
    Case(
        "last-without-target",
        "    target: {kind: transformers, model: models/base, max_draft_tokens: 32}\n",
        "",
        13,
        "hops[2].target",
        "last hop needs a target",
        "transformers",
    ),
    Case(
        "last-without-listen",
        "    listen: 0.0.0.0:7443\n",
        "",
        13,
        "hops[2].listen",
        "last hop needs an address",
        "0.0.0.0:7443",
    ),
    Case(
        "last-with-drafter",
        "listen: 0.0.0.0:7443",
        "listen: 0.0.0.0:7443\n    drafter: {kind: ngram}",
        15,
        "hops[2].drafter",
        "only verifies",
        "first hop",
    ),
    Case(
        "optional-first",
        "upstream: metro",
        "optional: true",
        7,
        "hops[0].optional",
        "its first hop",
        "relays",
    ),
    Case(
        "optional-last",
        "listen: 0.0.0.0:7443",
        "listen: 0.0.0.0:7443\n    optional: true",
        15,
        "hops[2].optional",
        "its last hop",
        "relays",
    ),
    # --- drafters, targets, laws ---
    Case(
        "unknown-drafter-kind",
        "kind: onnx",
        "kind: onx",
        8,
        "hops[0].drafter.kind",
        "no drafter 'onx'",
        "'onnx'",
    ),
    Case(
        "foreign-drafter-key",
        "kind: onnx",
        "kind: onnx, min_ngram: 2",
        8,
        "hops[0].drafter.min_ngram",
        "no option of the drafter 'onnx'",
        "precision",
    ),
    Case(
        "options-of-built-in",
        "kind: onnx",
        "kind: onnx, options: {a: 1}",
        8,
        "hops[0].drafter.options",
        "no option",
        "model",
    ),
    Case(
        "onnx-without-model",
        "model: models/pico, ",
        "",
        8,
        "hops[0].drafter.model",
        "needs a model",
        "folder",
    ),
    Case(
        "ngram-bounds",
        "kind: onnx, model: models/pico",
        "kind: ngram, min_ngram: 9",
        8,
        "hops[0].drafter.min_ngram",
        "more than max_ngram 8",
        "swap",
    ),
    Case(
        "agreement",
        "kind: onnx, model: models/pico",
        "kind: table, agreement: 2",
        8,
        "hops[0].drafter.agreement",
        "not between 0 and 1",
        "0.8",
    ),
    Case(
        "zero-draft",
        "num_speculative_tokens: 8",
        "num_speculative_tokens: 0",
        8,
        "hops[0].drafter.num_speculative_tokens",
        "0 is neither",
        "auto",
    ),
    Case(
        "odd-draft",
        "num_speculative_tokens: 8",
        "num_speculative_tokens: many",
        8,
        "hops[0].drafter.num_speculative_tokens",
        "neither a number",
        "auto",
    ),
    Case(
        "draft-too-long",
        "num_speculative_tokens: 8",
        "num_speculative_tokens: 65",
        8,
        "hops[0].drafter.num_speculative_tokens",
        "more than metro takes",
        "64",
    ),
    Case(
        "target-without-model",
        "{kind: transformers, model: models/mid}",
        "{kind: transformers}",
        12,
        "hops[1].target.model",
        "needs a model",
        "folder",
    ),
    Case(
        "foreign-target-key",
        "model: models/mid",
        "model: models/mid, step_ms: 3",
        12,
        "hops[1].target.step_ms",
        "no option of a transformers target",
        "device",
    ),
    Case(
        "chunk-beyond-step",
        "model: models/mid",
        "model: m, max_step_tokens: 8",
        12,
        "hops[1].target.prefill_chunk_tokens",
        "more than max_step_tokens 8",
        "part of a step",
    ),
    Case(
        "no-sessions",
        "model: models/mid",
        "model: m, max_sessions: 0",
        12,
        "hops[1].target.max_sessions",
        "not at least 1",
        "range",
    ),
    Case(
        "top-p", "top_p: 0.95", "top_p: 1.5", 2, "sampling.top_p", "1.5 is not above 0 and at most 1", "range"
    ),
    Case(
        "temperature-nan",
        "temperature: 0.7",
        "temperature: .nan",
        2,
        "sampling.temperature",
        "nan is not at least",
        "range",
    ),
    Case("negative-seed", "seed: 7", "seed: -7", 2, "sampling.seed", "-7 is not at least 0", "range"),
    Case("huge-seed", "seed: 7", f"seed: {1 << 64}", 2, "sampling.seed", "is not less than", "range"),
    Case(
        "greedy-but-warm", "rule: coupled", "rule: greedy", 3, "rule", "greedy needs temperature 0", "coupled"
    ),
    Case("coupled-but-cold", "temperature: 0.7", "temperature: 0", 3, "rule", "coupled needs", "greedy"),
    Case(
        "rule-not-allowed",
        "max_draft_tokens: 32",
        "rules: [greedy]",
        15,
        "hops[2].target.rules",
        "rule coupled is not among them",
        "greedy",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_malformed_file_is_refused_with_line_key_and_cure(sound: str, case: Case) -> None:
    """Every malformed file is refused with one line that names file, line, key, fault and cure."""
    assert sound.count(case.old) == 1, "the case must change one place"
    with pytest.raises(TopologyError) as caught:
        parse_topology(sound.replace(case.old, case.new).encode(), "chain.yaml")

    error = caught.value
    assert error.key == case.key
    assert error.line == case.line
    assert case.message in error.message
    assert case.cure in error.cure
    assert error.cure, "every error says what to do"


@pytest.mark.parametrize("case", CASES[:40], ids=lambda case: case.name)
def test_an_error_is_one_line_in_one_form(sound: str, case: Case) -> None:
    """An error prints as `FILE:LINE: KEY: message (cure)`, without a line break."""
    with pytest.raises(TopologyError) as caught:
        parse_topology(sound.replace(case.old, case.new).encode(), "chain.yaml")

    key = f"{re.escape(case.key)}: " if case.key else ""
    assert re.fullmatch(rf"chain\.yaml:{case.line}: {key}[^\n]+ \([^\n]+\)", str(caught.value))
