"""What an operator can set, in one frozen value per concern."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from paceline.cloud.quotas import UNLIMITED, Quota
from paceline.common.errors import InvalidRequest
from paceline.common.hops.grpc import PEER_TIMEOUT_S, check_peer_timeout
from paceline.common.hops.security import SERVING_NAMES, TlsFiles, is_loopback
from paceline.common.tokens import Rule


@dataclass(frozen=True, slots=True)
class VerifierConfig:
    """How sessions are admitted and batched.

    Raises:
        InvalidRequest: receipts are required, and there are no keys for them.
    """

    max_sessions: int = 64
    """Sessions at a time; one more is refused with RESOURCE_EXHAUSTED."""
    max_draft_tokens: int = 64
    """Longest draft block, tokens."""
    max_judged_tokens: int = 256
    """Drafted tokens of one session in one step, over all its blocks."""
    max_blocks_in_flight: int = 16
    """Unsettled blocks per session."""
    max_step_tokens: int = 1024
    """Tokens in one engine step, over all sessions."""
    prefill_chunk_tokens: int = 256
    """Prompt tokens in one engine step, so that a long prompt delays nobody by more than one chunk."""
    max_round_s: float | None = None
    """No new session where, by measured costs, a turn of every session would then take longer; None takes all that fit:
    what is too slow only the operator knows."""
    max_unread_replies: int = 64
    """Replies a client may leave unread before its session stops filling; others are not affected."""
    hop_name: str = ""
    """What reports and counters call this hop."""
    idle_s: float = 60.0
    """How long a client may leave its session waiting for a draft, or replies unread, seconds; its place is given up
    then, and its cache kept as that of a stream that broke off. 0: for ever."""
    park_s: float = 60.0
    """How long the cache of a stream that broke off is kept for whoever comes back, seconds; 0 keeps none."""
    max_parked_sessions: int = 64
    """Caches kept so at a time, and no more than the live sessions leave room for."""
    receipt_keys: Callable[[], Sequence[bytes]] | None = None
    """Secrets of the fleet's receipts, as they are now: the first signs, all are known again. None: no receipts."""
    require_receipts: bool = False
    """Take no history that has no receipt."""
    rules: frozenset[Rule] = frozenset(Rule)
    """Rules this verifier applies. Under `rejection` the law a client *claims* decides; drop it for strangers."""

    def __post_init__(self) -> None:
        if self.require_receipts and self.receipt_keys is None:
            raise InvalidRequest(
                "nothing tells which receipts are good", field="require_receipts", cure="add --receipt-key"
            )


EVERYBODY = "*"
"""Stands for every tenant that is not named."""


@dataclass(frozen=True, slots=True)
class AccessConfig:
    """Who is let in, and what for. Without anything set here or a client CA, nobody is asked who they are."""

    token_key: Path | None = None
    """Checks the signature of tokens: a public key (PEM), a JWKS file, or a shared secret. None: no tokens are
    asked for."""
    token_audience: str = "paceline"
    """What a token's `aud` must hold."""
    leeway_s: float = 2.0
    """How far the clocks of this machine and of whoever signs tokens may be apart, seconds."""
    tenants: Mapping[str, frozenset[Rule]] = field(default_factory=dict)
    """Who may use this verifier, and by which rules. Empty: whoever proves to be somebody, by every rule."""
    quotas: Mapping[str, Quota] = field(default_factory=dict)
    """How much each tenant may take; `EVERYBODY`: all who are not named. Where nobody is asked they are one tenant."""

    def quota_of(self, tenant: str) -> Quota:
        """What this tenant may take."""
        return self.quotas.get(tenant) or self.quotas.get(EVERYBODY) or UNLIMITED


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where to listen and how to stop."""

    listen: str = "127.0.0.1:7443"
    """HOST:PORT; port 0 takes a free one."""
    metrics_port: int | None = None
    """Port of the Prometheus endpoint; None for none."""
    metrics_host: str = "127.0.0.1"
    """Where that endpoint listens. It is plain HTTP and asks nobody who they are."""
    drain_s: float = 10.0
    """How long SIGTERM waits for live generations."""
    peer_timeout_s: float = PEER_TIMEOUT_S
    """How long a client that has died or frozen without a word keeps its session at most, 2 to 3600 seconds."""
    tls: TlsFiles = field(default_factory=TlsFiles)
    """Certificate and key, and the authorities of clients' certificates, which are asked for where there are some."""
    access: AccessConfig = field(default_factory=AccessConfig)
    insecure_listen: bool = False
    """Take anybody, or plain links, from other machines too."""
    reflection: bool = False
    """Tell generic clients what the service looks like."""
    max_connection_age_s: float = 3600.0
    """Clients connect anew after so long, and prove again who they are: a certificate that has expired or lost its
    authority is out then. Streams under way get `connection_grace_s` to end; what is left resumes."""
    connection_grace_s: float = 60.0

    def check(self) -> None:
        """Refuse what gives itself away.

        Raises:
            InvalidRequest: half a pair of files; or open to other machines without being asked for by name.
        """
        check_peer_timeout(self.peer_timeout_s)
        self.tls.check(SERVING_NAMES)
        if self.tls.authorities is not None and self.tls.cert is None:
            raise InvalidRequest(
                "clients are only asked for certificates over TLS",
                field="tls_client_ca",
                cure="add --tls-cert and --tls-key",
            )
        named = {*self.access.tenants, *self.access.quotas} - {EVERYBODY}
        if named and not self.knows_callers:
            raise InvalidRequest(
                "nobody is asked which tenant they are",
                field="tenant",
                cure="add --tls-client-ca or --token-key",
            )
        if self.insecure_listen or is_loopback(self.listen):
            return
        if self.tls.cert is None:
            raise InvalidRequest(
                f"{self.listen} would be open to other machines without TLS",
                field="listen",
                cure="add --tls-cert, --tls-key and --tls-client-ca (`paceline certs dev` makes some to try), or say "
                "--insecure-listen",
            )
        if not self.knows_callers:
            raise InvalidRequest(
                f"{self.listen} would be open to everybody",
                field="listen",
                cure="add --tls-client-ca or --token-key, or say --insecure-listen",
            )

    @property
    def knows_callers(self) -> bool:
        """Whether whoever calls has to prove who they are."""
        return self.tls.authorities is not None or self.access.token_key is not None
