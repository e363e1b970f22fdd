"""Draft model in PyTorch: for devices with an accelerator, and the reference for exported drafters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paceline.common.errors import InvalidRequest, MissingDependency
from paceline.common.model_files import check_model_files, check_safetensors
from paceline.edge.drafters.model import Logits, ModelDrafter


class TorchRunner:
    """One key/value cache over a shared transformers model."""

    def __init__(self, model: Any, max_length: int) -> None:
        import torch
        from transformers import DynamicCache

        self._torch = torch
        self._model = model
        self._max_length = max_length
        # Every layer keeps the whole text, windowed ones too: a window that has moved on cannot be rolled back.
        self._cache = DynamicCache()

    @property
    def vocab_size(self) -> int:
        """Length of the logits."""
        return int(self._model.config.vocab_size)

    @property
    def max_length(self) -> int:
        """Most tokens the model can consume in one text."""
        return self._max_length

    def forward(self, past_length: int, token_ids: Sequence[int]) -> Logits:
        """Consume `token_ids` after `past_length` cached tokens; see `ModelRunner.forward`."""
        logits: Logits = self.forward_rows(past_length, token_ids, 1)[0]
        return logits

    def forward_rows(self, past_length: int, token_ids: Sequence[int], num_rows: int) -> Logits:
        """Logits after each of the last `num_rows` tokens; see `RowsRunner.forward_rows`."""
        torch = self._torch
        self._cache.crop(past_length - self._cache.get_seq_length())
        with torch.inference_mode():
            ids = torch.tensor([list(token_ids)], device=self._model.device)
            output = self._model(
                input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=num_rows
            )
        logits: Logits = output.logits[0].float().cpu().numpy()
        return logits

    def close(self) -> None:
        """Free the cache."""
        del self._cache, self._model


class TorchDrafter(ModelDrafter):
    """Drafts with a Hugging Face folder through transformers."""

    def __init__(
        self,
        model: str | Path,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        num_threads: int | None = None,
        max_length: int | None = None,
        digest: str | None = None,
    ) -> None:
        """Load a model.

        Args:
            model: a Hugging Face model folder.
            device: where it runs, as torch names it (`cpu`, `cuda`, `cuda:1`, `mps`).
            dtype: precision of weights and cache (`float32`, `bfloat16`, `float16`).
            num_threads: cores torch may use, for the whole process; None leaves torch's own choice.
            max_length: cap on the context, to bound memory; None means the model's own.
            digest: what `paceline models digest` printed for the folder; None takes it as it is.
        """
        try:
            import torch
            from transformers import AutoModelForCausalLM
        except ImportError as error:
            raise MissingDependency(
                "the torch drafter needs torch and transformers", cure="pip install 'paceline[cloud]'"
            ) from error
        if not (Path(model) / "config.json").is_file():
            raise InvalidRequest(
                f"{model} holds no config.json", field="model", cure="name a Hugging Face model folder"
            )
        check_model_files(Path(model), digest)
        check_safetensors(Path(model))
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            model, dtype=dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
        self.model = loaded.to(device).eval()
        context = int(self.model.config.max_position_embeddings)
        length = context if max_length is None else min(max_length, context)
        vocab_size = int(self.model.config.vocab_size)
        super().__init__("torch", lambda: TorchRunner(self.model, length), vocab_size, max_rows=length)
