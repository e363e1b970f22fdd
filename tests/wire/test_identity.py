"""Who is let in: certificates and tokens over real gRPC."""

import asyncio
import base64
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.wire.keys import Keys, claims, token

from paceline.cli.authority import Authority
from paceline.cloud.config import AccessConfig, ServerConfig
from paceline.cloud.engine.table import TableEngine
from paceline.cloud.identity import Authenticator
from paceline.cloud.server import Server
from paceline.cloud.verifier import TargetInfo, Verifier
from paceline.common.errors import (
    InvalidRequest,
    NotTrusted,
    PacelineError,
    PermissionDenied,
    Status,
    Unauthenticated,
    Unreachable,
)
from paceline.common.hops.first_reachable import FirstReachable
from paceline.common.hops.grpc import GrpcHop
from paceline.common.hops.security import Calling, TlsFiles
from paceline.common.messages import ErrorMessage, Open
from paceline.common.session.remote import RemoteError
from paceline.common.tokens import Rule, SamplingParams
from paceline.edge.client import Client
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.request import GenerationRequest
from paceline.relay.relay import Relay
from paceline.v1 import verifier_pb2 as pb

OPEN = Open((1, 2, 3), 4)
REQUEST = GenerationRequest((1, 2, 3), 40)


def both(keys: Keys, **tenants: frozenset[Rule]) -> ServerConfig:
    """A server that wants a certificate and a token."""
    access = AccessConfig(keys.folder / "secret", leeway_s=0.0, tenants=tenants)
    return ServerConfig("127.0.0.1:0", tls=keys.serving, access=access)


async def _same_of_a_stream(hop: GrpcHop, asked: PacelineError) -> None:
    """A stream is refused as a question was."""
    async with hop.stream() as stream:
        await stream.send(OPEN)
        if isinstance(asked, NotTrusted):
            with pytest.raises(NotTrusted):
                await stream.receive()
        else:
            message = await stream.receive()
            assert isinstance(message, ErrorMessage)
            assert (message.status, message.fatal) == (asked.status, True)
            assert message.cure
            assert message.message in str(asked)


async def outcome(address: str, calling: Calling) -> tuple[type[PacelineError], Status]:
    """How a caller is refused when it asks what is served; the same when it opens a stream."""
    hop = GrpcHop(address, calling=calling, connect_timeout_s=1.0)
    try:
        with pytest.raises(PacelineError) as asked:
            await hop.describe()
        for attempt in range(3):  # on a busy machine the connection of `describe` may be gone again
            try:
                await _same_of_a_stream(hop, asked.value)
                break
            except Unreachable:
                if attempt == 2:
                    raise
        assert asked.value.exit_code == 6
        return type(asked.value), asked.value.status
    finally:
        await hop.close()


# --- the matrix -------------------------------------------------------------------------------------------------------

CERTIFICATES = ("acme", "none", "stranger", "old", "rival")
TOKENS = ("good", "none", "expired", "audience", "unsigned", "rivals", "forged")
UNKNOWN = (Unauthenticated, Status.UNAUTHENTICATED)
DENIED = (PermissionDenied, Status.PERMISSION_DENIED)
DISTRUSTED = (NotTrusted, Status.UNAVAILABLE)


@pytest.fixture
def people(keys: Keys) -> Keys:
    """Certificates and tokens of every sort."""
    keys.pair("acme", tenant="acme")
    keys.pair("stranger", Authority.create("another"), tenant="acme")
    keys.pair("old", tenant="acme", days=-1)
    keys.pair("rival", tenant="rival")
    tokens = {
        "good": token(),
        "expired": token(exp=time.time() - 1),
        "audience": token(aud="bank"),
        "unsigned": token(None, "none"),
        "rivals": token(sub="rival"),
        "forged": token(b"another secret that is just as long as it"),
    }
    for name, one in tokens.items():
        (keys.folder / name).write_text(one + "\n")
    return keys


@pytest.mark.parametrize("certificate", CERTIFICATES)
async def test_only_a_certificate_and_a_token_of_one_allowed_tenant_get_in(
    serve: Any, people: Keys, certificate: str
) -> None:
    """Every other pair is refused, by the right status, in-band where there is a stream."""
    async with serve(listening=both(people, acme=frozenset(Rule))) as served:
        for name in TOKENS:
            calling = people.calling(
                "" if certificate == "none" else certificate, "" if name == "none" else name
            )
            if (certificate, name) == ("acme", "good"):
                async with Client(GrpcHop(served.address, calling=calling)) as client:
                    assert (await client.complete(REQUEST, "cloud")).token_ids == served.text(REQUEST)
                continue
            if certificate in ("none", "stranger", "old"):
                expected: Any = DISTRUSTED
            elif name in ("good", "rivals"):
                expected = DENIED
            else:
                expected = UNKNOWN
            assert await outcome(served.address, calling) == expected, name


