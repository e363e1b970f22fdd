"""Where texts end, how long they may be, and what they may be written in."""

import pytest

from paceline.common.errors import Incompatible, PacelineError, Status
from paceline.common.hops.grpc import GrpcHop
from paceline.common.tokens import FinishReason, SamplingParams
from paceline.edge.client import Client
from paceline.edge.request import GenerationRequest

UNICODE = (
    "# naïve café — “quotes”\nprint('Ωμέγα')\n",
    "def 挨拶(名前):\n    return f'こんにちは、{名前}'\n",
    "# \U0001f600\U0001f468‍\U0001f469‍\U0001f467 שלום مرحبا\nx = 1\n",
    "e\u0301 \u200b \x00 \r\n\ttabs and a lone accent",
)


@pytest.fixture(scope="session")
def long_text(prompts, oracle) -> tuple[int, ...]:
    """More tokens than the context has."""
    text = tuple(token_id for prompt in prompts for token_id in prompt)
    assert len(text) > oracle.max_context
    return text


@pytest.mark.parametrize("drafter", ["onnx", "ngram"])
async def test_a_stop_token_ends_the_text_inside_a_block(complete, oracle, prompts, drafter) -> None:
    """Wherever in a block of 8 it stands, the stop token is the last token and the reason is `stop`."""
    text = oracle.greedy(prompts[3], 24)
    places = {text.index(token_id): token_id for token_id in text}
    requests = [
        GenerationRequest(prompts[3], 24, stop_token_ids=(stop,), num_speculative_tokens=8)
        for stop in places.values()
    ]
    reports = await complete(*requests, drafter=drafter)
    for (place, _), report in zip(places.items(), reports, strict=True):
        assert report.token_ids == text[: place + 1]
        assert report.finish_reason is FinishReason.STOP


@pytest.mark.parametrize("mode", ["sync", "cloud"])
async def test_one_token_can_be_asked_for(complete, oracle, prompts, mode) -> None:
    """max_new_tokens=1 gives the target's own next token and drafts nothing."""
    (report,) = await complete(GenerationRequest(prompts[0], max_new_tokens=1), mode=mode)
    assert report.token_ids == oracle.greedy(prompts[0], 1)
    assert report.drafted_tokens == 0


async def test_a_prompt_can_be_one_token(complete, oracle, prompts) -> None:
    """The shortest prompt works like any other."""
    (report,) = await complete(GenerationRequest(prompts[0][:1], max_new_tokens=12))
    assert report.token_ids == oracle.greedy(prompts[0][:1], 12)


@pytest.fixture(scope="session")
def ending(long_text, oracle) -> tuple[int, ...]:
    """A text that fills the context exactly, its last twelve tokens written by the target."""
    prompt = long_text[: oracle.max_context - 12]
    text = (*prompt, *oracle.greedy(prompt, 12))
    assert len(text) == oracle.max_context, "this prompt makes the target stop early: take another"
    return text


@pytest.mark.parametrize(("drafter", "lefts"), [("onnx", (1, 2, 12)), ("torch", (12,)), ("ngram", (2, 12))])
async def test_a_text_may_fill_the_context_exactly(complete, ending, drafter, lefts) -> None:
    """With 1, 2 or 12 places left the text is still the target's own, and ends for its length."""
    requests = [GenerationRequest(ending[:-left], left, num_speculative_tokens=4) for left in lefts]
    for left, report in zip(lefts, await complete(*requests, drafter=drafter), strict=True):
        assert tuple(report.token_ids) == ending[-left:]
        assert report.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize(("prompt_tokens", "max_new_tokens"), [(-1, 2), (0, 1), (1, 1)])
async def test_a_text_beyond_the_context_is_refused(
    complete, oracle, long_text, prompt_tokens, max_new_tokens
) -> None:
    """One token too many is an error that names both lengths, before anything is written."""
    prompt = long_text[: oracle.max_context + prompt_tokens]
    with pytest.raises(
        PacelineError, match=f"{len(prompt)} tokens.*context of {oracle.max_context}"
    ) as refusal:
        await complete(GenerationRequest(prompt, max_new_tokens))
    assert refusal.value.status is Status.OUT_OF_RANGE


@pytest.mark.parametrize("text", UNICODE)
async def test_prompts_may_be_written_in_any_script(complete, oracle, tokenizer, text) -> None:
    """Letters of many bytes come out of the tokenizer as they went in, and the text is the target's."""
    prompt = tokenizer.encode(text)
    assert tokenizer.decode(prompt) == text
    (report,) = await complete(GenerationRequest(prompt, max_new_tokens=12))
    assert report.token_ids == oracle.greedy(prompt, 12)
    stream = tokenizer.stream()
    assert "".join(stream.push(token_id) for token_id in prompt) == text


async def test_an_id_beyond_the_vocabulary_is_refused(complete, oracle, prompts) -> None:
    """It never reaches the model, and the verifier serves on."""
    with pytest.raises(PacelineError, match=f"token {oracle.vocab_size} is outside"):
        await complete(GenerationRequest((*prompts[0], oracle.vocab_size), 4))
    (report,) = await complete(GenerationRequest(prompts[0], 4))
    assert report.token_ids == oracle.greedy(prompts[0], 4)


async def test_another_vocabulary_is_refused_before_a_text_begins(verifier, edge_model) -> None:
    """Connecting compares fingerprints."""
    async with Client(GrpcHop(verifier)) as client:
        assert client.verifier is not None
    stranger = Client(GrpcHop(verifier), edge_model("onnx").drafter, tokenizer_fingerprint=b"x" * 16)
    with pytest.raises(Incompatible, match="vocabulary"):
        await stranger.connect()
    await stranger.close()


async def test_what_a_verifier_refuses_it_names(complete, prompts) -> None:
    """Errors arrive over the wire with the field in front and the cure behind."""
    sampling = SamplingParams(logit_bias={99_999_999: 1.0})
    with pytest.raises(PacelineError, match=r"^logit_bias\[0\]: token 99999999 is outside"):
        await complete(GenerationRequest(prompts[0], 4, sampling), mode="cloud")
