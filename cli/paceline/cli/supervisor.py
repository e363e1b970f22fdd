"""Every serving hop of a chain as a process of this machine: started from the last one down, watched, and ended."""

import asyncio
import contextlib
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from paceline.cli.serving import READY_PREFIX, RELAY_READY_PREFIX
from paceline.cli.verifier_process import hop_environment
from paceline.common.errors import InvalidRequest, PacelineError
from paceline.common.hops.grpc import GrpcHop

if TYPE_CHECKING:  # pydantic costs every other command a fifth of a second
    from paceline.common.config import Topology
    from paceline.common.messages import Description

FIRST_EXIT_CODE = 10
"""A chain that ends because a hop died exits with this plus the hop's place in the file."""
_DESCRIBE_TIMEOUT_S = 1.0
_KILL_AFTER_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0


class HopDied(PacelineError):
    """A hop ended without being told to.

    Args:
        place: of the hop in the file, from 0.
    """

    def __init__(self, message: str, *, field: str, place: int) -> None:
        super().__init__(message, field=field, cure="mend it, or let --restart start it again")
        self.exit_code = FIRST_EXIT_CODE + place


@dataclass(frozen=True, slots=True)
class Options:
    """How a chain is to be run."""

    free_ports: bool = False
    """Take any free port instead of the file's."""
    restart: bool = False
    """Start a hop that died again."""
    drain_s: float = 5.0
    """How long a hop may finish its texts."""
    poll_s: float = 1.0
    """How often each hop is asked how it is."""


@dataclass(frozen=True, slots=True)
class Row:
    """A hop as it is shown."""

    hop: str
    role: str
    address: str
    state: str
    """waiting, starting, ready, silent, died or stopped."""
    model: str = ""
    sessions: str = ""
    """Live and at most, `2/64`."""
    tokens_per_s: float = 0.0
    """That its model added to texts, lately."""
    acceptance_rate: float = 0.0
    """Of what the hop below drafted, since it started."""
    num_written: int = 0
    """Tokens its model added to texts since it started."""


def row_of(before: Row, description: "Description | None", elapsed_s: float = 1.0) -> Row:
    """What a hop's own account makes of its row, so long after the last one; None: it did not answer."""
    if description is None:
        return replace(before, state="silent", sessions="", tokens_per_s=0.0)
    row = replace(
        before,
        state="ready",
        model=description.model_name,
        sessions=f"{description.active_sessions}/{description.max_sessions}",
    )
    if not description.hops:
        return row
    own = description.hops[0]
    return replace(
        row,
        model=own.model_name,
        tokens_per_s=max(own.num_written - before.num_written, 0) / elapsed_s,
        acceptance_rate=own.num_accepted / own.num_judged if own.num_judged else 0.0,
        num_written=own.num_written,
    )


Tell = Callable[[dict[str, Any]], None]
"""Takes an event: `event`, `hop`, and what belongs to it."""


@dataclass(slots=True)
class _Hop:
    """A hop and its process."""

    place: int
    row: Row
    listen: str
    process: asyncio.subprocess.Process | None = None
    log: IO[str] | None = None
    failures: int = 0
    link: GrpcHop | None = None


