"""Certificates and tokens on the command line: what is refused, and a chain that runs with them."""

import json
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import jwt
import pytest

from paceline.cli import edge
from paceline.cli.serving import READY_PREFIX
from paceline.common.hops.security import Calling
from paceline.common.tokens import Rule

SECRET = "a secret that is long enough to sign with"
CHAIN = """\
version: 1
max_new_tokens: 12
hops:
  - name: phone
    drafter: {kind: ngram, min_ngram: 1}
    tls: {ca: certs/ca.pem, cert: certs/dev.pem, key: certs/dev-key.pem}
    token_file: token
  - name: metro
    listen: 0.0.0.0:%d
    tls: {ca: certs/ca.pem, cert: certs/server.pem, key: certs/server-key.pem, client_ca: certs/ca.pem}
    access: {token_key: secret, tenants: {dev: [greedy]}}
    target: {kind: table, vocab_size: 2048, seed: 5}
  - name: cloud
    listen: 0.0.0.0:%d
    tls: {cert: certs/server.pem, key: certs/server-key.pem, client_ca: certs/ca.pem}
    access: {tenants: {relay: []}}
    target: {kind: table, vocab_size: 2048, seed: 5}
"""


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `paceline certs dev` makes."""
    folder = tmp_path_factory.mktemp("identity") / "certs"
    made = subprocess.run(
        [
            sys.executable,
            "-m",
            "paceline.cli.main",
            "certs",
            "dev",
            folder,
            "--tenant",
            "dev",
            "--tenant",
            "lab",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "for tests only" in made.stderr
    return folder


def test_certs_dev_makes_a_ca_a_server_and_each_tenant(certs: Path) -> None:
    """Every file is there; private keys are for their owner alone."""
    names = {"ca", "server", "dev", "lab"}
    assert {one.name for one in certs.iterdir()} == {
        f"{name}{end}" for name in names for end in (".pem", "-key.pem")
    }
    for name in names:
        assert stat.S_IMODE((certs / f"{name}-key.pem").stat().st_mode) == 0o600


def test_certs_dev_run_again_renews_under_the_same_ca(inline: Any, tmp_path: Path) -> None:
    """The CA stays, what it signed is new."""
    assert inline("certs", "dev", tmp_path).code == 0
    before = {name: (tmp_path / name).read_bytes() for name in ("ca.pem", "server.pem", "dev.pem")}
    outcome = inline("certs", "dev", tmp_path, "--host", "verifier.example")
    assert outcome.code == 0
    assert "renewed" in outcome.err
    assert [name for name, data in before.items() if (tmp_path / name).read_bytes() == data] == ["ca.pem"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--host", "no host"), ("host:", "is no host")),
        (("--tenant", "two words"), ("tenant:", "is no tenant")),
        (("--tenant", "ca"), ("tenant:", "another file's name")),
    ],
)
def test_certs_dev_refuses_odd_names(inline: Any, tmp_path: Path, arguments: Any, words: Any) -> None:
    """What no certificate could hold is refused before anything is written."""
    inline("certs", "dev", tmp_path / "none", *arguments).complains(*words)
    assert not (tmp_path / "none").exists()


def test_certs_dev_says_that_a_folder_is_no_ca(inline: Any, tmp_path: Path) -> None:
    """A ca.pem that did not come with its key is left alone."""
    (tmp_path / "ca.pem").write_text("mine")
    inline("certs", "dev", tmp_path).complains("without a usable ca-key.pem", "another folder")
    assert (tmp_path / "ca.pem").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), ("listen: 0.0.0.0:0 would be open to other machines without TLS", "--insecure-listen")),
        (("--tls-cert", "{certs}/server.pem"), ("tls_cert:", "without tls_key")),
        (
            ("--tls-cert", "{certs}/server.pem", "--tls-key", "{certs}/server-key.pem"),
            ("would be open to everybody", "--tls-client-ca"),
        ),
        (
            ("--insecure-listen", "--tls-cert", "{certs}/server.pem", "--tls-key", "{certs}/dev-key.pem"),
            ("tls_key:", "is not the key of"),
        ),
        (
            ("--insecure-listen", "--tls-client-ca", "{certs}/ca.pem"),
            ("tls_client_ca:", "only asked", "--tls-cert"),
        ),
        (("--insecure-listen", "--token-key", "{certs}/ca-key.pem"), ("token_key:", "private key")),
        (("--insecure-listen", "--tenant", "acme"), ("tenant:", "nobody is asked")),
        (("--tenant", "acme=greedyy"), ("tenant:", "no rule 'greedyy'", "greedy")),
        (("--tenant", "two words"), ("tenant:", "names no tenant")),
    ],
)
def test_a_server_that_gives_itself_away_is_refused(
    inline: Any, certs: Path, options: Any, words: Any
) -> None:
    """One line and exit code 2, before a model is looked for."""
    given = [option.format(certs=certs) for option in options]
    inline("cloud", "serve", "--model", "no/such/model", "--listen", "0.0.0.0:0", *given).complains(*words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tls-cert", "a.pem", "--tls-key", "b.pem"), ("tls_cert:", "only shown over TLS", "--tls-ca")),
        (("--tls-ca", "none.pem"), ("tls_ca:", "none.pem", "No such file")),
        (("--token-file", "none", "--tls-ca", "{certs}/ca.pem"), ("token_file:", "No such file")),
        (("--token-file", "{certs}/ca.pem"), ("token:", "unencrypted", "--tls-ca")),
    ],
)
def test_a_device_that_gives_itself_away_is_refused(
    inline: Any, certs: Path, options: Any, words: Any
) -> None:
    """A certificate or token that would be shown in the clear, and files that are not there."""
    given = [option.format(certs=certs) for option in options]
    where = ("--verifier", "verifier.example:7443", "--mode", "cloud", "--drafter", "ngram")
    outcome = inline("edge", "generate", *where, "--tokenizer", "models/pico", "--prompt", "x", *given)
    outcome.complains(*words)


def test_there_is_no_option_for_a_token(inline: Any) -> None:
    """A token on a command line would be everybody's; only files and the environment hold one."""
    for command in (("edge", "generate"), ("edge", "chat"), ("cloud", "relay"), ("doctor",)):
        outcome = inline(*command, "--help")
        assert "--token-file" in outcome.out
        assert not re.search(r"--token[ =]", outcome.out)


