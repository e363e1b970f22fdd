"""Certificates and tokens that are renewed, run out or are withdrawn while texts are being written."""

import asyncio
import shutil
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import pytest
from tests.wire.keys import Keys, token

from paceline.cli.authority import Authority
from paceline.cloud.config import AccessConfig, ServerConfig, VerifierConfig
from paceline.cloud.engine.table import TableEngine
from paceline.common.errors import NotTrusted, Status, Unauthenticated
from paceline.common.hops.base import Stream
from paceline.common.hops.grpc import GrpcHop
from paceline.common.hops.security import Calling
from paceline.common.messages import ErrorMessage, FillPolicy, Open
from paceline.common.session.remote import RemoteError
from paceline.edge.client import Client
from paceline.edge.request import Event, GenerationRequest

REQUEST = GenerationRequest((1, 2, 3), 40)
SHORT = replace(REQUEST, max_new_tokens=3)


def paced(step_s: float) -> TableEngine:
    """A target whose step takes that long."""
    return TableEngine(64, spread=2.0, max_context=1024, step_s=step_s)


# --- renewed ----------------------------------------------------------------------------------------------------------


async def test_certificates_are_renewed_under_live_texts(serve: Any, keys: Keys) -> None:
    """Both ends' certificates and the CA change again and again while texts run: none breaks, none changes."""
    keys.pair("acme", tenant="acme")
    seen = []
    async with (
        serve(listening=ServerConfig("127.0.0.1:0", tls=keys.serving)) as served,
        AsyncExitStack() as stack,
    ):
        hops = [GrpcHop(served.address, calling=keys.calling("acme")) for _ in range(4)]
        clients = [await stack.enter_async_context(Client(hop)) for hop in hops]
        requests = [replace(REQUEST, prompt_token_ids=(1, 2, index)) for index in range(1, 9)]

        async def write_texts(client: Client) -> None:
            for request in requests:
                report = await client.complete(request, "cloud")
                assert report.token_ids == served.text(request)
                assert report.num_reconnects == 0
                seen.append(client)

        async def renew() -> None:
            authority = keys.authority
            for _ in range(6):
                keys.pair("acme", authority, tenant="acme")
                keys.pair("server", authority, hosts=["127.0.0.1"])
                await asyncio.sleep(0.05)

        await asyncio.gather(renew(), *map(write_texts, clients))
        before = {id(hop._links._current) for hop in hops}
        keys.pair("acme", tenant="acme")
        await asyncio.gather(*map(write_texts, clients))
        assert before.isdisjoint(id(hop._links._current) for hop in hops)
        assert all(len(hop._links._links) == 1 for hop in hops)
    assert len(seen) == 2 * len(clients) * len(requests)


async def test_a_new_ca_takes_over_without_a_restart(serve: Any, keys: Keys) -> None:
    """Whoever the old CA signed is out, whoever the new one signed is in; the text under way ends as it began."""
    keys.pair("acme", tenant="acme")
    fresh = Authority.create("new")
    async with serve(listening=ServerConfig("127.0.0.1:0", tls=keys.serving)) as served:
        old = Client(GrpcHop(served.address, calling=keys.calling("acme")))
        await old.connect()
        events = aiter(old.generate(REQUEST, "cloud"))
        token_ids = [*(await anext(events)).token_ids]
        old_pair = keys.pair("left", tenant="acme")
        fresh.save(keys.folder)
        keys.pair("server", fresh, hosts=["127.0.0.1"])
        keys.pair("acme", fresh, tenant="acme")
        async with Client(GrpcHop(served.address, calling=keys.calling("acme"))) as new:
            assert (await new.complete(REQUEST, "cloud")).token_ids == served.text(REQUEST)
        left = GrpcHop(
            served.address, calling=Calling(keys.folder / "ca.pem", *old_pair), connect_timeout_s=0.3
        )
        with pytest.raises(NotTrusted):
            await left.describe()
        token_ids += [one async for event in events for one in event.token_ids]
        assert token_ids == served.text(REQUEST)
        await old.close()
        await left.close()


