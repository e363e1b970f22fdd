"""`paceline doctor`: what is installed, what this machine has, and whether a verifier and a draft model fit.

Exit code 0 if nothing failed, else 3.
"""

import asyncio
import json
import os
import platform
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from paceline.cli.callers import TlsCa, TlsCert, TlsKey, TokenFile, calling_of
from paceline.cli.version import software_version
from paceline.common.errors import PacelineError
from paceline.common.hops.grpc import GrpcHop
from paceline.common.hops.security import Calling
from paceline.common.messages import PROTOCOL_VERSION, Description
from paceline.common.shipped import models_dir
from paceline.common.tokenizer import Tokenizer

NUM_DESCRIBES = 20
EXIT_FAILED = 3
MEASURE_TIMEOUT_S = 30.0


class Outcome(StrEnum):
    """How a check went."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


STYLES = {Outcome.OK: "green", Outcome.WARN: "yellow", Outcome.FAIL: "bold red"}


@dataclass(frozen=True, slots=True)
class Check:
    """One row."""

    group: str
    name: str
    outcome: Outcome
    found: str
    cure: str = ""


def doctor(
    verifier: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of a verifier to ask.", envvar="PACELINE_VERIFIER", show_default="none"),
    ] = None,
    draft_model: Annotated[
        Path | None,
        typer.Option(help="Folder of the draft model.", envvar="PACELINE_DRAFT_MODEL", show_default="none"),
    ] = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Check versions, devices and models; with --verifier, the link and whether the draft model fits its target."""
    checks = [*check_versions(), *check_devices(), *check_models()]
    fingerprint: bytes | None = None
    if draft_model is not None:
        row, fingerprint = check_draft_model(draft_model)
        checks.append(row)
    if verifier is not None:
        checks += asyncio.run(
            check_verifier(verifier, fingerprint, calling_of(tls_ca, tls_cert, tls_key, token_file))
        )
    ok = all(check.outcome is not Outcome.FAIL for check in checks)
    if as_json:
        print(json.dumps({"ok": ok, "checks": [asdict(check) for check in checks]}, ensure_ascii=False))
    else:
        _print(checks, ok)
    if not ok:
        raise typer.Exit(EXIT_FAILED)


@dataclass(frozen=True, slots=True)
class _Package:
    name: str
    extra: str = ""
    """The extra it comes with; empty if every install has it."""


_PACKAGES = (
    _Package("grpcio"),
    _Package("protobuf"),
    _Package("numpy"),
    _Package("tokenizers"),
    _Package("onnxruntime", "edge"),
    _Package("torch", "cloud"),
    _Package("transformers", "cloud"),
    _Package("onnxruntime-genai", "export"),
)


def check_versions() -> Iterator[Check]:
    """Python, Paceline and the packages it can use; a missing optional one is no fault."""
    yield Check("versions", "python", Outcome.OK, platform.python_version())
    yield Check("versions", "paceline", Outcome.OK, f"{software_version()}, protocol {PROTOCOL_VERSION}")
    for package in _PACKAGES:
        try:
            yield Check("versions", package.name, Outcome.OK, version(package.name))
        except PackageNotFoundError:
            outcome = Outcome.WARN if package.extra else Outcome.FAIL
            name = f"paceline[{package.extra}]" if package.extra else "paceline"
            yield Check("versions", package.name, outcome, "not installed", f"pip install '{name}'")


def check_devices() -> Iterator[Check]:
    """Processor and accelerator."""
    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    outcome, cure = (Outcome.OK, "") if usable > 1 else (Outcome.WARN, "drafting and I/O will share one core")
    yield Check("devices", "cpu", outcome, f"{_cpu_name()}, {usable} of {cores} cores", cure)
    yield _check_cuda()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    stated = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(stated, "") or platform.processor() or platform.machine()


def _check_cuda() -> Check:
    try:
        import torch
    except ImportError:
        return Check("devices", "cuda", Outcome.OK, "unknown without torch")
    if not torch.cuda.is_available():
        return Check("devices", "cuda", Outcome.OK, "none; a verifier here runs on the CPU")
    devices = (torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count()))
    found = ", ".join(f"{device.name} ({device.total_memory / 2**30:.0f} GiB)" for device in devices)
    return Check("devices", "cuda", Outcome.OK, found)


def check_models() -> Iterator[Check]:
    """The models that come with the repository; a machine may do without."""
    try:
        folder = models_dir()
    except PacelineError as error:
        yield Check("models", "models", Outcome.WARN, error.message, error.cure)
        return
    for model in sorted(path.parent for path in folder.glob("*/tokenizer.json")):
        yield check_draft_model(model, group="models", name=model.name)[0]


