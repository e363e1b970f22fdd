"""Which Hugging Face models the paged engine can run, and why it refuses the others.

Three checks, each cheaper than the next: the configuration's own words (this module), the arguments each
layer really passes (`PagedEngine`), and a short ragged run against the plain forward (`PagedEngine`). The
tables below are what was tried; they are documentation that a test keeps true (docs/supported-models.md), not
a list of permissions: an architecture in neither table is judged by the three checks alone."""

import inspect
from typing import TYPE_CHECKING, Any

from paceline.common.errors import Incompatible

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

LAYER_TYPES = ("full_attention", "sliding_attention")
"""Kinds of layer the engine can cache; others keep a state that cannot be rolled back."""

SUPPORTED: dict[str, str] = {
    "ApertusForCausalLM": "",
    "ArceeForCausalLM": "",
    "BitNetForCausalLM": "",
    "Cohere2ForCausalLM": "sliding and full layers",
    "CohereForCausalLM": "Command R",
    "DeepseekV2ForCausalLM": "latent attention (MLA), cached expanded; experts",
    "DeepseekV3ForCausalLM": "latent attention (MLA), cached expanded; experts",
    "Ernie4_5ForCausalLM": "",
    "Exaone4ForCausalLM": "sliding and full layers",
    "GPT2LMHeadModel": "",
    "GPTBigCodeForCausalLM": "StarCoder",
    "GPTNeoXForCausalLM": "Pythia",
    "Gemma2ForCausalLM": "soft-capped scores run on transformers' eager attention: slower",
    "Gemma3ForCausalLM": "sliding and full layers; text only",
    "GemmaForCausalLM": "",
    "Glm4ForCausalLM": "",
    "GlmForCausalLM": "",
    "GptOssForCausalLM": "attention sinks run on transformers' eager attention: slower; experts",
    "GraniteForCausalLM": "",
    "GraniteMoeForCausalLM": "experts",
    "HeliumForCausalLM": "",
    "HunYuanDenseV1ForCausalLM": "",
    "LlamaForCausalLM": "Llama 2 and 3, TinyLlama, SmolLM2, Yi and many others",
    "MinistralForCausalLM": "sliding layers",
    "MistralForCausalLM": "with or without a sliding window",
    "MixtralForCausalLM": "experts",
    "OPTForCausalLM": "",
    "Olmo2ForCausalLM": "",
    "Olmo3ForCausalLM": "sliding and full layers",
    "OlmoForCausalLM": "",
    "OlmoeForCausalLM": "experts",
    "PersimmonForCausalLM": "",
    "Phi3ForCausalLM": "with or without a sliding window; longrope up to the original length",
    "PhiForCausalLM": "Phi-1, Phi-1.5, Phi-2",
    "PhimoeForCausalLM": "experts",
    "Qwen2ForCausalLM": "Qwen2 and Qwen2.5",
    "Qwen2MoeForCausalLM": "experts",
    "Qwen3ForCausalLM": "",
    "Qwen3MoeForCausalLM": "experts",
    "SeedOssForCausalLM": "",
    "SmolLM3ForCausalLM": "",
    "Starcoder2ForCausalLM": "",
}
"""Architectures whose greedy text through the engine equals plain `generate`, with a remark."""

REFUSED: dict[str, str] = {
    "BioGptForCausalLM": "attention does not go through transformers' attention interface",
    "BloomForCausalLM": "attention does not go through transformers' attention interface",
    "CodeGenForCausalLM": "attention does not go through transformers' attention interface",
    "DogeForCausalLM": "makes an attention mask of its own",
    "FalconForCausalLM": "attention does not go through transformers' attention interface",
    "GPTJForCausalLM": "attention does not go through transformers' attention interface",
    "GPTNeoForCausalLM": "attention does not go through transformers' attention interface",
    "JambaForCausalLM": "keep a state that cannot be rolled back",
    "Llama4ForCausalLM": "keep a state that cannot be rolled back",
    "MambaForCausalLM": "keep a state that cannot be rolled back",
    "MiniMaxForCausalLM": "keep a state that cannot be rolled back",
    "MptForCausalLM": "attention does not go through transformers' attention interface",
    "NemotronForCausalLM": "does not pass keyword arguments on to attention",
    "Qwen3NextForCausalLM": "keep a state that cannot be rolled back",
    "RecurrentGemmaForCausalLM": "keep a state that cannot be rolled back",
    "StableLmForCausalLM": "attention does not go through transformers' attention interface",
    "T5ForConditionalGeneration": "encoder-decoder",
    "XGLMForCausalLM": "attention does not go through transformers' attention interface",
}
"""Architectures the checks refuse, with words that stand in the message."""


