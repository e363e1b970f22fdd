"""Who calls, and what they may do. A tenant is named by a certificate or a token, never by a request."""

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace

from paceline.cloud.config import ServerConfig
from paceline.cloud.quotas import UNLIMITED, Quota
from paceline.cloud.tokens import Claims, TokenVerifier
from paceline.common.errors import PacelineError, PermissionDenied, Unauthenticated
from paceline.common.hops.security import MAX_TOKEN_LENGTH, TENANT_PATTERN, TENANT_URI
from paceline.common.messages import ClientMessage, Description, Open
from paceline.common.tokens import Rule

_SCHEME = "bearer "


@dataclass(frozen=True, slots=True)
class Caller:
    """Who called, for as long as the call lasts."""

    tenant: str = ""
    """Empty where nobody is asked."""
    rules: frozenset[Rule] = frozenset(Rule)
    """What may be asked of this verifier."""
    quota: Quota = UNLIMITED
    """How much of it may be taken."""
    expires_s: float | None = None
    """Unix time from which the proof no longer holds."""

    def describe(self, description: Description) -> Description:
        """What is served, as far as it is served to this caller."""
        return replace(description, rules=tuple(rule for rule in description.rules if rule in self.rules))

    def admitted(self, message: ClientMessage | PacelineError) -> ClientMessage | PacelineError:
        """The message, or an error in place of what this caller may not ask for."""
        if not isinstance(message, Open) or message.rule in self.rules:
            return message
        return PermissionDenied(
            f"tenant {self.tenant} may not use the rule {message.rule}",
            field="rule",
            cure=f"one of {', '.join(sorted(self.rules))}",
        )


current_caller: ContextVar[Caller] = ContextVar("current_caller")
"""Whoever made the call that is being served; set by the guard before any handler runs."""
NOBODY = Caller()
"""Calls within this process, which nobody guards."""


class Authenticator:
    """Finds out who calls.

    Args:
        config: what is asked for, and who is let in.
    Raises:
        InvalidRequest: a key file is unusable.
    """

    def __init__(self, config: ServerConfig) -> None:
        access = config.access
        self._config = config
        self._access = access
        self._leeway_s = access.leeway_s
        self._tokens = (
            TokenVerifier(access.token_key, access.token_audience, access.leeway_s)
            if access.token_key
            else None
        )

    def caller(
        self, peer: Mapping[str, Iterable[bytes]], metadata: Iterable[tuple[str, str | bytes]]
    ) -> Caller:
        """Who calls.

        Args:
            peer: what the transport knows, as gRPC's `auth_context` has it.
            metadata: of the call.
        Raises:
            Unauthenticated: they have not proved it.
            PermissionDenied: they have, and may not.
        """
        if not self._config.knows_callers:
            return Caller(quota=self._access.quota_of(""))
        certified = _certified_tenant(peer) if self._config.tls.authorities is not None else ""
        claims = self._tokens.verify(_token(metadata)) if self._tokens is not None else None
        tenant = _tenant(certified, claims)
        allowed = self._access.tenants
        if allowed and tenant not in allowed:
            raise PermissionDenied(
                f"tenant {tenant} may not use this verifier", field="tenant", cure="ask its operator"
            )
        expires_s = claims.expires_s + self._leeway_s if claims is not None else None
        rules = allowed.get(tenant) or frozenset(Rule)
        return Caller(tenant, rules, self._access.quota_of(tenant), expires_s)


def _tenant(certified: str, claims: Claims | None) -> str:
    """Whom certificate and token stand for; they may not differ."""
    if claims is not None and not TENANT_PATTERN.fullmatch(claims.tenant):
        raise Unauthenticated(
            "the token names no tenant", field="token", cure="letters, digits, dots, dashes and underscores"
        )
    if claims is not None and certified and claims.tenant != certified:
        raise PermissionDenied(
            "certificate and token are of different tenants", field="token", cure="use two of one tenant"
        )
    tenant = certified if claims is None else claims.tenant
    if not tenant:
        raise Unauthenticated(
            "the certificate names no tenant", field="certificate", cure=f"it needs the URI {TENANT_URI}NAME"
        )
    return tenant


def _certified_tenant(peer: Mapping[str, Iterable[bytes]]) -> str:
    """The tenant a certificate names; empty if it names none."""
    if b"true" in peer.get("ssl_session_reused", ()):
        # The certificate was looked at when the session began, and may have expired since. Our clients resume none.
        raise Unauthenticated(
            "a resumed TLS session does not say who calls",
            field="certificate",
            cure="connect without a session cache",
        )
    names = [uri.decode("utf-8", "replace") for uri in peer.get("peer_uri", ())]
    tenants = [name.removeprefix(TENANT_URI) for name in names if name.startswith(TENANT_URI)]
    if len(tenants) > 1 or not all(map(TENANT_PATTERN.fullmatch, tenants)):
        raise Unauthenticated(
            "the certificate does not name one tenant", field="certificate", cure="get another one"
        )
    return tenants[0] if tenants else ""


def _token(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    found = [value for name, value in metadata if name == "authorization"]
    if len(found) != 1 or not isinstance(found[0], str) or not found[0].lower().startswith(_SCHEME):
        raise Unauthenticated(
            "there is no token" if not found else "there is not one bearer token",
            field="token",
            cure="show one: --token-file",
        )
    token = found[0][len(_SCHEME) :].strip()
    if len(token) > MAX_TOKEN_LENGTH:
        raise Unauthenticated("the token is too long", field="token", cure="get a shorter one")
    return token