def check_draft_model(
    folder: Path, *, group: str = "draft model", name: str = ""
) -> tuple[Check, bytes | None]:
    """Whether a model folder can be read, and its vocabulary's fingerprint."""
    name = name or str(folder)
    try:
        tokenizer = Tokenizer(folder)
    except PacelineError as error:
        return Check(group, name, Outcome.FAIL, error.message, error.cure), None
    forms = [
        form
        for form, file in (("Hugging Face", "config.json"), ("ONNX", "genai_config.json"))
        if _has(folder, file)
    ]
    if not forms:
        cure = "name a model folder, or an export of one"
        return Check(group, name, Outcome.FAIL, "holds a tokenizer but no model", cure), tokenizer.fingerprint
    found = f"{' + '.join(forms)}, vocabulary {tokenizer.fingerprint.hex()[:12]}"
    return Check(group, name, Outcome.OK, found), tokenizer.fingerprint


def _has(folder: Path, file: str) -> bool:
    """Whether the folder or one below it holds the file: exports lie beside the weights."""
    return any(True for _ in folder.glob(file)) or any(True for _ in folder.glob(f"*/{file}"))


async def check_verifier(
    address: str, fingerprint: bytes | None, calling: Calling | None = None
) -> list[Check]:
    """Ask a verifier what it serves, time the answers, compare vocabularies."""
    hop = GrpcHop(address, calling=calling)
    try:
        async with asyncio.timeout(MEASURE_TIMEOUT_S):
            description = await hop.describe()
            times_s = [await _timed(hop) for _ in range(NUM_DESCRIBES)]
    except PacelineError as error:
        return [Check("verifier", address, Outcome.FAIL, error.message, error.cure)]
    except TimeoutError:
        return [
            Check(
                "verifier", address, Outcome.FAIL, f"took more than {MEASURE_TIMEOUT_S:g} s", "check the link"
            )
        ]
    finally:
        await hop.close()
    place = f"{description.device} ({description.dtype})"
    found = f"{description.model_name} on {place}, Paceline {description.software_version}"
    return [
        Check("verifier", address, Outcome.OK, found),
        _check_round_trip(times_s),
        _check_protocol(description),
        _check_room(description),
        _check_vocabulary(description, fingerprint),
    ]


async def _timed(hop: GrpcHop) -> float:
    began_s = time.perf_counter()
    await hop.describe()
    return time.perf_counter() - began_s


def _check_round_trip(times_s: list[float]) -> Check:
    ventiles = statistics.quantiles(times_s, n=20, method="inclusive")
    found = f"p50 {1000 * ventiles[9]:.1f} ms, p95 {1000 * ventiles[18]:.1f} ms over {len(times_s)} calls"
    return Check("verifier", "round trip", Outcome.OK, found)


def _check_protocol(description: Description) -> Check:
    found = f"{description.protocol_version}"
    if description.protocol_version == PROTOCOL_VERSION:
        return Check("verifier", "protocol", Outcome.OK, found)
    return Check(
        "verifier",
        "protocol",
        Outcome.FAIL,
        f"{found}; this side speaks {PROTOCOL_VERSION}",
        "update the older end",
    )


def _check_room(description: Description) -> Check:
    found = f"{description.active_sessions} of {description.max_sessions} in use"
    if description.active_sessions < description.max_sessions:
        return Check("verifier", "sessions", Outcome.OK, found)
    return Check("verifier", "sessions", Outcome.WARN, found, "new sessions are refused until one ends")


def _check_vocabulary(description: Description, fingerprint: bytes | None) -> Check:
    theirs = description.tokenizer_fingerprint
    if fingerprint is None:
        return Check("verifier", "vocabulary", Outcome.WARN, "not compared", "give a readable --draft-model")
    if not theirs:
        return Check(
            "verifier",
            "vocabulary",
            Outcome.WARN,
            "the verifier does not say",
            "update it, or give its model a tokenizer",
        )
    if theirs != fingerprint:
        found = f"the draft model's {fingerprint.hex()[:12]} is not the target's {theirs.hex()[:12]}"
        return Check(
            "verifier",
            "vocabulary",
            Outcome.FAIL,
            found,
            "use a draft model that shares the target's tokenizer",
        )
    return Check("verifier", "vocabulary", Outcome.OK, f"{theirs.hex()[:12]} at both ends")


def _print(checks: list[Check], ok: bool) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("", "check", "found"):
        table.add_column(column, overflow="fold")
    group = ""
    for check in checks:
        if check.group != group:
            group = check.group
            table.add_row("", f"[bold]{escape(group)}[/]", "")
        cure = f" [dim]({escape(check.cure)})[/]" if check.cure else ""
        style = STYLES[check.outcome]
        table.add_row(f"[{style}]{check.outcome}[/]", escape(check.name), f"{escape(check.found)}{cure}")
    console = Console(highlight=False)
    console.print(table)
    num_failed = sum(check.outcome is Outcome.FAIL for check in checks)
    console.print("[green]nothing failed[/]" if ok else f"[bold red]{num_failed} failed[/]")
