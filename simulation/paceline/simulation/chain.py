"""A chain of hops to order on a virtual clock: the real client, relays and verifier, with coins for models.

Each hop's model writes as the hop above, except at a share of positions picked by a hash; so the share of a hop's
tokens that stand under the hop above is given, independently from token to token.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from paceline.cloud.config import VerifierConfig
from paceline.edge.client import Client
from paceline.relay.config import RelayConfig
from paceline.relay.relay import Relay
from paceline.simulation.hop import SimulatedHop
from paceline.simulation.link import LinkShape
from paceline.simulation.pair import (
    VOCAB_SIZE,
    CoinDrafter,
    Spelling,
    VirtualWorker,
    coin_verifier,
    coins,
    hashed,
)


@dataclass(frozen=True, slots=True)
class ChainHop:
    """A hop that verifies, and the link to it from the hop below. Seconds."""

    round_trip_s: float
    verify_fixed_s: float
    verify_per_token_s: float = 0.0
    acceptance: float = 0.8
    """Share of what the hop below writes that stands under this hop's model."""
    shape: LinkShape | None = None
    """Of the link, if it is to have more than a round trip."""

    @property
    def link(self) -> LinkShape:
        """What the link does."""
        return self.shape or LinkShape(self.round_trip_s)


@dataclass(frozen=True, slots=True)
class Chain:
    """A running chain."""

    client: Client
    links: tuple[SimulatedHop, ...]
    """From the device up."""
    relays: tuple[Relay, ...]


@asynccontextmanager
async def simulated_chain(
    draft_s: float, hops: Sequence[ChainHop], seed: int = 0, config: RelayConfig | None = None
) -> AsyncIterator[Chain]:
    """A device that drafts a token in `draft_s`, and the hops above it in order; the last one's model decides."""
    spellings = _spellings(seed, hops)
    links: list[SimulatedHop] = []
    relays: list[Relay] = []
    async with AsyncExitStack() as stack:
        for index in reversed(range(len(hops))):
            hop = hops[index]
            name = VerifierConfig(hop_name=f"hop-{index + 1}")
            serving = coin_verifier(spellings[index], hop.verify_fixed_s, hop.verify_per_token_s, name)
            if links:
                relay = Relay(serving, links[0], name=name.hop_name, config=config)
                relay.start()
                stack.push_async_callback(relay.close)
                relays.insert(0, relay)
                links.insert(0, SimulatedHop(relay, hop.link))
            else:
                serving.start()
                stack.push_async_callback(serving.close)
                links.insert(0, SimulatedHop(serving, hop.link))
        drafter = CoinDrafter(spellings[0], coins(seed, hops[0].acceptance))
        client = Client(links[0], drafter, worker=VirtualWorker(draft_s))
        stack.push_async_callback(client.close)
        for relay in relays:
            await relay.connected()
        await client.connect()
        yield Chain(client, tuple(links), tuple(relays))


def _spellings(seed: int, hops: Sequence[ChainHop]) -> list[Spelling]:
    spellings = [hashed(seed)]
    for index in reversed(range(1, len(hops))):
        spellings.insert(0, _resembling(spellings[0], seed + 1000 * index, hops[index].acceptance))
    return spellings


def _resembling(above: Spelling, seed: int, acceptance: float) -> Spelling:
    agreement = coins(seed, acceptance)

    def spelling(position: int) -> int:
        _, agrees = agreement(0, position)
        return above(position) if agrees else (above(position) + 1) % VOCAB_SIZE

    return spelling