def test_options_become_who_is_let_in(asked: Any) -> None:
    """Tenants with and without rules, audience, files, and the way up of a relay."""
    serving = asked(
        "relay", "--model", "m", "--upstream", "up.example:1", "--tls-cert", "c", "--tls-key", "k",
        "--tls-client-ca", "a", "--tls-ca", "u", "--token-file", "t", "--token-key", "s", "--token-audience", "us",
        "--tenant", "acme=greedy,coupled", "--tenant", "lab", "--reflection",
    )  # fmt: skip
    access, tls = serving.server.access, serving.server.tls
    assert access.tenants == {"acme": {Rule.GREEDY, Rule.COUPLED}, "lab": frozenset(Rule)}
    assert (access.token_key, access.token_audience) == (Path("s"), "us")
    assert (tls.cert, tls.key, tls.authorities) == (Path("c"), Path("k"), Path("a"))
    assert serving.server.reflection
    assert not serving.server.insecure_listen
    assert serving.calling == Calling(Path("u"), Path("c"), Path("k"), Path("t"), "PACELINE_TOKEN")


@pytest.fixture
def chain(tmp_path: Path, certs: Path, unused_ports: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A chain of three that speaks TLS on both hops, with certificates, a secret and a token beside it."""
    (tmp_path / "certs").symlink_to(certs)
    (tmp_path / "secret").write_text(SECRET)
    claims = {"sub": "dev", "aud": "paceline", "exp": 4_000_000_000}
    (tmp_path / "token").write_text(jwt.encode(claims, SECRET, algorithm="HS256"))
    file = tmp_path / "chain.yaml"
    file.write_text(CHAIN % tuple(unused_ports(2)))
    monkeypatch.chdir(tmp_path)
    return file


def test_a_file_says_who_is_let_in_at_each_hop(asked: Any, chain: Path) -> None:
    """The relay has the files of both its sides, the last hop those of one."""
    metro = asked("serve", "--topology", chain, "--hop", "metro")
    assert metro.calling.ca == metro.server.tls.authorities == Path("certs/ca.pem")
    assert metro.server.access.tenants == {"dev": {Rule.GREEDY}}
    assert metro.server.access.token_key == Path("secret")
    last = asked("serve", "--topology", chain, "--hop", "cloud")
    assert last.server.access.tenants == {"relay": frozenset(Rule)}
    assert last.server.access.token_key is None


def test_a_device_takes_its_files_from_the_chain(
    inline: Any, chain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first hop's tls and token_file are what it calls with; an option beside the file wins."""
    taken: list[Calling] = []

    class Enough(Exception):
        """Nothing is to be connected to."""

    def take(addresses: Any, model: Any, calling: Calling, *_: Any) -> Any:
        taken.append(calling)
        raise Enough

    monkeypatch.setattr(edge, "client", take)
    monkeypatch.setattr(edge, "load_edge", lambda *_: None)
    inline("edge", "generate", "--topology", chain, "--prompt", "x", "--tls-cert", "other.pem")
    (calling,) = taken
    assert (calling.ca, calling.cert) == (Path("certs/ca.pem"), Path("other.pem"))
    assert (calling.key, calling.token_file) == (Path("certs/dev-key.pem"), Path("token"))


def test_a_chain_of_processes_speaks_tls_on_every_hop(
    paceline: Any, start: Any, chain: Path, models: Path
) -> None:
    """A text goes through; the same device without its token, or as another tenant, is told why it does not."""
    up = start("topology", "up", chain, "--json")
    hops = {}
    while len(hops) < 2:
        event = json.loads(up.stdout.readline())
        if event["event"] == "ready":
            hops[event["hop"]] = event["address"]
    ask = (
        "edge", "generate", "--topology", chain, "--verifier", hops["metro"], "--tokenizer", models / "pico",
        "--prompt", "x", "--json", "--ignore-eos",
    )  # fmt: skip
    written = paceline(*ask)
    assert written.code == 0, written.err
    assert len(json.loads(written.out)["token_ids"]) == 12
    other = (*ask, "--tls-cert", "certs/lab.pem", "--tls-key", "certs/lab-key.pem")
    paceline(*other).complains("different tenants", code=6)
    (chain.parent / "token").write_text("no.sound.token")
    paceline(*ask).complains("the token cannot be verified", code=6)
    doctor = paceline("doctor", "--verifier", hops["cloud"], "--json")
    assert doctor.code == 3
    assert "--tls-ca" in doctor.out


def test_a_verifier_serves_over_tls(start: Any, certs: Path, paceline: Any, chain: Path) -> None:
    """`cloud serve` with options alone; a device that trusts another CA is told to check it."""
    server = start("cloud", "serve", "--topology", chain, "--hop", "cloud", "--listen", "127.0.0.1:0")
    line = server.stdout.readline()
    assert line.startswith(READY_PREFIX), server.stderr.read()
    address = line.removeprefix(READY_PREFIX).strip()
    strangers = chain.parent / "strangers"
    assert paceline("certs", "dev", strangers).code == 0
    pair = ("--tls-cert", certs / "dev.pem", "--tls-key", certs / "dev-key.pem")
    doctor = paceline("doctor", "--verifier", address, "--tls-ca", strangers / "ca.pem", *pair, "--json")
    assert "not signed by an authority" in doctor.out
    relay = ("--tls-cert", certs / "server.pem", "--tls-key", certs / "server-key.pem")
    doctor = paceline("doctor", "--verifier", address, "--tls-ca", certs / "ca.pem", *relay, "--json")
    rows = [row for row in json.loads(doctor.out)["checks"] if row["group"] == "verifier"]
    assert rows[0]["outcome"] == "ok", rows
