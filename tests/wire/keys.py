"""Certificates and tokens for tests, and who signs them."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt

from paceline.cli.authority import Authority, write_pair
from paceline.common.hops.security import Calling, TlsFiles

SECRET = b"a secret that is long enough to sign with"


@dataclass(frozen=True)
class Keys:
    """A folder with certificates, and who signed them."""

    folder: Path
    authority: Authority

    def pair(self, name: str, authority: Authority | None = None, **what: Any) -> tuple[Path, Path]:
        """Issue a certificate."""
        write_pair(self.folder, name, *(authority or self.authority).issue(name, **what))
        return self.folder / f"{name}.pem", self.folder / f"{name}-key.pem"

    def calling(self, name: str = "", token: str = "") -> Calling:
        """A client with the certificate and the token of these names."""
        cert = self.folder / f"{name}.pem" if name else None
        key = self.folder / f"{name}-key.pem" if name else None
        return Calling(self.folder / "ca.pem", cert, key, self.folder / token if token else None)

    @property
    def serving(self) -> TlsFiles:
        """The verifier's files; it asks for clients' certificates."""
        return TlsFiles(self.folder / "server.pem", self.folder / "server-key.pem", self.folder / "ca.pem")


def claims(**changed: Any) -> dict[str, Any]:
    """What a sound token says."""
    return {"sub": "acme", "aud": "paceline", "exp": time.time() + 60, **changed}


def token(key: Any = SECRET, algorithm: str = "HS256", **changed: Any) -> str:
    """A token that holds, unless something is changed; None takes a claim out."""
    kept = {name: value for name, value in claims(**changed).items() if value is not None}
    return jwt.encode(kept, key, algorithm=algorithm)
