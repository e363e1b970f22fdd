"""lm-eval's own client reads the same figures from the endpoint as from the target itself."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from paceline.cli.verifier_process import endpoint_process

PROMPTS = 12


@pytest.mark.slow
def test_its_client_gets_the_target_s_figures(verifier, models, monkeypatch) -> None:
    """Log-likelihoods of continuations, whether each is the greedy one, and greedy texts. Skipped where lm-eval is not
    installed: it brings more than all the rest (pip install 'lm-eval[api]')."""
    reason = "lm-eval is not installed"
    client_of = pytest.importorskip("lm_eval.models.openai_completions", reason=reason).LocalCompletionsAPI
    instance = pytest.importorskip("lm_eval.api.instance", reason=reason).Instance
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    tokenizer = AutoTokenizer.from_pretrained(models / "base")
    model = AutoModelForCausalLM.from_pretrained(models / "base", dtype=torch.float32)
    lines = (models / "prompts" / "heldout.jsonl").read_text().splitlines()[:PROMPTS]
    prompts = [json.loads(line)["prompt"] for line in lines]
    contexts = [
        prompt[:-12].rstrip() for prompt in prompts
    ]  # lm-eval counts spaces between to the continuation
    pairs = [(context, prompt[len(context) :]) for context, prompt in zip(contexts, prompts, strict=True)]
    with endpoint_process(verifier, ["--draft-model", str(models / "pico")]) as served:
        client = client_of(
            model="base", base_url=f"{served.address}/completions", tokenizer=str(models / "base"),
            tokenizer_backend="huggingface", max_length=2048,
        )  # fmt: skip
        scored = client.loglikelihood([instance("loglikelihood", {}, pair, 0) for pair in pairs])
        options = {"until": ["\n\n"], "max_gen_toks": 16, "temperature": 0, "do_sample": False}
        written = client.generate_until(
            [instance("generate_until", {}, (prompt, options), 0) for prompt in prompts]
        )
    for (context, continuation), (logprob, is_greedy) in zip(pairs, scored, strict=True):
        before = tokenizer(context).input_ids
        start = len(before)
        whole = before + tokenizer(context + continuation).input_ids[start:]  # what lm-eval sends
        with torch.no_grad():
            law = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        told = [float(law[at - 1, whole[at]]) for at in range(start, len(whole))]
        assert logprob == pytest.approx(sum(told), abs=1e-3)
        assert is_greedy == all(int(law[at - 1].argmax()) == whole[at] for at in range(start, len(whole)))
    for prompt, text in zip(prompts, written, strict=True):
        ids = torch.tensor([tokenizer(prompt).input_ids])
        alone = model.generate(ids, max_new_tokens=16, do_sample=False)[0, ids.shape[1] :]
        assert text == tokenizer.decode(alone, skip_special_tokens=True).partition("\n\n")[0]
