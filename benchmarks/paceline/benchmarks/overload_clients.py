"""Clients of an overloaded verifier, in a process of their own: `python -m paceline.benchmarks.overload_clients ADDRESS
COUNT TOKENS SEED MODE`.

Each of so many clients writes text after text, and comes back for a place when it is told to. A line of input with a
number of seconds lets them do so for that long; the answer is what they have seen.
"""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field

from paceline.benchmarks.line_process import say
from paceline.common.errors import PacelineError
from paceline.common.hops.base import Hop, Stream
from paceline.common.hops.grpc import GrpcHop
from paceline.common.messages import ClientMessage, ErrorMessage, Open, ServerMessage
from paceline.common.tokens import Rule, SamplingParams
from paceline.edge.attempts import Attempts
from paceline.edge.client import Client
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.request import GenerationRequest

VOCAB_SIZE = 64
DEADLINE_S = 30.0
"""Of every drafted text, from the attempt that was admitted on: one that is starved then is seen."""
_COMING_S = 2.0
"""Clients come one after the other, over so long."""


@dataclass(slots=True)
class Seen:
    """What clients saw, seconds."""

    verify_s: list[float] = field(default_factory=list)
    """Of each round: from the draft's arrival to its verdict, as the verifier says."""
    round_s: list[float] = field(default_factory=list)
    """As the client has it."""
    refusal_s: list[float] = field(default_factory=list)
    """From opening a stream until it is refused."""
    told_s: list[float] = field(default_factory=list)
    """When refused clients were told to come back."""
    hurried: int = 0
    """Came back sooner."""
    texts: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    """Texts that had a place and ended with an error, by status."""


class WatchedHop:
    """Notes refusals, and who comes back sooner than told."""

    def __init__(self, hop: Hop, seen: Seen) -> None:
        self.describe = hop.describe
        self.close = hop.close
        self.seen = seen
        self._hop = hop
        self._due_s: dict[str, float] = {}

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Stream]:
        """See `Hop`."""
        async with self._hop.stream() as stream:
            yield _WatchedStream(stream, self)

    def opens(self, name: str) -> float:
        """A text asks for a place; the time."""
        now_s = asyncio.get_running_loop().time()
        self.seen.hurried += now_s < self._due_s.pop(name, 0.0)
        return now_s

    def refused(self, name: str, asked_s: float, retry_after_s: float) -> None:
        """It gets none."""
        now_s = asyncio.get_running_loop().time()
        self.seen.refusal_s.append(now_s - asked_s)
        self.seen.told_s.append(retry_after_s)
        self._due_s[name] = now_s + retry_after_s


class _WatchedStream:
    def __init__(self, stream: Stream, hop: WatchedHop) -> None:
        self.traffic = stream.traffic
        self._stream = stream
        self._hop = hop
        self._name = ""
        self._asked_s = 0.0

    async def send(self, message: ClientMessage) -> None:
        if isinstance(message, Open):
            self._name = message.request_id
            self._asked_s = self._hop.opens(self._name)
        await self._stream.send(message)

    async def receive(self) -> ServerMessage | None:
        message = await self._stream.receive()
        if isinstance(message, ErrorMessage) and message.fatal and message.retry_after_s > 0:
            self._hop.refused(self._name, self._asked_s, message.retry_after_s)
        return message


class _Clients:
    def __init__(self, address: str, count: int, num_tokens: int, seed: int, mode: str) -> None:
        self._address = address
        self._count = count
        self._num_tokens = num_tokens
        self._seed = seed
        self._mode = mode
        self._num_texts = 0

    async def write(self, seconds: float) -> Seen:
        """All of them, for so long."""
        seen = Seen()
        failed: Counter[str] = Counter()
        drafter = TableDrafter(VOCAB_SIZE, target_seed=0, agreement=0.9, scale=2.0)
        async with Client(WatchedHop(GrpcHop(self._address), seen), drafter) as client:
            begins_s = [one * min(seconds / 4, _COMING_S) / self._count for one in range(self._count)]
            tasks = [asyncio.create_task(self._one(client, seen, failed, begin_s)) for begin_s in begins_s]
            await asyncio.wait(tasks, timeout=seconds)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        seen.failed = dict(failed)
        return seen

    async def _one(self, client: Client, seen: Seen, failed: Counter[str], begin_s: float) -> None:
        attempts = Attempts("")
        await asyncio.sleep(begin_s)
        while True:
            self._num_texts += 1
            generation = client.generate(self._request(self._num_texts), self._mode)
            try:
                async for _ in generation:
                    pass
                seen.texts += 1
            except PacelineError as error:
                if not error.retry_after_s:
                    failed[error.status] += 1
                await asyncio.sleep(attempts.pause_s(error.retry_after_s))
            finally:
                rounds = generation.report.rounds[1:]
                seen.verify_s += [one.verify_s + one.queue_s for one in rounds]
                seen.round_s += [one.round_s for one in rounds]

    def _request(self, number: int) -> GenerationRequest:
        return GenerationRequest(
            (number % VOCAB_SIZE, self._seed % VOCAB_SIZE, 7),
            self._num_tokens,
            SamplingParams(),
            Rule.GREEDY,
            num_speculative_tokens=4,
            ignore_eos=True,
            # A deadline counts from when a place is asked for; those who have one ask anew each time.
            wait_s=3600.0 if self._mode == "cloud" else 0.0,
            deadline_s=0.0 if self._mode == "cloud" else DEADLINE_S,
            request_id=f"{self._seed}-{number}",
        )


def main(arguments: list[str]) -> None:
    """Answer each line with what clients saw."""
    address, count, num_tokens, seed, mode = arguments
    clients = _Clients(address, int(count), int(num_tokens), int(seed), mode)
    say({"ready": True})
    for line in sys.stdin:
        say(asdict(asyncio.run(clients.write(json.loads(line)))))


if __name__ == "__main__":
    main(sys.argv[1:])
