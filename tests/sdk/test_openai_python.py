"""What users of the openai package do beyond a turn: helpers, lists, embeddings, stored responses, many at once."""

import asyncio
import uuid

import openai
import pytest
from pydantic import BaseModel

from bed.cells import AIMOCK, MOCK, at, both_ways
from bed.speak import User

STRICT = "mock-fast:strict=1"


class Invoice(BaseModel):
    number: str
    total: float
    lines: list[str]


class GetWeather(BaseModel):
    """The weather of a city."""

    city: str


@pytest.fixture
def client(speak):
    def make(provider: str, speaker: str = "chat"):
        speaker = speak(speaker, provider)
        return speaker, speaker.client, speaker.prefix

    return make


@at(*MOCK, *AIMOCK)
def test_chat_parse_gives_an_object(client, provider):
    _, sdk, prefix = client(provider)
    messages = [{"role": "user", "content": "as an invoice"}]
    answer = sdk.chat.completions.parse(model=prefix + "mock-fast", messages=messages, response_format=Invoice)
    assert isinstance(answer.choices[0].message.parsed, Invoice)


@at(*MOCK, *AIMOCK)
def test_the_chat_stream_helper_parses_as_it_goes(client, provider):
    _, sdk, prefix = client(provider)
    messages = [{"role": "user", "content": "as an invoice"}]
    kinds = []
    with sdk.chat.completions.stream(model=prefix + "mock-fast", messages=messages, response_format=Invoice) as stream:
        kinds = [event.type for event in stream]
        answer = stream.get_final_completion()
    assert isinstance(answer.choices[0].message.parsed, Invoice)
    assert "content.delta" in kinds and "content.done" in kinds


@at(*MOCK)
def test_the_chat_stream_helper_parses_tool_arguments(client, provider):
    _, sdk, prefix = client(provider)
    ask = {
        "model": prefix + STRICT,
        "messages": [{"role": "user", "content": "Use GetWeather"}],
        "tools": [openai.pydantic_function_tool(GetWeather)],
    }
    with sdk.chat.completions.stream(**ask) as stream:
        kinds = {event.type for event in stream}
        call = stream.get_final_completion().choices[0].message.tool_calls[0]
    assert isinstance(call.function.parsed_arguments, GetWeather)
    assert {"tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= kinds


@at(*MOCK, "aimock-openai", "aimock-anthropic", "aimock-gemini", "aimock-responses")
def test_the_responses_stream_helper_follows_every_event(client, provider):
    _, sdk, prefix = client(provider, "responses")
    with sdk.responses.stream(model=prefix + "mock-fast", input="hello") as stream:
        events = list(stream)
        answer = stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    for kind in ("response.output_item.added", "response.content_part.added", "response.output_text.done",
                 "response.content_part.done", "response.output_item.done"):
        assert kind in kinds
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert said == answer.output_text
    if not provider.startswith("aimock-responses"):
        numbers = [event.sequence_number for event in events]
        assert numbers == list(range(len(numbers)))


@at(*MOCK, *AIMOCK)
def test_responses_parse_gives_an_object(client, provider):
    _, sdk, prefix = client(provider, "responses")
    answer = sdk.responses.parse(model=prefix + "mock-fast", input="as an invoice", text_format=Invoice)
    assert isinstance(answer.output_parsed, Invoice)


@both_ways
@at("mock-chat", "llama-chat")
def test_legacy_completions(client, log_of, provider, stream):
    speaker, sdk, prefix = client(provider)
    model = "tiny-random" if provider.startswith("llama") else "mock-fast"
    answer = sdk.completions.create(model=prefix + model, prompt="Once upon a time", max_tokens=8, stream=stream)
    text = "".join(chunk.choices[0].text for chunk in answer if chunk.choices) if stream else answer.choices[0].text
    assert text
    assert log_of(speaker)["operation"] == "text_completion"


@at("mock-chat", "mock-gemini", "llama-embed", "aimock-openai")
def test_embeddings(client, log_of, provider):
    speaker, sdk, prefix = client(provider)
    model = "tiny-random" if provider == "llama-embed" else "text-embedding-3-small"
    both = sdk.embeddings.create(model=prefix + model, input=["embed me", "embed me"])
    floats = sdk.embeddings.create(model=prefix + model, input="embed me", encoding_format="float")
    assert [item.index for item in both.data] == [0, 1]
    assert both.data[0].embedding == pytest.approx(floats.data[0].embedding, abs=1e-3)
    assert len(floats.data[0].embedding) > 3
    assert log_of(speaker)["operation"] == "embeddings"


def test_several_choices(client):
    _, sdk, prefix = client("mock-chat")
    answer = sdk.chat.completions.create(model=prefix + STRICT, messages=[{"role": "user", "content": "x"}], n=2)
    assert [choice.index for choice in answer.choices] == [0, 1]


def test_models_are_listed_and_looked_up(client, gateway):
    _, sdk, _ = client("mock-chat")
    listed = {model.id for model in sdk.models.list()}
    assert "house-model" in listed
    assert sdk.models.retrieve("house-model").id == "house-model"
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("unheard-of")
    narrow = sdk.with_options(api_key=gateway.narrow_key)
    assert {model.id for model in narrow.models.list()} == {"house-model"}


def test_a_stored_response_is_continued_read_and_deleted_where_it_was_made(client):
    _, sdk, prefix = client("mock-responses", "responses")
    first = sdk.responses.create(model=prefix + "mock-fast", input="My name is Ada.")
    second = sdk.responses.create(model=prefix + "mock-fast", input="Who am I?", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert sdk.responses.retrieve(first.id).output_text == first.output_text
    assert sdk.responses.input_items.list(second.id).data
    sdk.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(first.id)


def test_a_response_nobody_made_is_not_found(client):
    _, sdk, prefix = client("mock-responses", "responses")
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve("resp_" + uuid.uuid4().hex)


@at(*MOCK)
def test_input_tokens_are_counted(client, provider):
    _, sdk, prefix = client(provider, "responses")
    short = sdk.responses.input_tokens.count(model=prefix + "mock-fast", input="one two three")
    long = sdk.responses.input_tokens.count(model=prefix + "mock-fast", input="one two three " * 50)
    assert 0 < short.input_tokens < long.input_tokens


@at(*MOCK)
def test_many_streams_at_once_do_not_mix(gateway, provider):
    async def one(sdk, word: str) -> str:
        messages = [{"role": "user", "content": f"Repeat {word}"}]
        stream = await sdk.chat.completions.create(
            model=f"{provider}/mock-fast:chunks=16,delay=2ms", messages=messages, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    async def whole(sdk, word: str) -> str:
        messages = [{"role": "user", "content": f"Repeat {word}"}]
        answer = await sdk.chat.completions.create(model=f"{provider}/mock-fast", messages=messages)
        return answer.choices[0].message.content

    async def everything():
        async with openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key=gateway.key, max_retries=0) as sdk:
            words = [uuid.uuid4().hex for _ in range(40)]
            streamed = await asyncio.gather(*(one(sdk, word) for word in words))
            assert streamed == await asyncio.gather(*(whole(sdk, word) for word in words))
            return streamed

    assert all(asyncio.run(everything()))


def test_an_sdk_that_retries_succeeds_after_one_refusal(speak, log_of):
    """The SDK's own retry is honoured by the gateway's headers: one refusal, then an answer."""
    client = speak("chat", "mock-chat", retries=2)
    model = f"mock-fast:fault=429=0,times=1,key={uuid.uuid4().hex}"
    assert client.ask(model, [User("Hello")]).text
    assert log_of(client)["status"] == 200
