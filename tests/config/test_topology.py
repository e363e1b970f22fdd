"""Files that must be taken, what they come to, and what they must not do."""

import inspect
import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.cli.expectations import expected
from paceline.cli.reference import key_reference
from paceline.common.config import (
    TopologyError,
    fingerprint_of,
    load_topology,
    model_of,
    parse_topology,
    topology_schema,
)
from paceline.common.config.checks import DRAFTER_OPTIONS
from paceline.common.config.document import MAX_BYTES
from paceline.common.speed.chain import worth_of
from paceline.common.tokens import Rule
from paceline.edge.drafters import DRAFTERS, drafter_from_section, load_drafter

TOPOLOGIES = Path(__file__).parents[2] / "deploy" / "topologies"
SHIPPED = sorted(TOPOLOGIES.glob("*.yaml"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_shipped_topology_is_sound(file: Path) -> None:
    """Every file in deploy/topologies is taken, and its schema agrees."""
    topology = load_topology(file)

    jsonschema.validate(yaml.safe_load(file.read_text()), topology_schema())
    assert topology.hops[-1].target is not None


def test_shipped_topologies_fit_the_shipped_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run from a clone, every shipped file finds its models, and they share one vocabulary."""
    monkeypatch.chdir(TOPOLOGIES.parents[1])

    for file in SHIPPED:
        models = [found[1] for hop in load_topology(file).hops if (found := model_of(hop))]
        assert models
        assert len({fingerprint_of(model) for model in models}) == 1


def test_the_committed_schema_is_the_current_one() -> None:
    """deploy/topologies/schema.json is what `paceline topology schema` prints."""
    committed = json.loads((TOPOLOGIES / "schema.json").read_text())

    assert committed == topology_schema()


def test_the_key_reference_is_the_current_one() -> None:
    """docs/topology-keys.md is what `paceline topology schema --markdown` prints; it has every key."""
    committed = (TOPOLOGIES.parents[1] / "docs" / "topology-keys.md").read_text(encoding="utf-8")
    schema = topology_schema()
    sections = [schema, *(one for one in schema["$defs"].values() if "properties" in one)]

    assert committed == key_reference(schema) + "\n"
    assert all(f"| `{key}` |" in committed for section in sections for key in section["properties"])


def test_the_example_in_the_documentation_is_sound_and_adds_up() -> None:
    """docs/topologies.md opens with a file that checks, and reckons with its figures."""
    page = (TOPOLOGIES.parents[1] / "docs" / "topologies.md").read_text(encoding="utf-8")
    example = page.split("```yaml\n")[1].split("```")[0]
    found = expected(parse_topology(example.encode(), environment={}), {}, ())
    worth = worth_of(found.chain, 0)

    assert found.assumed == []
    assert f"0.2 · 17.1 + 0.08 · 147.3 = {1e3 * worth.with_s:.1f} ms" in page
    assert f"0.3 · 135.2 = {1e3 * worth.without_s:.1f} ms" in page


def test_every_shipped_topology_can_be_planned() -> None:
    """Each file has the figures a plan needs: nothing is assumed."""
    for file in SHIPPED:
        assert expected(load_topology(file), {}, ()).assumed == []


def test_the_schema_refuses_an_unknown_key() -> None:
    """An editor with the schema marks an unknown key."""
    with pytest.raises(jsonschema.ValidationError, match="lisen"):
        jsonschema.validate({"version": 1, "hops": [{"name": "a", "lisen": "x:1"}]}, topology_schema())


def test_defaults_come_from_one_place(sound: str) -> None:
    """The rule follows the temperature when the file names none."""
    warm = parse_topology(sound.replace("rule: coupled\n", "").encode())
    cold = parse_topology(sound.replace("rule: coupled\n", "").replace("0.7", "0").encode())

    assert warm.effective_rule is Rule.COUPLED
    assert cold.effective_rule is Rule.GREEDY


def test_sampling_becomes_the_value_that_travels(sound: str) -> None:
    """What the file says about sampling is what a request carries."""
    params = parse_topology(sound.encode()).sampling.params

    assert (params.temperature, params.top_p, params.top_k) == (0.7, 0.95, 0)


@pytest.mark.parametrize(
    ("upstream", "address"),
    [
        ("upstream: metro", "127.0.0.1:7444"),
        ("upstream: metro.example:99", "metro.example:99"),
        ("#", "127.0.0.1:7444"),
    ],
)
def test_an_upstream_is_named_stated_or_derived(sound: str, upstream: str, address: str) -> None:
    """A hop's upstream is the stated address, or where the next hop listens, seen from the same machine."""
    topology = parse_topology(sound.replace("upstream: metro", upstream).encode())

    assert topology.upstream_of(0) == address
    assert topology.upstream_of(1) == "127.0.0.1:7443"
    assert topology.upstream_of(2) is None


def test_while_a_hop_is_optional_the_one_after_it_is_an_alternative(sound: str) -> None:
    """A hop knows the next one and, past optional ones, those beyond, as the hops between see them."""
    text = sound.replace("optional: true", "optional: true\n    upstream: cloud.example:99")
    optional = parse_topology(text.encode())
    needed = parse_topology(text.replace("optional: true", "optional: false").encode())

    assert optional.upstreams_of(0) == ("127.0.0.1:7444", "cloud.example:99")
    assert needed.upstreams_of(0) == ("127.0.0.1:7444",)
    assert optional.upstreams_of(1) == ("cloud.example:99",)
    assert optional.upstreams_of(2) == ()


def test_two_optional_hops_in_a_row_give_two_alternatives() -> None:
    """A chain of four may come down to its ends."""
    relay = "  - {name: %s, listen: 'h:%d', insecure: true, optional: true, target: {kind: table}}\n"
    text = "version: 1\nhops:\n  - {name: a, drafter: {kind: ngram}}\n" + relay % ("b", 1) + relay % ("c", 2)
    topology = parse_topology(
        (text + "  - {name: d, listen: 'h:3', insecure: true, target: {kind: table}}\n").encode()
    )

    assert topology.upstreams_of(0) == ("h:1", "h:2", "h:3")
    assert topology.upstreams_of(1) == ("h:2", "h:3")


def test_stated_upstreams_are_the_only_ones(sound: str) -> None:
    """A list is taken as it stands; names in it become addresses."""
    topology = parse_topology(
        sound.replace("upstream: metro", "upstream: [metro, 'metro2:1', cloud]").encode()
    )

    assert topology.upstreams_of(0) == ("127.0.0.1:7444", "metro2:1", "127.0.0.1:7443")


def test_roles_follow_the_place(sound: str) -> None:
    """First drafts, last verifies, between is a relay; without a drafter the first is a client."""
    topology = parse_topology(sound.encode())
    client = parse_topology(
        b"version: 1\nhops: [{name: a}, {name: b, listen: 'h:1', insecure: true, target: {kind: table}}]"
    )

    assert [topology.role_of(index) for index in range(3)] == ["drafter", "relay", "verifier"]
    assert client.role_of(0) == "client"


def test_a_drafter_alone_is_a_chain() -> None:
    """One hop with a drafter writes by itself."""
    topology = parse_topology(b"version: 1\nhops: [{name: phone, drafter: {kind: ngram}}]")

    assert topology.role_of(0) == "drafter"
    assert topology.upstreams_of(0) == ()


@pytest.mark.parametrize("depth", range(2, 9))
def test_any_depth_up_to_eight_is_taken(depth: int) -> None:
    """Between the ends there may be as many relays as fit."""
    hops = "".join(
        f"  - {{name: h{n}, listen: 'h:{n}', insecure: true, target: {{kind: table}}}}\n"
        for n in range(1, depth)
    )
    topology = parse_topology(f"version: 1\nhops:\n  - {{name: a}}\n{hops}".encode())

    assert [topology.role_of(index) for index in range(1, depth - 1)] == ["relay"] * (depth - 2)


def test_the_environment_fills_texts(sound: str) -> None:
    """A set variable wins over its default, a default over nothing; `$${` is a plain `${`."""
    text = sound.replace("models/pico", "'${PLACE}/pico'").replace("models/mid", "'${MID:-models/mid}'")
    text = text.replace("models/base", "'$${x}'")
    topology = parse_topology(text.encode(), environment={"PLACE": "/there", "MID": ""})

    assert [found[1] for hop in topology.hops if (found := model_of(hop))] == [
        "/there/pico",
        "models/mid",
        "${x}",
    ]
    assert topology.written(("hops", 0, "drafter", "model")) == "${PLACE}/pico"
    assert topology.written(("hops", 0, "name")) is None
    assert topology.written(("hops", 1, "target", "model")) is None, "a default is in the file for all to see"


def test_the_environment_makes_no_structure(sound: str) -> None:
    """What a variable holds stays one text: no key, no list, no second reference comes of it."""
    value = "{kind: table}, ${OTHER}"
    topology = parse_topology(sound.replace("models/mid", "'${X}'").encode(), environment={"X": value})

    assert topology.hops[1].target is not None
    assert topology.hops[1].target.model == value


@given(value=st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=4, max_size=90))
@settings(deadline=None, max_examples=60)
def test_no_error_shows_what_a_variable_holds(value: str) -> None:
    """Whatever is wrong with a value from the environment, no eight characters of it in a row are in the message."""
    for text in (
        "version: 1\nhops: [{name: '${X}', drafter: {kind: '${X}'}}]",
        "version: 1\nhops: [{name: a, upstream: '${X}'}, {name: b, listen: '[::1]:1', target: {kind: '${X}'}}]",
        "version: 1\nrule: '${X}'\nhops: [{name: a, drafter: {kind: ngram}}]",
        "version: 1\nhops: [{name: a, drafter: {kind: ngram}}, {name: b, listen: '[${X}]:1', target: {}}]",
    ):
        with pytest.raises(TopologyError) as caught:
            parse_topology(text.encode(), "f", environment={"X": value})
        shown, innocent = caught.value.message, _message_about_another_value(text)
        size = min(len(value), 8)
        parts = {value[at : at + size] for at in range(len(value) - size + 1)}
        assert not [part for part in parts if part in shown.replace("${X}", "\0") and part not in innocent]


def _message_about_another_value(text: str) -> str:
    with pytest.raises(TopologyError) as caught:
        parse_topology(text.encode(), "f", environment={"X": "☃ ☃"})
    return caught.value.message


def test_a_verifier_alone_is_a_chain() -> None:
    """One hop with a target and an address is a topology: clients come from elsewhere."""
    topology = parse_topology(
        b"version: 1\nhops: [{name: cloud, listen: 'h:1', insecure: true, target: {kind: table}}]"
    )

    assert topology.role_of(0) == "verifier"


def test_a_first_hop_without_drafter_streams() -> None:
    """A first hop may leave all writing to the cloud."""
    text = b"version: 1\nhops: [{name: a}, {name: b, listen: 'h:1', insecure: true, target: {kind: table}}]"

    assert parse_topology(text).hops[0].drafter is None


def test_nine_hops_are_too_many() -> None:
    """A chain has at most eight hops."""
    hop = "  - {name: h%d, listen: 'h:%d', insecure: true, target: {kind: table}}\n"
    text = "version: 1\nhops:\n" + "".join(hop % (n, n) for n in range(1, 10))

    with pytest.raises(TopologyError, match=r"hops: has 9 items \(at most 8\)"):
        parse_topology(text.encode())


def test_no_hops_is_no_chain() -> None:
    """A file without any hop is refused."""
    with pytest.raises(TopologyError, match="hops: is empty"):
        parse_topology(b"version: 1\nhops: []")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"# nothing\n", "is empty"),
        (b"- a\n- b\n", "not a mapping"),
        (b"just text", "not a mapping"),
        (b"version: 1\nhops: \xff\xfe", "is not UTF-8"),
        (b"version: '\\ud800'\n".replace(b"'", b'"'), "broken character"),
        (b"version: " + b"9" * 5000, "cannot be read as int"),
        (b"a" * (MAX_BYTES + 1), "are more than"),
    ],
)
def test_what_is_no_document_is_refused(data: bytes, message: str) -> None:
    """Bytes that are no bounded YAML mapping are refused before anything is built from them."""
    with pytest.raises(TopologyError, match=message) as caught:
        parse_topology(data, "x.yaml")

    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named() -> None:
    """A path that does not exist is named, with a cure."""
    with pytest.raises(TopologyError, match=r"nowhere\.yaml: there is no such file \(check the path\)"):
        load_topology("nowhere.yaml")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """A folder in place of a file is refused in one line."""
    with pytest.raises(TopologyError, match="cannot be read"):
        load_topology(tmp_path)


