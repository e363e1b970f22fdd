"""Bearer tokens (JWT): whose signature counts, and what a token must say. Needs PyJWT."""

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paceline.common.errors import InvalidRequest, MissingDependency, Unauthenticated
from paceline.common.hops.security import Watched

REQUIRED_CLAIMS = ("exp", "aud", "sub")
MIN_SECRET_BYTES = 32
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token that holds says."""

    tenant: str
    """Its claim `tenant`, else `sub`."""
    expires_s: float
    """Unix time of `exp`."""


@dataclass(frozen=True, slots=True)
class _Key:
    """A key, and the one algorithm it is for: what a token's header says of that is not asked."""

    key: Any
    algorithm: str


class TokenVerifier:
    """Checks tokens against a key file, which may change.

    Args:
        file: a public key (PEM), a JWKS file, or a shared secret of at least 32 bytes.
        audience: what `aud` must hold.
        leeway_s: how far the clocks may be apart.
    Raises:
        InvalidRequest: the file holds no such key.
        MissingDependency: PyJWT is not installed.
    """

    def __init__(self, file: Path, audience: str, leeway_s: float) -> None:
        try:
            self._jwt = importlib.import_module("jwt")
        except ModuleNotFoundError:
            raise MissingDependency(
                "PyJWT is not installed", field="token_key", cure="pip install 'paceline[cloud]'"
            ) from None
        self._audience = audience
        self._leeway_s = leeway_s
        self._keys: Watched[Mapping[str, _Key]] = Watched((file,), lambda: read_keys(file))

    def verify(self, token: str) -> Claims:
        """What a token says.

        Raises:
            Unauthenticated: it does not hold.
        """
        self._keys.refresh()
        try:
            claims = self._decode(token)
        except self._jwt.ExpiredSignatureError:
            raise _refusal("the token has expired", "get a fresh one") from None
        except self._jwt.InvalidAudienceError:
            raise _refusal("the token is for another audience", f"aud must hold {self._audience}") from None
        except self._jwt.MissingRequiredClaimError:
            raise _refusal("the token lacks a claim", f"it needs {', '.join(REQUIRED_CLAIMS)}") from None
        except (self._jwt.PyJWTError, ValueError, RecursionError):
            raise _refusal(
                "the token cannot be verified", "get one from the issuer this verifier trusts"
            ) from None
        tenant = claims.get("tenant", claims["sub"])
        return Claims(tenant if isinstance(tenant, str) else "", float(int(claims["exp"])))

    def _decode(self, token: str) -> Mapping[str, Any]:
        keys = self._keys.value
        # A token names its key where there are several; it never names the algorithm.
        name = self._jwt.get_unverified_header(token).get("kid", "")
        key = next(iter(keys.values())) if len(keys) == 1 else keys.get(name)
        if key is None:
            raise ValueError("no such key")
        claims: Mapping[str, Any] = self._jwt.decode(
            token,
            key.key,
            algorithms=[key.algorithm],
            audience=self._audience,
            leeway=self._leeway_s,
            options={"require": list(REQUIRED_CLAIMS)},
        )
        return claims


def _refusal(message: str, cure: str) -> Unauthenticated:
    return Unauthenticated(message, field="token", cure=cure)


def read_keys(file: Path) -> Mapping[str, _Key]:
    """The keys of a file by their ids; one that is alone is called "".

    Raises:
        InvalidRequest: it holds none that can be used.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise _unusable(f"cannot read {file}: {error.strerror}") from None
    kinds: tuple[tuple[bytes, Callable[[bytes], Mapping[str, _Key]]], ...] = (
        (b"-----BEGIN", _public_key),
        (b"{", _key_set),
        (b"", _secret),
    )
    read = next(read for start, read in kinds if data.lstrip().startswith(start))
    try:
        return read(data)
    except ModuleNotFoundError as missing:
        raise MissingDependency(
            f"{missing.name} is not installed", field="token_key", cure="pip install 'paceline[cloud]'"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        why = f": {error}" if isinstance(error, _Unfit) else ""
        raise _unusable(f"{file} holds no key for tokens{why}") from None


def _unusable(message: str) -> InvalidRequest:
    return InvalidRequest(
        message,
        field="token_key",
        cure=f"a public key (PEM), a JWKS file, or {MIN_SECRET_BYTES} secret bytes",
    )


class _Unfit(ValueError):
    """Ours to show."""


def _public_key(data: bytes) -> Mapping[str, _Key]:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if b"PRIVATE KEY" in data:
        raise _Unfit("it is a private key, which only the issuer should have")
    key = load_pem_public_key(data)
    if isinstance(key, rsa.RSAPublicKey):
        return {"": _Key(key, "RS256")}
    if isinstance(key, ed25519.Ed25519PublicKey):
        return {"": _Key(key, "EdDSA")}
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return {"": _Key(key, _CURVES[key.curve.name])}
    raise _Unfit("RSA, Ed25519 and the curves P-256, P-384 and P-521 are known")


def _key_set(data: bytes) -> Mapping[str, _Key]:
    import jwt

    try:
        found = jwt.PyJWKSet.from_dict(json.loads(data)).keys
    except jwt.PyJWTError:
        raise _Unfit("it is not a set of keys") from None
    return {key.key_id or "": _Key(key.key, key.algorithm_name) for key in found}


def _secret(data: bytes) -> Mapping[str, _Key]:
    secret = data.strip()
    if len(secret) < MIN_SECRET_BYTES:
        raise _Unfit(f"a secret has at least {MIN_SECRET_BYTES} bytes")
    return {"": _Key(secret, "HS256")}
