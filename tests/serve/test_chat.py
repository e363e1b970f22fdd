"""`/v1/chat/completions`, asked by the official client."""

import math

import numpy as np
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

USER = [{"role": "user", "content": "def read_lines(path):"}]
PROMPT = "def read_lines(path):"


def test_a_greedy_answer_is_the_target_s_own(client, endpoint) -> None:
    """Text, usage and names are as the API has them."""
    reply = client.chat.completions.create(model="table", messages=USER, temperature=0, max_tokens=24)
    ChatCompletion.model_validate(reply.model_dump())
    assert reply.choices[0].message.content == endpoint.alone(PROMPT, 24)
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason == "length"
    assert reply.model == "table"
    num_prompt = len(endpoint.tokenizer.encode(PROMPT))
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (num_prompt, 24)
    assert reply.usage.total_tokens == num_prompt + 24


def test_a_stream_says_the_same_in_pieces(client, endpoint) -> None:
    """The first chunk has the role, the last with a choice the reason, the very last the usage."""
    chunks = list(
        client.chat.completions.create(
            model="table", messages=USER, temperature=0, max_completion_tokens=24, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk.model_dump())
    *told, last = chunks
    assert "".join(one.choices[0].delta.content or "" for one in told) == endpoint.alone(PROMPT, 24)
    assert told[0].choices[0].delta.role == "assistant"
    assert [one.choices[0].finish_reason for one in told] == [None] * (len(told) - 1) + ["length"]
    assert last.choices == []
    assert last.usage.completion_tokens == 24
    assert len(told) > 3
    assert len({one.id for one in chunks}) == 1


def test_usage_comes_unasked_only_where_nothing_streams(client) -> None:
    """Without `include_usage` no chunk has any."""
    chunks = client.chat.completions.create(model="table", messages=USER, max_tokens=4, stream=True)
    assert all(chunk.usage is None for chunk in chunks)


@pytest.mark.parametrize("stream", [False, True])
def test_sampled_texts_depend_on_the_seed_alone(client, endpoint, stream) -> None:
    """The same seed gives the target's own draw, another seed another text; the seed that was chosen is told."""

    def text(**more) -> str:
        reply = client.chat.completions.create(
            model="table", messages=USER, max_tokens=16, temperature=0.9, top_p=0.95, stream=stream, **more
        )
        if stream:
            return "".join(one.choices[0].delta.content or "" for one in reply if one.choices)
        return reply.choices[0].message.content

    alone = endpoint.alone(PROMPT, 16, 0.9, 7, top_p=0.95)
    assert text(seed=7) == text(seed=7) == alone
    assert text(seed=8) != alone
    assert text(seed=-(1 << 64) + 7 + (1 << 63)) != alone
    reply = client.chat.completions.create(model="table", messages=USER, max_tokens=16, temperature=0.9)
    chosen = reply.model_extra["paceline"]["seed"]
    assert reply.choices[0].message.content == endpoint.alone(PROMPT, 16, 0.9, chosen)


@pytest.mark.parametrize("stream", [False, True])
def test_n_texts_have_seeds_of_their_own(client, endpoint, stream) -> None:
    """The first is that of the seed itself; all are the same when asked again."""

    def texts() -> list[str]:
        reply = client.chat.completions.create(
            model="table", messages=USER, max_tokens=12, temperature=1.0, seed=3, n=4, stream=stream
        )
        if not stream:
            return [choice.message.content for choice in reply.choices]
        found = [""] * 4
        for chunk in reply:
            for choice in chunk.choices:
                found[choice.index] += choice.delta.content or ""
        return found

    first = texts()
    assert first[0] == endpoint.alone(PROMPT, 12, 1.0, 3)
    assert len(set(first)) == 4
    assert texts() == first


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_cuts_the_text_exactly(client, endpoint, stream) -> None:
    """Wherever in a block or a token it begins; the text is left, and its session goes."""
    whole = endpoint.alone(PROMPT, 48)
    for start, length in ((5, 1), (len(whole) // 2, 3), (len(whole) - 7, 5)):
        stop = whole[start : start + length]
        reply = client.chat.completions.create(
            model="table",
            messages=USER,
            temperature=0,
            max_tokens=48,
            stop=["never\x00", stop],
            stream=stream,
        )
        if stream:
            chunks = [one.choices[0] for one in reply if one.choices]
            text, reason = "".join(one.delta.content or "" for one in chunks), chunks[-1].finish_reason
        else:
            text, reason = reply.choices[0].message.content, reply.choices[0].finish_reason
            assert reply.usage.completion_tokens <= 48
        assert text == whole[: whole.find(stop)]
        assert reason == "stop"
    endpoint.settled()


def test_logprobs_are_the_target_s_own(client, endpoint) -> None:
    """At temperature 1 whatever was asked for; `top_logprobs` begins with the likeliest, and pieces add up."""
    reply = client.chat.completions.create(
        model="table", messages=USER, max_tokens=8, temperature=0.7, seed=1, logprobs=True, top_logprobs=3
    )
    content = reply.choices[0].logprobs.content
    assert "".join(one.token for one in content) == reply.choices[0].message.content
    text = list(endpoint.tokenizer.encode(PROMPT))
    for one in content:
        logits = endpoint.engine.logits_after(text).astype(np.float64)
        law = logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())
        (token_id,) = [i for i in np.flatnonzero(np.isclose(law, one.logprob, atol=1e-5)) if
                       endpoint.tokenizer.token(int(i)) == one.token]  # fmt: skip
        assert [top.logprob for top in one.top_logprobs] == pytest.approx(sorted(law)[:-4:-1], abs=1e-5)
        is_half_a_character = "\N{REPLACEMENT CHARACTER}" in one.token
        assert one.bytes == (None if is_half_a_character else list(one.token.encode()))
        text.append(int(token_id))
    streamed = client.chat.completions.create(
        model="table", messages=USER, max_tokens=8, temperature=0.7, seed=1, logprobs=True, stream=True
    )
    found = [
        one
        for chunk in streamed
        for choice in chunk.choices
        if choice.logprobs
        for one in choice.logprobs.content
    ]
    assert [one.logprob for one in found] == pytest.approx([one.logprob for one in content])


def test_penalties_and_biases_reach_the_law(client, endpoint) -> None:
    """The text is the target's under them."""
    bias = {str(endpoint.tokenizer.encode("self")[0]): 6.0}
    reply = client.chat.completions.create(
        model="table", messages=USER, temperature=0, max_tokens=16, frequency_penalty=1.5, logit_bias=bias
    )
    assert reply.choices[0].message.content == endpoint.alone(
        PROMPT, 16, frequency_penalty=1.5, logit_bias={int(one): value for one, value in bias.items()}
    )
    assert "self" in reply.choices[0].message.content


def test_a_prediction_saves_passes_and_is_counted(client, endpoint) -> None:
    """The text stays the target's; what stood and what did not is in the usage."""
    whole = endpoint.alone(PROMPT, 40)

    def ask(content: object) -> openai.types.chat.ChatCompletion:
        return client.chat.completions.create(
            model="table", messages=USER, temperature=0, max_tokens=40,
            prediction={"type": "content", "content": content},
        )  # fmt: skip

    right = ask(whole)
    assert right.choices[0].message.content == whole
    details = right.usage.completion_tokens_details
    assert (
        details.accepted_prediction_tokens > 20
    )  # a table's text is rarely what the tokenizer would make of it
    parts = ask([{"type": "text", "text": "nothing of "}, {"type": "text", "text": "the kind"}])
    assert parts.choices[0].message.content == whole
    details = parts.usage.completion_tokens_details
    assert details.accepted_prediction_tokens == 0
    assert details.rejected_prediction_tokens == len(endpoint.tokenizer.encode("nothing of the kind"))


def test_a_reply_says_how_it_came_about(serve) -> None:
    """vLLM's figures, llama.cpp's, and our own; the last chunk of a stream has them too."""
    options = {"model": "table", "messages": USER, "temperature": 0, "max_tokens": 24}
    with serve(mode="sync") as running, running.openai() as client:
        reply = client.chat.completions.create(**options).model_extra
        *_, last = client.chat.completions.create(**options, stream=True)
    figures = reply["metrics"]["speculative_decoding"]
    assert figures["num_draft_tokens"] >= figures["num_accepted_draft_tokens"] > 0
    assert sum(figures["acceptance_histogram"]) == figures["num_spec_steps"]
    assert reply["timings"]["draft_n"] == figures["num_draft_tokens"]
    assert reply["timings"]["draft_n_accepted"] == figures["num_accepted_draft_tokens"]
    assert reply["timings"]["predicted_n"] == 24
    assert reply["paceline"]["verified"] is True
    assert sum(reply["paceline"]["tokens"].values()) == 24
    assert last.model_extra["timings"]["predicted_n"] == 24


def test_messages_of_earlier_replies_are_taken_back(client, endpoint) -> None:
    """With all the nulls and empty lists that clients echo; parts are joined, developers speak as the system."""
    first = client.chat.completions.create(model="table", messages=USER, temperature=0, max_tokens=4)
    said = first.choices[0].message
    messages = [
        {"role": "developer", "content": "terse"},
        *USER,
        {**said.model_dump(), "tool_calls": None},
        {"role": "user", "content": [{"type": "text", "text": "go"}, {"type": "text", "text": " on"}]},
    ]
    reply = client.chat.completions.create(model="table", messages=messages, temperature=0, max_tokens=8)
    prompt = "\n".join(["terse", PROMPT, said.content, "go on"])
    assert reply.choices[0].message.content == endpoint.alone(prompt, 8)


def test_what_has_no_effect_is_let_through(client) -> None:
    """Ids of users and caches, and what asks for no more than text."""
    client.chat.completions.create(
        model="table", messages=USER, max_tokens=1, user="u", metadata={"a": "b"}, store=False,
        response_format={"type": "text"}, modalities=["text"], service_tier="auto",
    )  # fmt: skip
