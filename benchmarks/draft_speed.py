"""Milliseconds and megabytes of the ONNX drafter, as JSON: `python benchmarks/draft_speed.py MODEL`.

MODEL is a Hugging Face folder; without one a random model of the shipped drafter's shape is made (`--vocab-size` for
other vocabularies). Every precision is exported, then measured in a process of its own:

- `model`: ONNX Runtime alone, the buffers already bound: what no Python can improve on;
- `forward`: the same through `OnnxRunner`, so with binding and copying the token;
- `greedy`, `coupled`: a whole `propose(1)`, choice of the token included (temperature 0.8, top-p 0.95);
- `prefill`: the prompt at once, per prompt.

Figures are the best and the median of many calls, so that other load on the machine shows.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from paceline.common.sampling.choose import Chooser
from paceline.common.tokens import Rule, SamplingParams
from paceline.edge.drafters.onnx import OnnxDrafter, OnnxRunner
from paceline.edge.export import DESCRIPTION, PRECISIONS, ExportJob, export_all

CONTEXTS = (128, 512, 1536)


def timed(work: Callable[[], object], repeats: int) -> dict[str, float]:
    """Best and median duration of `work`, milliseconds."""
    durations = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        durations.append((time.perf_counter() - start) * 1e3)
    return {"best_ms": round(min(durations), 4), "median_ms": round(statistics.median(durations), 4)}


def resident_mb() -> float:
    """Memory this process holds now, MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return round(int(line.split()[1]) / 1024, 1)
    return float("nan")


def measure_context(drafter: OnnxDrafter, context: int, repeats: int) -> dict[str, object]:
    """One context length."""
    vocab_size = drafter.model.shape.vocab_size
    text = np.random.default_rng(0).integers(0, vocab_size, context + 1).tolist()
    runner = OnnxRunner(drafter.model, context + 64)
    prefill = timed(lambda: runner.forward(0, text[:context]), max(3, repeats // 40))
    forward = timed(lambda: runner.forward(context, text[context:]), repeats)
    model = timed(lambda: runner._session.run_with_iobinding(runner._binding), repeats)
    runner.close()
    found: dict[str, object] = {"model": model, "forward": forward, "prefill": prefill}
    for name, rule, params in (
        ("greedy", Rule.GREEDY, SamplingParams()),
        ("coupled", Rule.COUPLED, SamplingParams(temperature=0.8, top_p=0.95)),
    ):
        session = drafter.start(text, Chooser(rule, params, 1, vocab_size))
        session.propose(1)
        # Every call lengthens the text; 64 calls keep it near the context that is reported.
        durations = timed(lambda session=session: session.propose(1), 64)  # type: ignore[misc]
        share = 1 - model["best_ms"] / durations["best_ms"]
        found[name] = {**durations, "share_beside_model": round(share, 2)}
        session.close()
    return found


def measure(folder: Path, threads: int, repeats: int) -> dict[str, object]:
    """One precision, in this process."""
    before = resident_mb()
    start = time.perf_counter()
    drafter = OnnxDrafter(folder, num_threads=threads)
    load_s = time.perf_counter() - start
    description = json.loads((folder / DESCRIPTION).read_text())
    longest = min(drafter.model.shape.context_length - 1, max(CONTEXTS))
    contexts = [c for c in CONTEXTS if c <= longest]
    return {
        "precision": description["precision"],
        "law_overlap": round(description["law_overlap"], 4),
        "argmax_agreement": round(description["argmax_agreement"], 4),
        "file_mb": round(sum(f.stat().st_size for f in folder.glob("model.onnx*")) / 1e6, 2),
        "load_s": round(load_s, 3),
        "by_context": {str(c): measure_context(drafter, c, repeats) for c in contexts},
        "resident_before_mb": before,
        "resident_after_mb": resident_mb(),
    }


def random_model(folder: Path, vocab_size: int) -> Path:
    """A random Llama of the shipped drafter's shape."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.1,
        bos_token_id=0,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a"))
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=tokenizer).save_pretrained(folder)
    return folder


def main() -> None:
    """Export, measure each precision in a fresh process, print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--vocab-size", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--exported", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.exported is not None:
        print(json.dumps(measure(options.exported, options.threads, options.repeats)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        model = options.model or random_model(Path(scratch) / "model", options.vocab_size)
        jobs = [ExportJob(model, Path(scratch) / precision, precision) for precision in PRECISIONS]
        export_all(jobs)
        rows = []
        for job in jobs:
            command = [sys.executable, __file__, "--exported", str(job.out_dir)]
            command += ["--threads", str(options.threads), "--repeats", str(options.repeats)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout))
    machine = {"cpu": platform.processor() or platform.machine(), "cores": len(os.sched_getaffinity(0))}
    name = str(options.model) if options.model else f"random, vocabulary {options.vocab_size}"
    print(json.dumps({"model": name, "threads": options.threads, "machine": machine, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