def test_many_aliases_cost_nothing() -> None:
    """Nested aliases, a few lines that stand for gigabytes, are refused at the first."""
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
    )

    with pytest.raises(TopologyError, match="anchors and aliases"):
        parse_topology(bomb.encode())


def test_vocabularies_that_differ_are_refused(sound: str, tmp_path: Path, write_tokenizer) -> None:
    """A draft model whose tokenizer is not the target's is refused, naming the hop and both fingerprints."""
    drafter, target = write_tokenizer(tmp_path / "a", ["x", "y"]), write_tokenizer(tmp_path / "b", ["y", "x"])
    text = sound.replace("models/pico", str(drafter)).replace("models/base", str(target))

    with pytest.raises(TopologyError, match="all models of a chain share one tokenizer") as caught:
        parse_topology(text.encode())
    assert (caught.value.key, caught.value.line) == ("hops[0].drafter.model", 8)


def test_vocabularies_that_agree_are_taken(sound: str, tmp_path: Path, write_tokenizer) -> None:
    """Models that share a vocabulary make a chain, even where one of them is not here."""
    drafter, target = write_tokenizer(tmp_path / "a", ["x", "y"]), write_tokenizer(tmp_path / "b", ["x", "y"])

    assert parse_topology(
        sound.replace("models/pico", str(drafter)).replace("models/base", str(target)).encode()
    )