async def test_a_tenant_is_refused_the_rules_it_may_not_use(serve: Any, people: Keys) -> None:
    """A rule outside a tenant's is refused at open and not offered to it; the others work."""
    allowed = frozenset({Rule.GREEDY})
    async with (
        serve(listening=both(people, acme=allowed)) as served,
        Client(GrpcHop(served.address, calling=people.calling("acme", "good"))) as client,
    ):
        assert client.verifier is not None
        assert client.verifier.rules == (Rule.GREEDY,)
        with pytest.raises(RemoteError, match="may not use the rule coupled") as caught:
            await client.complete(replace(REQUEST, rule=Rule.COUPLED, sampling=SamplingParams(0.7)), "cloud")
        assert (caught.value.status, caught.value.exit_code) == (Status.PERMISSION_DENIED, 6)
        assert len((await client.complete(REQUEST, "cloud")).token_ids) == 40


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"exp": None}, "lacks a claim"),
        ({"aud": None}, "lacks a claim"),
        ({"sub": None}, "lacks a claim"),
        ({"tenant": "two words"}, "names no tenant"),
        ({"tenant": ["acme"]}, "names no tenant"),
        ({"nbf": time.time() + 3600}, "cannot be verified"),
    ],
)
async def test_a_token_says_when_it_ends_whom_it_is_for_and_whose_it_is(
    serve: Any, people: Keys, changed: dict[str, Any], words: str
) -> None:
    """A token without one of its claims, or with an odd one, is refused with words that say so."""
    (people.folder / "odd").write_text(token(**changed))
    async with serve(listening=both(people)) as served:
        hop = GrpcHop(served.address, calling=people.calling("acme", "odd"))
        with pytest.raises(Unauthenticated, match=words):
            await hop.describe()
        await hop.close()


async def test_a_broken_authorization_header_reaches_nobody(serve: Any, people: Keys) -> None:
    """Headers that are no single bearer token are refused as UNAUTHENTICATED, without text of any exception."""
    deep = base64.urlsafe_b64encode(b"[" * 4000).decode()
    headers: Sequence[tuple[tuple[str, str], ...]] = [
        (("authorization", "Basic YTpi"),),
        (("authorization", "Bearer"),),
        (("authorization", "Bearer x.y.z"),),
        (("authorization", f"Bearer {deep}.e30.e30"),),
        (("authorization", f"Bearer {'a' * 8200}"),),
        (("authorization", f"Bearer {token()}"), ("authorization", f"Bearer {token()}")),
    ]
    access = AccessConfig(people.folder / "secret")
    async with (
        serve(listening=ServerConfig("127.0.0.1:0", access=access)) as served,
        grpc.aio.insecure_channel(served.address) as channel,
    ):
        describe = channel.unary_unary("/paceline.v1.VerifierService/Describe")
        for metadata in headers:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await describe(b"", metadata=metadata)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            said = caught.value.details() or ""
            assert said.startswith("token: ")
            assert not any(word in said for word in ("Error", "<class", "Traceback", "line 1"))


def _public_pem(key: Any) -> bytes:
    data: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return data


