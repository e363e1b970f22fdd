"""Options of a link: who this side is towards a verifier, whom it trusts, and when it takes the other end for dead."""

from pathlib import Path
from typing import Annotated

import typer

from paceline.common.hops.security import Calling

TOKEN_VARIABLE = "PACELINE_TOKEN"
"""Holds a token where no file does. No option takes the token itself: other users could read the command line."""

TlsCa = Annotated[
    Path | None,
    typer.Option(
        help="Who signed the verifier's certificate (PEM), or system. With it the link is TLS.",
        envvar="PACELINE_TLS_CA",
    ),
]
TlsCert = Annotated[
    Path | None,
    typer.Option(help="This side's certificate (PEM), if the verifier asks.", envvar="PACELINE_TLS_CERT"),
]
TlsKey = Annotated[Path | None, typer.Option(help="Its private key (PEM).", envvar="PACELINE_TLS_KEY")]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        help=f"Holds the token to show; read again when it changes. {TOKEN_VARIABLE} may hold one instead.",
        envvar="PACELINE_TOKEN_FILE",
    ),
]
PeerTimeoutS = Annotated[
    float,
    typer.Option(
        min=2,
        max=3600,
        help="Seconds a neighbour that died or froze without a word may go unnoticed.",
        envvar="PACELINE_PEER_TIMEOUT_S",
    ),
]


def calling_of(ca: Path | None, cert: Path | None, key: Path | None, token_file: Path | None) -> Calling:
    """Who this side is."""
    return Calling(ca, cert, key, token_file, token_variable=TOKEN_VARIABLE)
