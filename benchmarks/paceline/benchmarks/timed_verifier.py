"""A verifier with a stop-watch around its model: `python -m paceline.benchmarks.timed_verifier MODEL`.

Says its address, then answers every line of input with the engine steps since the last one.
"""

import asyncio
import sys
from dataclasses import astuple

from paceline.benchmarks.line_process import say
from paceline.benchmarks.timed import TimedEngine, time_forward
from paceline.cloud.config import ServerConfig
from paceline.cloud.engine.base import EngineConfig
from paceline.cloud.server import Server
from paceline.cloud.verifier import TargetInfo, Verifier

_CACHE_TOKENS = 16_384


def build(model: str) -> tuple[Verifier, TimedEngine]:
    """A verifier for the model in a folder."""
    import torch

    from paceline.cloud.engine.paged import PagedEngine
    from paceline.cloud.loading import load_target

    torch.set_num_threads(1)
    target = load_target(model, device="cpu")
    engine = TimedEngine(PagedEngine(target.model, EngineConfig(capacity_tokens=_CACHE_TOKENS)))
    time_forward(target.model, engine.forward)
    info = TargetInfo(name=target.name, software_version="benchmark", eos_token_ids=target.eos_token_ids)
    return Verifier(engine, info), engine


async def _serve(model: str) -> None:
    verifier, engine = build(model)
    server = Server(verifier, ServerConfig(listen="127.0.0.1:0", drain_s=0.0))
    await server.start()
    say({"address": server.address})
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        say([astuple(step) for step in engine.take()])
    await server.stop()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