@pytest.mark.parametrize(
    ("make", "algorithm"),
    [
        (lambda: rsa.generate_private_key(65537, 2048), "RS256"),
        (lambda: ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (lambda: ec.generate_private_key(ec.SECP384R1()), "ES384"),
        (ed25519.Ed25519PrivateKey.generate, "EdDSA"),
    ],
    ids=["rsa", "p-256", "p-384", "ed25519"],
)
async def test_a_public_key_decides_the_algorithm(
    serve: Any, people: Keys, make: Callable[[], Any], algorithm: str
) -> None:
    """Tokens signed with the key's own algorithm hold; the public key used as a secret does not pass for one."""
    key = make()
    pem = _public_pem(key)
    (people.folder / "public.pem").write_bytes(pem)
    access = AccessConfig(people.folder / "public.pem")
    (people.folder / "mine").write_text(token(key, algorithm))
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")
    body = base64.urlsafe_b64encode(json.dumps(claims()).encode()).rstrip(b"=")
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(
        head + b"." + body, pem
    )
    confused = b".".join((head, body, base64.urlsafe_b64encode(signature).rstrip(b"=")))
    (people.folder / "confused").write_bytes(confused)
    async with serve(listening=ServerConfig("127.0.0.1:0", access=access)) as served:
        mine = GrpcHop(served.address, calling=Calling(token_file=people.folder / "mine"))
        assert (await mine.describe()).model_name == "table"
        other = GrpcHop(served.address, calling=Calling(token_file=people.folder / "confused"))
        with pytest.raises(Unauthenticated, match="cannot be verified"):
            await other.describe()
        await mine.close()
        await other.close()


async def test_a_key_set_finds_the_key_a_token_names(serve: Any, people: Keys) -> None:
    """Of several keys the token's kid picks one; keys that are taken out no longer hold, without a restart."""
    signers = {name: ed25519.Ed25519PrivateKey.generate() for name in ("one", "two", "three")}

    def write(*names: str) -> None:
        jwks = [
            {
                **json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(signers[name].public_key())),
                "kid": name,
                "alg": "EdDSA",
            }
            for name in names
        ]
        (people.folder / "jwks.json").write_text(json.dumps({"keys": jwks}))

    write("one", "two")
    access = AccessConfig(people.folder / "jwks.json")
    async with serve(listening=ServerConfig("127.0.0.1:0", access=access)) as served:

        async def gets_in(name: str) -> bool:
            signed = jwt.encode(claims(), signers[name], algorithm="EdDSA", headers={"kid": name})
            async with grpc.aio.insecure_channel(served.address) as channel:
                describe = channel.unary_unary("/paceline.v1.VerifierService/Describe")
                code = await describe(b"", metadata=(("authorization", f"Bearer {signed}"),)).code()
                assert code in (grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED)
                return code is grpc.StatusCode.OK

        assert [await gets_in(name) for name in signers] == [True, True, False]
        write("two", "three")
        assert [await gets_in(name) for name in signers] == [False, True, True]


# --- what is open -----------------------------------------------------------------------------------------------------


