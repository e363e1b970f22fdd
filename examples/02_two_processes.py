"""The real job from Python: a verifier process with the shipped target, the shipped draft model here.

    python examples/02_two_processes.py

In earnest the verifier runs elsewhere (`paceline cloud serve`), and only the lower half is yours.
"""

import asyncio

from paceline.cli.verifier_process import verifier_process
from paceline.common.hops.grpc import GrpcHop
from paceline.common.shipped import models_dir
from paceline.edge.assemble import assemble
from paceline.edge.client import Client
from paceline.edge.request import GenerationRequest

PROMPT = "def read_lines(path):"


async def write(address: str) -> None:
    """Stream a text as it is verified."""
    model = assemble(models_dir() / "pico")
    hop, fingerprint = GrpcHop(address), model.tokenizer.fingerprint
    async with Client(hop, model.drafter, tokenizer_fingerprint=fingerprint) as client:
        generation = client.generate(GenerationRequest(model.tokenizer.encode(PROMPT), max_new_tokens=48))
        text = model.tokenizer.stream()
        print(PROMPT, end="")
        async for event in generation:
            print("".join(text.push(token_id) for token_id in event.token_ids), end="", flush=True)
    report = generation.report
    print(f"\n\n{len(report.token_ids)} tokens in {len(report.rounds)} passes of the target, ", end="")
    print(f"{report.traffic.bytes_up} bytes up, {report.traffic.bytes_down} down")


with verifier_process(models_dir() / "base") as verifier:
    asyncio.run(write(verifier.address))
