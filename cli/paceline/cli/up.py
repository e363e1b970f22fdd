"""`paceline topology up`: a whole chain on this machine, with a live view of its hops."""

import asyncio
import json
import shlex
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.live import Live
from rich.table import Table

from paceline.cli.supervisor import Options, Row, Supervisor, edge_command
from paceline.cli.verifier_process import hop_environment
from paceline.cli.written import open_topology
from paceline.common.errors import InvalidRequest

if TYPE_CHECKING:  # pydantic costs every other command a fifth of a second
    from paceline.common.config import Topology

_STATE_STYLES = {"ready": "green", "starting": "yellow", "silent": "yellow", "died": "bold red"}


def up(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="Topology file.", show_default=False)],
    free_ports: Annotated[bool, typer.Option("--free-ports", help="Any free ports, not the file's.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start a hop that died again; otherwise the whole chain ends.")
    ] = False,
    prompt: Annotated[
        str | None, typer.Option(help="Write one text through the chain, then stop.", show_default=False)
    ] = None,
    drain_s: Annotated[
        float, typer.Option(min=0, help="Seconds a hop may finish its texts when the chain stops.")
    ] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per event on stdout.")] = False,
) -> None:
    """Run every serving hop of a chain on this machine, over loopback, until an interrupt.

    What follows `--` goes to `paceline edge generate`, beside --prompt.
    """
    topology = open_topology(file)
    if ctx.args and prompt is None:
        raise InvalidRequest(f"{ctx.args[0]!r} is for a text", field="up", cure="add --prompt TEXT")
    view: View = JsonView() if as_json else _view(Console(stderr=prompt is not None, highlight=False))
    options = Options(free_ports=free_ports, restart=restart, drain_s=drain_s)
    supervisor = Supervisor(file, topology, options, view.tell)
    view.attach(lambda: supervisor.rows)
    with ExitStack() as stack:
        stack.enter_context(view)
        code = asyncio.run(_run(supervisor, topology, file, prompt, ctx.args, view))
    raise typer.Exit(code)


async def _run(
    supervisor: Supervisor,
    topology: "Topology",
    file: Path,
    prompt: str | None,
    further: Sequence[str],
    view: "View",
) -> int:
    """Start, serve, stop, whatever happens in between."""
    stopping = asyncio.Event()

    def on_signal() -> None:
        if stopping.is_set():
            supervisor.kill()  # a second signal: nothing is waited for
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    try:
        await _unless(stopping, supervisor.start())
        if stopping.is_set():
            return 0
        watch = asyncio.ensure_future(_first_error(supervisor.watch()))
        if prompt is None:
            view.say(_hint(topology, file, supervisor.entrances))
            work: Awaitable[int] = _forever()
        else:
            work = _write(edge_command(file, supervisor.entrances, prompt, further))
        return await _unless(stopping, _either(work, watch)) or 0
    finally:
        await supervisor.stop()


async def _unless(stopping: asyncio.Event, work: Awaitable[Any]) -> Any:
    """The result of some work; None if the signal to stop comes first."""
    task, stop = asyncio.ensure_future(work), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        stop.cancel()
        await _end(task)


async def _either(work: Awaitable[int], watch: "asyncio.Future[None]") -> int:
    """The work's result, unless the watch ends, in an error, before it."""
    task = asyncio.ensure_future(work)
    both: set[asyncio.Future[Any]] = {task, watch}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if watch.done():
            watch.result()
        return await task
    finally:
        await _end(task)
        await _end(watch)


async def _end(task: "asyncio.Future[Any]") -> None:
    task.cancel()
    await asyncio.wait({task})


async def _first_error(work: Awaitable[None]) -> None:
    """The first error of a group of tasks, by itself."""
    try:
        await work
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


async def _forever() -> int:
    await asyncio.Event().wait()
    return 0


async def _write(command: Sequence[str]) -> int:
    """Run a command of this program; its output is ours."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "paceline.cli.main", *command, env=hop_environment(), start_new_session=True
    )
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


def _hint(topology: "Topology", file: Path, entrances: tuple[str, ...]) -> str:
    """How to write a text through the chain."""
    if topology.hops[0].target is not None:
        return f"serving on {entrances[0]}"
    needed = () if entrances == topology.upstreams_of(0) else entrances
    words = edge_command(file, needed, "…")
    return f"paceline {' '.join('…' if word == '…' else shlex.quote(word) for word in words)}"


class View:
    """Shows what happens: here, as plain lines."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)

    def __enter__(self) -> "View":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def attach(self, rows: Callable[[], list[Row]]) -> None:
        """Where the hops can be seen."""

    def tell(self, event: dict[str, Any]) -> None:
        """Show an event."""
        if event["event"] == "status":
            return
        details = {"ready": f" on {event.get('address')}", "died": f": {event.get('said')}"}
        self.say(f"{event['hop']} {event['event']}{details.get(event['event'], '')}")

    def say(self, line: str) -> None:
        """Show a line."""
        self._console.print(line, markup=False, soft_wrap=True)


class JsonView(View):
    """One JSON object per line on stdout."""

    def tell(self, event: dict[str, Any]) -> None:
        """See `View`."""
        print(json.dumps(event, ensure_ascii=False), flush=True)

    def say(self, line: str) -> None:
        """See `View`."""
        self.tell({"event": "note", "text": line})


class LiveView(View):
    """A table that keeps up, below the lines."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._rows: Callable[[], list[Row]] = list
        self._live = Live(console=console, get_renderable=lambda: table(self._rows()), auto_refresh=False)

    def __enter__(self) -> "View":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def attach(self, rows: Callable[[], list[Row]]) -> None:
        """See `View`."""
        self._rows = rows

    def tell(self, event: dict[str, Any]) -> None:
        """See `View`."""
        if event["event"] == "died":
            super().tell(event)
        self._live.refresh()


def _view(console: Console) -> View:
    return LiveView(console) if console.is_terminal else View(console)


def table(rows: Sequence[Row]) -> Table:
    """The hops as a table."""
    drawn = Table(box=SIMPLE, pad_edge=False)
    for name in ("hop", "role", "address", "model", "sessions", "tokens/s", "accepted", "state"):
        drawn.add_column(name, justify="right" if name in ("tokens/s", "accepted") else "left")
    for row in rows:
        state = f"[{_STATE_STYLES.get(row.state, 'default')}]{row.state}[/]"
        rate = f"{row.tokens_per_s:.0f}" if row.tokens_per_s else "-"
        accepted = f"{row.acceptance_rate:.0%}" if row.acceptance_rate else "-"
        drawn.add_row(row.hop, row.role, row.address, row.model, row.sessions, rate, accepted, state)
    return drawn
