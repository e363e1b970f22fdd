"""Quotas as one writes them: `NAME:max_sessions=8,positions_per_s=2000`."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from paceline.cloud.config import EVERYBODY
from paceline.cloud.quotas import QUOTA_KEYS, Quota
from paceline.common.errors import InvalidRequest
from paceline.common.hops.security import TENANT_PATTERN

Quotas = Annotated[
    list[str] | None,
    typer.Option(
        help=f"NAME:KEY=NUMBER,…: what a tenant may take; repeat for several. NAME {EVERYBODY} stands for all that are "
        f"not named. Keys: {', '.join(QUOTA_KEYS)}.",
        envvar="PACELINE_QUOTA",
    ),
]
_EXAMPLE = "for example acme:max_sessions=8,positions_per_s=2000"


def parse_quotas(given: Sequence[str]) -> dict[str, Quota]:
    """What each tenant may take.

    Raises:
        InvalidRequest: something is no quota; says which.
    """
    found: dict[str, Quota] = {}
    for one in given:
        name, _, listed = one.partition(":")
        if name in found:
            raise InvalidRequest(f"{name!r} has two", field="quota", cure="write one, with several keys")
        if name != EVERYBODY and not TENANT_PATTERN.fullmatch(name):
            raise InvalidRequest(f"{one!r:.80} names no tenant", field="quota", cure=_EXAMPLE)
        pairs = [_pair(one, written) for written in listed.split(",")]
        twice = next((key for key, _ in pairs if [given for given, _ in pairs].count(key) > 1), None)
        if twice is not None:
            raise InvalidRequest(f"{one!r:.80} says {twice} twice", field="quota", cure="keep one of them")
        found[name] = Quota(**dict(pairs))  # type: ignore[arg-type]  # `_pair` made whole numbers of what counts
    return found


def _pair(quota: str, written: str) -> tuple[str, float | int]:
    key, is_given, number = written.partition("=")
    if key not in QUOTA_KEYS:
        from paceline.common.config.checks import nearest  # pydantic is slow to load

        raise InvalidRequest(
            f"there is no quota {key!r:.40} in {quota!r:.80}",
            field="quota",
            cure=nearest(key, QUOTA_KEYS, "keys"),
        )
    try:
        value = int(number) if key == "max_sessions" else float(number)
    except ValueError:
        value = math.nan
    if not is_given or not 0 < value < math.inf:
        kind = "a whole number of at least 1" if key == "max_sessions" else "a number above 0"
        raise InvalidRequest(f"{key} of {quota!r:.80} is not {kind}", field="quota", cure=_EXAMPLE)
    return key, value


def written_quota(name: str, values: Mapping[str, float | int | None]) -> list[str]:
    """The same the other way round; nothing where nothing is bounded."""
    pairs = [f"{key}={values[key]}" for key in QUOTA_KEYS if values[key] is not None]
    return [f"{name}:{','.join(pairs)}"] if pairs else []
