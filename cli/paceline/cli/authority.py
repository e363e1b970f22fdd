"""A certificate authority for tests and trials: one key in a folder that signs certificates. Needs `cryptography`.

Every certificate serves and calls (both extended key usages): a relay does both with one.
"""

import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from paceline.common.errors import InvalidRequest
from paceline.common.hops.security import TENANT_URI

RELAY = "relay"
"""The tenant that a serving hop's own certificate stands for, towards the hop above it."""
_CLOCK_SKEW = datetime.timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Authority:
    """Who signs."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, name: str = "Paceline test CA", *, days: float = 365.0) -> "Authority":
        """A new one, with a key of its own."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            _builder(subject, subject, key, days)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        return cls(builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def load(cls, folder: Path) -> "Authority":
        """The one that was saved in a folder.

        Raises:
            InvalidRequest: its files cannot be used.
        """
        try:
            certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
            key = serialization.load_pem_private_key((folder / "ca-key.pem").read_bytes(), None)
        except (OSError, ValueError, TypeError):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InvalidRequest(
                f"{folder} holds a ca.pem without a usable ca-key.pem",
                field="dir",
                cure="name another folder",
            )
        return cls(certificate, key)

    def save(self, folder: Path) -> None:
        """Write `ca.pem` and `ca-key.pem`."""
        write_pair(folder, "ca", _pem(self.certificate), _private(self.key))

    def issue(
        self, name: str, *, hosts: Sequence[str] = (), tenant: str = "", days: float = 30.0
    ) -> tuple[bytes, bytes]:
        """A certificate and its private key, as PEM.

        Args:
            name: common name; nothing reads it.
            hosts: DNS names and IP addresses it may serve as.
            tenant: whom it stands for as a caller.
            days: until it expires; negative: it has.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        names = [_general_name(host) for host in hosts]
        names += [x509.UniformResourceIdentifier(TENANT_URI + tenant)] * bool(tenant)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = (
            _builder(subject, self.certificate.subject, key, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs=False), critical=True)
            .add_extension(uses, critical=False)
            .add_extension(identifier, critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return _pem(builder.sign(self.key, hashes.SHA256())), _private(key)


def fill_folder(folder: Path, hosts: Sequence[str], tenants: Sequence[str], days: float) -> bool:
    """Make a folder's certificates: the CA unless it has one, one for whoever serves, one for each tenant.

    Returns:
        Whether the CA is new.
    """
    folder.mkdir(parents=True, exist_ok=True)
    is_new = not (folder / "ca.pem").exists()
    authority = Authority.create() if is_new else Authority.load(folder)
    if is_new:
        authority.save(folder)
    local = ("localhost", "127.0.0.1", "::1")
    write_pair(folder, "server", *authority.issue("server", hosts=(*local, *hosts), tenant=RELAY, days=days))
    for tenant in tenants:
        write_pair(folder, tenant, *authority.issue(tenant, tenant=tenant, days=days))
    return is_new


def write_pair(folder: Path, name: str, certificate: bytes, key: bytes) -> None:
    """Write `NAME.pem` and, for its owner alone, `NAME-key.pem`; whoever reads meanwhile sees old files or new ones."""
    _replace(folder / f"{name}-key.pem", key, 0o600)
    _replace(folder / f"{name}.pem", certificate, 0o644)


def _replace(file: Path, data: bytes, mode: int) -> None:
    fresh = file.with_name(f".{file.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
    fresh.replace(file)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: float
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    ends = now + datetime.timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, ends) - _CLOCK_SKEW)
        .not_valid_after(ends)
    )


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
