"""How long one engine step takes, against transformers' own ways of running the same model.

    python benchmarks/engine_step.py --out engine_step.json          the whole table
    python benchmarks/engine_step.py --quick                         one and nine rows, few sessions

Subjects, all on the same random Llama of about the shipped target's shape:

- `engine`: `PagedEngine`, one step with argmax; `outside_model` is the part of it spent outside `model(...)`;
- `plain`: `model(..., past_key_values=DynamicCache)` on equal lengths, then `crop`: the best case of padding;
- `hf_paged`: transformers' `PagedAttentionCache` with its dense block-diagonal mask, the other ragged way;
- `generate`: one token of `model.generate(do_sample=False)`, one session.

Every figure is in milliseconds. `cpu` is this thread's own time and hardly depends on what else the machine does;
`wall` does. Minimum and median over `--repeats` steps, subjects interleaved.
"""

import argparse
import copy
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching import PagedAttentionCache
from transformers.generation.continuous_batching.distributed import DistributedHelper
from transformers.generation.continuous_batching.utils import build_attention_mask

from paceline.cloud.engine.base import EngineConfig, Row
from paceline.cloud.engine.paged import PagedEngine

ROWS = (1, 2, 4, 6, 9, 13, 17)
SESSIONS = (1, 4, 8, 16)
CONTEXTS = (128, 512, 1536)
VOCAB = 2048


class TimedModel:
    """Adds up the CPU time spent inside the model's forward."""

    def __init__(self, model: Any) -> None:
        self.model, self.spent_s = model, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, **kwargs: Any) -> Any:
        begin = time.thread_time()
        output = self.model(**kwargs)
        self.spent_s += time.thread_time() - begin
        return output


def make_model(args: argparse.Namespace) -> Any:
    """A random Llama in float32, bfloat16 or float16."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=args.hidden,
        intermediate_size=int(args.hidden * 2.6875),
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.kv_heads,
        max_position_embeddings=2048,
    )
    return LlamaForCausalLM(config).to(getattr(torch, args.dtype)).eval().requires_grad_(False)


def text(session: int, length: int) -> list[int]:
    """Some token ids."""
    return [(7 * i + 13 * session) % VOCAB for i in range(length)]


def engine_step(engine: PagedEngine, sessions: int, rows: int, context: int) -> Callable[[], None]:
    """One step of the engine, repeatable because the next one rolls it back."""
    for key in range(sessions):
        engine.release(key)
        engine.step([Row(key, 0, text(key, context), 0)])
    step = [Row(key, context, text(key, rows), rows) for key in range(sessions)]

    def run() -> None:
        for result in engine.step(step):
            result.argmax()

    return run


def plain_step(model: LlamaForCausalLM, sessions: int, rows: int, context: int) -> Callable[[], None]:
    """One padded forward over a DynamicCache, cropped afterwards."""
    cache = DynamicCache(config=model.config)
    new = torch.tensor([text(key, rows) for key in range(sessions)])

    @torch.inference_mode()
    def run() -> None:
        model(input_ids=new, past_key_values=cache, use_cache=True).logits.argmax(-1)
        cache.crop(-rows)

    with torch.inference_mode():
        model(input_ids=torch.tensor([text(key, context) for key in range(sessions)]), past_key_values=cache)
    return run


def hf_paged_step(model: LlamaForCausalLM, sessions: int, rows: int, context: int) -> Callable[[], None]:
    """One ragged forward over transformers' PagedAttentionCache and its dense mask."""
    cache = PagedAttentionCache(
        model.config,
        ContinuousBatchingConfig(
            page_size=256,
            num_blocks=sessions * 8,
            max_batch_tokens=2048,
            max_requests_per_batch=64,
            max_blocks_per_request=0,
            allow_block_sharing=False,
            use_cuda_graph=False,
            use_async_batching=False,
            max_memory_percent=0.9,
        ),
        torch.device("cpu"),
        DistributedHelper(None, None),
        model.dtype,
        model_supports_logits_to_keep=True,
    )

    @torch.inference_mode()
    def forward(slices: list[tuple[int, int, list[int]]]) -> None:
        read: list[list[int]] = [[]]
        write: list[list[int]] = [[]]
        ends_q, ends_k = [0], [0]
        for key, past, token_ids in slices:
            for allocator in cache.cache_allocators.values():
                for _ in range(allocator.needs_new_sectors(str(key), past, len(token_ids))):
                    cache.pool.allocate_sector(allocator.index)
                allocator.allocate_cache_to_request(str(key), past, len(token_ids))
            cache.extend_read_and_write_indices(str(key), past, len(token_ids), read, write)
            ends_q.append(ends_q[-1] + len(token_ids))
            ends_k.append(ends_k[-1] + past + len(token_ids))
        lowest = torch.finfo(model.dtype).min
        mask = torch.full((1, 1, ends_q[-1], ends_k[-1]), lowest, dtype=model.dtype)
        build_attention_mask(mask, ends_q, ends_k)
        model(
            input_ids=torch.tensor([[t for _, _, ids in slices for t in ids]]),
            position_ids=torch.tensor([[p + i for _, p, ids in slices for i in range(len(ids))]]),
            attention_mask=mask,
            cu_seq_lens_q=torch.tensor(ends_q, dtype=torch.int32),
            cu_seq_lens_k={"full_attention": torch.tensor(ends_k, dtype=torch.int32)},
            max_length_q=max(len(ids) for _, _, ids in slices),
            max_length_k={"full_attention": max(p + len(ids) for _, p, ids in slices)},
            read_index=[torch.tensor(read[0])],
            write_index=[torch.tensor(write[0])],
            cache=cache,
            block_table=None,
            use_cache=False,
            is_causal=False,
        ).logits.argmax(-1)

    for key in range(sessions):
        forward([(key, 0, text(key, context))])
    return lambda: forward([(key, context, text(key, rows)) for key in range(sessions)])