def check_config(config: "PreTrainedConfig", name: str = "") -> None:
    """Raise `Incompatible` if the configuration rules the model out."""
    reason = _config_reason(config)
    if reason:
        raise _refusal(name or (config.architectures or [config.model_type])[0], reason)


def check_model(model: "PreTrainedModel") -> None:
    """Raise `Incompatible` if the model's class or configuration rules it out."""
    name = type(model).__name__
    check_config(model.config, name)
    reason = _class_reason(model)
    if reason:
        raise _refusal(name, reason)


def check_layers(model: "PreTrainedModel", windows: dict[int, int | None]) -> None:
    """Raise `Incompatible` if layers did not ask for the attention that the configuration promises.

    Args:
        model: The model, after one forward through the engine's attention function.
        windows: The sliding window each layer asked for, by layer index; layers that never came are missing.
    """
    text = model.config.get_text_config()
    count = int(text.num_hidden_layers)
    if sorted(windows) != list(range(count)):
        reason = f"only {len(windows)} of its {count} layers attend through the engine"
    else:
        types = getattr(text, "layer_types", None) or ["full_attention"] * count
        deaf = [i for i in range(count) if (types[i] == "sliding_attention") != (windows[i] is not None)]
        if not deaf or (getattr(text, "layer_types", None) is None and None not in windows.values()):
            return
        reason = f"layer {deaf[0]} is {types[deaf[0]]} but asked for a window of {windows[deaf[0]]}"
    raise _refusal(type(model).__name__, reason)


def context_limit(config: "PreTrainedConfig") -> int:
    """Longest context, in tokens, for which the model's positions are well defined.

    Under `longrope` the rotation changes for *all* positions once a sequence outgrows the original length,
    which would let one session's length change another's text; such a model is served up to its original
    length."""
    text = config.get_text_config()
    limit = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    if not isinstance(limit, int):
        raise Incompatible(f"{config.model_type} states no max_position_embeddings", field="model")
    original = _rope(text).get("original_max_position_embeddings")
    if _rope(text).get("rope_type") == "longrope" and isinstance(original, int):
        return min(limit, original)
    return limit


def _refusal(name: str, reason: str) -> Incompatible:
    return Incompatible(
        f"{name} cannot be a target: {reason}",
        field="model",
        cure="docs/supported-models.md lists architectures that can",
    )


def _rope(config: "PreTrainedConfig") -> dict[str, object]:
    parameters = getattr(config, "rope_parameters", None)
    return parameters if isinstance(parameters, dict) else {}


def _config_reason(config: "PreTrainedConfig") -> str:
    text = config.get_text_config()
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder-decoder model; the target must be decoder-only"
    if _rope(text).get("rope_type") == "dynamic":
        return "dynamic rotary scaling lets one session's length change another's text"
    odd = sorted(set(getattr(text, "layer_types", None) or ()) - set(LAYER_TYPES))
    if odd:
        return f"its layers ({', '.join(odd)}) keep a state that cannot be rolled back"
    if not getattr(text, "num_hidden_layers", 0):
        return "its configuration states no num_hidden_layers"
    return ""


def vocabulary_size(model: "PreTrainedModel") -> int:
    """Width of the model's logits, which may exceed its tokenizer's vocabulary."""
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]  # transformers leaves it bare
    return int(head.weight.shape[0])


def _class_reason(model: "PreTrainedModel") -> str:
    if not getattr(model, "_supports_attention_backend", False):
        return "its attention does not go through transformers' attention interface"
    if model.get_output_embeddings() is None:  # type: ignore[no-untyped-call]  # transformers leaves it bare
        return "it has no language-model head"
    parameters = inspect.signature(model.forward).parameters
    missing = {"input_ids", "position_ids", "logits_to_keep"} - parameters.keys()
    if missing:
        return f"its forward takes no {', '.join(sorted(missing))}"
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return "its forward does not pass keyword arguments on to attention"
    return ""
