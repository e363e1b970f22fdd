"""A relay: its own verifier below, a client of the hop above, and a passage for each text.

hop below ──▶ Passage ──drafts──▶ own verifier          (judges, writes on; batches over sessions)
                 │  ▲                │ what its model says
                 │  └────────────────┘
                 └──drafts──▶ pipeline ──▶ hop above    (paces, reconnects, resumes)
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import replace
from hashlib import blake2b
from itertools import count

from paceline.cloud.identity import Caller, current_caller
from paceline.cloud.verifier import Verifier
from paceline.common.errors import BadDraft, Incompatible, InvalidRequest, PacelineError, Unreachable
from paceline.common.hops.base import Hop
from paceline.common.logs import set_about
from paceline.common.messages import (
    ClientMessage,
    Description,
    Draining,
    ErrorMessage,
    Feature,
    Open,
    ServerMessage,
)
from paceline.common.session import check_open
from paceline.common.session.limits import SESSION_ID_BYTES, check_logprobs
from paceline.edge.client import Client
from paceline.edge.metrics import EdgeMetrics
from paceline.relay.config import RelayConfig
from paceline.relay.passage import Passage, seen_from_below

log = logging.getLogger(__name__)

_SECRET_BYTES = 32
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
"""Between two attempts to reach a hop above that does not answer."""


class Relay:
    """Serves texts that the hops above decide.

    Args:
        verifier: of this hop's own model; started and stopped with the relay.
        upstream: the hop above; closed with the relay.
        name: of this hop, unique in its chain.
        config: see `RelayConfig`.
        above: counts what goes up; the verifier's metrics count what comes from below.
    """

    def __init__(
        self,
        verifier: Verifier,
        upstream: Hop,
        *,
        name: str,
        config: RelayConfig | None = None,
        above: EdgeMetrics | None = None,
    ) -> None:
        self.name = name
        self.config = config or RelayConfig()
        self.verifier = verifier
        self.metrics = verifier.metrics
        self.client = Client(
            upstream, tokenizer_fingerprint=verifier.limits.tokenizer_fingerprint, metrics=above
        )
        self._connecting: asyncio.Task[None] | None = None
        self._fault: PacelineError = Unreachable(
            "the hop above this relay has not answered yet", field="upstream", cure="try again later"
        )
        """Why nothing can be served, until the hop above has answered."""
        self._above: Description | None = None
        self._passages: dict[Passage, None] = {}
        """In the order of their beginnings."""
        self._arrivals = count(1)
        self._is_draining = False
        self._secret = secrets.token_bytes(_SECRET_BYTES)

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start serving; the hop above is asked what it serves as soon as it answers."""
        self.verifier.start()
        self._connecting = asyncio.create_task(self._connect())

    async def connected(self) -> None:
        """Wait until the hop above has answered."""
        assert self._connecting is not None, "it is started first"
        await self._connecting

    async def close(self) -> None:
        """End every text and let go of the hop above."""
        if self._connecting is not None:
            self._connecting.cancel()
            with suppress(asyncio.CancelledError):
                await self._connecting
        for passage in self._passages:
            passage.fail(
                Unreachable("this relay is going away", field="verifier", cure="open at another one")
            )
        await self.client.close()
        await self.verifier.close()

    def drain(self, grace_s: float) -> None:
        """Refuse new texts and tell the live ones that this relay is going away."""
        self._is_draining = True
        for passage in self._passages:
            passage.answer(Draining(grace_s))

    async def _connect(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while self._above is None:
            try:
                self._above = self._checked(await self.client.connect())
            except PacelineError as error:
                fault = seen_from_below(error)
                if str(fault) != str(self._fault):
                    log.warning("relay %s: %s", self.name, fault)
                self._fault = fault
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _checked(self, above: Description) -> Description:
        ours = self.verifier.limits.vocab_size
        if above.vocab_size != ours:
            raise Incompatible(
                f"this relay's model writes {ours} token ids, the hop above {above.vocab_size}",
                field="upstream",
                cure="use models with one vocabulary",
            )
        return above

    # --- what transports need -----------------------------------------------------------------------------------------

    @property
    def num_sessions(self) -> int:
        """Live texts."""
        return len(self._passages)

    @property
    def num_streams(self) -> int:
        """Streams that have, or had, a text."""
        return len(self._passages)

    @property
    def capacity_tokens(self) -> int:
        """Cache tokens this hop's engine has for all sessions."""
        return self.verifier.capacity_tokens

    @property
    def is_stuck(self) -> bool:
        """Whether its own engine does not come back from a step."""
        return self.verifier.is_stuck

    def describe(self) -> Description:
        """What the chain from here on serves.

        Raises:
            Unreachable: the hop above has not answered yet, or the own engine is stuck.
        """
        above, own = self._require_above(), self.verifier.describe()
        return replace(
            above,
            software_version=own.software_version,
            max_context=min(above.max_context, own.max_context),
            max_sessions=min(above.max_sessions, own.max_sessions),
            max_draft_tokens=own.max_draft_tokens,
            rules=tuple(rule for rule in above.rules if rule in own.rules),
            features=(above.features & (own.features | {Feature.RECEIPTS}))
            - {Feature.TREE, Feature.LOGPROBS},
            active_sessions=self.num_sessions,
            hops=(replace(own.hops[0], name=self.name), *above.hops),
        )

    def _require_above(self) -> Description:
        if self._above is None:
            raise self._fault
        return self._above

    async def decode(
        self, requests: AsyncIterator[ClientMessage | PacelineError]
    ) -> AsyncIterator[ServerMessage]:
        """Serve one stream; see `paceline.common.hops.base.Verifying`."""
        try:
            passage = await self._open(requests)
        except PacelineError as error:
            self.metrics.failed(error, is_open=False)
            log.info("%s: %s", error.reason, error)
            yield ErrorMessage.of(error)
            return
        if passage is None:
            return
        self._passages[passage] = None
        try:
            async with aclosing(passage.run(requests)) as answers:
                async for message in answers:
                    yield message
        finally:
            self._passages.pop(passage, None)

    async def _open(self, requests: AsyncIterator[ClientMessage | PacelineError]) -> Passage | None:
        first = await anext(requests, None)
        if first is None:
            return None
        if self._is_draining:
            raise Unreachable("this relay is going away", field="verifier", cure="open at another one")
        opening = self._opening(first)
        set_about(request_id=opening.request_id, hop=self.name)
        return Passage(
            opening, self.verifier, self.client, self.config, self.name, self._name_above(opening.session_id)
        )

    def _name_above(self, session_id: bytes) -> bytes:
        """What a session is called towards the hop above, for which all of this relay's are one tenant's: whoever has
        another tenant's id does not have this one."""
        if not session_id:
            return b""
        tenant = current_caller.get(Caller()).tenant.encode()
        return blake2b(tenant + session_id, key=self._secret, digest_size=SESSION_ID_BYTES).digest()

    def _opening(self, message: ClientMessage | PacelineError) -> Open:
        """What is asked for, with everything that ends a text at the last hop."""
        above = self._require_above()
        if isinstance(message, PacelineError) and not isinstance(message, BadDraft):
            raise message
        if not isinstance(message, Open):
            raise InvalidRequest(
                "the first message must be open", field="payload", cure="send open, then drafts"
            )
        check_open(
            message, self.verifier.limits
        )  # as it was sent: nothing below repeats what nobody has looked at
        if self.name in message.path:
            raise Incompatible(
                f"the request came through {' → '.join(message.path)} to {self.name}: the chain loops",
                field="path",
                cure="check each relay's upstream",
            )
        if message.logprobs is not None:
            check_logprobs(message.logprobs, self.describe().features)
        eos_token_ids = () if message.ignore_eos else above.eos_token_ids
        stop_token_ids = frozenset(message.stop_token_ids) | frozenset(eos_token_ids)
        return replace(
            message,
            stop_token_ids=tuple(sorted(stop_token_ids)),
            ignore_eos=True,
            # Its streams to the hop above are counted below this one. Who does not count is newer than all before.
            attempt=message.attempt or (next(self._arrivals),),
        )
