"""Padded mode over TLS, as an eavesdropper sees it: sizes of TLS records say nothing, and the texts are the same."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.wire.test_relay import MODES, connected, middle
from tests.wire.test_texts import PROMPT

from paceline.cli.authority import Authority, write_pair
from paceline.cli.verifier_process import verifier_process
from paceline.cloud.config import ServerConfig
from paceline.cloud.engine.table import TableEngine
from paceline.cloud.verifier import TargetInfo, Verifier
from paceline.common.codec import RequestWriter, ResponseWriter
from paceline.common.errors import Incompatible, PacelineError, Status, Unreachable
from paceline.common.hops.base import Hop, Stream
from paceline.common.hops.grpc import GrpcHop
from paceline.common.hops.inproc import InProcessHop
from paceline.common.hops.security import Calling, TlsFiles
from paceline.common.messages import ClientMessage, ErrorMessage, Open, Opened, ServerMessage
from paceline.common.padding import BLOCK
from paceline.common.session import EdgeSession, SteeredSession, VerifierSession
from paceline.common.tokens import Draft, Rule, SamplingParams
from paceline.edge.assemble import assemble
from paceline.edge.client import Client
from paceline.edge.drafters.ngram import NgramDrafter
from paceline.edge.drafters.siblings import SiblingsDrafter
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.request import GenerationRequest, Report

PAD_TO = 256
RULES = [Rule.GREEDY, Rule.COUPLED]

# --- an eavesdropper --------------------------------------------------------------------------------------------------

APPLICATION_DATA = 23
SEAL_BYTES = 17
"""What TLS 1.3 adds to a record: the inner type, and the tag."""
FRAME_BYTES = 9 + 5
"""Headers of HTTP/2 and gRPC before a message."""
END_RECORDS = 4
"""At most so many records end a text: last verdict, Finished, Close, and what HTTP/2 says of it."""


@dataclass
class Recorder:
    """Sizes of the TLS records that crossed a link, without headers and seals: all that can be seen on the way."""

    address: str = ""
    up: list[int] = field(default_factory=list)
    down: list[int] = field(default_factory=list)


async def note_records(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sizes: list[int]) -> None:
    """Pass on, and note the sizes of records."""
    seen = b""
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            seen += data
            while len(seen) >= 5 and len(seen) >= (end := 5 + int.from_bytes(seen[3:5], "big")):
                if seen[0] == APPLICATION_DATA:
                    sizes.append(end - 5 - SEAL_BYTES)
                seen = seen[end:]
    except ConnectionError:
        pass  # either end may vanish
    finally:
        writer.close()


@asynccontextmanager
async def recorded(target: str) -> AsyncIterator[Recorder]:
    """A way to `target` that is watched."""
    host, _, port = target.rpartition(":")
    recorder = Recorder()
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(
            note_records(reader, far_writer, recorder.up), note_records(far_reader, writer, recorder.down)
        )
        ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    recorder.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield recorder
        await ended.wait()
    finally:
        server.close()


def num_messages(records: Sequence[int], pad_to: int) -> int:
    """How many messages these records hold if all have one size. Beside them is room for frames of HTTP/2: headers in
    the first record and the last, and window updates, which say how many bytes were read."""
    whole, around = pad_to + FRAME_BYTES, (0, 13, 26)
    joined: list[int] = []
    for record in records:
        if record % whole - pad_to in around:  # a busy machine cut it off from its frame's header
            joined[-1] += record
        else:
            joined.append(record)
    for record in joined[1:-1]:
        assert record % whole in around, f"a record of {record} bytes"
    return sum(record // whole for record in joined)


def test_records_are_counted_as_messages() -> None:
    """However they are cut; one of another size is noticed."""
    whole = 256 + FRAME_BYTES
    assert num_messages([95 + whole, whole + 13, 2 * whole, 26], 256) == 4
    assert num_messages([95 + FRAME_BYTES, 256 + whole, whole, 26], 256) == 3
    with pytest.raises(AssertionError, match="a record of 271 bytes"):
        num_messages([95 + whole, whole + 1, whole, 26], 256)


def guessed(recordings: Sequence[Sequence[int]], num_prompts: int) -> float:
    """Share of prompts guessed right by the nearest other recording; among equally near ones a guess is as good as
    the share of the right prompt. All are cut to one length, before their ends: how many records there are is not to be
    seen, only how large they are. Of a recording too short for that, one in ten at most, the prompt is guessed blindly.

    Args:
        recordings: record sizes in order; of every prompt in turn, as often as there are runs.
    """
    lengths = np.array([len(one) for one in recordings]) - END_RECORDS
    length = max(int(np.quantile(lengths, 0.1)), 1)
    is_long = lengths >= length
    sizes = np.array([one[:length] for one, kept in zip(recordings, is_long, strict=True) if kept])
    prompts = (np.arange(len(recordings)) % num_prompts)[is_long]
    right = np.count_nonzero(~is_long) / num_prompts
    for index, one in enumerate(sizes):
        distances = np.abs(sizes - one).sum(axis=1)
        distances[index] = np.iinfo(distances.dtype).max
        right += float(np.mean(prompts[distances == distances.min()] == prompts[index]))
    return right / len(recordings)


def test_a_recording_of_hardly_anything_spoils_no_other() -> None:
    """Of a text written in two records nothing can be told; others are as near to each other as they are."""
    end = [0] * END_RECORDS
    two_prompts = [[*sizes, *end] for sizes in ([7, 7, 9], [7, 8, 9, 5]) * 10]
    assert guessed(two_prompts, 2) == 1.0
    assert guessed([*two_prompts, [7], [7, 8]], 2) == pytest.approx(21 / 22)
    assert guessed([[7] * (9 + index) for index in range(22)], 2) < 0.5


def most_by_chance(num_prompts: int, num_recordings: int) -> float:
    """Chance, and three standard deviations."""
    chance = 1 / num_prompts
    return float(chance + 3 * np.sqrt(chance * (1 - chance) / num_recordings))


@dataclass
class Overheard:
    """What was recorded of one text, from its call's headers on."""

    up: list[int]
    down: list[int]
    report: Report
    num_before: tuple[int, int]
    """So many of them, up and down, until the first tokens came: headers, Open, Opened and the first round."""


