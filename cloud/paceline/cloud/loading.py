"""Load a target model the ordinary Hugging Face way, and say plainly why one cannot be used."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from paceline.common.errors import Incompatible, InvalidRequest, MissingDependency, Unreachable
from paceline.common.model_files import check_model_files, check_safetensors

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
_DOWNLOADED = ("*.json", "*.jinja", "*.txt", "*.model", "model.safetensors", "model-*.safetensors")
"""Files taken from the hub; none from subfolders."""


@dataclass(frozen=True, slots=True)
class LoadedTarget:
    """A target model with everything the verifier must know about it."""

    model: "PreTrainedModel"
    vocab: Mapping[str, int]
    """Token string → id of its tokenizer; empty if the model has none. Fingerprints are made from it."""
    eos_token_ids: tuple[int, ...]
    """Tokens that end a text, from the generation configuration, the configuration, or the tokenizer."""
    max_context: int
    """Longest text, tokens."""
    vocab_size: int
    """Width of a row of logits; may exceed the number of tokens in the tokenizer."""
    name: str
    """The directory's last part, or the hub id."""
    dtype: str
    device: str
    weights_bytes: int
    tokenizer: Any = None
    """The `transformers` tokenizer, or None."""


def load_target(
    name_or_path: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    digest: str | None = None,
) -> LoadedTarget:
    """Load a decoder-only language model from a directory or from the Hugging Face hub.

    Only safetensors are read, no code from the model's repository is run, and its files are checked before transformers
    opens any.

    Args:
        name_or_path: A directory with config.json and *.safetensors, or a hub id such as `Qwen/Qwen2.5-0.5B`.
        device: `cpu`, `cuda`, `cuda:1`, or `auto` (CUDA where there is one).
        dtype: `float32`, `bfloat16`, `float16`, or `auto`: the checkpoint's own, but never float16 on a CPU.
        revision: A branch, tag or commit on the hub.
        digest: What `paceline models digest` printed for the directory; None takes it as it is.
    Raises:
        InvalidRequest: the directory, device or dtype does not exist, or a file in the directory may not be used.
        Incompatible: the architecture cannot be a target, with the reason.
        Unreachable: the hub does not answer.
        MissingDependency: torch or transformers is not installed.
    """
    torch, transformers = _import_libraries()
    from paceline.cloud.engine.compatibility import check_config, check_model, context_limit, vocabulary_size

    place = _device(device, torch)
    with _quiet(transformers), _hub_errors(name_or_path):
        folder = _folder(name_or_path, revision, digest)
        check_model_files(folder, digest)
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        check_config(config)
        check_safetensors(folder)
        model = _read_weights(folder, transformers, config, _dtype(dtype, config, place, torch))
        tokenizer = _tokenizer(folder, transformers)
    check_model(model)
    model.to(place).train(False).requires_grad_(False)
    return LoadedTarget(
        model=model,
        vocab=tokenizer.get_vocab() if tokenizer is not None else {},
        eos_token_ids=_eos_token_ids(model, tokenizer),
        max_context=_max_context(context_limit(config), tokenizer),
        vocab_size=vocabulary_size(model),
        name=_short_name(name_or_path),
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        weights_bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
        tokenizer=tokenizer,
    )


