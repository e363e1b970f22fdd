"""Machines that serve on a virtual clock: real verifiers and relays that can be made slow, killed, drained, and started
again with nothing."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import cast

from paceline.cloud.config import VerifierConfig
from paceline.cloud.engine.base import TargetEngine
from paceline.cloud.identity import Caller, current_caller
from paceline.cloud.metrics import VerifierMetrics
from paceline.cloud.verifier import TargetInfo, Verifier
from paceline.common.errors import PacelineError, Status
from paceline.common.hops.base import Hop
from paceline.common.messages import (
    ClientMessage,
    Description,
    ErrorMessage,
    Open,
    Opened,
    ServerMessage,
)
from paceline.relay.config import RelayConfig
from paceline.relay.relay import Relay
from paceline.simulation.effort import Effort, Watched
from paceline.simulation.hop import SimulatedHop
from paceline.simulation.pair import VirtualRunner

_METRICS = VerifierMetrics()
"""Nobody reads them here."""
_LOOK_S = 0.02


class Machine:
    """Serves with a verifier, or with a relay if something is above; what it serves with is lost when it dies.

    Args:
        name: of the hop.
        engine: makes the model, anew at each start.
        step_s: seconds of a step over so many tokens.
        config: admission and batching.
        upstream: makes the way to the hop above, anew at each start; None for the last hop.
        is_roomy: no cache that it has parked has to make room.
    """

    def __init__(
        self,
        name: str,
        engine: Callable[[], TargetEngine],
        step_s: Callable[[int], float],
        config: VerifierConfig,
        upstream: Callable[[], Hop] | None = None,
        *,
        is_roomy: bool = True,
    ) -> None:
        self.name = name
        self.effort = Effort(config.park_s if is_roomy else 0.0)
        self.links: list[SimulatedHop] = []
        """All that lead here."""
        self.slowness = 1.0
        """Steps take so many times as long."""
        self.is_down = True
        self.num_opened = 0
        self.refusals: Counter[Status] = Counter()
        """Fatal errors it has answered with."""
        self.num_dropped = 0
        """Texts it had taken and then refused to go on with."""
        self.num_fenced = 0
        """Streams that another one of their session ended."""
        self.num_late = 0
        """Texts it took after it was told to take no more."""
        self.most_sessions: Counter[str] = Counter()
        """Of each tenant, at a time."""
        self._is_draining = False
        self._make_engine = engine
        self._plain_step_s = step_s
        self._config = config
        self._upstream = upstream
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[asyncio.Task[None] | None, None] = {}
        self._endings: list[asyncio.Task[None]] = []

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Serve, with nothing of what was before."""
        self.effort.lost()
        self._runner = VirtualRunner(lambda num_tokens: self.slowness * self._plain_step_s(num_tokens))
        self.engine = self._make_engine()
        info = TargetInfo("table", "simulation")
        verifier = Verifier(self.engine, info, self._config, _METRICS, runner=self._runner)
        self.serving: Verifier | Relay = verifier
        if self._upstream is not None:
            self.serving = Relay(
                verifier, self._upstream(), name=self.name, config=RelayConfig(reconnect_s=60.0)
            )
        self.serving.start()
        self.is_down = self._is_draining = False

    def crash(self, down_s: float) -> None:
        """Die without a word; serve again after a while."""
        if self.is_down:
            return
        self.is_down = True
        for link in self.links:
            link.cut(down_s, "reset")
        for task in self._tasks:
            if task is not None:
                task.cancel()
        self._runner.stop()
        if isinstance(self.serving, Relay):
            self._endings.append(self._loop.create_task(self.serving.close()))
        self._loop.call_later(down_s, self.start)

    def drain(self, grace_s: float, down_s: float) -> None:
        """Take nothing new, go when nothing is left or the grace is over; serve again after a while."""
        if not self.is_down:
            self._endings.append(self._loop.create_task(self._drain(grace_s, down_s)))

    async def _drain(self, grace_s: float, down_s: float) -> None:
        serving, until_s = self.serving, self._loop.time() + grace_s
        serving.drain(grace_s)
        self._is_draining = True
        while (serving.num_sessions or serving.num_streams) and self._loop.time() < until_s:  # noqa: ASYNC110 - as a server does
            await asyncio.sleep(_LOOK_S)
        if self.serving is serving:
            self.crash(down_s)

    async def close(self) -> None:
        """Stop for good."""
        await self.serving.close()
        await asyncio.gather(*self._endings)

    # --- what links need ----------------------------------------------------------------------------------------------

    def describe(self) -> Description:
        """See `Verifying`."""
        return self.serving.describe()

    async def decode(
        self, requests: AsyncIterator[ClientMessage | PacelineError]
    ) -> AsyncIterator[ServerMessage]:
        """See `Verifying`."""
        task = cast("asyncio.Task[None] | None", asyncio.current_task())
        self._tasks[task] = None
        is_late = is_taken = False
        stream: Watched | None = None

        async def seen() -> AsyncIterator[ClientMessage | PacelineError]:
            nonlocal is_late, stream
            async for message in requests:
                if isinstance(message, Open):
                    self.num_opened += 1
                    is_late = self._is_draining
                    name = (current_caller.get(Caller()).tenant, message.session_id)
                    stream = Watched(name, message, self._loop.time())
                    self.effort.asked(stream)
                elif stream is not None and not isinstance(message, PacelineError):
                    stream.hears(message)
                yield message

        try:
            async with aclosing(self.serving.decode(seen())) as answers:  # type: ignore[type-var]
                async for message in answers:
                    if stream is not None:
                        stream.says(message, is_last_hop=self._upstream is None)
                    if isinstance(message, Opened):
                        is_taken = True
                        self.most_sessions |= self._verifier.sessions_by_tenant
                        self.num_late += is_late
                        assert stream is not None, "an answer to Open follows Open"
                        self.effort.opened(stream, message)
                    if isinstance(message, ErrorMessage) and message.status is Status.ABORTED:
                        self.num_fenced += 1
                    elif isinstance(message, ErrorMessage) and message.fatal:
                        self.refusals[message.status] += 1
                        self.num_dropped += is_taken and message.status is Status.UNAVAILABLE
                    yield message
        finally:
            self._tasks.pop(task, None)
            if stream is not None:
                stream.ended_s = self._loop.time()

    @property
    def _verifier(self) -> Verifier:
        return self.serving.verifier if isinstance(self.serving, Relay) else self.serving

    # --- what is left -------------------------------------------------------------------------------------------------

    def left(self) -> str:
        """What is held although nothing is under way; empty if nothing is, or the machine is dead."""
        if self.is_down:
            return ""
        relayed = self.serving.num_sessions if isinstance(self.serving, Relay) else 0
        held = {
            "texts relayed": relayed,
            "sessions": self._verifier.num_sessions,
            "parked caches": self._verifier.num_parked,
            "streams": self._verifier.num_streams,
            "cached tokens": self.engine.cached_tokens(),
            "streams of links": len(self._tasks),
        }
        return ", ".join(f"{count} {what}" for what, count in held.items() if count)
