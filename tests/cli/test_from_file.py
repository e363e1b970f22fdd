"""A hop started from the file of its chain: what the file says, what an option beside it changes, who is refused."""

import json
import sys
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from paceline.cli import edge, serving
from paceline.cli.from_file import edge_defaults
from paceline.cli.serving import READY_PREFIX, RELAY_READY_PREFIX
from paceline.cli.written import open_topology
from paceline.common.errors import Unreachable
from paceline.common.hops.first_reachable import FirstReachable
from paceline.common.tokens import Rule

CHAIN = """\
version: 1
sampling: {temperature: 0.7, top_k: 50, seed: 3}
max_new_tokens: 24
hops:
  - name: phone
    drafter: {kind: ngram, min_ngram: 1, max_ngram: 3, num_speculative_tokens: 4}
  - name: metro
    listen: 127.0.0.1:%d
    optional: true
    target: {kind: table, vocab_size: 2048, seed: 5, max_draft_tokens: 12, prefill_chunk_tokens: 99}
  - name: country
    listen: 127.0.0.1:%d
    optional: true
    target: {model: models/mid, device: cpu, dtype: float32, revision: main, kv_cache_tokens: 4096}
  - name: cloud
    listen: 127.0.0.1:%d
    target: {kind: table, vocab_size: 2048, seed: 5, step_ms: 2, max_sessions: 3, rules: [coupled, greedy]}
"""


@pytest.fixture
def chain(tmp_path: Path, unused_ports: Callable[[int], list[int]]) -> Path:
    """A chain of four; its ends need no weights."""
    file = tmp_path / "chain.yaml"
    file.write_text(CHAIN % tuple(unused_ports(3)))
    return file


def test_the_last_hop_is_a_verifier(asked: Any, chain: Path) -> None:
    """Every key of its section arrives, and it has no upstream."""
    found = asked("serve", "--topology", chain, "--hop", "cloud")

    assert (found.kind, found.vocab_size, found.seed, found.step_s) == ("table", 2048, 5, 0.002)
    assert found.verifier.max_sessions == 3
    assert found.verifier.rules == {Rule.COUPLED, Rule.GREEDY}
    assert found.server.listen.startswith("127.0.0.1:")
    assert not found.is_relay


def test_a_hop_between_is_a_relay(asked: Any, chain: Path) -> None:
    """It knows its name, the next hop and, past one that is optional, the one beyond."""
    found = asked("serve", "--topology", chain, "--hop", "metro")

    assert found.is_relay
    assert found.name == "metro"
    assert len(found.upstreams) == 2
    assert (found.verifier.max_draft_tokens, found.verifier.prefill_chunk_tokens) == (12, 99)
    assert len(asked("serve", "--topology", chain, "--hop", "country").upstreams) == 1


def test_a_language_model_s_keys_arrive(asked: Any, chain: Path) -> None:
    """Model, revision, device, precision and cache."""
    found = asked("serve", "--hop", "country", "--topology", chain)

    assert (found.model, found.revision, found.device, found.dtype, found.kv_cache_tokens) == (
        "models/mid", "main", "cpu", "float32", 4096
    )  # fmt: skip