def test_the_options_table_names_real_options() -> None:
    """Every key a topology allows for a built-in drafter is a parameter of it; every drafter is listed."""
    assert set(DRAFTER_OPTIONS) == set(DRAFTERS)
    for kind, options in DRAFTER_OPTIONS.items():
        module, _, name = DRAFTERS[kind].partition(":")
        factory = getattr(__import__(module, fromlist=[name]), name)
        assert set(options) <= set(inspect.signature(factory).parameters), kind


def test_a_topology_s_ngram_drafter_loads() -> None:
    """What a file says about an n-gram drafter makes one."""
    topology = load_topology(TOPOLOGIES / "ngram-edge-cloud.yaml")
    section = topology.hops[0].drafter
    assert section is not None
    options = {key: getattr(section, key) for key in DRAFTER_OPTIONS[section.kind]}

    assert load_drafter(section.kind, options).name == "ngram"


COMBINED = (
    "{kind: cascade, tokens: [3], drafters: [{kind: table}, {kind: ngram}]}",
    "{kind: cascade, tokens: [3, 10], drafters: [{kind: table}, {kind: ngram, min_ngram: 1}]}",
    "{kind: vertical, num_guesses: 3, drafters: [{kind: table}, {kind: table, own_seed: 2}, {kind: ngram}]}",
    "{kind: adaptive, lengths: [2, 8], num_speculative_tokens: 8, drafters: [{kind: table}, {kind: ngram}]}",
    "{kind: adaptive, drafters: [{kind: cascade, tokens: [2], drafters: [{kind: table}, {kind: ngram}]}]}",
)


