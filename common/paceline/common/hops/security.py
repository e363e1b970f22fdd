"""Who is at the other end of a link: the files that say so, and whether a link may do without.

Files may change while a process runs, which is how certificates and tokens are renewed: whoever holds a `Watched` value
asks for it anew, and goes on with the last good one where the new files cannot be used.
"""

import ipaddress
import logging
import os
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from paceline.common.errors import InvalidRequest

log = logging.getLogger(__name__)

TENANT_URI = "urn:paceline:tenant:"
"""A certificate's subject alternative name of kind URI that begins so names the tenant it stands for."""
TENANT_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
SYSTEM_ROOTS = Path("system")
"""In place of a CA file: the public authorities that gRPC brings."""
MAX_TOKEN_LENGTH = 8192

_T = TypeVar("_T")


class Watched(Generic[_T]):
    """A value made of files, made again when they have changed.

    Args:
        files: what it is made of.
        make: reads them; refuses what cannot be used with InvalidRequest or OSError.
    Raises:
        InvalidRequest: the first reading fails.
    """

    def __init__(self, files: tuple[Path, ...], make: Callable[[], _T]) -> None:
        self._files = files
        self._make = make
        self._seen = self._stamps()
        self.value = make()
        """The last good one."""

    def refresh(self) -> bool:
        """Take over files that have changed; whether there is a new value. Unusable ones leave the old value."""
        stamps = self._stamps()
        if stamps == self._seen:
            return False
        try:
            value = self._make()
        except (InvalidRequest, OSError) as error:
            log.warning("%s; going on with what was there before", error)
            self._seen = stamps  # said once; the next change is looked at again
            return False
        if self._stamps() != stamps:
            return False  # they change at this moment: the next look has them whole
        is_new = value != self.value
        self._seen, self.value = stamps, value
        return is_new

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(file) for file in self._files]


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its private key, and the authorities the other end's is held against; PEM."""

    certificate: bytes | None
    key: bytes | None
    authorities: bytes | None


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where one end of a TLS link finds what it needs."""

    cert: Path | None = None
    """Its own certificate chain."""
    key: Path | None = None
    """Of that certificate."""
    authorities: Path | None = None
    """Whose certificates it accepts from the other end."""

    def check(self, names: tuple[str, str, str]) -> None:
        """Refuse half a pair.

        Args:
            names: what the user calls certificate, key and authorities.
        """
        cert, key, _ = names
        if (self.cert is None) != (self.key is None):
            given, missing = (cert, key) if self.key is None else (key, cert)
            raise InvalidRequest(f"is of no use without {missing}", field=given, cure="give both")

    def watch(self, names: tuple[str, str, str]) -> Watched[Pair]:
        """Their content, renewed when they change.

        Raises:
            InvalidRequest: a file is missing or damaged, or the key is another certificate's.
        """
        self.check(names)
        files = tuple(file for file in (self.cert, self.key, self.authorities) if file is not None)
        return Watched(files, lambda: self._read(names))

    def _read(self, names: tuple[str, str, str]) -> Pair:
        certificate, key = _content(self.cert, names[0]), _content(self.key, names[1])
        is_public = self.authorities == SYSTEM_ROOTS
        authorities = None if is_public else _content(self.authorities, names[2])
        _check_pair(self, names)
        return Pair(certificate, key, authorities)


def _content(file: Path | None, name: str) -> bytes | None:
    if file is None:
        return None
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidRequest(
            f"cannot read {file}: {error.strerror}",
            field=name,
            cure="`paceline certs dev DIR` makes some to try",
        ) from None


def _check_pair(files: TlsFiles, names: tuple[str, str, str]) -> None:
    """What OpenSSL makes of them; gRPC says nothing about unusable files until somebody connects."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if files.cert is not None and files.key is not None:
        try:
            context.load_cert_chain(files.cert, files.key, password=_no_password)
        except ssl.SSLError as error:
            mismatch = error.reason == "KEY_VALUES_MISMATCH"
            wrong = f"{files.key} is not the key of {files.cert}"
            raise InvalidRequest(
                wrong if mismatch else f"{files.cert} and {files.key} are not a certificate and its key",
                field=names[1] if mismatch else names[0],
                cure="PEM files, the key without a password",
            ) from None
    if files.authorities is not None and files.authorities != SYSTEM_ROOTS:
        try:
            context.load_verify_locations(files.authorities)
        except ssl.SSLError:
            raise InvalidRequest(
                f"{files.authorities} holds no certificate", field=names[2], cure="a PEM file"
            ) from None


def _no_password() -> str:
    return ""


SERVING_NAMES = ("tls_cert", "tls_key", "tls_client_ca")
CALLING_NAMES = ("tls_cert", "tls_key", "tls_ca")


@dataclass(frozen=True, slots=True)
class Calling:
    """How this side shows who it is to a verifier, and makes sure of the verifier."""

    ca: Path | None = None
    """Who signed the verifier's certificate, or `system`. None: the link is not encrypted."""
    cert: Path | None = None
    """This side's own certificate, where the verifier asks for one."""
    key: Path | None = None
    token_file: Path | None = None
    """Holds the token to show; read again when it changes."""
    token_variable: str = ""
    """Environment variable that holds the token, if no file does."""

    @property
    def is_encrypted(self) -> bool:
        """Whether the link is TLS."""
        return self.ca is not None

    @property
    def has_token(self) -> bool:
        """Whether there is a token to show."""
        return self.token_file is not None or bool(
            self.token_variable and os.environ.get(self.token_variable)
        )

    def check(self, address: str) -> None:
        """Refuse what gives itself away.

        Raises:
            InvalidRequest: half a pair; a certificate without TLS; a token that anybody on the way could read.
        """
        if not self.is_encrypted and (self.cert or self.key):
            raise InvalidRequest(
                "a certificate is only shown over TLS", field="tls_cert", cure="add --tls-ca"
            )
        TlsFiles(self.cert, self.key, self.ca).check(CALLING_NAMES)
        if self.has_token and not self.is_encrypted and not is_loopback(address):
            raise InvalidRequest(
                f"a token would travel to {address} unencrypted", field="token", cure="add --tls-ca"
            )

    def watch_tls(self) -> Watched[Pair]:
        """The files of TLS."""
        return TlsFiles(self.cert, self.key, self.ca).watch(CALLING_NAMES)

    def watch_token(self) -> Watched[str] | None:
        """The token; None if there is none.

        Raises:
            InvalidRequest: it is missing, or no token.
        """
        if self.token_file is not None:
            return Watched((self.token_file,), self._token_of_file)
        if self.has_token:
            return Watched((), self._token_of_variable)
        return None

    def _token_of_file(self) -> str:
        assert self.token_file is not None, "see `watch_token`"
        try:
            return _checked_token(self.token_file.read_text("ascii"), "token_file", str(self.token_file))
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not plain text"
            raise InvalidRequest(
                f"cannot read {self.token_file}: {why}", field="token_file", cure="a file with one token"
            ) from None

    def _token_of_variable(self) -> str:
        return _checked_token(os.environ[self.token_variable], "token", self.token_variable)


def _checked_token(text: str, field: str, where: str) -> str:
    token = text.strip()
    if not token or len(token) > MAX_TOKEN_LENGTH or not all("!" <= one <= "~" for one in token):
        raise InvalidRequest(f"{where} holds no token", field=field, cure="one line, without spaces")
    return token


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT can be reached from this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
