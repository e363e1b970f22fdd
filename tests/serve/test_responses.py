"""`/v1/responses`, asked by the official client."""

import openai
import pytest
from openai.types.responses import Response

PROMPT = "def main():"


def test_an_answer_has_the_api_s_form(client, endpoint) -> None:
    """Text, usage, and why it ended."""
    reply = client.responses.create(model="table", input=PROMPT, temperature=0, max_output_tokens=12)
    Response.model_validate(reply.model_dump())
    assert reply.output_text == endpoint.alone(PROMPT, 12)
    assert (reply.status, reply.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert reply.usage.output_tokens == 12
    assert reply.store is False
    assert reply.model_extra["paceline"]["verified"] is True


def test_instructions_come_first(client, endpoint) -> None:
    """Before messages of either form."""
    turns = [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"role": "user", "content": "b"},
    ]
    reply = client.responses.create(
        model="table", input=turns, instructions="be brief", temperature=0, max_output_tokens=4
    )
    assert reply.output_text == endpoint.alone("be brief\na\nb", 4)


def test_a_stream_has_the_api_s_events(client, endpoint) -> None:
    """In order and numbered; the last one carries the whole."""
    with client.responses.stream(model="table", input=PROMPT, temperature=0, max_output_tokens=12) as stream:
        events = list(stream)
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == endpoint.alone(PROMPT, 12)
    assert len(deltas) > 1
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].response.output_text == endpoint.alone(PROMPT, 12)


@pytest.mark.parametrize(
    ("field", "value"),
    [("previous_response_id", "resp_1"), ("tools", [{"type": "web_search"}]), ("store", True)],
)
def test_what_is_not_served_is_named(client, field, value) -> None:
    """Nothing is stored, and no tool is called."""
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="table", input=PROMPT, **{field: value})
    assert refused.value.param == field