async def test_only_health_answers_strangers(serve: Any, people: Keys) -> None:
    """Health needs no token; every other method does, reflection too; unknown ones stay unknown."""
    access = AccessConfig(people.folder / "secret")
    shown = ServerConfig("127.0.0.1:0", access=access, reflection=True)
    async with serve(listening=shown) as served, grpc.aio.insecure_channel(served.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        reply = await health.Check(health_pb2.HealthCheckRequest(service=""))
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        watch = health.Watch(health_pb2.HealthCheckRequest(service=""))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()

        async def asked(**how: Any) -> Any:
            call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(**how)
            await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            await call.done_writing()
            return await call.read()

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asked()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        reply = await asked(metadata=(("authorization", f"Bearer {token()}"),))
        assert reply.list_services_response.service


async def test_reflection_is_off_unless_asked_for(serve: Any) -> None:
    """A generic client learns nothing by default."""
    async with serve() as served, grpc.aio.insecure_channel(served.address) as channel:
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_no_exception_text_leaves_the_process(
    serve: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug of ours becomes an incident id on either method; the log has the rest."""
    async with serve() as served, grpc.aio.insecure_channel(served.address) as channel:

        def broken(*_: Any) -> Any:
            raise RuntimeError("password=hunter2")

        monkeypatch.setattr(served.verifier, "describe", broken)
        monkeypatch.setattr(served.verifier, "decode", broken)
        asked = channel.unary_unary("/paceline.v1.VerifierService/Describe")(b"")
        stream = channel.stream_stream("/paceline.v1.VerifierService/Decode")(iter([b""]))
        message = pb.DecodeResponse.FromString(await stream.read())
        assert message.error.code == grpc.StatusCode.INTERNAL.value[0]
        assert "incident" in message.error.cure
        for call in (asked, stream):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await (call if call is asked else stream.read())
            assert caught.value.code() is grpc.StatusCode.INTERNAL
            # The second is what grpc.aio says by itself where the stream ended before its own request was out.
            assert re.search("incident|^Internal error from Core$", caught.value.details())
            assert "hunter2" not in caught.value.details()
    assert caplog.text.count("hunter2") >= 2


# --- listening --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:7443", "verifier.example:7443"])
async def test_listening_without_tls_beyond_loopback_must_be_asked_for(listen: str) -> None:
    """A plain port that other machines reach is refused, with the ways out."""
    server = Server(Verifier(TableEngine(64), TargetInfo("t", "0")), ServerConfig(listen))
    with pytest.raises(InvalidRequest, match="without TLS") as caught:
        await server.start()
    assert caught.value.field == "listen"
    assert "--insecure-listen" in caught.value.cure


async def test_tls_that_asks_nobody_is_no_way_to_listen_either(keys: Keys) -> None:
    """Encrypted, but open to everybody: refused as well, unless it is asked for by name."""
    tls = replace(keys.serving, authorities=None)
    config = ServerConfig("0.0.0.0:0", tls=tls)
    with pytest.raises(InvalidRequest, match="open to everybody"):
        config.check()
    replace(config, insecure_listen=True).check()
    replace(config, tls=keys.serving).check()
    replace(config, access=AccessConfig(keys.folder / "secret")).check()


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "127.8.0.1:0", "[::1]:0", "localhost:0"])
def test_loopback_needs_nothing(listen: str) -> None:
    """What only this machine reaches may be plain."""
    ServerConfig(listen).check()


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (ServerConfig(tls=TlsFiles(cert=Path("a.pem"))), "tls_cert"),
        (ServerConfig(tls=TlsFiles(key=Path("a.pem"))), "tls_key"),
        (ServerConfig(tls=TlsFiles(authorities=Path("a.pem"))), "tls_client_ca"),
        (ServerConfig(access=AccessConfig(tenants={"a": frozenset(Rule)})), "tenant"),
    ],
)
def test_half_a_setting_is_refused(config: ServerConfig, field: str) -> None:
    """A certificate without its key, a client CA without TLS, tenants nobody asks for."""
    with pytest.raises(InvalidRequest) as caught:
        config.check()
    assert (caught.value.field, bool(caught.value.cure)) == (field, True)


async def test_unusable_files_are_refused_before_the_port_opens(keys: Keys) -> None:
    """Missing files, another certificate's key, a CA that is none, a private key for tokens: each is named."""
    keys.pair("other")
    (keys.folder / "short").write_bytes(b"short")
    private = keys.folder / "server-key.pem"
    tls, folder = keys.serving, keys.folder
    for config, words in [
        (ServerConfig(tls=replace(tls, cert=folder / "none.pem")), "none.pem: No such file"),
        (ServerConfig(tls=replace(tls, key=folder / "other-key.pem")), "is not the key of"),
        (ServerConfig(tls=replace(tls, key=folder / "server.pem")), "are not a certificate and its key"),
        (ServerConfig(tls=replace(tls, authorities=folder / "secret")), "holds no certificate"),
        (ServerConfig(access=AccessConfig(private)), "it is a private key"),
        (ServerConfig(access=AccessConfig(folder / "short")), "at least 32 bytes"),
        (ServerConfig(access=AccessConfig(folder / "none")), "cannot read"),
    ]:
        server = Server(
            Verifier(TableEngine(64), TargetInfo("t", "0")), replace(config, listen="127.0.0.1:0")
        )
        with pytest.raises(InvalidRequest, match=words) as caught:
            await server.start()
        assert caught.value.cure


# --- the client -------------------------------------------------------------------------------------------------------


def test_a_token_never_travels_in_the_clear(keys: Keys) -> None:
    """A token on a plain link to another machine is refused before anything is sent; on loopback it is taken."""
    calling = Calling(token_file=keys.folder / "secret")
    with pytest.raises(InvalidRequest, match="unencrypted") as caught:
        GrpcHop("verifier.example:7443", calling=calling)
    assert (caught.value.field, caught.value.cure) == ("token", "add --tls-ca")


def test_a_token_comes_from_a_variable(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable is as good as a file; what is no token is refused without being shown."""
    monkeypatch.setenv("SOME_TOKEN", "two words")
    with pytest.raises(InvalidRequest, match="SOME_TOKEN holds no token") as caught:
        GrpcHop("127.0.0.1:1", calling=Calling(token_variable="SOME_TOKEN"))
    assert "two words" not in str(caught.value)
    with pytest.raises(InvalidRequest, match="unencrypted"):
        GrpcHop("verifier.example:7443", calling=Calling(token_variable="SOME_TOKEN"))


async def test_what_keeps_ends_from_connecting_is_said(serve: Any, people: Keys) -> None:
    """Each fault of certificates has its own words and a cure, and none of gRPC's text."""
    people.pair("far", hosts=["verifier.example"])
    people.pair("past", hosts=["127.0.0.1"], days=-1)
    strange = people.folder / "stranger.pem"
    folder = people.folder

    def config(name: str) -> ServerConfig:
        return ServerConfig("127.0.0.1:0", tls=TlsFiles(folder / f"{name}.pem", folder / f"{name}-key.pem"))

    plain = Calling()
    for listening, calling, words, cure in [
        (config("server"), replace(people.calling(), ca=strange), "not signed by an authority", "--tls-ca"),
        (config("past"), people.calling(), "has expired", "operator"),
        (config("far"), people.calling(), "for another host", "name it has"),
        (ServerConfig("127.0.0.1:0"), people.calling(), "does not speak TLS", "--tls-ca"),
        (config("server"), plain, "closes the connection", "--tls-ca"),
        (both(people), people.calling("old"), "closes the connection", "check your certificate"),
    ]:
        async with serve(listening=listening) as served:
            hop = GrpcHop(served.address, calling=calling, connect_timeout_s=0.3)
            with pytest.raises(NotTrusted, match=words) as caught:
                await hop.describe()
            assert cure in caught.value.cure
            assert "SSL" not in str(caught.value)
            several = FirstReachable({"a": hop})
            with pytest.raises(NotTrusted, match=words):
                await several.describe()
            await hop.close()


# --- what a certificate says ------------------------------------------------------------------------------------------


def test_a_resumed_tls_session_proves_nothing(keys: Keys) -> None:
    """A session that was taken up again did not show its certificate now, and is refused for that."""
    authenticator = Authenticator(ServerConfig(tls=keys.serving))
    peer = {"peer_uri": [b"urn:paceline:tenant:acme"], "ssl_session_reused": [b"false"]}
    assert authenticator.caller(peer, ()).tenant == "acme"
    with pytest.raises(Unauthenticated, match="resumed"):
        authenticator.caller({**peer, "ssl_session_reused": [b"true"]}, ())


@pytest.mark.parametrize(
    "uris",
    [
        [],
        [b"spiffe://example/acme"],
        [b"urn:paceline:tenant:"],
        [b"urn:paceline:tenant:two words"],
        [b"urn:paceline:tenant:acme", b"urn:paceline:tenant:rival"],
        [b"urn:paceline:tenant:\xff"],
    ],
)
def test_a_certificate_names_one_tenant(keys: Keys, uris: list[bytes]) -> None:
    """None, several, or one that is no name: nobody is let in on it."""
    authenticator = Authenticator(ServerConfig(tls=keys.serving))
    with pytest.raises(Unauthenticated) as caught:
        authenticator.caller({"peer_uri": uris, "x509_common_name": [b"acme"]}, (("tenant", "acme"),))
    assert caught.value.field == "certificate"


# --- a chain ----------------------------------------------------------------------------------------------------------


async def test_a_chain_is_encrypted_on_both_hops(serve: Any, keys: Keys) -> None:
    """Device, relay and verifier each prove who they are to the next; the text is the target's."""
    keys.pair("acme", tenant="acme")
    last = AccessConfig(tenants={"relay": frozenset(Rule)})
    first = AccessConfig(tenants={"acme": frozenset(Rule)})
    async with serve(listening=ServerConfig("127.0.0.1:0", tls=keys.serving, access=last)) as served:
        above = GrpcHop(served.address, calling=keys.calling("server"))
        engine = TableEngine(64, spread=2.0, max_context=1024)
        relay = Relay(Verifier(engine, TargetInfo("t", "0")), above, name="relay")
        server = Server(relay, ServerConfig("127.0.0.1:0", tls=keys.serving, access=first))
        await server.start()
        await relay.connected()
        try:
            drafter = TableDrafter(64, target_seed=0, agreement=0.8, scale=2.0)
            async with Client(GrpcHop(server.address, calling=keys.calling("acme")), drafter) as client:
                report = await client.complete(REQUEST)
                assert report.token_ids == served.text(REQUEST)
                assert len(report.hops) == 2
            assert await outcome(served.address, keys.calling("acme")) == DENIED
            assert await outcome(server.address, keys.calling("server")) == DENIED
        finally:
            await server.stop(0)


async def test_a_relay_that_is_not_let_in_does_not_blame_the_device(serve: Any, people: Keys) -> None:
    """What the hop above finds wrong with the relay is, for the device, a hop that is not there."""
    async with serve(listening=both(people)) as served:
        (people.folder / "stale").write_text(token(exp=time.time() - 5, sub="relay"))
        above = GrpcHop(served.address, calling=people.calling("server", "stale"))
        relay = Relay(Verifier(TableEngine(64), TargetInfo("t", "0")), above, name="relay")
        server = Server(relay, ServerConfig("127.0.0.1:0"))
        await server.start()
        try:
            hop = GrpcHop(server.address, connect_timeout_s=0.3)
            async with asyncio.timeout(5):
                while "let this relay in" not in str(relay._fault):
                    await asyncio.sleep(0.01)
            with pytest.raises(Unreachable):
                await hop.describe()
            async with hop.stream() as stream:
                await stream.send(OPEN)
                message = await stream.receive()
                assert isinstance(message, ErrorMessage)
                assert (message.status, message.field) == (Status.UNAVAILABLE, "upstream")
            await hop.close()
        finally:
            await server.stop(0)
