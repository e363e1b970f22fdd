"""`paceline certs dev`: certificates to try TLS with. Not for production: the authority's key lies beside them."""

import importlib
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from paceline.common.errors import InvalidRequest, MissingDependency
from paceline.common.hops.security import TENANT_PATTERN

app = typer.Typer(name="certs", help="Make certificates to try TLS with.", no_args_is_help=True)

_HOST = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$|^[0-9A-Fa-f:.]+$")


@app.callback()
def group() -> None:
    """Make certificates to try TLS with."""


@app.command("dev")
def dev(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Where they go; made if it is not there.", show_default=False),
    ],
    host: Annotated[
        list[str] | None,
        typer.Option(help="A name or address verifiers have, besides localhost; repeat for several."),
    ] = None,
    tenant: Annotated[
        list[str] | None, typer.Option(help="Who calls; repeat for several. Default: dev.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=365, help="Until they expire.")] = 30,
) -> None:
    """Make a test CA and certificates for verifiers, relays and devices.

    Where DIR has a CA already it signs again: running this beside a live chain renews its certificates. For tests and
    trials only; whoever reads DIR can make certificates of their own.
    """
    hosts, tenants = tuple(dict.fromkeys(host or ())), tuple(dict.fromkeys(tenant or ("dev",)))
    _check_names(hosts, tenants)
    try:
        authority = importlib.import_module("paceline.cli.authority")
    except ModuleNotFoundError as missing:
        raise MissingDependency(
            f"{missing.name} is not installed", field="certs", cure="pip install 'paceline[certs]'"
        ) from None
    try:
        is_new = authority.fill_folder(folder, hosts, tenants, days)
    except OSError as error:
        raise InvalidRequest(
            f"cannot write to {folder}: {error.strerror}", field="dir", cure="name another folder"
        ) from None
    _tell(folder, tenants, is_new)


def _check_names(hosts: tuple[str, ...], tenants: tuple[str, ...]) -> None:
    for one in hosts:
        if not _HOST.fullmatch(one):
            raise InvalidRequest(
                f"{one!r} is no host", field="host", cure="for example verifier.example or 192.0.2.7"
            )
    for one in tenants:
        if not TENANT_PATTERN.fullmatch(one):
            raise InvalidRequest(
                f"{one!r} is no tenant",
                field="tenant",
                cure="letters, digits, dots, dashes and underscores; at most 63",
            )
        if one in ("ca", "server", "ca-key", "server-key"):
            raise InvalidRequest(f"{one!r} is another file's name", field="tenant", cure="choose another")


def _tell(folder: Path, tenants: tuple[str, ...], is_new: bool) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(
        f"{'made' if is_new else 'renewed what'} [bold]{escape(str(folder))}[/] holds"
        f"{'' if is_new else ', signed by the CA that was there'}; for tests only"
    )
    at, who = escape(str(folder)), tenants[0]
    console.print(
        f"  paceline cloud serve --tls-cert {at}/server.pem --tls-key {at}/server-key.pem "
        f"--tls-client-ca {at}/ca.pem …",
        f"  paceline edge generate --tls-ca {at}/ca.pem --tls-cert {at}/{who}.pem "
        f"--tls-key {at}/{who}-key.pem …",
        sep="\n",
    )