async def overhear(
    address: str, tls_ca: Path, drafter: Any, request: GenerationRequest, mode: str = "sync"
) -> Overheard:
    """Write a text over a watched link of its own."""
    async with recorded(address) as link:
        client = Client(GrpcHop(link.address, calling=Calling(tls_ca)), drafter)
        try:
            await client.connect()
            link.up.clear()
            link.down.clear()
            generation = client.generate(request, mode)
            num_before = None
            async for _ in generation:
                num_before = num_before or (len(link.up), len(link.down))
        finally:
            await client.close()
    assert num_before is not None
    return Overheard(link.up, link.down, generation.report, num_before)


def check_one_size(heard: Overheard, pad_to: int) -> None:
    """Everything that was said is in messages of one size each way."""
    assert heard.report.traffic.bytes_up == pad_to * num_messages(heard.up, pad_to)
    assert heard.report.traffic.bytes_down == pad_to * num_messages(heard.down, pad_to)


def guesses(heard: Sequence[Overheard], num_prompts: int) -> dict[str, float]:
    """Share of prompts guessed from the records up and from those down, once the text has begun: an Open is as long as
    its prompt."""
    up = [one.up[one.num_before[0] :] for one in heard]
    down = [one.down[one.num_before[1] :] for one in heard]
    return {"up": guessed(up, num_prompts), "down": guessed(down, num_prompts)}


@pytest.fixture
def tls(tmp_path: Path) -> TlsFiles:
    """Certificate and key for loopback; `ca.pem` beside them."""
    authority = Authority.create()
    authority.save(tmp_path)
    write_pair(tmp_path, "server", *authority.issue("server", hosts=["127.0.0.1"]))
    return TlsFiles(tmp_path / "server.pem", tmp_path / "server-key.pem")


def ca_of(tls: TlsFiles) -> Path:
    """Whom clients trust."""
    assert tls.cert is not None
    return tls.cert.parent / "ca.pem"


async def check_sizes_say_nothing(
    address: str, tls: TlsFiles, drafter: Any, requests: Sequence[GenerationRequest], num_prompts: int
) -> None:
    """Padded, every message is of one size and prompts are guessed as by chance; unpadded, better."""
    padded, plain = [], []
    for request in requests:
        padded.append(await overhear(address, ca_of(tls), drafter, replace(request, pad_to=PAD_TO)))
        plain.append(await overhear(address, ca_of(tls), drafter, request))
    for one, other in zip(padded, plain, strict=True):
        check_one_size(one, PAD_TO)
        assert one.report.token_ids == other.report.token_ids
    most = most_by_chance(num_prompts, len(padded))
    found = {"padded": guesses(padded, num_prompts), "unpadded": guesses(plain, num_prompts)}
    print(f"\n{num_prompts} prompts, {len(padded)} recordings: {found}, at most by chance {most:.3f}")
    assert max(found["padded"].values()) <= most, found
    assert max(found["unpadded"].values()) > 2 * most, found


