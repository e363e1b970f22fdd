"""Penalties, bias and cuts: drafted, streamed, and worked out by a plain loop, the text is one."""

import math

import numpy as np
import pytest

from paceline.common.sampling.noise import token_uniforms
from paceline.common.tokens import SamplingParams
from paceline.edge.request import GenerationRequest

NUM_TOKENS = 20
SEED = 3


def variants(likely: int) -> dict[str, SamplingParams]:
    """Laws to try; `likely` is a token the target would write."""
    return {
        "greedy, repetition": SamplingParams(repetition_penalty=1.3),
        "greedy, presence and frequency": SamplingParams(presence_penalty=0.9, frequency_penalty=0.6),
        "greedy, bias": SamplingParams(logit_bias={likely: -100.0, 7: 0.5}),
        "sampled, min-p": SamplingParams(temperature=1.1, min_p=0.05),
        "sampled, everything": SamplingParams(
            temperature=0.9,
            top_k=40,
            top_p=0.9,
            min_p=0.01,
            repetition_penalty=1.2,
            presence_penalty=0.4,
            frequency_penalty=-0.3,
            logit_bias={likely: -1.5, 9: 2.0},
        ),
    }


def processed(row: np.ndarray, params: SamplingParams, prompt: list[int], output: list[int]) -> list[float]:
    """Bias, then penalties, one token at a time as the papers say it."""
    logits = row.tolist()
    for token_id, bias in params.logit_bias.items():
        logits[token_id] += bias
    for token_id in {*prompt, *output}:
        value = logits[token_id]
        logits[token_id] = (
            value / params.repetition_penalty if value > 0 else value * params.repetition_penalty
        )
    for token_id in set(output):
        count = output.count(token_id)
        logits[token_id] -= params.presence_penalty + params.frequency_penalty * count
    return logits


def kept(logits: list[float], params: SamplingParams) -> dict[int, float]:
    """The law after temperature, top-k, top-p and min-p, each by its definition."""
    weights = {i: math.exp((value - max(logits)) / params.temperature) for i, value in enumerate(logits)}
    ranked = sorted(weights, key=lambda i: (-weights[i], i))[: params.top_k or None]
    total, mass, nucleus = sum(weights[i] for i in ranked), 0.0, []
    for i in ranked:
        nucleus.append(i)
        mass += weights[i]
        if mass >= params.top_p * total:
            break
    likeliest = weights[nucleus[0]]
    survivors = [i for i in nucleus if weights[i] >= params.min_p * likeliest]
    total = sum(weights[i] for i in survivors)
    return {i: weights[i] / total for i in sorted(survivors)}


def plain_loop(oracle, prompt: tuple[int, ...], params: SamplingParams) -> list[int]:
    """One token at a time from transformers' logits; sampled tokens are argmax(log prob + Gumbel)."""
    output: list[int] = []
    while len(output) < NUM_TOKENS and not (output and output[-1] in oracle.eos_token_ids):
        logits = processed(oracle.logits((*prompt, *output)), params, list(prompt), output)
        if params.is_greedy:
            output.append(max(range(len(logits)), key=lambda i: (logits[i], -i)))
            continue
        law = kept(logits, params)
        noise = token_uniforms(SEED, len(prompt) + len(output), np.array(list(law)))
        gumbel = -np.log(-np.log1p(-noise))
        output.append(list(law)[int(np.argmax(np.log(list(law.values())) + gumbel))])
    return output


@pytest.mark.parametrize("name", list(variants(0)))
async def test_drafted_streamed_and_plain_are_one_text(complete, oracle, prompts, name) -> None:
    """Mode sync, mode cloud and a loop over full forwards write the same tokens, and the setting matters."""
    prompt = prompts[30][:48]
    usual = oracle.greedy(prompt, NUM_TOKENS)
    params = variants(usual[0])[name]
    request = GenerationRequest(prompt, NUM_TOKENS, params, seed=SEED)
    (drafted,) = await complete(request)
    (streamed,) = await complete(request, mode="cloud")
    assert drafted.token_ids == streamed.token_ids == plain_loop(oracle, prompt, params)
    assert drafted.token_ids != usual
