"""Which keys about certificates and callers fit together, within a hop and between neighbours."""

from collections.abc import Iterator

from paceline.common.config.errors import Finding, Path
from paceline.common.config.topology import HopSection, TargetSection, Topology
from paceline.common.hops.security import is_loopback


def check_identity(topology: Topology) -> Iterator[Finding]:
    """Whether every hop that other machines reach knows who calls, and those below it can say so."""
    last = len(topology.hops) - 1
    for index, hop in enumerate(topology.hops):
        path = ("hops", index)
        if hop.tls is not None and (hop.tls.cert is None) != (hop.tls.key is None):
            given, missing = ("cert", "key") if hop.tls.key is None else ("key", "cert")
            yield Finding((*path, "tls", given), f"is of no use without {missing}", "give both")
        if hop.target is not None:
            yield from _check_door(hop, path)
            yield from _check_receipts(hop.target, (*path, "target"), is_last=index == last)
        else:
            yield from _unused(hop, path, ("access", "insecure"), ("client_ca",), f"{hop.name} serves nobody")
    for index, hop in enumerate(topology.hops):
        path = ("hops", index)
        if index == last:
            yield from _unused(hop, path, ("token_file",), ("ca",), "there is no hop above the last")
        else:
            yield from _check_way_up(topology, index, path)


def _check_door(hop: HopSection, path: Path) -> Iterator[Finding]:
    """Who gets in at a hop."""
    has_cert = hop.tls is not None and hop.tls.cert is not None
    asks_certificate = hop.tls is not None and hop.tls.client_ca is not None
    asks = asks_certificate or (hop.access is not None and hop.access.token_key is not None)
    if asks_certificate and not has_cert:
        yield Finding(
            (*path, "tls", "client_ca"), "certificates are only asked for over TLS", "add cert and key"
        )
    if hop.access is not None and hop.access.tenants and not asks:
        yield Finding(
            (*path, "access", "tenants"),
            "nobody is asked which tenant they are",
            "add tls.client_ca or token_key",
        )
    if hop.listen is None or hop.insecure or is_loopback(hop.listen) or (has_cert and asks):
        return
    what, cure = ("everybody", "add tls.client_ca or access.token_key, or say `insecure: true`")
    if not has_cert:
        what, cure = (
            "other machines without TLS",
            "add `tls` with cert, key and client_ca, or say `insecure: true`",
        )
    yield Finding((*path, "listen"), f"{hop.listen} would be open to {what}", cure)


def _check_way_up(topology: Topology, index: int, path: Path) -> Iterator[Finding]:
    """How a hop calls the next one."""
    hop, above = topology.hops[index], topology.hops[index + 1]
    is_encrypted = hop.tls is not None and hop.tls.ca is not None
    if above.tls is not None and above.tls.cert is not None and not is_encrypted:
        yield Finding((*path, "tls"), f"{above.name} speaks TLS", "say whom to trust: tls: {ca: FILE}")
    has_cert = hop.tls is not None and hop.tls.cert is not None
    if above.tls is not None and above.tls.client_ca is not None and not has_cert:
        yield Finding((*path, "tls"), f"{above.name} asks for a certificate", "add cert and key")
    if hop.token_file is not None and not is_encrypted:
        exposed = [one for one in topology.upstreams_of(index) if not is_loopback(one)]
        if exposed:
            yield Finding(
                (*path, "token_file"), f"the token would travel to {exposed[0]} unencrypted", "add tls.ca"
            )


def _unused(
    hop: HopSection, path: Path, keys: tuple[str, ...], tls_keys: tuple[str, ...], why: str
) -> Iterator[Finding]:
    for key in keys:
        if getattr(hop, key):
            yield Finding((*path, key), why, "leave it out")
    for key in tls_keys:
        if hop.tls is not None and getattr(hop.tls, key) is not None:
            yield Finding((*path, "tls", key), why, "leave it out")


def _check_receipts(target: TargetSection, path: Path, *, is_last: bool) -> Iterator[Finding]:
    for key in ("receipt_key", "require_receipts"):
        if getattr(target, key) and not is_last:
            yield Finding((*path, key), "only the last hop's word is final", "say it there")
    if target.require_receipts and target.receipt_key is None:
        yield Finding((*path, "require_receipts"), "nothing tells which are good", "add receipt_key")
