"""How an endpoint is served."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from paceline.common.errors import InvalidRequest
from paceline.common.hops.grpc import check_address
from paceline.common.tokens import SamplingParams
from paceline.edge.request import GenerationRequest

_LEAST_KEY = 16


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """Of one endpoint."""

    listen: str = "127.0.0.1:8080"
    insecure_listen: bool = False
    """Whether other machines may connect without an API key."""
    api_key: str = field(default="", repr=False)
    """What callers must show; empty asks for none."""
    cors_origins: tuple[str, ...] = ()
    """Web origins whose pages may call; none by default."""
    allowed_hosts: tuple[str, ...] = ()
    """Names this endpoint is called by, besides loopback's own and, beyond loopback, any address."""
    model_names: tuple[str, ...] = ()
    """Further names callers may give the model."""
    mode: str = "auto"
    template: GenerationRequest = field(
        default_factory=lambda: GenerationRequest((), 512, SamplingParams(temperature=1.0))
    )
    """What holds where a request says nothing."""
    max_concurrent: int = 32
    """Requests at a time, and texts at a time; further requests are refused, further texts of one request wait."""
    max_body_bytes: int = 4 << 20
    drain_s: float = 30.0
    """How long texts may go on after SIGTERM."""

    @property
    def is_local_only(self) -> bool:
        """Whether nothing is sent anywhere."""
        return self.mode == "local"

    @property
    def host(self) -> str:
        """The address it listens on."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.host)

    def check(self) -> None:
        """Refuse what gives the device away.

        Raises:
            InvalidRequest: no address; open to other machines without a key, or with one that can be guessed.
        """
        check_address(self.listen, "listen")
        if not self.is_loopback and not self.api_key and not self.insecure_listen:
            raise InvalidRequest(
                f"{self.listen} can be reached from other machines",
                field="listen",
                cure="give --api-key-file, listen on 127.0.0.1, or say --insecure-listen",
            )
        if self.api_key and len(self.api_key) < _LEAST_KEY:
            raise InvalidRequest(
                f"{len(self.api_key)} characters can be guessed",
                field="api_key",
                cure=f"at least {_LEAST_KEY}, for example: openssl rand -hex 32",
            )
        for origin in self.cors_origins:
            if origin != "null" and ("://" not in origin or origin.endswith("/")):
                raise InvalidRequest(
                    f"{origin!r} is no origin", field="cors_origin", cure="for example http://localhost:3000"
                )


def is_loopback(host: str) -> bool:
    """Whether a host is this machine's loopback."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_api_key(file: Path) -> str:
    """The first line of a file.

    Raises:
        InvalidRequest: it cannot be read, or is empty.
    """
    try:
        lines = file.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        raise InvalidRequest(
            f"{file} cannot be read as plain text", field="api_key_file", cure="check the path"
        ) from None
    if len(lines) != 1:
        raise InvalidRequest(
            f"{file} holds {len(lines)} words", field="api_key_file", cure="the key alone, on one line"
        )
    return lines[0]
