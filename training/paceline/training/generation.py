"""Text that a model writes itself, in batches, together with the law it wrote each token from."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import Cache, DynamicLayer, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from paceline.training.errors import CorpusError
from paceline.training.packing import TokenStream, in_groups

LAW_SIZE = 32
"""Most likely tokens kept per position; the rest of the law is kept as one lump."""


@dataclass(frozen=True)
class Transcript:
    """Windows of token ids, and what the target thought of each next token."""

    token_ids: torch.Tensor
    """Ids, shape ``(windows, length + 1)``, int16."""
    law_ids: torch.Tensor
    """The most likely next ids, best first, shape ``(windows, length, LAW_SIZE)``, int16."""
    law_log_probs: torch.Tensor
    """Their log-probabilities at temperature 1, same shape, float16."""

    def __len__(self) -> int:
        """Number of windows."""
        return self.token_ids.shape[0]

    @property
    def num_tokens(self) -> int:
        """Tokens predicted."""
        return self.law_ids.shape[0] * self.law_ids.shape[1]

    def take(self, rows: torch.Tensor | slice) -> "Transcript":
        """Only some of the windows."""
        return Transcript(self.token_ids[rows], self.law_ids[rows], self.law_log_probs[rows])


class PreallocatedLayer(DynamicLayer):
    """Keys and values of one layer in a buffer of known length.

    The growing cache of ``transformers`` copies everything at every token; with 128 rows that was three
    quarters of the time.
    """

    def __init__(self, max_tokens: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Not annotated there.
        self._max_tokens = max_tokens
        self._num_tokens = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate for the batch first seen; states have shape ``(batch, heads, tokens, head)``."""
        batch, heads, _, head_size = key_states.shape
        shape = (batch, heads, self._max_tokens, head_size)
        # Under autocast keys arrive in float32 (the rotation) and values in bf16; attention wants them alike.
        self._key_buffer = value_states.new_empty(shape)
        self._value_buffer = value_states.new_empty(shape)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new tokens behind the old ones; returns views of all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self._num_tokens + key_states.shape[-2]
        self._key_buffer[:, :, self._num_tokens : end] = key_states
        self._value_buffer[:, :, self._num_tokens : end] = value_states
        self._num_tokens = end
        self.keys, self.values = self._key_buffer[:, :, :end], self._value_buffer[:, :, :end]
        return self.keys, self.values


def preallocated_cache(model: LlamaForCausalLM, *, max_tokens: int) -> Cache:
    """An empty cache for up to ``max_tokens`` tokens per row."""
    return Cache(layers=[PreallocatedLayer(max_tokens) for _ in range(model.config.num_hidden_layers)])


DECODING_ATTENTION = "paceline_decoding"


def decoding_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one new token per row by two plain products; anything else goes to the ordinary one.

    The fused CPU kernel repacks all keys for a single query, which made it several times slower here.

    Args:
        query: shape ``(batch, heads, 1, head)``.
        key: shape ``(batch, kv_heads, tokens, head)``; ``value`` alike.
        attention_mask: true where a key may be seen, shape ``(batch, 1, 1, tokens)``; ``None`` shows all.
    Returns:
        Shape ``(batch, 1, heads, head)``, and no weights.
    """
    if query.shape[2] != 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    batch, heads, _, head_size = query.shape
    grouped = query.view(batch, key.shape[1], -1, head_size).to(key.dtype)
    weights = (grouped @ key.transpose(2, 3)).float() * head_size**-0.5
    if attention_mask is not None:
        weights = weights.masked_fill(~attention_mask, -torch.inf)
    mixed = weights.softmax(-1).to(value.dtype) @ value
    return mixed.view(batch, 1, heads, head_size), None


ALL_ATTENTION_FUNCTIONS.register(DECODING_ATTENTION, decoding_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(DECODING_ATTENTION, sdpa_mask)


def exact_logits(model: LlamaForCausalLM, **inputs: Any) -> torch.Tensor:
    """Logits of a pass under autocast, with the last product in float32; shape ``(batch, tokens, vocab)``.

    In bf16 the best two tokens are often equal, and which of them is first decides acceptance.
    """
    hidden = model.model(**inputs).last_hidden_state
    with torch.autocast("cpu", enabled=False):
        logits: torch.Tensor = model.lm_head(hidden.float())
    return logits


def top_of_law(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and log-probabilities of the ``LAW_SIZE`` best entries of the last axis."""
    best = logits.float().log_softmax(-1).topk(min(LAW_SIZE, logits.shape[-1]))
    return best.indices.to(torch.int16), best.values.to(torch.float16)


@torch.no_grad()
def write_on(
    model: LlamaForCausalLM, prompts: torch.Tensor, *, length: int, temperature: float, seed: int
) -> Transcript:
    """Let ``model`` continue each prompt to ``length + 1`` tokens.

    Args:
        prompts: ids, shape ``(batch, prompt_tokens)``, int64.
        length: tokens per window, less one; more than ``prompt_tokens``.
        temperature: 0 takes the most likely token, otherwise the law is sharpened by it.
        seed: of the sampling noise.
    """
    model.train(False)
    model.set_attn_implementation(DECODING_ATTENTION)
    rng = torch.Generator().manual_seed(seed)
    cache = preallocated_cache(model, max_tokens=length)
    ids, newest = prompts, prompts
    law_ids, law_log_probs = [], []
    # One autocast context for the whole loop: weights are cast to bf16 once, not at every token.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        while ids.shape[1] <= length:
            logits = exact_logits(model, input_ids=newest, past_key_values=cache, use_cache=True)
            best_ids, best = top_of_law(logits)
            law_ids.append(best_ids)
            law_log_probs.append(best)
            newest = choose(logits[:, -1], temperature, rng)[:, None]
            ids = torch.cat([ids, newest], dim=1)
    return Transcript(ids.to(torch.int16), torch.cat(law_ids, 1), torch.cat(law_log_probs, 1))


def choose(logits: torch.Tensor, temperature: float, rng: torch.Generator) -> torch.Tensor:
    """One id per row of ``logits`` (shape ``(batch, vocab)``); ties go to the lowest id."""
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=rng)[:, 0]


@torch.no_grad()
def read_over(model: LlamaForCausalLM, windows: torch.Tensor, *, rows_at_once: int = 16) -> Transcript:
    """What ``model`` thinks of given text; ``windows`` has shape ``(windows, length + 1)``, int64."""
    model.train(False)
    laws = []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for rows in in_groups(windows, rows_at_once):
            laws.append(top_of_law(exact_logits(model, input_ids=rows[:, :-1], use_cache=False)))
    return Transcript(
        windows.to(torch.int16),
        torch.cat([ids for ids, _ in laws]),
        torch.cat([values for _, values in laws]),
    )


def cut_prompts(stream: TokenStream, *, count: int, prompt_tokens: int, seed: int) -> torch.Tensor:
    """Random snippets of a token stream; shape ``(count, prompt_tokens)``, int64.

    Raises:
        CorpusError: the stream is no longer than one snippet.
    """
    if len(stream) <= prompt_tokens:
        raise CorpusError("text", f"{len(stream)} tokens", f"need more than {prompt_tokens}: add text")
    starts = np.random.default_rng(seed).integers(len(stream) - prompt_tokens, size=count)
    return torch.from_numpy(np.stack([stream[s : s + prompt_tokens] for s in starts]).astype(np.int64))
