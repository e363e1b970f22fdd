"""An application that speaks the OpenAI API, pointed at this device.

    python examples/05_openai_client.py

`paceline edge serve` is the endpoint; the application is the official client (pip install openai), unmodified. The
endpoint and its verifier run here only so that the example needs nothing else.
"""

from openai import OpenAI

from paceline.cli.verifier_process import endpoint_process, verifier_process
from paceline.common.shipped import models_dir


def ask(base_url: str) -> None:
    """Stream a reply, then say what drafting did for it."""
    client = OpenAI(base_url=base_url, api_key="none")
    model = client.models.list().data[0].id
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "def read_lines(path):"}],
        temperature=0,
        max_tokens=48,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        if chunk.choices:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
    timings = chunk.model_extra["timings"]
    print(f"\n\n{chunk.usage.completion_tokens} tokens; of {timings['draft_n']} drafted, ", end="")
    print(f"{timings['draft_n_accepted']} stand")


draft_model = ["--draft-model", str(models_dir() / "pico")]
with (
    verifier_process(models_dir() / "base") as verifier,
    endpoint_process(verifier.address, draft_model) as endpoint,
):
    ask(endpoint.address)
