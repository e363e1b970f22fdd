"""Turn a Hugging Face folder into an ONNX drafter with onnxruntime-genai's model builder.

The builder wants torch and transformers, prints a great deal and changes `sys.path`, so it runs in a process
of its own (`python -m paceline.edge.export`, not meant to be called by hand); this process imports none of
it.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from paceline.common.errors import InvalidRequest, MissingDependency
from paceline.common.model_files import check_model_files, check_safetensors, digest_of

Precision = Literal["int4", "int8", "fp32"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
RECIPE = 1
"""Raised whenever the same folder would be exported differently, so that cached exports are made anew."""
DESCRIPTION = "paceline.json"
"""File in every export that says what it was made from and how it compares."""

_TOOLS = ("torch", "transformers", "onnx", "onnx_ir", "onnxruntime", "onnxruntime_genai")
_SOURCE_FILES = ("config.json", "tokenizer.json", "*.safetensors")
_NUM_COMPARED_TOKENS = 64
_MAX_FP32_DIFFERENCE = 1e-3
_TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True)
class ExportJob:
    """One folder to make."""

    model_dir: Path
    out_dir: Path
    precision: Precision
    all_rows: bool = False
    """Logits after every token, not only the last one: what another drafter's guesses are checked with."""


def export(
    model_dir: str | Path, out_dir: str | Path, precision: Precision = "int8", *, all_rows: bool = False
) -> Path:
    """Write `model_dir` as an ONNX drafter to `out_dir`.

    Args:
        model_dir: a Hugging Face folder: config.json, weights, tokenizer.json.
        out_dir: made if missing; must be empty.
        precision: of the weights; activations and logits are float32.
        all_rows: give logits after every token, so that another drafter may guess for this one.
    Returns:
        `out_dir`.
    Raises:
        InvalidRequest: the folder is incomplete, of an architecture that cannot be exported, or `out_dir` is
            in use.
        MissingDependency: the export tools are not installed.
    """
    job = ExportJob(Path(model_dir), Path(out_dir), precision, all_rows)
    export_all([job])
    return job.out_dir


def export_all(jobs: Sequence[ExportJob]) -> None:
    """Do several exports in one process, for starting it takes most of the time; errors as `export`."""
    for job in jobs:
        _check(job)
    missing = [name for name in _TOOLS if find_spec(name) is None]
    if missing:
        raise MissingDependency(
            f"exporting a draft model needs {', '.join(missing)}", cure="pip install 'paceline[export]'"
        )
    for job in jobs:
        check_model_files(job.model_dir)
        check_safetensors(job.model_dir)
    with ExitStack() as stack:
        scratch: list[ExportJob] = []
        for job in jobs:
            job.out_dir.parent.mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(dir=job.out_dir.parent, prefix=".export-")
            )
            scratch.append(replace(job, out_dir=Path(folder) / "model"))
        _run_builder(scratch)
        for job, made in zip(jobs, scratch, strict=True):
            if job.out_dir.exists():
                job.out_dir.rmdir()
            made.out_dir.rename(job.out_dir)


def source_digest(model_dir: Path) -> str:
    """Digest of everything in a Hugging Face folder that an export depends on; hexadecimal."""
    return digest_of((path.name, path) for pattern in _SOURCE_FILES for path in model_dir.glob(pattern))


def _check(job: ExportJob) -> None:
    if job.precision not in PRECISIONS:
        raise InvalidRequest(
            f"there is no precision {job.precision!r}",
            field="precision",
            cure=f"one of {', '.join(PRECISIONS)}",
        )
    for name in ("config.json", "tokenizer.json"):
        if not (job.model_dir / name).is_file():
            raise InvalidRequest(
                f"{job.model_dir} holds no {name}", field="model", cure="name a complete Hugging Face folder"
            )
    if job.out_dir.exists() and (not job.out_dir.is_dir() or any(job.out_dir.iterdir())):
        raise InvalidRequest(f"{job.out_dir} is in use", field="out", cure="name a new folder")


