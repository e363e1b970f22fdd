"""Which Hugging Face architectures run exactly behind the engine, and which are refused by name.

Every supported one decodes greedily through ragged verification of partly wrong drafts, beside another
session, and must give the tokens of transformers' own `generate`."""

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from paceline.cloud.engine.base import EngineConfig, Row
from paceline.cloud.engine.compatibility import REFUSED, SUPPORTED, check_config
from paceline.cloud.engine.conformance import check_trees
from paceline.cloud.engine.paged import PagedEngine
from paceline.common.errors import Incompatible

VOCAB = 200
USUAL = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "pad_token_id": 0,
    "eos_token_id": None,
    "tie_word_embeddings": False,
}
GPT2_LIKE = {
    "vocab_size": VOCAB,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 128,
    "bos_token_id": 1,
    "eos_token_id": None,
    "tie_word_embeddings": False,
}
HEAD = {**USUAL, "head_dim": 16}
WINDOW = {**USUAL, "sliding_window": 8}
EXPERTS = {**USUAL, "num_experts_per_tok": 2}
LATENT = {
    **EXPERTS,
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 32,
}
SINKS = {
    **HEAD,
    **EXPERTS,
    "sliding_window": 8,
    "num_local_experts": 4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}

RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "apertus": ("apertus", {**USUAL, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
    "arcee": ("arcee", USUAL),
    "bitnet": ("bitnet", USUAL),
    "cohere": ("cohere", USUAL),
    "cohere2": ("cohere2", WINDOW),
    "deepseek-v2": ("deepseek_v2", LATENT),
    "deepseek-v3": ("deepseek_v3", LATENT),
    "ernie4.5": ("ernie4_5", HEAD),
    "exaone4": ("exaone4", WINDOW),
    "gemma": ("gemma", HEAD),
    "gemma2-softcap": ("gemma2", {**HEAD, "sliding_window": 8}),
    "gemma2-no-softcap": ("gemma2", {**HEAD, "sliding_window": 8, "attn_logit_softcapping": None}),
    "gemma3": (
        "gemma3_text",
        {**HEAD, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "glm": ("glm", HEAD),
    "glm4": ("glm4", HEAD),
    "gpt-bigcode": ("gpt_bigcode", GPT2_LIKE),
    "gpt-neox": ("gpt_neox", USUAL),
    "gpt-oss-sinks": ("gpt_oss", SINKS),
    "gpt2": ("gpt2", GPT2_LIKE),
    "granite": ("granite", USUAL),
    "granite-moe": ("granitemoe", {**EXPERTS, "num_local_experts": 4}),
    "helium": ("helium", HEAD),
    "hunyuan": ("hunyuan_v1_dense", HEAD),
    "llama": ("llama", USUAL),
    "llama-one-key-head": ("llama", {**USUAL, "num_key_value_heads": 1}),
    "ministral": ("ministral", {**HEAD, "sliding_window": 8}),
    "mistral": ("mistral", {**USUAL, "sliding_window": None}),
    "mistral-window": ("mistral", WINDOW),
    "mixtral": ("mixtral", {**EXPERTS, "num_local_experts": 4}),
    "olmo": ("olmo", USUAL),
    "olmo2": ("olmo2", USUAL),
    "olmo3": ("olmo3", WINDOW),
    "olmoe": ("olmoe", {**EXPERTS, "num_experts": 4}),
    "opt": ("opt", {**USUAL, "ffn_dim": 128, "word_embed_proj_dim": 64}),
    "persimmon": ("persimmon", USUAL),
    "phi": ("phi", USUAL),
    "phi3": ("phi3", {**USUAL, "sliding_window": None}),
    "phi3-window": ("phi3", WINDOW),
    "phimoe": ("phimoe", {**EXPERTS, "num_local_experts": 4, "sliding_window": None}),
    "qwen2": ("qwen2", USUAL),
    "qwen2-moe": (
        "qwen2_moe",
        {**EXPERTS, "moe_intermediate_size": 32, "num_experts": 4, "shared_expert_intermediate_size": 32},
    ),
    "qwen3": ("qwen3", HEAD),
    "qwen3-moe": ("qwen3_moe", {**HEAD, **EXPERTS, "moe_intermediate_size": 32, "num_experts": 4}),
    "seed-oss": ("seed_oss", HEAD),
    "smollm3": ("smollm3", USUAL),
    "starcoder2": ("starcoder2", {**USUAL, "sliding_window": None}),
}
"""Name → (model type, configuration) of tiny instances that must decode exactly."""

STOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "biogpt": ("biogpt", USUAL),
    "bloom": ("bloom", {"vocab_size": VOCAB, "hidden_size": 64, "n_layer": 2, "n_head": 4}),
    "codegen": ("codegen", {**GPT2_LIKE, "rotary_dim": 8}),
    "doge": ("doge", USUAL),
    "falcon": ("falcon", USUAL),
    "falcon-alibi": ("falcon", {**USUAL, "alibi": True}),
    "gpt-j": ("gptj", {**GPT2_LIKE, "rotary_dim": 8}),
    "gpt-neo": (
        "gpt_neo",
        {
            "vocab_size": VOCAB,
            "hidden_size": 64,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global"], 2]],
            "max_position_embeddings": 128,
        },
    ),
    "jamba": ("jamba", USUAL),
    "llama4": ("llama4_text", {**HEAD, "num_local_experts": 2, "intermediate_size_mlp": 64}),
    "mamba": ("mamba", {"vocab_size": VOCAB, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}),
    "minimax": ("minimax", {**HEAD, "num_local_experts": 2}),
    "mpt": ("mpt", {"vocab_size": VOCAB, "d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 128}),
    "nemotron": ("nemotron", USUAL),
    "qwen3-next": (
        "qwen3_next",
        {**HEAD, **EXPERTS, "num_experts": 4, "moe_intermediate_size": 32, "linear_num_value_heads": 2},
    ),
    "recurrent-gemma": ("recurrent_gemma", USUAL),
    "stablelm": ("stablelm", USUAL),
    "xglm": (
        "xglm",
        {"vocab_size": VOCAB, "d_model": 64, "ffn_dim": 128, "num_layers": 2, "attention_heads": 4},
    ),
}
"""Name → (model type, configuration) of tiny instances that must be refused."""


def tiny(model_type: str, options: dict[str, Any]) -> PreTrainedModel:
    """A two-layer model of random weights, large enough that no two logits tie."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**options)).eval()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.dim() >= 2:
                weights.normal_(0.0, 0.3 if "embed" in name or "wte" in name else 0.08)
    return model


def speculate(engine: PagedEngine, prompt: list[int], wanted: list[int]) -> list[int]:
    """Greedy text by verifying drafts that are right, wrong or empty, beside a second session that grows."""
    dice = random.Random(3)
    text, cached = list(prompt), 0
    engine.step([Row(9, 0, prompt[::-1], 0)])
    other = len(prompt)
    while len(text) < len(prompt) + len(wanted):
        right = wanted[len(text) - len(prompt) :][: dice.randint(0, 6)]
        draft = [token if dice.random() < 0.8 else dice.randrange(VOCAB) for token in right]
        rows = [
            Row(1, cached, [*text[cached:], *draft], len(draft) + 1),
            Row(9, other, [dice.randrange(VOCAB)], 1),
        ]
        dice.shuffle(rows)
        results = engine.step(rows)
        own = results[[row.key for row in rows].index(1)].argmax().tolist()
        accepted = 0
        while accepted < len(draft) and draft[accepted] == own[accepted]:
            accepted += 1
        cached = len(text) + accepted
        text += own[: accepted + 1]
        other += 1
    return text[len(prompt) :][: len(wanted)]


def row_after(engine: PagedEngine, token_ids: list[int]) -> np.ndarray:
    """Logits of the token after a text, for their size."""
    (rows,) = engine.step([Row(1, 0, token_ids, 1)])
    row = rows.row(0).copy()
    engine.release(1)
    return row


@pytest.mark.parametrize(("model_type", "options"), RUNS.values(), ids=RUNS)
def test_speculative_greedy_text_is_generates_own(model_type: str, options: dict[str, Any]) -> None:
    """Greedy text through ragged verification with wrong drafts is `generate(do_sample=False)`, token for
    token; and every row of a tree is the row of its path."""
    model = tiny(model_type, options)
    prompt = random.Random(1).choices(range(3, VOCAB), k=14)
    with torch.inference_mode():
        wanted = copy.deepcopy(model).generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=24, min_new_tokens=24, pad_token_id=0
        )[0, len(prompt) :]
    engine = PagedEngine(model, EngineConfig(capacity_tokens=512, page_size=8))

    got = speculate(engine, prompt, wanted.tolist())

    assert got == wanted.tolist()
    assert len(set(got)) >= 4, "a text that repeats one token proves little"
    engine.release(1)
    engine.release(9)
    check_trees(lambda _: engine, 1e-4 * float(np.abs(row_after(engine, prompt)).max()))
    engine.check_integrity()


@pytest.mark.parametrize(("model_type", "options"), STOPS.values(), ids=STOPS)
def test_unfit_architecture_is_refused_by_name(model_type: str, options: dict[str, Any]) -> None:
    """An architecture the engine cannot run exactly is refused with its name and the documented reason."""
    model = tiny(model_type, options)
    name = type(model).__name__

    with pytest.raises(Incompatible) as caught:
        PagedEngine(model, EngineConfig(capacity_tokens=512))

    assert REFUSED[name] in str(caught.value)
    assert name.removesuffix("ForCausalLM").removesuffix("LMHeadModel") in str(caught.value)


def test_encoder_decoder_is_refused_by_its_configuration() -> None:
    """An encoder-decoder configuration is refused before any weight is read."""
    with pytest.raises(Incompatible, match=REFUSED["T5ForConditionalGeneration"]):
        check_config(CONFIG_MAPPING["t5"](), "T5ForConditionalGeneration")


def test_dynamic_rotary_scaling_is_refused() -> None:
    """A model whose positions depend on the longest session of a step is refused."""
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    with pytest.raises(Incompatible, match="dynamic rotary scaling"):
        check_config(CONFIG_MAPPING["llama"](**USUAL, rope_parameters=rope))


def test_tables_are_what_was_tried() -> None:
    """The tables of supported and refused architectures hold exactly the classes that these tests run."""
    mapping = AutoModelForCausalLM._model_mapping

    def class_names(cases: dict[str, tuple[str, dict[str, Any]]]) -> set[str]:
        return {mapping[type(CONFIG_MAPPING[kind](**options))].__name__ for kind, options in cases.values()}

    assert set(SUPPORTED) == class_names(RUNS)
    assert set(REFUSED) == class_names(STOPS) | {"T5ForConditionalGeneration"}


def test_page_of_supported_models_is_true() -> None:
    """docs/supported-models.md lists every supported and refused architecture with its remark or reason."""
    page = (Path(__file__).parents[2] / "docs" / "supported-models.md").read_text()

    rows = [line for line in page.splitlines() if line.startswith("| `")]

    assert rows == [
        f"| `{name}` | {text} |" for table in (SUPPORTED, REFUSED) for name, text in sorted(table.items())
    ]
