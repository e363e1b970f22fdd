"""Verifiers, relays and clients over table models in processes of their own, to be killed, frozen and drained.

They load neither torch nor weights and start in a tenth of a second: `multiprocessing`'s fork server has imported
everything, and forks them before any of them has a thread or a channel.
"""

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal, get_args

from paceline.cloud.config import ServerConfig, VerifierConfig
from paceline.cloud.engine.base import Row
from paceline.cloud.engine.table import TableEngine
from paceline.cloud.metrics import VerifierMetrics
from paceline.cloud.server import Server, serve_until_signal
from paceline.cloud.verifier import TargetInfo, Verifier
from paceline.common.errors import PacelineError
from paceline.common.hops.first_reachable import FirstReachable
from paceline.common.hops.grpc import PEER_TIMEOUT_S, GrpcHop
from paceline.common.messages import ClientMessage, ServerMessage
from paceline.common.metrics import TextPace
from paceline.common.sampling.rows import NumpyLogitRows
from paceline.common.tokens import SamplingParams, Verdict
from paceline.edge.client import Client
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.request import GenerationRequest, TokensEvent
from paceline.relay.relay import Relay

VOCAB_SIZE = 64
Point = Literal["before verify", "before commit", "before reply", "after reply"]
POINTS: tuple[Point, ...] = get_args(Point)
MAX_CONTEXT = 4096
_PROMPT = (1, 2, 3, 1, 2)
_PATIENCE_S = 60.0
_HANG_S = 60.0
_UNTIL_SENT_S = 0.005


@dataclass(frozen=True, slots=True)
class Serving:
    """What one of them does."""

    listen: str = "127.0.0.1:0"
    step_s: float = 0.0
    """What each step of the model takes."""
    upstream: tuple[str, ...] = ()
    """For a relay: the hops above, the best first."""
    drain_s: float = 1.0
    peer_timeout_s: float = PEER_TIMEOUT_S
    max_sessions: int = 256
    dies_at: tuple[Point, int] | None = None
    """Kills itself (SIGKILL) at that point of the step that decides that token of a `table_request`; 1 is the first."""


@dataclass(frozen=True, slots=True)
class Last:
    """What one says before it ends."""

    died_s: float = 0.0
    """When it killed itself, by the monotonic clock, which all processes share."""
    num_opened_while_draining: int = 0


def table_target(step_s: float = 0.0) -> TableEngine:
    """The model that every last hop serves."""
    return TableEngine(VOCAB_SIZE, spread=2.0, max_context=MAX_CONTEXT, step_s=step_s)


def table_drafter() -> TableDrafter:
    """A drafter that often agrees with it."""
    return TableDrafter(VOCAB_SIZE, agreement=0.8, scale=2.0)


def table_request(seed: int, num_tokens: int = 48) -> GenerationRequest:
    """A text that tells when its link is lost and found; greedy with an even seed, sampled with an odd one."""
    return GenerationRequest(
        _PROMPT,
        num_tokens,
        SamplingParams(0.8 if seed % 2 else 0.0),
        seed=seed,
        num_speculative_tokens=4,
        provisional=True,
        reconnect_s=60.0,
    )


def hop_to(addresses: Sequence[str], peer_timeout_s: float = PEER_TIMEOUT_S) -> FirstReachable:
    """The way to the first of them that answers."""
    return FirstReachable({one: GrpcHop(one, peer_timeout_s=peer_timeout_s) for one in addresses})


