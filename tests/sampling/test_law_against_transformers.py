"""An independent oracle: the logits processors and warpers of transformers."""

import numpy as np
import pytest

from paceline.common.sampling.history import History
from paceline.common.sampling.law import target_law
from paceline.common.tokens import SamplingParams

torch = pytest.importorskip("torch")
processors = pytest.importorskip("transformers.generation.logits_process")

PARAMS = (
    SamplingParams(temperature=0.6),
    SamplingParams(temperature=1.0, top_k=17),
    SamplingParams(temperature=1.4, top_p=0.9),
    SamplingParams(temperature=0.9, min_p=0.03),
    SamplingParams(temperature=1.1, repetition_penalty=1.3),
    SamplingParams(temperature=0.8, top_k=50, top_p=0.93, min_p=0.01, repetition_penalty=0.9),
    SamplingParams(temperature=1.2, top_k=5, top_p=0.3, repetition_penalty=1.7),
)


@pytest.mark.parametrize("params", PARAMS, ids=str)
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_the_law_equals_that_of_transformers(params: SamplingParams, scale: float) -> None:
    """Same order of steps, same survivors, same probabilities within float32."""
    generator = np.random.default_rng(3)
    steps = [
        processors.RepetitionPenaltyLogitsProcessor(params.repetition_penalty),
        processors.TemperatureLogitsWarper(params.temperature),
        processors.TopKLogitsWarper(params.top_k or 10_000),
        processors.TopPLogitsWarper(params.top_p),
        processors.MinPLogitsWarper(params.min_p),
    ]
    for _ in range(10):
        logits = (scale * generator.standard_normal(1_000)).astype(np.float32)
        prompt, generated = generator.integers(1_000, size=(2, 20)).tolist()
        history = History(prompt)
        for token_id in generated:
            history.push(token_id)
        scores = torch.from_numpy(logits)[None]
        for step in steps:
            scores = step(torch.tensor([prompt + generated]), scores)
        expected = torch.softmax(scores.double(), dim=-1)[0].numpy()
        law = target_law(logits, params, history).dense(1_000)
        assert np.array_equal(law > 0, expected > 0)
        assert np.abs(law - expected).max() < 1e-6