async def check_a_table_s_sizes(serve: Any, tls: TlsFiles, num_prompts: int, num_runs: int) -> None:
    """Greedy texts: runs of one prompt differ in their times alone, which suits the eavesdropper best."""
    # More than 127 token ids, as every real vocabulary has: some take two bytes, some one.
    target, drafter = TableEngine(300, spread=2.0), TableDrafter(300, agreement=0.8, scale=2.0)
    requests = [
        GenerationRequest((prompt, 1, 2, 3), 30, num_speculative_tokens=5)
        for _ in range(num_runs)
        for prompt in range(num_prompts)
    ]
    async with serve(target, listening=ServerConfig("127.0.0.1:0", tls=tls)) as served:
        await check_sizes_say_nothing(served.address, tls, drafter, requests, num_prompts)


async def test_sizes_say_nothing(serve: Any, tls: TlsFiles) -> None:
    """Five prompts, five runs each."""
    await check_a_table_s_sizes(serve, tls, 5, 5)


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_sizes_say_nothing_over_many_texts(serve: Any, tls: TlsFiles) -> None:
    """Fifty prompts, twenty runs each."""
    await check_a_table_s_sizes(serve, tls, 50, 20)


@pytest.mark.slow
@pytest.mark.timeout(1200)
async def test_real_models_sizes_say_nothing(models: Path, tls: TlsFiles) -> None:
    """The shipped pair, twenty prompts of a hundred tokens, eight runs each of a greedy text; blocks adapt where
    they are not padded, as by default, so runs differ."""
    model = assemble(models / "pico", kind="onnx")
    lines = (models / "prompts" / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = [model.tokenizer.encode(json.loads(line)["prompt"])[-100:] for line in lines]
    long_enough = [one for one in prompts if len(one) == 100][:20]
    requests = [
        GenerationRequest(prompt, 64, seed=run, ignore_eos=True) for run in range(8) for prompt in long_enough
    ]
    options = ["--tls-cert", str(tls.cert), "--tls-key", str(tls.key)]
    with verifier_process(models / "base", options) as process:
        await check_sizes_say_nothing(process.address, tls, model.drafter, requests, len(long_enough))


# --- texts ------------------------------------------------------------------------------------------------------------

WAYS = ("chain", "tree", "fill", "relay", "two relays")


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Fills with the sizes of messages after Open and Opened, both ways, on every link."""
    seen: set[int] = set()
    request, answer = RequestWriter.write, ResponseWriter.write

    def note_request(writer: RequestWriter, message: ClientMessage) -> bytes:
        data = request(writer, message)
        seen.update([] if isinstance(message, Open) else [len(data)])
        return data

    def note_answer(writer: ResponseWriter, message: ServerMessage) -> list[bytes]:
        parts = list(answer(writer, message))
        seen.update([] if isinstance(message, Opened) else map(len, parts))
        return parts

    monkeypatch.setattr(RequestWriter, "write", note_request)
    monkeypatch.setattr(ResponseWriter, "write", note_answer)
    return seen


@asynccontextmanager
async def way_of(name: str, serve: Any, relay: Any) -> AsyncIterator[tuple[Any, Client]]:
    """A server and a client that reaches it in some way."""
    own = TableDrafter(64, agreement=0.8, scale=2.0)
    tree = SiblingsDrafter((TableDrafter(64, agreement=0.6, scale=2.0), NgramDrafter(min_ngram=1)))
    engines = [middle(0.6, 7 + index) for index in range({"relay": 1, "two relays": 2}.get(name, 0))]
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(serve())
        _, hop = await stack.enter_async_context(relay(served, engines))
        if name == "fill":
            engine = TableEngine(64, spread=2.0, max_context=1024)
            verifier = Verifier(engine, TargetInfo("table", "test"), drafter=own)
            verifier.start()
            stack.callback(verifier.stop)
            hop = InProcessHop(verifier)
        yield served, await stack.enter_async_context(connected(hop, tree if name == "tree" else own))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("way", WAYS)
async def test_text_is_the_same(serve: Any, relay: Any, sizes: set[int], way: str, rule: Rule) -> None:
    """As the target writes it, whoever drafts, however messages are padded; and all of them are of one size."""
    sampling = SamplingParams(0.0 if rule is Rule.GREEDY else 0.8, top_p=0.95)
    async with way_of(way, serve, relay) as (served, client):
        for mode in MODES:
            pad_to = 128 if mode == "stream" else 256
            sizes.clear()
            request = GenerationRequest(PROMPT, 30, sampling, rule, seed=5, pad_to=pad_to)
            async with asyncio.timeout(20):
                report = await client.complete(request, mode)
            assert report.token_ids == served.text(request), mode
            assert sizes == {pad_to}, mode


async def test_blocks_are_of_one_length(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a block takes to write and to check says nothing either, until the text is almost there."""
    lengths: list[int] = []
    right = EdgeSession.block

    def block(self: EdgeSession, base: int, token_ids: Sequence[int], *args: Any, **options: Any) -> Draft:
        lengths.append(len(token_ids))
        return right(self, base, token_ids, *args, **options)

    monkeypatch.setattr(EdgeSession, "block", block)
    async with serve() as served, served.client() as client:
        await client.complete(GenerationRequest(PROMPT, 60, pad_to=256), "sync")
        assert set(lengths[:-2]) == {BLOCK}
        lengths.clear()
        await client.complete(GenerationRequest(PROMPT, 60), "sync")
        assert len(set(lengths[:-2])) > 1


async def test_a_hop_that_does_not_pad_is_left(
    serve: Any, relay: Any, sizes: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A verifier from before padding hears Open and nothing more; a relay before it passes the refusal on."""
    request = GenerationRequest(PROMPT, 30, pad_to=256)
    async with serve() as served, relay(served, [middle()]) as (_, hop), connected(hop) as through:
        deaf = VerifierSession.opened

        def opened(self: VerifierSession, *figures: float) -> list[ServerMessage]:
            knows = isinstance(self, SteeredSession)
            answers = deaf(self, *figures)
            return [
                replace(one, pad_to=0) if isinstance(one, Opened) and not knows else one for one in answers
            ]

        monkeypatch.setattr(VerifierSession, "opened", opened)
        async with served.client() as client:
            with pytest.raises(Incompatible, match="pads messages to 0 bytes") as refused:
                await client.complete(request, "sync")
        assert refused.value.exit_code == 3
        assert sizes == set()
        with pytest.raises(PacelineError, match="pads messages to 0 bytes") as passed_on:
            await through.complete(request)
        assert passed_on.value.exit_code == 3


@pytest.mark.parametrize("pad_to", [1, 127, 4097])
async def test_a_verifier_refuses_sizes_it_cannot_keep(serve: Any, pad_to: int) -> None:
    """Whatever the client is: by field, value and cure."""
    async with serve() as served, GrpcHop(served.address).stream() as stream:
        await stream.send(Open(PROMPT, 4, pad_to=pad_to))
        answer = await stream.receive()
        assert isinstance(answer, ErrorMessage)
        assert (answer.status, answer.field) == (Status.INVALID_ARGUMENT, "pad_to")
        assert str(pad_to) in answer.message
        assert "256" in answer.cure


async def test_a_broken_link_is_padded_again(serve: Any, sizes: set[int]) -> None:
    """What is sent over the next connection has the same size."""
    async with serve() as served:
        hop = BreaksOnce(GrpcHop(served.address))
        async with connected(hop) as client:
            request = GenerationRequest(PROMPT, 30, pad_to=256)
            report = await client.complete(request, "sync")
    assert report.num_reconnects == 1
    assert report.token_ids == served.text(request)
    assert sizes == {256}


class BreaksOnce:
    """Another hop whose first stream is lost after two verdicts."""

    def __init__(self, hop: Hop) -> None:
        self._hop = hop
        self.describe, self.close = hop.describe, hop.close
        self._left = 3

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Stream]:
        """See `Hop`."""
        async with self._hop.stream() as stream:
            receive = stream.receive

            async def counted() -> ServerMessage | None:
                self._left -= 1
                if self._left == 0:
                    raise Unreachable("cut", field="verifier")
                return await receive()

            stream.receive = counted  # type: ignore[method-assign]
            yield stream
