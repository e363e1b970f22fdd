"""`/v1/completions`, asked by the official client."""

import openai
import pytest
from openai.types import Completion

PROMPT = "import os\n"


def test_texts_are_the_target_s_own(client, endpoint) -> None:
    """Several prompts, as text or as token ids, each `n` times, in order."""
    ids = list(endpoint.tokenizer.encode(PROMPT))
    options = {"model": "table", "temperature": 0, "max_tokens": 8}
    alone = endpoint.alone(PROMPT, 8)
    other = endpoint.alone("class A:", 8)
    for prompt, expected in (
        (PROMPT, [alone]),
        (ids, [alone]),
        ([PROMPT, "class A:"], [alone, other]),
        ([ids, list(endpoint.tokenizer.encode("class A:"))], [alone, other]),
    ):
        reply = client.completions.create(prompt=prompt, **options)
        Completion.model_validate(reply.model_dump())
        assert [one.text for one in reply.choices] == expected
        assert [one.index for one in reply.choices] == list(range(len(expected)))
    twice = client.completions.create(prompt=[PROMPT, "class A:"], n=2, best_of=2, **options)
    assert [one.text for one in twice.choices] == [alone, alone, other, other]
    num_prompts = len(ids) + len(endpoint.tokenizer.encode("class A:"))
    assert twice.usage.prompt_tokens == num_prompts
    assert twice.usage.completion_tokens == 32


def test_sixteen_tokens_unless_more_are_asked_for(client) -> None:
    """As the API has it."""
    reply = client.completions.create(model="table", prompt=PROMPT)
    assert reply.usage.completion_tokens == 16


@pytest.mark.parametrize("stream", [False, True])
def test_the_prompt_is_echoed(client, endpoint, stream) -> None:
    """Before the text."""
    reply = client.completions.create(
        model="table", prompt=PROMPT, temperature=0, max_tokens=4, echo=True, stream=stream
    )
    found = "".join(one.choices[0].text for one in reply if one.choices) if stream else reply.choices[0].text
    assert found == PROMPT + endpoint.alone(PROMPT, 4)


def test_a_prompt_s_probabilities_are_told(client, endpoint) -> None:
    """With `echo`, as evaluation harnesses read them: the first token has none, offsets count characters."""
    reply = client.completions.create(
        model="table", prompt=PROMPT, temperature=0, max_tokens=2, echo=True, logprobs=2
    ).choices[0]
    told = reply.logprobs
    num_prompt = len(endpoint.tokenizer.encode(PROMPT))
    assert len(told.tokens) == len(told.token_logprobs) == len(told.text_offset) == num_prompt + 2
    assert "".join(told.tokens) == reply.text
    assert told.token_logprobs[0] is None
    assert all(one < 0 for one in told.token_logprobs[1:])
    for token, offset in zip(told.tokens, told.text_offset, strict=True):
        assert reply.text.startswith(token, offset)
    for token, logprob, top in zip(
        told.tokens[num_prompt:],
        told.token_logprobs[num_prompt:],
        told.top_logprobs[num_prompt:],
        strict=True,
    ):
        assert max(top.values()) == top[token] == pytest.approx(logprob)
        assert len(top) == 2


def test_what_is_not_served_is_named(client) -> None:
    """In words, with the field."""
    for field, value in (("best_of", 3), ("suffix", "x")):
        with pytest.raises(openai.BadRequestError) as refused:
            client.completions.create(model="table", prompt=PROMPT, **{field: value})
        assert refused.value.param == field


@pytest.mark.parametrize("prompt", ["", [], [[]], [1, 99999]])
def test_prompts_that_are_none_are_refused(client, prompt) -> None:
    """Empty ones, and ids that are no tokens."""
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="table", prompt=prompt)
    assert refused.value.param.startswith("prompt")