def _run_builder(jobs: Sequence[ExportJob]) -> None:
    """Build every job in a child process that may not touch the network."""
    request = json.dumps(
        [[str(job.model_dir), str(job.out_dir), job.precision, job.all_rows] for job in jobs]
    )
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    search_path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-m", "paceline.edge.export", request],
        env={**os.environ, **offline, "PYTHONPATH": search_path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        error = InvalidRequest(
            f"{jobs[0].model_dir} cannot be exported: {lines[-1] if lines else f'exit {done.returncode}'}",
            field="model",
            cure="draft with {kind: torch}, or choose a model the onnxruntime-genai builder supports",
        )
        error.add_note("\n".join(lines[-30:]))
        raise error


def _build(job: ExportJob) -> None:
    """Export one folder; runs in the child process."""
    builder: Any = import_module("onnxruntime_genai.models.builder")
    # A drafter on its own reads only the last row of logits; a cache as long as the text makes rollback a smaller
    # length.
    pruned = [] if job.all_rows else ["prune_lm_head=true"]
    wanted = [*pruned, "windowed_kv_cache=false", "hf_token=false", "hf_remote=false"]
    with tempfile.TemporaryDirectory() as cache:
        where = (None, str(job.model_dir), str(job.out_dir), job.precision, "cpu", cache)
        builder.create_model(*where, **builder.parse_extra_options(*where, wanted))
    shutil.copyfile(job.model_dir / "tokenizer.json", job.out_dir / "tokenizer.json")
    packages = ("paceline", "onnxruntime-genai", "onnxruntime", "transformers", "torch")
    description = {
        "recipe": RECIPE,
        "precision": job.precision,
        "all_rows": job.all_rows,
        "source_digest": source_digest(job.model_dir),
        **_compare(job),
        "versions": {name: _version(name) for name in packages},
    }
    (job.out_dir / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def _compare(job: ExportJob) -> dict[str, float]:
    """How near the export comes to the model it was made from, on a text sampled from that model."""
    import numpy as np

    drafter: Any = import_module("paceline.edge.drafters.onnx")
    text, expected = _sampled_text(job.model_dir)
    runner = drafter.OnnxRunner(drafter.OnnxModel(job.out_dir), len(text))
    actual = np.stack([runner.forward(i, [token_id]).copy() for i, token_id in enumerate(text)])
    difference = float(np.abs(actual - expected).max())
    overlap = float(np.minimum(_softmax(actual), _softmax(expected)).sum(axis=1).mean())
    if not difference <= (_MAX_FP32_DIFFERENCE if job.precision == "fp32" else np.inf) or not overlap >= 0.5:
        raise SystemExit(
            f"the {job.precision} export does not reproduce the model "
            f"(largest logit difference {difference:.3g}, law overlap {overlap:.3f}); try another precision"
        )
    agreement = float((actual.argmax(axis=1) == expected.argmax(axis=1)).mean())
    return {"argmax_agreement": agreement, "law_overlap": overlap, "max_logit_difference": difference}


@lru_cache(maxsize=1)
def _sampled_text(model_dir: Path) -> tuple[list[int], Any]:
    """A short text sampled from the model, and its float32 logits after every prefix of it."""
    torch: Any = import_module("torch")
    transformers: Any = import_module("transformers")
    torch.manual_seed(0)
    torch.set_num_threads(1)  # one row at a time gains little from more, and loses much on a busy machine
    model = transformers.AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    ).eval()
    start = torch.tensor([[model.config.bos_token_id or 0]])
    length = _NUM_COMPARED_TOKENS
    with torch.inference_mode():
        text = model.generate(start, do_sample=True, top_k=0, max_new_tokens=length, min_new_tokens=length)
        return text[0].tolist(), model(text).logits[0].numpy()


def _softmax(logits: Any) -> Any:
    import numpy as np

    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    for model_dir, out_dir, precision, all_rows in json.loads(sys.argv[1]):
        _build(ExportJob(Path(model_dir), Path(out_dir), precision, all_rows))
