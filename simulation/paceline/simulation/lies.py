"""A hop above that lies: its answers are changed on their way, by field and by byte; and clients and relays that have
to live with it, on a virtual clock.

    .venv/bin/python -m paceline.simulation.fuzz client SEED [COUNT]
"""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from google.protobuf.message import DecodeError

from paceline.cloud.config import VerifierConfig
from paceline.cloud.engine.table import TableEngine
from paceline.common.codec import decode_response, encode_response
from paceline.common.errors import BadReply, PacelineError
from paceline.common.hops.base import Hop, Stream
from paceline.common.messages import ClientMessage, Description, ServerMessage
from paceline.edge.client import Client
from paceline.edge.drafters.table import TableDrafter
from paceline.edge.request import GenerationRequest
from paceline.simulation.hop import SimulatedHop
from paceline.simulation.link import LinkShape
from paceline.simulation.machines import Machine
from paceline.simulation.mutation import Mutator
from paceline.simulation.pair import VirtualWorker
from paceline.v1 import verifier_pb2 as pb

VOCAB_SIZE = 13


def read_response(data: bytes) -> ServerMessage:
    """As a link reads it: what is no message is the verifier's fault.

    Raises:
        BadReply: these bytes are not.
    """
    try:
        return decode_response(pb.DecodeResponse.FromString(data))
    except DecodeError:
        raise BadReply("the verifier's message cannot be read", field="message") from None


class LyingHop:
    """A link on which one answer in so many is changed.

    Args:
        hop: what is behind it.
        dice: decides when and how.
        one_in: so many answers.
    """

    def __init__(self, hop: Hop, dice: random.Random, one_in: int) -> None:
        self._hop = hop
        self._dice = dice
        self._one_in = one_in
        self._mutator = Mutator(dice)
        self.close = hop.close

    async def describe(self) -> Description:
        """See `Hop`."""
        return await self._hop.describe()

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Stream]:
        """See `Hop`."""
        async with self._hop.stream() as stream:
            yield _LyingStream(stream, self)

    def told(self, message: ServerMessage | None) -> ServerMessage | None:
        """What becomes of an answer."""
        dice = self._dice
        if message is None or dice.randrange(self._one_in):
            return message
        return read_response(self._mutator.mutated(encode_response(message)))


class _LyingStream:
    def __init__(self, stream: Stream, hop: LyingHop) -> None:
        self.traffic = stream.traffic
        self._stream = stream
        self._hop = hop
        self._repeated: ServerMessage | None = None

    async def send(self, message: ClientMessage) -> None:
        await self._stream.send(message)

    async def receive(self) -> ServerMessage | None:
        return self._hop.told(await self._stream.receive())


class LiedTo:
    """A chain whose last link lies: a client, a verifier, and perhaps a relay between them."""

    def __init__(self, dice: random.Random, *, is_relayed: bool) -> None:
        config = VerifierConfig(max_draft_tokens=8, max_blocks_in_flight=4, park_s=0.0)
        self.machines = [Machine("cloud", partial(TableEngine, VOCAB_SIZE, 0), _step_s, config)]
        way: Hop = LyingHop(self._link(self.machines[0]), dice, dice.choice((3, 10, 30)))
        if is_relayed:
            own = partial(TableEngine, VOCAB_SIZE, 2, resembles=0, agreement=0.8)
            self.machines.append(Machine("relay", own, _step_s, config, lambda above=way: above))  # type: ignore[misc]
            way = self._link(self.machines[1])
        drafter = TableDrafter(VOCAB_SIZE, target_seed=0, agreement=0.7)
        self.client = Client(way, drafter, worker=VirtualWorker(0.002))

    def _link(self, machine: Machine) -> SimulatedHop:
        link = SimulatedHop(machine, LinkShape(0.02))
        machine.links.append(link)
        return link

    async def start(self) -> None:
        """Begin to serve."""
        for machine in self.machines:
            machine.start()
        await asyncio.sleep(1.0)
        await self.client.connect()

    async def write(self, request: GenerationRequest, mode: str) -> Sequence[int] | PacelineError:
        """The text, or how it ended."""
        generation = self.client.generate(request, mode)
        try:
            async for _ in generation:
                pass
        except PacelineError as error:
            return error
        return generation.report.token_ids

    async def left(self) -> str:
        """What is held when all is over."""
        await asyncio.sleep(10.0)
        held = [machine.left() for machine in self.machines]
        for machine in self.machines:
            await machine.close()
        await self.client.close()
        return ", ".join(one for one in held if one)


def _step_s(num_tokens: int) -> float:
    return 0.005 + 0.0002 * num_tokens