def test_an_option_beside_the_file_wins(asked: Any, chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Command line over environment, environment over file, file over default."""
    monkeypatch.setenv("PACELINE_MAX_SESSIONS", "7")
    monkeypatch.setenv("PACELINE_LISTEN", "127.0.0.1:1")
    found = asked("serve", "--topology", chain, "--hop", "cloud", "--listen", "127.0.0.1:0", "--drain-s", 1)

    assert found.server.listen == "127.0.0.1:0"
    assert found.verifier.max_sessions == 7
    assert (found.server.drain_s, found.vocab_size) == (1, 2048)


def test_a_hop_says_how_soon_a_neighbour_counts_as_dead(
    asked: Any, chain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Towards both of them; ten seconds where neither file nor option says otherwise."""
    assert asked("serve", "--topology", chain, "--hop", "cloud").server.peer_timeout_s == 10
    chain.write_text(chain.read_text().replace("optional: true", "optional: true\n    peer_timeout_s: 3", 1))
    found = asked("serve", "--topology", chain, "--hop", "metro")
    connected: list[tuple[Any, ...]] = []
    monkeypatch.setattr(serving, "connect_to", lambda *given: connected.append(given))
    serving.load(found, SimpleNamespace(status=_Quiet, print=print))
    by_option = asked("serve", "--topology", chain, "--hop", "metro", "--peer-timeout-s", 4)

    assert found.server.peer_timeout_s == 3
    assert connected == [(found.upstreams, found.calling, 3)]
    assert by_option.server.peer_timeout_s == 4


def test_an_edge_takes_it_from_its_hop(
    inline: Any, chain: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the first hop of the file has it, or as an option says."""
    connected: list[float] = []

    def connect_to(_addresses: Any, _calling: Any, peer_timeout_s: float) -> None:
        connected.append(peer_timeout_s)
        raise Unreachable("away", field="verifier")

    monkeypatch.setattr(edge, "connect_to", connect_to)
    chain.write_text(chain.read_text().replace("- name: phone", "- name: phone\n    peer_timeout_s: 5"))
    for command in (("generate", "--prompt", "a"), ("chat",), ("serve",)):
        for options in ((), ("--peer-timeout-s", 6)):
            common = ("--topology", chain, "--tokenizer", models / "pico")
            inline("edge", *command, *common, *options).complains("away", code=4)

    assert connected == [5, 6] * 3


@pytest.mark.parametrize(
    "command", [("cloud", "serve", "--model", "m"), ("edge", "generate", "--prompt", "a")]
)
def test_times_that_keepalive_cannot_keep_are_refused(inline: Any, command: tuple[str, ...]) -> None:
    """Before anything is loaded."""
    inline(*command, "--peer-timeout-s", 1).complains("peer-timeout-s", "2")


def test_a_relay_without_a_file(asked: Any) -> None:
    """Options alone make one, with alternatives in the order given."""
    options = ("--model", "m", "--upstream", "a:1", "--upstream", "b:2", "--name", "metro")
    found = asked("relay", *options, "--listen", "127.0.0.1:0")

    assert (found.model, found.name, found.upstreams) == ("m", "metro", ("a:1", "b:2"))


def test_a_relay_s_upstream_can_be_moved(asked: Any, chain: Path) -> None:
    """As `paceline topology up` does, which runs every hop on this machine."""
    found = asked("relay", "--topology", chain, "--hop", "metro", "--upstream", "127.0.0.1:9")

    assert (found.name, found.upstreams) == ("metro", ("127.0.0.1:9",))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--topology", "{chain}"), ("3 hops that serve", "metro, country, cloud")),
        (("--topology", "{chain}", "--hop", "phone"), ("'phone' serves nobody", "edge generate --topology")),
        (("--topology", "{chain}", "--hop", "clout"), ("no hop 'clout'", "'cloud'")),
        (("--hop", "cloud"), ("'cloud' of which file", "--topology FILE")),
        (("--topology", "nowhere.yaml", "--hop", "cloud"), ("nowhere.yaml", "no such file")),
        (("--topology", "{chain}", "--hop", "cloud", "--listen", "x"), ("listen", "not HOST:PORT")),
    ],
)
def test_what_cannot_be_served_is_refused(
    inline: Any, chain: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    """In one line, before anything is loaded."""
    inline("cloud", "serve", *(one.format(chain=chain) for one in arguments)).complains(*words)


def test_a_relay_s_upstream_is_checked(inline: Any) -> None:
    """Before a model is loaded."""
    inline("cloud", "relay", "--model", "m", "--upstream", "nowhere").complains("upstream", "not HOST:PORT")


def test_an_installation_without_relays_says_so(
    inline: Any, chain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, with exit code 3, before a model is loaded."""
    monkeypatch.setitem(sys.modules, "paceline.relay.relay", None)
    inline("cloud", "serve", "--topology", chain, "--hop", "metro").complains(
        "relay", "not installed", code=3
    )


def test_a_relay_wraps_the_verifier(chain: Path, asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given the verifier, the hop above and its name; the ready line says that it is a relay."""
    made: list[tuple[Any, Any, str]] = []

    class Relay:
        def __init__(self, verifier: Any, upstream: Any, *, name: str, above: Any) -> None:
            made.append((verifier, upstream, name, above))

    stub = ModuleType("paceline.relay.relay")
    stub.Relay = Relay  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "paceline.relay.relay", stub)
    found = asked("relay", "--topology", chain, "--hop", "metro")
    loaded = serving.load(found, SimpleNamespace(status=_Quiet, print=print))
    ((verifier, upstream, name, above),) = made

    assert isinstance(loaded, Relay)
    assert (verifier.limits.vocab_size, name) == (2048, "metro")
    assert (verifier.metrics.hop, above.hop) == ("metro", "metro")
    assert above.registry is verifier.metrics.registry
    assert isinstance(upstream, FirstReachable)
    assert RELAY_READY_PREFIX == "paceline relay ready on "


class _Quiet:
    def __init__(self, _text: str) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def test_a_text_through_a_chain_from_one_file(start: Any, paceline: Any, chain: Path, models: Path) -> None:
    """A verifier and an edge, each started from the file; optional hops that are not there are passed over. What the
    file leaves unsaid or an option changes is the same as saying all of it."""
    server = start("cloud", "serve", "--topology", chain, "--hop", "cloud")
    address = server.stdout.readline().removeprefix(READY_PREFIX).strip()
    short = ("edge", "generate", "--topology", chain, "--tokenizer", models / "pico")
    prompt = ("--prompt", "import os\n", "--json")
    long = (
        "edge", "generate", "--verifier", address, "--tokenizer", models / "pico", "--draft-model", models / "pico",
        "--drafter", "ngram", "--temperature", 0.7, "--top-k", 50, "--seed", 3,
    )  # fmt: skip

    by_file = json.loads(paceline(*short, *prompt).out)
    by_hand = json.loads(paceline(*long, "--max-new-tokens", 24, *prompt).out)
    changed = json.loads(paceline(*short, "--seed", 4, "--max-new-tokens", 5, *prompt).out)
    assert by_file["token_ids"] == by_hand["token_ids"]
    assert by_file["usage"]["completion_tokens"] == 24
    assert len(changed["token_ids"]) == 5
    assert changed["token_ids"] != by_file["token_ids"][:5]


def test_a_padded_chain_is_padded_whoever_asks(chain: Path) -> None:
    """Every command that takes its defaults from a file has the option; else it would send in the open what the file
    wants hidden."""
    chain.write_text(chain.read_text().replace("max_new_tokens: 24", "pad_to: 256"))
    assert edge_defaults(open_topology(chain), chain)["pad_to"] == 256
    taking = [one.callback for one in edge.app.registered_commands if one.callback is not None]
    options = [signature(one).parameters for one in taking if "topology" in signature(one).parameters]
    assert len(options) >= 2
    assert all("pad_to" in one for one in options)


def test_a_drafter_alone_writes_locally(inline: Any, tmp_path: Path, pico: Path) -> None:
    """A chain of one asks nobody, and says that nothing was verified."""
    file = tmp_path / "alone.yaml"
    file.write_text(
        f"version: 1\nmax_new_tokens: 4\nhops: [{{name: phone, drafter: {{kind: onnx, model: {pico}}}}}]\n"
    )
    report = json.loads(inline("edge", "generate", "--topology", file, "--prompt", "def ", "--json").out)

    assert (report["mode"], report["verified"]) == ("local", False)
    assert report["usage"]["completion_tokens"] == 4


def test_a_file_without_anybody_who_asks_is_refused(inline: Any, tmp_path: Path) -> None:
    """A verifier alone is a chain for others' clients."""
    file = tmp_path / "alone.yaml"
    file.write_text(
        "version: 1\nhops: [{name: cloud, listen: 'h:1', insecure: true, target: {kind: table}}]\n"
    )
    inline("edge", "generate", "--topology", file, "--prompt", "a").complains("topology", "asks for texts")


def test_an_error_while_serving_does_not_show_what_came_from_the_environment(
    inline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model folder that is not there, an address nobody answers at: the reference is named instead."""
    monkeypatch.setenv("WHERE", "/vault/of/models")
    monkeypatch.setenv("CLOUD", "127.0.0.1:9")
    file = tmp_path / "chain.yaml"
    file.write_text(
        "version: 1\nhops:\n  - {name: phone, upstream: '${CLOUD}', drafter: {kind: onnx, model: '${WHERE}'}}\n"
        "  - {name: cloud, listen: '127.0.0.1:7', target: {model: '${WHERE}/base'}}\n"
    )
    served = inline("cloud", "serve", "--topology", file, "--listen", "127.0.0.1:0")
    asked = inline("edge", "generate", "--topology", file, "--prompt", "a")

    served.complains("no such model directory: ${WHERE}")
    asked.complains("there is no model folder ${WHERE}")
