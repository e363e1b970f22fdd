"""`paceline bench protections`: what each protection costs beside the same texts without it.

Every text is written with each protection in turn, who begins rotates; greedy, and in blocks of one length, so that all
of them go through the same rounds and each round has its pair. A protection is one entry of `PROTECTIONS`.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from paceline.benchmarks.counting_proxy import counting_proxy
from paceline.benchmarks.machine import Machine, machine
from paceline.benchmarks.pair import Pair
from paceline.benchmarks.statistics import Difference, Spread, paired_difference, spread
from paceline.cli.verifier_process import verifier_process
from paceline.common.drafter import Drafter
from paceline.common.errors import MissingDependency
from paceline.common.hops.base import Stream
from paceline.common.hops.grpc import GrpcHop
from paceline.common.hops.security import Calling
from paceline.common.messages import ClientMessage, Open
from paceline.edge.client import Client
from paceline.edge.request import GenerationRequest, Report

Progress = Callable[[str], None]
_PROMPT_TOKENS = 200
_COUNTED_TEXTS = 4
_TOKEN_LIFE_S = 3600
_SERVER = ("--tls-cert", "{keys}/server.pem", "--tls-key", "{keys}/server-key.pem")


def _trusting(keys: Path) -> Calling:
    return Calling(keys / "ca.pem")


def _known(keys: Path) -> Calling:
    return Calling(keys / "ca.pem", keys / "acme.pem", keys / "acme-key.pem", keys / "token")


@dataclass(frozen=True, slots=True)
class Protection:
    """One way of keeping something from somebody."""

    name: str
    serve: tuple[str, ...] = ()
    """Options of `cloud serve`; `{keys}` is the folder with certificates, `secret` and `token`."""
    call: Callable[[Path], Calling] = lambda _: Calling()
    """What a client shows and checks, from that folder."""
    ask: Mapping[str, Any] = field(default_factory=dict)
    """What the request says differently."""
    link: type[GrpcHop] = GrpcHop


class _Nameless(GrpcHop):
    """A link whose verifier is never told which session a stream is of: it ends no older one and keeps no cache."""

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Stream]:
        """See `GrpcHop`."""
        async with super().stream() as stream:
            yield _NamelessStream(stream)


class _NamelessStream:
    def __init__(self, stream: Stream) -> None:
        self.traffic = stream.traffic
        self.receive = stream.receive
        self._send = stream.send

    async def send(self, message: ClientMessage) -> None:
        if isinstance(message, Open):
            message = replace(message, session_id=b"", attempt=())
        await self._send(message)


PROTECTIONS = (
    Protection("none"),
    Protection("no fencing either", link=_Nameless),
    Protection("TLS", _SERVER, _trusting),
    Protection(
        "mTLS + token",
        (*_SERVER, "--tls-client-ca", "{keys}/ca.pem", "--token-key", "{keys}/secret"),
        _known,
    ),
    Protection("receipts", ("--receipt-key", "{keys}/secret")),
    Protection("padding, 256 bytes", ask={"pad_to": 256}),
    Protection("TLS, padding, 256 bytes", _SERVER, _trusting, {"pad_to": 256}),
)
"""The first is what the others are measured beside."""


@dataclass(frozen=True, slots=True)
class ProtectionsSettings:
    """What to run."""

    num_prompts: int
    max_new_tokens: int
    num_speculative_tokens: int
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Price:
    """What one protection costs."""

    name: str
    round_us: Spread
    """Of a round, what is neither the verifier's step nor its queue: codec, link, event loops."""
    extra_us: Difference
    """Beside the same round without protection."""
    payload_bytes_per_token: float
    """Messages both ways, the prompt's included."""
    tcp_bytes_per_token: float
    """What crossed TCP both ways while the text was written."""
    connect_ms: Spread
    """Until a new client has been told what is served: connection, handshake, one exchange."""
    connect_bytes: int
    """What that was on TCP, both ways."""


@dataclass(frozen=True, slots=True)
class ProtectionsResult:
    """All of them."""

    machine: Machine
    settings: ProtectionsSettings
    prices: list[Price]
    num_different_texts: int
    """Texts that differ from those without protection."""


@dataclass(slots=True)
class _Measured:
    connect_s: list[float] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    tcp_bytes: int = 0
    tcp_tokens: int = 0
    connect_bytes: int = 0

    @property
    def rounds_us(self) -> list[float]:
        """All but the first of each text, which the prompt delays."""
        return [1e6 * one.network_s for report in self.reports for one in report.rounds[1:]]


def protections(
    pair: Pair, prompts: Sequence[str], settings: ProtectionsSettings, progress: Progress
) -> ProtectionsResult:
    """Run all; takes minutes."""
    model = pair.edge()
    assert model.drafter is not None, "a pair drafts"
    requests = [
        GenerationRequest(
            model.tokenizer.encode(text)[-_PROMPT_TOKENS:],
            settings.max_new_tokens,
            ignore_eos=True,
            seed=settings.seed,
            num_speculative_tokens=settings.num_speculative_tokens,
        )
        for text in prompts
    ]
    before = machine()
    progress("starting a verifier for each way of serving, each in a process of its own")
    with _served(pair) as (keys, addresses):
        measured = asyncio.run(_write(keys, addresses, model.drafter, requests, progress))
    bare = measured[PROTECTIONS[0].name]
    return ProtectionsResult(
        before,
        settings,
        [_price(name, one, bare, settings.seed) for name, one in measured.items()],
        sum(
            mine.token_ids != theirs.token_ids
            for one in measured.values()
            for mine, theirs in zip(one.reports, bare.reports, strict=True)
        ),
    )