async def test_unusable_new_files_leave_the_old_ones_in_force(
    serve: Any, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    """A half-written certificate on either end stops nobody, and is logged."""
    keys.pair("acme", tenant="acme")
    async with (
        serve(listening=ServerConfig("127.0.0.1:0", tls=keys.serving)) as served,
        Client(GrpcHop(served.address, calling=keys.calling("acme"))) as client,
    ):
        (keys.folder / "acme.pem").write_bytes(b"-----BEGIN")
        (keys.folder / "server.pem").unlink()
        assert (await client.complete(REQUEST, "cloud")).token_ids == served.text(REQUEST)
        keys.pair("late", tenant="acme")
        async with Client(GrpcHop(served.address, calling=keys.calling("late"))) as late:
            assert (await late.complete(REQUEST, "cloud")).token_ids == served.text(REQUEST)
    assert caplog.text.count("going on with what was there before") >= 2


@dataclass(frozen=True)
class Rotation:
    """A server's certificate, renewed again and again under streams that write."""

    num_streams: int
    num_renewals: int
    every_s: float
    step_s: float
    """Of the target, which paces the streams."""


async def shown(address: str, keys: Keys) -> str:
    """The certificate that whoever connects now is shown, as PEM."""
    context = ssl.create_default_context(cafile=str(keys.folder / "ca.pem"))
    context.load_cert_chain(keys.folder / "acme.pem", keys.folder / "acme-key.pem")
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return ssl.DER_cert_to_PEM_cert(certificate)


@pytest.mark.parametrize(
    "rotation",
    [
        Rotation(8, 4, 0.2, 0.01),
        pytest.param(Rotation(100, 60, 5.0, 0.5), marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
    ids=["a second", "five minutes"],
)
async def test_the_server_s_certificate_is_renewed_under_streams(
    serve: Any, keys: Keys, record_property: Any, rotation: Rotation
) -> None:
    """No text breaks, changes or reconnects, no connection is made anew; whoever connects sees the new certificate."""
    keys.pair("acme", tenant="acme")
    listening = ServerConfig("127.0.0.1:0", tls=keys.serving)
    config = VerifierConfig(max_sessions=rotation.num_streams + 1)
    async with (
        serve(paced(rotation.step_s), config, listening=listening) as served,
        AsyncExitStack() as stack,
    ):
        hops = [GrpcHop(served.address, calling=keys.calling("acme")) for _ in range(rotation.num_streams)]
        clients = [await stack.enter_async_context(Client(hop)) for hop in hops]
        links = [hop._links._current for hop in hops]
        is_over, num_texts, fewest_live = asyncio.Event(), 0, rotation.num_streams

        async def write_texts(number: int) -> None:
            nonlocal num_texts
            prompt = (1, 2 + number // 60, 2 + number % 60)
            request = replace(REQUEST, prompt_token_ids=prompt, max_new_tokens=30 + number % 21)
            expected = served.text(request)
            while not is_over.is_set():
                report = await clients[number].complete(request, "cloud")
                assert (report.token_ids, report.num_reconnects) == (expected, 0)
                num_texts += 1

        async def renew() -> None:
            nonlocal fewest_live
            for _ in range(rotation.num_renewals):
                await asyncio.sleep(rotation.every_s)
                fewest_live = min(fewest_live, served.verifier.num_sessions)
                certificate, _ = keys.pair("server", hosts=["127.0.0.1"])
                assert await shown(served.address, keys) == certificate.read_text()
                async with Client(GrpcHop(served.address, calling=keys.calling("acme"))) as late:
                    assert late.verifier is not None
            is_over.set()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(renew())
            for number in range(rotation.num_streams):
                tasks.create_task(write_texts(number))
        assert [hop._links._current for hop in hops] == links
    record_property("renewals", rotation.num_renewals)
    record_property("texts", num_texts)
    record_property("fewest live", str(fewest_live))
    assert num_texts >= rotation.num_streams
    assert fewest_live > rotation.num_streams / 2


# --- running out ------------------------------------------------------------------------------------------------------


LONG = replace(REQUEST, max_new_tokens=60)


def soon() -> int:
    """When a token runs out that holds for one or two seconds: its clock has whole ones."""
    return int(time.time()) + 2


async def test_a_token_that_runs_out_ends_the_stream(serve: Any, keys: Keys) -> None:
    """Without a fresh one the text breaks off, UNAUTHENTICATED, told in-band; what came before is the text's start."""
    file = keys.folder / "mine"
    file.write_text(token(exp=soon()))
    access = AccessConfig(keys.folder / "secret", leeway_s=0.0)
    async with serve(paced(0.05), listening=ServerConfig("127.0.0.1:0", access=access)) as served:
        async with Client(GrpcHop(served.address, calling=Calling(token_file=file))) as client:
            generation = client.generate(LONG, "cloud")
            with pytest.raises(RemoteError, match="expired") as caught:
                async for _ in generation:
                    pass
            assert (caught.value.status, caught.value.exit_code) == (Status.UNAUTHENTICATED, 6)
            got = generation.report.token_ids
            assert 0 < len(got) < 60
            assert got == served.text(LONG)[: len(got)]
        async with asyncio.timeout(5):
            while served.verifier.num_sessions:
                await asyncio.sleep(0.01)


async def test_a_silent_stream_ends_with_its_token(serve: Any, keys: Keys) -> None:
    """A stream on which nothing happens is closed when its token runs out: error first, then status."""
    access = AccessConfig(keys.folder / "secret", leeway_s=0.0)
    async with serve(listening=ServerConfig("127.0.0.1:0", access=access)) as served:
        file = keys.folder / "mine"
        file.write_text(token(exp=soon()))
        hop = GrpcHop(served.address, calling=Calling(token_file=file))
        async with hop.stream() as stream, asyncio.timeout(5):
            message = await stream.receive()
            assert isinstance(message, ErrorMessage)
            assert (message.status, message.reason) == (Status.UNAUTHENTICATED, "UNAUTHENTICATED")
            with pytest.raises(Unauthenticated):
                await stream.receive()
        await hop.close()


async def test_a_fresh_token_carries_a_text_on(serve: Any, keys: Keys) -> None:
    """Where the file was renewed in time the text goes on over a new stream and is the same."""
    file = keys.folder / "mine"
    file.write_text(token(exp=soon()))
    access = AccessConfig(keys.folder / "secret", leeway_s=0.0)
    async with (
        serve(paced(0.05), listening=ServerConfig("127.0.0.1:0", access=access)) as served,
        Client(GrpcHop(served.address, calling=Calling(token_file=file))) as client,
    ):
        generation = client.generate(LONG, "cloud")
        async for _ in generation:
            if len(generation.report.token_ids) == 3:
                file.write_text(token())
        assert generation.report.token_ids == served.text(LONG)
        assert generation.report.num_reconnects == 1


async def test_connections_are_made_anew_after_their_age(serve: Any, keys: Keys) -> None:
    """Whoever is connected has to prove again who they are after a while; texts under way resume."""
    keys.pair("acme", tenant="acme")
    config = ServerConfig("127.0.0.1:0", tls=keys.serving, max_connection_age_s=0.3, connection_grace_s=0.2)
    async with (
        serve(paced(0.05), listening=config) as served,
        Client(GrpcHop(served.address, calling=keys.calling("acme"))) as client,
    ):
        report = await client.complete(REQUEST, "cloud")
        assert report.token_ids == served.text(REQUEST)
        assert report.num_reconnects >= 1


async def until_end(events: AsyncIterator[Event]) -> None:
    """Let a text be written."""
    async for _ in events:
        pass


async def receive_all(stream: Stream, messages: list[Any]) -> None:
    """Until it ends."""
    while (message := await stream.receive()) is not None:
        messages.append(message)


async def until_streams(served: Any, count: int) -> None:
    """Until a verifier has that many."""
    async with asyncio.timeout(30):
        while served.verifier.num_streams != count:
            await asyncio.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("does", ["writes", "says nothing", "reads nothing"])
async def test_a_stream_ends_soon_after_its_token(
    serve: Any, keys: Keys, record_property: Any, does: str
) -> None:
    """A stream that would last a minute, with a token for two seconds and the default leeway: it is closed
    within 5 s of the token's end, whatever its client does."""
    ends_s = int(time.time()) + 3
    (keys.folder / "mine").write_text(token(exp=ends_s))
    access = AccessConfig(keys.folder / "secret")
    engine = TableEngine(64, spread=2.0, max_context=65_536, step_s=0.5 if does == "writes" else 0.0)
    async with serve(engine, listening=ServerConfig("127.0.0.1:0", access=access)) as served:
        hop = GrpcHop(served.address, calling=Calling(token_file=keys.folder / "mine"))
        async with hop.stream() as stream:
            if does != "says nothing":
                num_tokens = 120 if does == "writes" else 60_000
                await stream.send(Open((1, 2, 3), num_tokens, fill=FillPolicy.UNLIMITED))
            if does == "reads nothing":
                await until_streams(served, 1)
                await until_streams(served, 0)
                closed_s = time.time()
            messages: list[Any] = []
            with pytest.raises(Unauthenticated):
                await receive_all(stream, messages)
            if does != "reads nothing":  # to whom no message could be written
                closed_s = time.time()
                assert messages[-1].status is Status.UNAUTHENTICATED
        await hop.close()
    record_property("closed", f"{closed_s - ends_s:.2f} s after the token's end ({does})")
    assert 0 < closed_s - ends_s <= 5


@pytest.mark.parametrize(
    ("age_s", "grace_s", "late_s"),
    [(0.5, 0.3, None), pytest.param(5.0, 3.0, 1.0, marks=pytest.mark.slow)],
    ids=["soon", "in time"],
)
async def test_whoever_lost_their_authority_is_out(
    serve: Any, keys: Keys, record_property: Any, age_s: float, grace_s: float, late_s: float | None
) -> None:
    """A text whose client's authority is withdrawn while it is written goes on for no longer than the age of a
    connection and the grace, and cannot come back; whoever has a certificate of the new one is let in."""
    keys.pair("acme", tenant="acme")
    fresh = Authority.create("new")
    (keys.folder / "new").mkdir()
    fresh.save(keys.folder / "new")
    keys.pair("rival", fresh, tenant="rival")
    authorities = shutil.copy(keys.folder / "ca.pem", keys.folder / "clients.pem")
    listening = ServerConfig(
        "127.0.0.1:0",
        tls=replace(keys.serving, authorities=authorities),
        max_connection_age_s=age_s,
        connection_grace_s=grace_s,
    )
    request = replace(REQUEST, max_new_tokens=1000, reconnect_s=1.0)
    async with serve(paced(0.05), listening=listening) as served:
        async with Client(GrpcHop(served.address, calling=keys.calling("acme"))) as client:
            generation = client.generate(request, "cloud")
            events = aiter(generation)
            await anext(events)
            (keys.folder / "new" / "ca.pem").replace(authorities)
            withdrawn_s = time.monotonic()
            rest = asyncio.create_task(until_end(events))
            await until_streams(served, 0)
            out_s = time.monotonic() - withdrawn_s
            with pytest.raises(NotTrusted, match="closes the connection"):
                await rest
            assert served.verifier.num_streams == 0
            got = generation.report.token_ids
            assert 0 < len(got) < 1000
            assert got == served.text(request)[: len(got)]
        async with Client(GrpcHop(served.address, calling=keys.calling("rival"))) as client:
            assert (await client.complete(SHORT, "cloud")).token_ids == served.text(SHORT)
    record_property("out", f"{out_s:.1f} s after, of {age_s:g} + {grace_s:g}")
    if late_s is not None:
        assert out_s <= 1.1 * age_s + grace_s + late_s  # gRPC spreads ages by a tenth
