"""Draft model on plain ONNX Runtime, from a file made by onnxruntime-genai's builder.

One buffer per layer is bound as both `past` and `present`; the attention operator appends in place and reads
the valid length off the attention mask. So forgetting drafts costs nothing: the next call names a smaller
past.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from paceline.common.errors import InvalidRequest
from paceline.common.model_files import is_plain_name
from paceline.edge.draft_model import resolve_draft_model
from paceline.edge.drafters.model import Logits, ModelDrafter
from paceline.edge.export import Precision
from paceline.edge.onnx_files import CURE, check_onnx

MIN_CAPACITY = 256
"""Tokens a new cache has room for; it doubles from there, so a short chat on a long-context model stays
small."""
MAX_LOGITS_BYTES = 8 << 20
"""Models that write a logits row per prompt token are fed in chunks whose rows fit in this."""
MAX_CHUNK_TOKENS = 128
"""Longest run of tokens fed at once; bounds the activations held at any moment."""


@dataclass(frozen=True, slots=True)
class OnnxShape:
    """What genai_config.json says about a decoder: names, sizes, limits."""

    filename: str
    context_length: int
    vocab_size: int
    num_kv_heads: int
    head_size: int
    input_ids: str
    attention_mask: str
    logits: str
    past_names: tuple[str, ...]
    present_names: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path) -> "OnnxShape":
        """Parse `folder/genai_config.json`.

        Raises:
            InvalidRequest: the file is missing, is no such file, or describes a model this drafter cannot
                run.
        """
        path = folder / "genai_config.json"
        try:
            model = json.loads(path.read_text(encoding="utf-8"))["model"]
            decoder = model["decoder"]
            inputs, outputs = decoder["inputs"], decoder["outputs"]
            layers = range(int(decoder["num_hidden_layers"]))
            return cls(
                filename=str(decoder["filename"]),
                context_length=int(model["context_length"]),
                vocab_size=int(model["vocab_size"]),
                num_kv_heads=int(decoder["num_key_value_heads"]),
                head_size=int(decoder["head_size"]),
                input_ids=str(inputs["input_ids"]),
                attention_mask=str(inputs["attention_mask"]),
                logits=str(outputs["logits"]),
                past_names=_layer_names(layers, inputs["past_key_names"], inputs["past_value_names"]),
                present_names=_layer_names(
                    layers, outputs["present_key_names"], outputs["present_value_names"]
                ),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidRequest(
                f"{path} does not describe an exported draft model ({type(error).__name__}: {error})",
                field="model",
                cure="export the model again",
            ) from error


def _layer_names(layers: range, *patterns: str) -> tuple[str, ...]:
    return tuple(pattern % layer for layer in layers for pattern in patterns)


def _checked(folder: Path, filename: str) -> Path:
    """The ONNX file that genai_config.json names, fit to be opened."""
    if not is_plain_name(filename):
        raise InvalidRequest(
            f"{folder / 'genai_config.json'} names {filename!r:.80}, which is not beside it",
            field="model",
            cure=CURE,
        )
    check_onnx(folder / filename)
    return folder / filename


class OnnxModel:
    """Weights and graph of one exported model, shared by all its runners."""

    def __init__(self, folder: Path, *, num_threads: int = 1) -> None:
        self.shape = OnnxShape.read(folder)
        options = ort.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = _checked(folder, self.shape.filename)
        try:
            self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise InvalidRequest(f"{path} cannot be loaded ({error})", field="model", cure=CURE) from error
        self._check_graph(folder)

    def _check_graph(self, folder: Path) -> None:
        inputs = {node.name: node for node in self.session.get_inputs()}
        outputs = {node.name: node for node in self.session.get_outputs()}
        shape = self.shape
        expected = {shape.input_ids, shape.attention_mask, *shape.past_names}
        if set(inputs) != expected or not {shape.logits, *shape.present_names} <= set(outputs):
            raise InvalidRequest(
                f"{folder} has other inputs or outputs than its genai_config.json names: "
                f"{sorted(set(inputs) ^ expected) or sorted(outputs)}",
                field="model",
                cure="only decoders of plain grouped-query attention can draft; export the model again",
            )
        kinds = {inputs[name].type for name in shape.past_names} | {outputs[shape.logits].type}
        if kinds != {"tensor(float)"}:
            raise InvalidRequest(
                f"{folder} computes in {sorted(kinds)}; only float32 inputs and outputs are supported",
                field="model",
                cure="export it for the CPU",
            )
        self.has_one_logits_row = outputs[shape.logits].shape[1] == 1

    @property
    def chunk_tokens(self) -> int:
        """Most tokens fed at once."""
        if self.has_one_logits_row:
            return MAX_CHUNK_TOKENS
        return max(1, min(MAX_CHUNK_TOKENS, MAX_LOGITS_BYTES // (4 * self.shape.vocab_size)))

    @property
    def max_rows(self) -> int:
        """Logits rows that one run returns."""
        return 1 if self.has_one_logits_row else self.chunk_tokens


class OnnxRunner:
    """One key/value cache over a shared model."""

    def __init__(self, model: OnnxModel, max_length: int) -> None:
        self._model = model
        self._session = model.session
        self._max_length = max_length
        shape = model.shape
        self._chunk = chunk = model.chunk_tokens
        self._binding = model.session.io_binding()
        self._ids = np.zeros(chunk, np.int64)
        self._num_ids = 0
        self._rows = np.empty((0, shape.vocab_size), np.float32)
        self._cache: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = []
        self._capacity = 0
        self._grow(min(MIN_CAPACITY, max_length))

    @property
    def vocab_size(self) -> int:
        """Length of the logits."""
        return self._model.shape.vocab_size

    @property
    def max_length(self) -> int:
        """Most tokens the model can consume in one text."""
        return self._max_length

    @property
    def capacity(self) -> int:
        """Tokens the buffers have room for now."""
        return self._capacity

    def forward(self, past_length: int, token_ids: Sequence[int]) -> Logits:
        """Consume `token_ids` after `past_length` cached tokens; see `ModelRunner.forward`."""
        num_tokens = len(token_ids)
        if past_length + num_tokens > self._capacity:
            self._grow(past_length + num_tokens)
        if num_tokens == 1:
            return self._run(past_length, token_ids)
        for start in range(0, num_tokens, self._chunk):
            logits = self._run(past_length + start, token_ids[start : start + self._chunk])
        return logits

    def forward_rows(self, past_length: int, token_ids: Sequence[int], num_rows: int) -> Logits:
        """Logits after each of the last `num_rows` tokens; see `RowsRunner.forward_rows`."""
        num_before = max(0, len(token_ids) - self._chunk)
        if num_before:
            self.forward(past_length, token_ids[:num_before])
        self.forward(past_length + num_before, token_ids[num_before:])
        return self._rows[-num_rows:]

    def close(self) -> None:
        """Free the buffers."""
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        self._cache = []
        self._capacity = 0

    def _run(self, past_length: int, token_ids: Sequence[int]) -> Logits:
        num_tokens = len(token_ids)
        shape, binding = self._model.shape, self._binding
        if num_tokens != self._num_ids:
            self._bind_width(num_tokens)
        self._ids[:num_tokens] = token_ids
        total = past_length + num_tokens
        binding.bind_input(shape.attention_mask, "cpu", 0, np.int64, (1, total), self._mask_address)
        self._session.run_with_iobinding(binding)
        logits: Logits = self._rows[-1]
        return logits

    def _bind_width(self, num_tokens: int) -> None:
        """Bind ids and logits for runs of `num_tokens`; a drafter writing on binds them once."""
        shape = self._model.shape
        num_rows = 1 if self._model.has_one_logits_row else num_tokens
        self._rows = np.empty((num_rows, shape.vocab_size), np.float32)
        self._binding.bind_input(shape.input_ids, "cpu", 0, np.int64, (1, num_tokens), self._ids.ctypes.data)
        rows = (1, num_rows, shape.vocab_size)
        self._binding.bind_output(shape.logits, "cpu", 0, np.float32, rows, self._rows.ctypes.data)
        self._num_ids = num_tokens

    def _grow(self, needed: int) -> None:
        """Make room for `needed` tokens by doubling, keeping what is cached."""
        if needed > self._max_length:
            raise ValueError(f"{needed} tokens exceed the model's context of {self._max_length}")
        capacity = max(self._capacity, MIN_CAPACITY)
        while capacity < needed:
            capacity *= 2
        capacity = min(capacity, self._max_length)
        shape = self._model.shape
        old = self._cache
        self._cache = []
        for past, present in zip(shape.past_names, shape.present_names, strict=True):
            buffer = np.zeros((1, shape.num_kv_heads, capacity, shape.head_size), np.float32)
            if old:
                buffer[:, :, : self._capacity] = old.pop(0)
            self._binding.bind_input(past, "cpu", 0, np.float32, buffer.shape, buffer.ctypes.data)
            self._binding.bind_output(present, "cpu", 0, np.float32, buffer.shape, buffer.ctypes.data)
            self._cache.append(buffer)
        self._mask = np.ones((1, capacity), np.int64)
        self._mask_address = self._mask.ctypes.data
        self._capacity = capacity


class OnnxDrafter(ModelDrafter):
    """Drafts with an exported model on the CPU."""

    def __init__(
        self,
        model: str | Path,
        *,
        precision: Precision | None = None,
        cache_dir: str | Path | None = None,
        num_threads: int = 1,
        max_length: int | None = None,
        all_rows: bool = False,
        digest: str | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Load a draft model.

        Args:
            model: an exported folder, or a Hugging Face folder, which is exported once
                (`resolve_draft_model`).
            precision: the export wanted; None takes what is there.
            cache_dir: where exports are kept; None means the user's cache.
            num_threads: cores the model may use; one is fastest for small models.
            max_length: cap on the context, to bound memory; None means the model's own.
            all_rows: the export must give logits after every token, so that another drafter may guess for it.
            digest: what `paceline models digest` printed for `model`; None takes it as it is.
            progress: told in one line before anything slow begins.
        """
        found = resolve_draft_model(model, precision, cache_dir, progress, all_rows=all_rows, digest=digest)
        self.model = OnnxModel(found.onnx_dir, num_threads=num_threads)
        context = self.model.shape.context_length
        length = context if max_length is None else min(max_length, context)
        vocab_size, max_rows = self.model.shape.vocab_size, self.model.max_rows
        super().__init__("onnx", lambda: OnnxRunner(self.model, length), vocab_size, max_rows=max_rows)
