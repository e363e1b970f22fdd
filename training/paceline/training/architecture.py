"""Shapes of the models: ordinary Llama, so that every serving stack runs them."""

from dataclasses import dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from paceline.training.errors import ShapeError
from paceline.training.tokenizer import END_OF_TEXT_ID

HEAD_SIZE_STEP = 32
"""Paged attention kernels and the ONNX export want head sizes in multiples of this."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of one Llama-style causal language model with tied embeddings."""

    hidden_size: int
    """Width of the residual stream, in channels."""
    num_layers: int
    num_heads: int
    """Query heads; ``hidden_size / num_heads`` must be a multiple of 32."""
    num_kv_heads: int
    """Key/value heads; divides ``num_heads``."""
    mlp_size: int
    """Inner width of the gated MLP, in channels."""
    vocab_size: int = 2048
    max_positions: int = 2048
    """Longest context, in tokens."""

    @property
    def head_size(self) -> int:
        """Channels per head."""
        return self.hidden_size // self.num_heads

    def check(self) -> None:
        """Refuse shapes that cannot be built or served.

        Raises:
            ShapeError: names the field to change.
        """
        if self.hidden_size % self.num_heads:
            raise ShapeError("num_heads", self.num_heads, f"must divide hidden_size={self.hidden_size}")
        if self.head_size % HEAD_SIZE_STEP:
            raise ShapeError(
                "num_heads",
                self.num_heads,
                f"makes heads of {self.head_size} channels; they must be a multiple of {HEAD_SIZE_STEP}",
            )
        if self.num_heads % self.num_kv_heads:
            raise ShapeError("num_kv_heads", self.num_kv_heads, f"must divide num_heads={self.num_heads}")

    def check_window(self, num_tokens: int) -> None:
        """Refuse windows longer than the context.

        Raises:
            ShapeError: names the field to change.
        """
        if num_tokens > self.max_positions:
            raise ShapeError(
                "max_positions", self.max_positions, f"must be at least the window, {num_tokens}"
            )


def llama_config(shape: ModelShape) -> LlamaConfig:
    """The ``transformers`` configuration of a shape."""
    shape.check()
    return LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.mlp_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_size,
        max_position_embeddings=shape.max_positions,
        tie_word_embeddings=True,
        bos_token_id=END_OF_TEXT_ID,
        eos_token_id=END_OF_TEXT_ID,
        pad_token_id=END_OF_TEXT_ID,
        dtype="float32",
    )


def build_model(shape: ModelShape, *, seed: int) -> LlamaForCausalLM:
    """A freshly initialised float32 model; the same seed gives the same weights."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(llama_config(shape))


def shape_of(model: LlamaForCausalLM) -> ModelShape:
    """The shape of an existing model."""
    config = model.config
    return ModelShape(
        hidden_size=config.hidden_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads or config.num_attention_heads,
        mlp_size=config.intermediate_size,
        vocab_size=config.vocab_size,
        max_positions=config.max_position_embeddings,
    )


def num_parameters(model: torch.nn.Module) -> int:
    """Parameters, tied ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