class Child:
    """A process that says things.

    Args:
        target: what it runs, with the arguments and then its end of a pipe.
        arguments: these.
    """

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        self._ours, theirs = _context().Pipe()
        self._process = _context().Process(target=target, args=(*arguments, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.pid: int = self._process.pid

    def send_signal(self, number: int) -> None:
        """SIGTERM drains, SIGSTOP freezes, SIGCONT thaws, SIGKILL kills; SIGUSR2 hangs a server's event loop."""
        os.kill(self.pid, number)

    def hear(self) -> Any:
        """What it says next."""
        if not self._ours.poll(_PATIENCE_S):
            raise TimeoutError("a process says nothing")
        return self._ours.recv()

    def wait(self, timeout_s: float = _PATIENCE_S) -> int | None:
        """Its exit status, negative for a signal; None if it still runs then."""
        self._process.join(timeout_s)
        status: int | None = self._process.exitcode
        return status

    def close(self) -> None:
        """Kill it, if it still runs."""
        self._process.kill()
        self._process.join()
        self._ours.close()


class TableProcess(Child):
    """A verifier or relay.

    Args:
        serving: what it does; it listens when this returns.
    """

    def __init__(self, serving: Serving) -> None:
        super().__init__(_serve, serving)
        self.serving = serving
        self.address: str = self.hear()

    def num_tasks(self) -> int:
        """Tasks of its event loop."""
        self.send_signal(signal.SIGUSR1)
        return int(self.hear())

    def last(self) -> Last:
        """What it said before it ended; nothing if somebody else killed it."""
        try:
            said: Last = self.hear()
        except EOFError:
            return Last()
        return said


class WriterProcess(Child):
    """A client that writes a `table_request` and is told it token by token (mode `cloud`)."""

    def __init__(self, address: str, seed: int, num_tokens: int, peer_timeout_s: float) -> None:
        super().__init__(_write, address, seed, num_tokens, peer_timeout_s)

    def await_token(self) -> None:
        """Until it has the first token."""
        self.hear()

    def text(self) -> list[int]:
        """The whole text, once it is complete."""
        text: list[int] = self.hear()
        return text


def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


# --- in the process ---------------------------------------------------------------------------------------------------


def _serve(serving: Serving, parent: Connection) -> None:
    asyncio.run(_serve_until_told(serving, parent))


async def _serve_until_told(serving: Serving, parent: Connection) -> None:
    fate, metrics = _Fate(serving.dies_at, parent), _Opened()
    config = VerifierConfig(max_sessions=serving.max_sessions)
    verifier = _MortalVerifier(serving.step_s, config, metrics, fate)
    served: Verifier | Relay = verifier
    if serving.upstream:
        served = Relay(verifier, hop_to(serving.upstream, serving.peer_timeout_s), name="relay")
    settings = ServerConfig(serving.listen, drain_s=serving.drain_s, peer_timeout_s=serving.peer_timeout_s)

    def ready(address: str) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, lambda: parent.send(len(asyncio.all_tasks())))
        loop.add_signal_handler(signal.SIGUSR2, time.sleep, _HANG_S)
        parent.send(address)

    await serve_until_signal(Server(served, settings), ready)
    parent.send(Last(num_opened_while_draining=metrics.num_opened - verifier.num_opened_before_drain))


class _Fate:
    """Whether to die now."""

    def __init__(self, dies_at: tuple[Point, int] | None, parent: Connection) -> None:
        self._dies_at = dies_at
        self._parent = parent

    def is_sealed(self, point: Point, length: int, count: int) -> bool:
        """Whether this point is the last; `count` tokens are decided after the first `length` of the text."""
        if self._dies_at is None or point != self._dies_at[0]:
            return False
        return length < len(_PROMPT) + self._dies_at[1] <= length + count

    def at(self, point: Point, length: int, count: int) -> None:
        """Come by a point."""
        if self.is_sealed(point, length, count):
            self._parent.send(Last(died_s=time.monotonic()))
            os.kill(os.getpid(), signal.SIGKILL)


class _Opened(VerifierMetrics):
    def __init__(self) -> None:
        super().__init__()
        self.num_opened = 0

    def session_opened(self, num_prompt_tokens: int, now_s: float) -> TextPace:
        self.num_opened += 1
        return super().session_opened(num_prompt_tokens, now_s)


class _MortalEngine(TableEngine):
    """The target, which may die before or after the forward of a step."""

    def __init__(self, step_s: float, fate: _Fate) -> None:
        super().__init__(VOCAB_SIZE, spread=2.0, max_context=MAX_CONTEXT, step_s=step_s)
        self._fate = fate

    def step(self, rows: Sequence[Row]) -> list[NumpyLogitRows]:
        self._at("before verify", rows)
        logits = super().step(rows)
        self._at("before commit", rows)
        return logits

    def _at(self, point: Point, rows: Sequence[Row]) -> None:
        for row in rows:
            self._fate.at(point, row.past_length + len(row.token_ids) - row.num_logits + 1, row.num_logits)


class _MortalVerifier(Verifier):
    """A verifier that may die before or after it hands a verdict over, and knows what it took while it drained."""

    def __init__(self, step_s: float, config: VerifierConfig, metrics: _Opened, fate: _Fate) -> None:
        super().__init__(_MortalEngine(step_s, fate), TargetInfo("table", "test"), config, metrics)
        self.num_opened_before_drain = 0
        self._opened = metrics
        self._fate = fate

    def drain(self, grace_s: float) -> None:
        super().drain(grace_s)
        self._runner.submit(self._note)

    def _note(self) -> None:
        self.num_opened_before_drain = self._opened.num_opened

    async def decode(
        self, requests: AsyncIterator[ClientMessage | PacelineError]
    ) -> AsyncIterator[ServerMessage]:
        async for message in super().decode(requests):
            if not isinstance(message, Verdict):
                yield message
                continue
            decided = message.base, len(message.filled_token_ids) + message.num_accepted + 1
            self._fate.at("before reply", *decided)
            yield message
            if self._fate.is_sealed("after reply", *decided):
                await asyncio.sleep(_UNTIL_SENT_S)
            self._fate.at("after reply", *decided)


def _write(address: str, seed: int, num_tokens: int, peer_timeout_s: float, parent: Connection) -> None:
    asyncio.run(_write_one(GrpcHop(address, peer_timeout_s=peer_timeout_s), seed, num_tokens, parent))


async def _write_one(hop: GrpcHop, seed: int, num_tokens: int, parent: Connection) -> None:
    async with Client(hop) as client:
        generation, has_begun = client.generate(table_request(seed, num_tokens), "cloud"), False
        async for event in generation:
            if isinstance(event, TokensEvent) and not has_begun:
                has_begun = True
                parent.send(None)
        parent.send(generation.report.token_ids)
