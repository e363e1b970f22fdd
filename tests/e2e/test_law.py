"""Sampled texts follow the target's own law, measured through the wire and tested by chi-square."""

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from transformers.generation import logits_process

from paceline.common.sampling.history import History
from paceline.common.sampling.law import target_law
from paceline.common.tokens import Origin, Rule, SamplingParams
from paceline.edge.request import GenerationRequest

SAMPLING = SamplingParams(temperature=0.9, top_k=20)
RULES = (Rule.COUPLED, Rule.REJECTION)
AT_A_TIME = 48
MIN_EXPECTED = 5.0
SMALLEST_P = 0.001 / len(RULES)


@pytest.fixture(scope="session")
def prompt(prompts, oracle) -> tuple[int, ...]:
    """The short start of a held-out text after which the target hesitates most."""
    starts = [text[:8] for text in prompts[:48]]
    return min(starts, key=lambda text: target_law(oracle.logits(text), SAMPLING, History(text)).probs.max())


@pytest.fixture(scope="session")
def law_of_pairs(oracle, prompt) -> dict[tuple[int, int], float]:
    """Probability of every two-token continuation, from the target's own logits."""
    pairs = {}
    first = target_law(oracle.logits(prompt), SAMPLING, History(prompt))
    for token_id, prob in zip(first.token_ids.tolist(), first.probs.tolist(), strict=True):
        second = target_law(oracle.logits((*prompt, token_id)), SAMPLING, History(prompt))
        for next_id, next_prob in zip(second.token_ids.tolist(), second.probs.tolist(), strict=True):
            pairs[token_id, next_id] = prob * next_prob
    return pairs


def test_the_expected_law_is_that_of_transformers(oracle, prompt) -> None:
    """The law tested against is also what transformers' own warpers make of the logits."""
    logits = oracle.logits(prompt)
    scores = torch.from_numpy(logits.copy())[None]
    for step in (logits_process.TemperatureLogitsWarper(0.9), logits_process.TopKLogitsWarper(20)):
        scores = step(torch.tensor([prompt]), scores)
    expected = torch.softmax(scores.double(), dim=-1)[0].numpy()
    law = target_law(logits, SAMPLING, History(prompt)).dense(len(logits))
    assert np.abs(law - expected).max() < 1e-6
    assert np.count_nonzero(law) == 20


def p_value(observed: Counter, expected_law: dict[tuple[int, int], float], num_samples: int) -> float:
    """Pearson's chi-square; outcomes expected less than five times are counted together."""
    assert set(observed) <= set(expected_law), "an impossible text was written"
    cells, rare = [], [0.0, 0.0]
    for pair, prob in expected_law.items():
        if prob * num_samples >= MIN_EXPECTED:
            cells.append((observed[pair], prob * num_samples))
        else:
            rare[0] += observed[pair]
            rare[1] += prob * num_samples
    if rare[1] > 0.0:
        cells.append((rare[0], rare[1]))
    assert len(cells) > 10, "the law is too sharp for this test to mean anything"
    statistic = sum((count - mean) ** 2 / mean for count, mean in cells)
    return float(chi2.sf(statistic, len(cells) - 1))


async def sample(complete, prompt, rule: Rule, num_samples: int) -> tuple[Counter, Counter]:
    """Two-token texts of as many seeds, and the origins of their tokens."""
    texts: Counter = Counter()
    origins: Counter = Counter()
    requests = [
        GenerationRequest(prompt, 2, SAMPLING, rule=rule, seed=seed, ignore_eos=True)
        for seed in range(num_samples)
    ]
    for start in range(0, num_samples, AT_A_TIME):
        for report in await complete(*requests[start : start + AT_A_TIME]):
            texts[tuple(report.token_ids)] += 1
            origins.update(report.origins)
    return texts, origins


@pytest.mark.parametrize("rule", RULES)
async def test_pairs_follow_the_law_of_the_target(complete, prompt, law_of_pairs, rule) -> None:
    """Accepted, recovered and bonus tokens together follow the exact law, under either rule."""
    texts, origins = await sample(complete, prompt, rule, 1500)
    assert min(origins[Origin.ACCEPTED], origins[Origin.RECOVERED], origins[Origin.BONUS]) > 50
    assert p_value(texts, law_of_pairs, 1500) > SMALLEST_P


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("rule", RULES)
async def test_many_pairs_follow_the_law_of_the_target(complete, prompt, law_of_pairs, rule) -> None:
    """So do twenty thousand."""
    texts, _ = await sample(complete, prompt, rule, 20_000)
    assert p_value(texts, law_of_pairs, 20_000) > SMALLEST_P