@pytest.mark.parametrize("drafter", COMBINED)
def test_a_drafter_made_of_drafters_is_taken_and_loads(sound: str, drafter: str) -> None:
    """Nested drafters pass the checks and the schema, and what the file says makes one."""
    text = sound.replace("{kind: onnx, model: models/pico, num_speculative_tokens: 8}", drafter)
    jsonschema.validate(yaml.safe_load(text), topology_schema())
    section = parse_topology(text.encode()).hops[0].drafter
    assert section is not None
    assert load_drafter("ngram").name in drafter_from_section(section.model_dump(exclude_none=True)).name


def test_vocabularies_of_parts_are_compared(sound: str, tmp_path: Path, write_tokenizer) -> None:
    """A part whose tokenizer is not the target's is refused where it is named."""
    part, target = write_tokenizer(tmp_path / "a", ["x", "y"]), write_tokenizer(tmp_path / "b", ["y", "x"])
    combined = f"kind: cascade, tokens: [2], drafters: [{{kind: ngram}}, {{kind: torch, model: {part}}}]"
    text = sound.replace("kind: onnx, model: models/pico", combined).replace("models/base", str(target))

    with pytest.raises(TopologyError, match="all models of a chain share one tokenizer") as caught:
        parse_topology(text.encode())
    assert caught.value.key == "hops[0].drafter.drafters[1].model"


def test_a_key_no_terminal_can_show_is_left_out_of_the_line() -> None:
    """A misspelt key is quoted as far as it is printable."""
    with pytest.raises(TopologyError) as caught:
        parse_topology("rule\U00011d99: x".encode(), "x.yaml")

    assert str(caught.value).isprintable()


@given(text=st.text(max_size=200))
@settings(deadline=None, max_examples=60)
def test_any_text_is_taken_or_refused_in_one_line(text: str) -> None:
    """Whatever the text, the answer is a topology or one line that names the file."""
    _taken_or_refused(text.encode("utf-8", "replace"))


@given(data=st.data())
@settings(deadline=None, max_examples=120)
def test_a_file_with_damage_is_taken_or_refused_in_one_line(data: st.DataObject) -> None:
    """Cutting, doubling or overwriting parts of a sound file never gives anything but a topology or one line."""
    sound = bytearray((TOPOLOGIES / "edge-metro-cloud.yaml").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(sound)))
        stop = data.draw(st.integers(start, min(len(sound), start + 20)))
        junk = st.sampled_from(
            [b":", b"\n", b"- ", b"{", b"}", b"[", b"'", b"&a ", b"*a", b"!!x ", b"null", b"-1", b"1e99"]
        )
        sound[start:stop] = data.draw(
            st.one_of(junk, st.binary(max_size=6), st.just(bytes(sound[start:stop]) * 2))
        )
    _taken_or_refused(bytes(sound))


def _taken_or_refused(data: bytes) -> None:
    try:
        topology = parse_topology(data, "x.yaml")
    except TopologyError as error:
        refusal = error
    else:
        assert topology.hops
        return
    assert str(refusal).startswith("x.yaml")
    assert str(refusal).isprintable()
    assert refusal.cure