class Supervisor:
    """Runs the serving hops of a chain.

    Args:
        file: the topology; every hop reads it itself.
        topology: the same, checked.
        options: see `Options`.
        tell: hears of everything that happens.
    """

    def __init__(self, file: Path, topology: "Topology", options: Options, tell: Tell) -> None:
        self._file = file
        self._topology = topology
        self._options = options
        self._tell = tell
        self._hops = {
            place: _Hop(place, Row(hop.name, topology.role_of(place), "", "waiting"), self._listen(place))
            for place, hop in enumerate(topology.hops)
            if hop.target is not None
        }
        if not self._hops:
            raise InvalidRequest(
                f"no hop of {file} serves", field="hops", cure=f"paceline edge generate --topology {file}"
            )

    def _listen(self, place: int) -> str:
        port = (self._topology.hops[place].listen or "").rpartition(":")[2]
        return "127.0.0.1:0" if self._options.free_ports else f"127.0.0.1:{port}"

    @property
    def rows(self) -> list[Row]:
        """Every hop, the one next to the device first."""
        return [hop.row for hop in self._hops.values()]

    @property
    def entrances(self) -> tuple[str, ...]:
        """Where a device reaches the chain, the best first."""
        return self._upstreams(0) or tuple(hop.row.address for hop in self._hops.values())

    def _upstreams(self, place: int) -> tuple[str, ...]:
        return tuple(self._hops[above].row.address for above in self._topology.above(place))

    async def start(self) -> None:
        """Start the last hop, then the ones below it, each once those it drafts for are ready.

        Raises:
            HopDied: one of them did not come up.
        """
        for hop in reversed(self._hops.values()):
            await self._start(hop)

    async def watch(self) -> None:
        """Look after the hops until one of them dies and is not to be started again.

        Raises:
            HopDied: always.
        """
        async with asyncio.TaskGroup() as group:
            for hop in self._hops.values():
                group.create_task(self._keep(hop))
                group.create_task(self._poll(hop))

    async def stop(self) -> None:
        """Let every hop finish its texts for a while, then end it."""
        for hop in self._hops.values():
            if hop.link is not None:
                await hop.link.close()
        running = [
            hop for hop in self._hops.values() if hop.process is not None and hop.process.returncode is None
        ]
        for hop in running:
            self._change(hop, "stopping")
            self._signal(hop, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.drain_s + _KILL_AFTER_S):
                await asyncio.gather(*(hop.process.wait() for hop in running if hop.process is not None))
        self.kill()
        for hop in running:
            assert hop.process is not None, "it is running"
            code = await hop.process.wait()
            self._change(hop, "stopped", exit_code=code)
        for hop in self._hops.values():
            if hop.log is not None:
                hop.log.close()

    def kill(self) -> None:
        """End every hop at once."""
        for hop in self._hops.values():
            self._signal(hop, signal.SIGKILL)

    @staticmethod
    def _signal(hop: _Hop, number: signal.Signals) -> None:
        if hop.process is not None and hop.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                hop.process.send_signal(number)

    def _change(self, hop: _Hop, state: str, **more: object) -> None:
        row = hop.row
        hop.row = Row(row.hop, row.role, row.address, state, row.model)
        self._tell({"event": state, "hop": row.hop, "role": row.role, **more})

    def _command(self, hop: _Hop) -> list[str]:
        is_relay = hop.row.role == "relay"
        command = [sys.executable, "-m", "paceline.cli.main", "cloud", "relay" if is_relay else "serve"]
        command += ["--topology", str(self._file), "--hop", hop.row.hop, "--listen", hop.listen]
        command += ["--drain-s", str(self._options.drain_s)]
        return command + [word for one in self._upstreams(hop.place) for word in ("--upstream", one)]

    async def _start(self, hop: _Hop) -> None:
        self._change(hop, "starting")
        if hop.log is not None:
            hop.log.close()
        hop.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # open as long as the process lives
        hop.process = await asyncio.create_subprocess_exec(
            *self._command(hop),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=hop.log,
            env=hop_environment(),
            start_new_session=True,  # an interrupt at the terminal reaches the chain through this process alone
        )
        address = await self._address(hop)
        hop.listen, hop.failures = address, 0  # those below know it by this address now
        hop.row = Row(hop.row.hop, hop.row.role, address, "starting", hop.row.model)
        self._change(hop, "ready", address=address, pid=hop.process.pid)

    async def _address(self, hop: _Hop) -> str:
        """Where a hop serves, from its ready line.

        Raises:
            HopDied: it ended without one.
        """
        assert hop.process is not None, "it was started"
        assert hop.process.stdout is not None, "it was asked for"
        prefix = RELAY_READY_PREFIX if hop.row.role == "relay" else READY_PREFIX
        while line := (await hop.process.stdout.readline()).decode():
            if line.startswith(prefix):
                return line.removeprefix(prefix).strip()
        raise await self._death(hop)

    async def _death(self, hop: _Hop) -> HopDied:
        assert hop.process is not None, "it was started"
        assert hop.log is not None, "it was started"
        code = await hop.process.wait()
        hop.log.seek(0)
        said = [line.strip() for line in hop.log if line.strip()]
        last = said[-1].removeprefix("error: ") if said else "it said nothing"
        self._change(hop, "died", exit_code=code, said=last)
        return HopDied(
            f"the {hop.row.role} ended with exit code {code}: {last}", field=hop.row.hop, place=hop.place
        )

    async def _keep(self, hop: _Hop) -> None:
        """Wait for a hop's death, and start it again if that is wanted."""
        while True:
            assert hop.process is not None, "it was started"
            await hop.process.wait()
            death = await self._death(hop)
            if not self._options.restart:
                raise death
            await self._start_again(hop)

    async def _start_again(self, hop: _Hop) -> None:
        while True:
            await asyncio.sleep(min(_FIRST_PAUSE_S * 2**hop.failures, _LONGEST_PAUSE_S))
            hop.failures += 1
            with contextlib.suppress(HopDied):
                return await self._start(hop)

    async def _poll(self, hop: _Hop) -> None:
        """Ask a hop how it is, every now and then."""
        hop.link = GrpcHop(hop.listen, connect_timeout_s=_DESCRIBE_TIMEOUT_S)
        while True:
            await asyncio.sleep(self._options.poll_s)
            if hop.row.state not in ("ready", "silent"):
                continue
            try:
                description = await hop.link.describe()
            except PacelineError:
                description = None
            row = row_of(hop.row, description, self._options.poll_s)
            if row != hop.row and hop.row.state in ("ready", "silent"):
                hop.row = row
                self._tell({"event": "status", **asdict(row)})


def edge_command(file: Path, verifiers: Sequence[str], prompt: str, further: Sequence[str] = ()) -> list[str]:
    """The command line, without `paceline`, that writes a text through a chain that runs."""
    places = [word for one in verifiers for word in ("--verifier", one)]
    return ["edge", "generate", "--topology", str(file), *places, "--prompt", prompt, *further]