def generate_token(model: Any, context: int) -> dict[str, float]:
    """CPU milliseconds per token of `generate`, prefill taken off by difference."""
    prompt = torch.tensor([text(0, context)])

    def run(count: int) -> float:
        begin = time.thread_time()
        model.generate(prompt, do_sample=False, min_new_tokens=count, max_new_tokens=count, pad_token_id=0)
        return time.thread_time() - begin

    run(2)
    per_token = [(run(33) - run(1)) / 32 * 1e3 for _ in range(5)]
    return {"cpu_min": min(per_token), "cpu_median": statistics.median(per_token)}


def measure(subjects: dict[str, Callable[[], None]], repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of every subject, interleaved."""
    cpu: dict[str, list[float]] = {name: [] for name in subjects}
    wall: dict[str, list[float]] = {name: [] for name in subjects}
    for run in subjects.values():
        run()
        run()
    for _ in range(repeats):
        for name, run in subjects.items():
            begin_cpu, begin = time.thread_time(), time.perf_counter()
            run()
            wall[name].append((time.perf_counter() - begin) * 1e3)
            cpu[name].append((time.thread_time() - begin_cpu) * 1e3)
    return {
        name: {
            "cpu_min": min(cpu[name]),
            "cpu_median": statistics.median(cpu[name]),
            "wall_min": min(wall[name]),
            "wall_median": statistics.median(wall[name]),
        }
        for name in subjects
    }


def case(
    models: dict[str, Any], engine: PagedEngine, shape: tuple[int, int, int], repeats: int
) -> dict[str, Any]:
    """All subjects at one (sessions, rows, context)."""
    timed: TimedModel = models["timed"]
    subjects = {"engine": engine_step(engine, *shape), "plain": plain_step(models["plain"], *shape)}
    if models["hf_paged"] is not None:
        subjects["hf_paged"] = hf_paged_step(models["hf_paged"], *shape)
    result: dict[str, Any] = dict(zip(("sessions", "rows", "context"), shape, strict=True))
    result |= measure(subjects, repeats)
    timed.spent_s, begin = 0.0, time.thread_time()
    for _ in range(repeats):
        subjects["engine"]()
    outside = time.thread_time() - begin - timed.spent_s
    result["engine"]["outside_model"] = outside / repeats * 1e3
    for key in range(shape[0]):
        engine.release(key)
    return result


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", help="write JSON here as well")
    parser.add_argument("--quick", action="store_true", help="rows 1 and 9, sessions 1, 4 and 8")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--kv-heads", type=int, default=4)
    parser.add_argument("--no-hf-paged", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Print one line per case and write the JSON."""
    args = parse()
    torch.set_num_threads(args.threads)
    model = make_model(args)
    models: dict[str, Any] = {"plain": copy.deepcopy(model), "hf_paged": None}
    if not args.no_hf_paged:
        models["hf_paged"] = copy.deepcopy(model)
    engine = PagedEngine(model, EngineConfig(capacity_tokens=17 * 2048))
    models["timed"] = engine._model = TimedModel(model)
    report: dict[str, Any] = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.processor() or platform.machine(),
        "load": os.getloadavg(),
        "options": vars(args),
        "parameters": sum(p.numel() for p in model.parameters()),
        "cases": [],
    }
    for context in CONTEXTS:
        report[f"generate_{context}"] = generate_token(models["plain"], context)
        print(f"generate, context {context}: {report[f'generate_{context}']}", flush=True)
        for sessions in SESSIONS[:3] if args.quick else SESSIONS:
            for rows in (1, 9) if args.quick else ROWS:
                result = case(models, engine, (sessions, rows, context), args.repeats)
                report["cases"].append(result)
                figures = {
                    n: round(result[n]["cpu_median"], 2)
                    for n in ("engine", "plain", "hf_paged")
                    if n in result
                }
                outside = result["engine"]["outside_model"]
                print(
                    f"context {context} sessions {sessions} rows {rows}: {figures}, outside {outside:.2f}",
                    flush=True,
                )
    if args.out:
        with open(args.out, "w") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