def _import_libraries() -> tuple[Any, Any]:
    """torch and transformers, which `paceline[cloud]` brings."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingDependency(
            f"a target model needs {error.name}", cure="pip install 'paceline[cloud]'"
        ) from error
    return torch, transformers


def _read_weights(folder: Path, transformers: Any, config: "PreTrainedConfig", dtype: "torch.dtype") -> Any:
    """The model with its weights, all of them from safetensors."""
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    missing = sorted(str(key) for name in ("missing_keys", "mismatched_keys") for key in report.get(name, ()))
    if missing:  # transformers would fill them in at random
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InvalidRequest(
            f"the weights of {folder} lack {', '.join(missing[:3])}{more}",
            field="model",
            cure="download the model again, whole",
        )
    return model


def _short_name(name_or_path: str) -> str:
    path = Path(name_or_path)
    return path.resolve().name if path.is_dir() else name_or_path


def _looks_local(name_or_path: str) -> bool:
    """A hub id is `name` or `owner/name`; whatever begins like a path, ends in a separator or has several is a path."""
    begins_or_ends = name_or_path.startswith((".", "/", "~")) or name_or_path.endswith("/")
    return begins_or_ends or name_or_path.count("/") > 1 or "\\" in name_or_path


def _folder(name_or_path: str, revision: str | None, digest: str | None) -> Path:
    """Where the model's files are: the directory, or that of the hub's cache after downloading."""
    path = Path(name_or_path)
    _check_directory(path, name_or_path)
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    if digest is not None:
        raise InvalidRequest(
            f"{name_or_path} is not a directory, and only directories have a digest",
            field="digest",
            cure=f"hf download {name_or_path} --local-dir FOLDER; or name the commit as revision",
        )
    try:
        return Path(
            snapshot_download(
                name_or_path, revision=revision, allow_patterns=list(_DOWNLOADED), ignore_patterns=["*/*"]
            )
        )
    except HFValidationError as error:
        raise InvalidRequest(
            f"{name_or_path!r:.80} is neither a directory nor a hub id",
            field="model",
            cure="check the spelling",
        ) from error


def _check_directory(path: Path, name_or_path: str) -> None:
    if not path.exists():
        if _looks_local(name_or_path) or (path.parent != Path() and path.parent.is_dir()):
            raise InvalidRequest(
                f"no such model directory: {name_or_path}",
                field="model",
                cure="give a directory with config.json and *.safetensors, or a hub id such as owner/name",
            )
        return
    if not path.is_dir():
        raise InvalidRequest(f"{name_or_path} is a file", field="model", cure="give the directory it is in")
    if not (path / "config.json").is_file():
        raise InvalidRequest(
            f"{name_or_path} has no config.json",
            field="model",
            cure="give a directory written by save_pretrained, or downloaded whole from the hub",
        )


def _device(device: str, torch_module: Any) -> "torch.device":
    if device == "auto":
        return torch_module.device("cuda" if torch_module.cuda.is_available() else "cpu")  # type: ignore[no-any-return]
    try:
        place = torch_module.device(device)
    except RuntimeError as error:
        raise InvalidRequest(
            f"unknown device {device!r}", field="device", cure="auto, cpu or cuda"
        ) from error
    if place.type not in ("cpu", "cuda"):
        raise InvalidRequest(f"device {device!r} was never tried", field="device", cure="auto, cpu or cuda")
    if place.type == "cuda" and not torch_module.cuda.is_available():
        raise InvalidRequest("there is no CUDA device here", field="device", cure="auto or cpu")
    return place  # type: ignore[no-any-return]


def _dtype(dtype: str, config: "PreTrainedConfig", place: "torch.device", torch_module: Any) -> "torch.dtype":
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise InvalidRequest(
            f"unknown dtype {dtype!r}", field="dtype", cure="auto, float32, bfloat16 or float16"
        )
    if dtype != "auto":
        return getattr(torch_module, dtype)  # type: ignore[no-any-return]
    stated = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    if isinstance(stated, str):
        stated = getattr(torch_module, stated)
    chosen = stated or torch_module.float32
    if place.type == "cpu" and chosen == torch_module.float16:
        return torch_module.float32  # type: ignore[no-any-return]
    return chosen  # type: ignore[no-any-return]


def _tokenizer(folder: Path, transformers: Any) -> Any:
    """The model's tokenizer, or None for a directory without one."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
    if not any((folder / name).is_file() for name in names):
        return None
    return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def _eos_token_ids(model: "PreTrainedModel", tokenizer: Any) -> tuple[int, ...]:
    """Stop tokens of the generation configuration, else of the configuration, else of the tokenizer;
    sorted."""
    generation = getattr(model, "generation_config", None)
    for holder in (generation, model.config.get_text_config(), tokenizer):
        stated = getattr(holder, "eos_token_id", None)
        if isinstance(stated, int):
            return (stated,)
        if stated:
            return tuple(sorted(set(stated)))
    return ()


def _max_context(limit: int, tokenizer: Any) -> int:
    """The smaller of what positions and tokenizer allow; tokenizers without a limit state a huge one."""
    stated = getattr(tokenizer, "model_max_length", None)
    return min(limit, stated) if isinstance(stated, int) and stated > 0 else limit


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Silence transformers' advice and its weight-loading bar; download bars belong to huggingface_hub and
    stay."""
    logging = transformers.utils.logging
    verbosity, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bar:
            logging.enable_progress_bar()


@contextmanager
def _hub_errors(name_or_path: str) -> Iterator[None]:
    """Translate what transformers and huggingface_hub raise, in this one place."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
    from safetensors import SafetensorError

    try:
        yield
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise InvalidRequest(
            f"the hub does not give out {name_or_path}",
            field="model",
            cure="check the name; for a gated model, accept its licence and log in with `hf auth login`",
        ) from error
    except SafetensorError as error:
        raise InvalidRequest(
            f"the weights of {name_or_path} are damaged: {error}", field="model", cure="download them again"
        ) from error
    except OSError as error:
        if Path(name_or_path).is_dir():
            raise InvalidRequest(f"{name_or_path} cannot be loaded: {error}", field="model") from error
        raise Unreachable(
            f"{name_or_path} is neither a directory here nor obtainable from the hub",
            field="model",
            cure="check the spelling and the connection, or download the model first",
        ) from error
    except ValueError as error:
        raise Incompatible(
            f"transformers knows no causal language model {name_or_path}: {str(error).splitlines()[0]}",
            field="model",
            cure="docs/supported-models.md lists architectures that can be a target",
        ) from error
