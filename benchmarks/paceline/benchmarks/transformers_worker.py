"""What you would use instead, in a process of its own: `generate` of transformers, with and without an assistant.

`python -m paceline.benchmarks.transformers_worker TARGET DRAFT` loads both models, then answers one `Job` per line.
End-of-text is ignored, so that every contestant writes the same number of tokens.
"""

import sys
import time
from dataclasses import dataclass
from typing import Any

from paceline.benchmarks.line_process import say


@dataclass(frozen=True, slots=True)
class Job:
    """One text."""

    prompt_token_ids: tuple[int, ...]
    max_new_tokens: int
    temperature: float
    seed: int
    is_assisted: bool
    num_assistant_tokens: int | None = None
    """None leaves transformers' defaults: up to 20 tokens, ended early by low confidence."""


class Worker:
    """Both models, and a count of the target's forward passes."""

    def __init__(self, target: str, draft: str) -> None:
        import torch
        import transformers

        torch.set_num_threads(1)
        notices: Any = transformers.utils.logging
        notices.set_verbosity_error()
        notices.disable_progress_bar()
        self._torch = torch
        self._target = _load(transformers, target)
        self._draft = _load(transformers, draft)
        self._defaults = self._draft.generation_config
        self._passes = 0
        self._target.register_forward_pre_hook(self._count)

    def run(self, job: Job) -> dict[str, Any]:
        """Generate; the clock covers `generate` alone."""
        torch = self._torch
        options: dict[str, Any] = {"do_sample": False}
        if job.temperature:
            options = {"do_sample": True, "temperature": job.temperature, "top_k": 0, "top_p": 1.0}
        if job.is_assisted:
            self._draft.generation_config = self._assistant_config(job.num_assistant_tokens)
            options["assistant_model"] = self._draft
        input_ids = torch.tensor([job.prompt_token_ids])
        torch.manual_seed(job.seed)
        self._passes = 0
        began_s = time.perf_counter()
        output = self._target.generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            max_new_tokens=job.max_new_tokens,
            pad_token_id=0,
            **options,
        )
        seconds = time.perf_counter() - began_s
        token_ids = output[0, len(job.prompt_token_ids) :].tolist()
        return {"token_ids": token_ids, "seconds": seconds, "target_passes": self._passes}

    def _assistant_config(self, num_assistant_tokens: int | None) -> Any:
        """A fresh configuration: transformers carries what one call learnt into the next."""
        config = type(self._defaults).from_dict(self._defaults.to_dict())
        if num_assistant_tokens is not None:
            config.num_assistant_tokens = num_assistant_tokens
            config.num_assistant_tokens_schedule = "constant"
            config.assistant_confidence_threshold = 0.0
        return config

    def _count(self, *_: Any) -> None:
        self._passes += 1


def _load(transformers: Any, folder: str) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype="float32", local_files_only=True, use_safetensors=True, trust_remote_code=False
    ).eval()
    model.generation_config.eos_token_id = None
    return model


def main() -> None:
    """Answer until the input ends."""
    import json

    worker = Worker(*sys.argv[1:3])
    say({"ready": True})
    for line in sys.stdin:
        say(worker.run(Job(**json.loads(line))))


if __name__ == "__main__":
    main()
