"""`paceline`: sub-commands, and the last line of defence: an error becomes one line and an exit code."""

import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console

# One BLAS thread per process, unless the caller says otherwise: two ends share a small machine.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
# What gRPC's core has to say of a peer that froze is said by our own messages.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from paceline.cli import bench, certs, cloud, demo, doctor, edge, endpoint, models, top, topology
from paceline.cli.traces import trace_if_asked
from paceline.cli.version import software_version
from paceline.cli.written import forget_topologies, hide
from paceline.common import logs
from paceline.common.errors import PacelineError

INTERRUPTED = 130

app = typer.Typer(
    name="paceline",
    help="Edge-cloud speculative decoding: a small model drafts on the device, a large one verifies in the cloud; "
    "the text is exactly the large one's.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(cloud.app, name="cloud")
app.add_typer(edge.app, name="edge")
app.add_typer(models.app, name="models")
app.add_typer(topology.app, name="topology")
app.add_typer(certs.app, name="certs")
edge.app.command("serve")(endpoint.serve)
app.command("demo")(demo.demo)
app.add_typer(bench.app, name="bench")
app.command("doctor")(doctor.doctor)
app.command("top")(top.top)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(software_version())
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
    log_level: Annotated[
        str, typer.Option(help="debug, info, warning or error; to stderr.", envvar="PACELINE_LOG_LEVEL")
    ] = "warning",
    log_format: Annotated[
        str, typer.Option(help="text or json, one object a line.", envvar="PACELINE_LOG_FORMAT")
    ] = "text",
    trace: Annotated[
        bool,
        typer.Option(
            "--trace",
            help="Send OpenTelemetry traces, as OTEL_EXPORTER_OTLP_ENDPOINT says. Any such variable does the same.",
            envvar="PACELINE_TRACE",
        ),
    ] = False,
) -> None:
    """Options of every command."""
    _require("--log-level", log_level.lower(), logs.LEVELS)
    _require("--log-format", log_format, logs.FORMATS)
    logs.configure(log_level.lower(), log_format)
    trace_if_asked(trace)


def _require(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        *first, last = known
        raise typer.BadParameter(f"{value!r} is not {', '.join(first)} or {last}", param_hint=option)


def main() -> None:
    """Entry point."""
    forget_topologies()
    try:
        sys.exit(app(prog_name="paceline", standalone_mode=False) or 0)
    except PacelineError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:  # the last line of defence: a bug of ours, said in one line
        if hasattr(error, "format_message"):  # typer's own complaints; their class is not public everywhere
            sys.exit(_show_usage_error(error))
        logging.getLogger(__name__).debug("unexpected", exc_info=True)
        _complain(
            f"internal error: {type(error).__name__}: {error} (please report it; --log-level debug shows more)"
        )
        sys.exit(1)


def _show_usage_error(error: Any) -> int:
    """A mistyped command line: one line that ends with where to look. A bare `paceline edge` gets the help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
    else:
        message = error.format_message().rstrip(".")
        where = f" ({error.ctx.command_path} --help)" if error.ctx is not None else ""
        _complain(f"{message}{where}")
    return int(error.exit_code)


def _complain(text: str) -> None:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print("[bold red]error:[/]", end=" ")
    console.print(hide(text), markup=False)


if __name__ == "__main__":
    main()
