"""A verifier of a real model, to be killed: whenever it dies another is forked at the same address.

Whoever forks them has the weights in memory: a death costs a tenth of a second instead of torch's three.
"""

import asyncio
import os
import signal
import socket
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from paceline.simulation.processes import Child


class ModelProcess(Child):
    """See above; it listens when this returns.

    Args:
        folder: the model.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(_fork_for_ever, str(folder))
        self.address: str
        self.await_life()

    def await_life(self) -> None:
        """Until one listens."""
        self.address, self.pid = self.hear()

    def kill(self) -> None:
        """The one that serves, at once."""
        self.send_signal(signal.SIGKILL)


# --- in the process ---------------------------------------------------------------------------------------------------


def _fork_for_ever(folder: str, parent: Connection) -> None:
    from paceline.cloud.loading import load_target

    target = load_target(folder, device="cpu")
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    while True:
        pid = os.fork()
        if not pid:
            asyncio.run(_serve(target, listen, parent))
        os.waitpid(pid, 0)


async def _serve(target: Any, listen: str, parent: Connection) -> None:
    from paceline.cloud.config import ServerConfig
    from paceline.cloud.engine.base import EngineConfig
    from paceline.cloud.engine.paged import PagedEngine
    from paceline.cloud.server import Server, serve_until_signal
    from paceline.cloud.verifier import TargetInfo, Verifier

    # Whoever started all this says nothing: there is something to read once he is gone.
    asyncio.get_running_loop().add_reader(parent.fileno(), os._exit, 0)
    engine = PagedEngine(target.model, EngineConfig(capacity_tokens=4096))
    server = Server(Verifier(engine, TargetInfo(target.name, "test")), ServerConfig(listen))
    await serve_until_signal(server, lambda address: parent.send((address, os.getpid())))
