"""The channel to one address, made again when the certificates behind it change.

Python's gRPC cannot change a channel's certificates. So a fresh channel is made beside the old one, takes over once it
is connected, and the old one is closed when its last stream has ended: a stream under way notices nothing.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from paceline.common.hops.security import Calling, Pair

log = logging.getLogger(__name__)

SWAP_TIMEOUT_S = 2.0
"""How long a fresh channel may take to connect before the stream that waits for it goes over the old one."""


@dataclass(slots=True, eq=False)
class _Link:
    channel: grpc.aio.Channel
    num_users: int = 0
    is_retired: bool = False


class Links:
    """See above. Made in any place, used on one event loop.

    Args:
        address: `HOST:PORT`.
        calling: who this side is.
        options: of the channel.
    """

    def __init__(self, address: str, calling: Calling, options: Sequence[tuple[str, int]]) -> None:
        self._address = address
        self._options = options
        self._tls = calling.watch_tls() if calling.is_encrypted else None
        self._links: set[_Link] = set()
        self._current: _Link | None = None
        """Made on first use: a channel belongs to the event loop it is made on."""
        self._is_stale = False
        """The files have changed since the current link was made, and no link with the new ones has come about."""
        self._is_swapping = False

    @asynccontextmanager
    async def use(self) -> AsyncIterator[grpc.aio.Channel]:
        """A channel; it stays open at least until the context is left."""
        link = await self._choose()
        link.num_users += 1
        try:
            yield link.channel
        finally:
            link.num_users -= 1
            if link.is_retired and not link.num_users:
                await self._end(link)

    async def close(self) -> None:
        """Close every channel."""
        self._current = None
        for link in list(self._links):
            await self._end(link)

    async def _choose(self) -> _Link:
        if self._tls is not None and self._tls.refresh():
            self._is_stale = self._current is not None
        if self._is_stale and not self._is_swapping:
            await self._swap()
        if self._current is None:
            self._current = self._open()
        return self._current

    async def _swap(self) -> None:
        self._is_swapping = True
        fresh, old = self._open(), self._current
        try:
            async with asyncio.timeout(SWAP_TIMEOUT_S):
                await fresh.channel.channel_ready()
        except BaseException as error:
            await self._end(fresh)
            if not isinstance(error, TimeoutError):
                raise
            log.warning("%s does not take the new certificates; going on with the old ones", self._address)
            return
        finally:
            self._is_swapping = False
        self._is_stale, self._current = False, fresh
        if old is not None:
            old.is_retired = True
            if not old.num_users:
                await self._end(old)

    def _open(self) -> _Link:
        if self._tls is None:
            channel = grpc.aio.insecure_channel(self._address, options=self._options)
        else:
            channel = grpc.aio.secure_channel(
                self._address, _credentials(self._tls.value), options=self._options
            )
        link = _Link(channel)
        self._links.add(link)
        return link

    async def _end(self, link: _Link) -> None:
        self._links.discard(link)
        await link.channel.close()


def _credentials(pair: Pair) -> Any:
    return grpc.ssl_channel_credentials(pair.authorities, pair.key, pair.certificate)