@contextmanager
def _served(pair: Pair) -> Iterator[tuple[Path, dict[tuple[str, ...], str]]]:
    """The folder of keys, and an address for each set of options."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        keys = Path(folder)
        _make_keys(keys)
        addresses = {
            options: stack.enter_context(
                verifier_process(pair.target, [one.format(keys=keys) for one in options])
            ).address
            for options in dict.fromkeys(one.serve for one in PROTECTIONS)
        }
        yield keys, addresses


def _make_keys(folder: Path) -> None:
    try:
        import jwt

        from paceline.cli.authority import fill_folder
    except ModuleNotFoundError as missing:
        raise MissingDependency(
            f"{missing.name} is not installed", field="bench", cure="pip install 'paceline[cloud,certs]'"
        ) from None
    fill_folder(folder, (), ("acme",), days=1)
    secret = "of a benchmark, and of nothing else"
    (folder / "secret").write_text(secret, encoding="utf-8")
    claims = {"sub": "acme", "aud": "paceline", "exp": int(time.time()) + _TOKEN_LIFE_S}
    (folder / "token").write_text(jwt.encode(claims, secret, algorithm="HS256"), encoding="utf-8")


async def _write(
    keys: Path,
    addresses: Mapping[tuple[str, ...], str],
    drafter: Drafter,
    requests: Sequence[GenerationRequest],
    progress: Progress,
) -> dict[str, _Measured]:
    measured = {one.name: _Measured() for one in PROTECTIONS}
    for protection in PROTECTIONS:  # warms up, and counts; the detour over the proxy takes time
        for request in requests[:_COUNTED_TEXTS]:
            await _count(
                protection, keys, addresses[protection.serve], drafter, request, measured[protection.name]
            )
    for index, request in enumerate(requests):
        progress(f"prompt {index + 1} of {len(requests)}")
        turn = index % len(PROTECTIONS)
        for protection in PROTECTIONS[turn:] + PROTECTIONS[:turn]:
            one = measured[protection.name]
            async with _client(protection, keys, addresses[protection.serve], drafter) as client:
                began_s = time.perf_counter()
                await client.connect()
                one.connect_s.append(time.perf_counter() - began_s)
                one.reports.append(await client.complete(replace(request, **protection.ask), "sync"))
    return measured


async def _count(
    protection: Protection,
    keys: Path,
    address: str,
    drafter: Drafter,
    request: GenerationRequest,
    measured: _Measured,
) -> None:
    async with counting_proxy(address) as counted:
        client = _client(protection, keys, counted.address, drafter)
        await client.connect()
        connected = counted.bytes_up + counted.bytes_down
        report = await client.complete(replace(request, **protection.ask), "sync")
        await client.close()
    measured.connect_bytes = connected
    measured.tcp_bytes += counted.bytes_up + counted.bytes_down - connected
    measured.tcp_tokens += len(report.token_ids)


def _client(protection: Protection, keys: Path, address: str, drafter: Drafter) -> Client:
    return Client(protection.link(address, calling=protection.call(keys)), drafter)


def _price(name: str, measured: _Measured, bare: _Measured, seed: int) -> Price:
    traffic = sum(one.traffic.bytes_up + one.traffic.bytes_down for one in measured.reports)
    return Price(
        name=name,
        round_us=spread(measured.rounds_us),
        extra_us=paired_difference(measured.rounds_us, bare.rounds_us, seed=seed),
        payload_bytes_per_token=traffic / sum(len(one.token_ids) for one in measured.reports),
        tcp_bytes_per_token=measured.tcp_bytes / measured.tcp_tokens,
        connect_ms=spread([1e3 * one for one in measured.connect_s]),
        connect_bytes=measured.connect_bytes,
    )


def protections_table(result: ProtectionsResult) -> Table:
    """A line a protection."""
    settings, first = result.settings, result.prices[0]
    table = Table(
        title=f"what protections cost: {settings.num_prompts} texts of {settings.max_new_tokens} tokens, sync, blocks "
        f"of {settings.num_speculative_tokens}",
        title_justify="left",
        box=SIMPLE,
        pad_edge=False,
        caption=f"{first.round_us.count} rounds each, on loopback; {result.num_different_texts} texts differ",
    )
    table.add_column("protection")
    for name in ("µs/round", "beside none", "payload B/token", "TCP B/token", "connect ms", "connect B"):
        table.add_column(name, justify="right")
    for one in result.prices:
        extra = one.extra_us
        table.add_row(
            one.name,
            f"{one.round_us.median:.0f} [{one.round_us.low:.0f}-{one.round_us.high:.0f}]",
            "" if one is first else f"{extra.median:+.0f} [{extra.low:+.0f}..{extra.high:+.0f}]",
            f"{one.payload_bytes_per_token:.1f}",
            f"{one.tcp_bytes_per_token:.1f}",
            f"{one.connect_ms.median:.1f}",
            f"{one.connect_bytes}",
        )
    return table
