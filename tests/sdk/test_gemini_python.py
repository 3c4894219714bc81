"""What users of google-genai do beyond a turn, in both API versions; and the REST forms of its documentation."""

import asyncio
import json

import httpx2
import pytest
from google.genai import types
from pydantic import BaseModel

from bed.cells import AIMOCK, MOCK, at

versions = pytest.mark.parametrize("speaker", ["gemini-v1", "gemini-v1beta"])


class Invoice(BaseModel):
    number: str
    total: float
    lines: list[str]


@pytest.fixture
def client(speak):
    def make(provider: str, speaker: str = "gemini-v1beta"):
        speaker = speak(speaker, provider)
        return speaker, speaker.client, speaker.prefix

    return make


@versions
@at(*MOCK)
def test_tokens_are_counted(client, log_of, speaker, provider):
    speaker, sdk, prefix = client(provider, speaker)
    short = sdk.models.count_tokens(model=prefix + "mock-fast", contents="one two three")
    long = sdk.models.count_tokens(model=prefix + "mock-fast", contents="one two three " * 50)
    assert 0 < short.total_tokens < long.total_tokens
    assert log_of(speaker)["operation"] == "count_tokens"


@versions
@at("mock-gemini", "mock-chat", "llama-embed")
def test_embeddings(client, log_of, speaker, provider):
    speaker, sdk, prefix = client(provider, speaker)
    model = prefix + ("tiny-random" if provider == "llama-embed" else "text-embedding-3-small")
    one = sdk.models.embed_content(model=model, contents="embed me")
    two = sdk.models.embed_content(model=model, contents=["embed me", "embed me"])
    assert len(one.embeddings) == 1 and len(two.embeddings) == 2
    assert one.embeddings[0].values == pytest.approx(two.embeddings[0].values, abs=1e-3)
    assert log_of(speaker)["operation"] == "embeddings"


@versions
@at(*MOCK, *AIMOCK)
def test_a_schema_gives_an_object(client, speaker, provider):
    _, sdk, prefix = client(provider, speaker)
    config = types.GenerateContentConfig(response_mime_type="application/json", response_schema=Invoice)
    answer = sdk.models.generate_content(model=prefix + "mock-fast", contents="as an invoice", config=config)
    assert isinstance(answer.parsed, Invoice)


@at(*MOCK)
def test_automatic_function_calling_runs_to_its_end(client, provider):
    _, sdk, prefix = client(provider)
    asked = []

    def get_weather(city: str) -> str:
        """The weather of a city."""
        asked.append(city)
        return "21 degrees"

    config = types.GenerateContentConfig(tools=[get_weather])
    answer = sdk.models.generate_content(model=prefix + "mock-fast", contents="Use get_weather", config=config)
    assert len(asked) == 1
    assert answer.text


@at(*MOCK)
def test_a_chat_keeps_its_history(client, provider):
    _, sdk, prefix = client(provider)
    chat = sdk.chats.create(model=prefix + "mock-fast")
    assert chat.send_message("First").text
    assert "".join(chunk.text or "" for chunk in chat.send_message_stream("Second"))
    said = [part.text for content in chat.get_history() if content.role == "user" for part in content.parts]
    assert said == ["First", "Second"]
    assert "3 user turns" in chat.send_message("Third").text


@at(*MOCK)
def test_the_async_client(client, gateway, provider):
    _, sdk, prefix = client(provider)

    async def ask() -> str:
        chunks = await sdk.aio.models.generate_content_stream(model=prefix + "mock-fast", contents="hello")
        return "".join([chunk.text or "" async for chunk in chunks])

    assert asyncio.run(ask())


def test_models_are_listed_in_this_dialect(client):
    _, sdk, _ = client("mock-gemini")
    assert "models/house-model" in {model.name for model in sdk.models.list()}
    assert sdk.models.get(model="house-model").name == "models/house-model"


@pytest.mark.parametrize("version", ["v1", "v1beta"])
@at(*MOCK)
def test_a_stream_without_alt_is_one_json_array(gateway, version, provider):
    url = f"{gateway.url}/{version}/models/{provider}/mock-fast:streamGenerateContent?key={gateway.key}"
    with httpx2.Client(trust_env=False, timeout=10) as http:
        answer = http.post(url, json={"contents": [{"parts": [{"text": "hello"}]}]})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/json")
    chunks = json.loads(answer.text)
    text = "".join(part["text"] for chunk in chunks for part in chunk["candidates"][0].get("content", {}).get("parts", []))
    assert len(chunks) > 1 and text
    assert chunks[-1]["candidates"][0]["finishReason"] == "STOP"
    assert chunks[-1]["usageMetadata"]["totalTokenCount"] > 0


@at("mock-gemini")
def test_a_model_with_an_escaped_slash_is_the_same_model(gateway, provider):
    url = f"{gateway.url}/v1beta/models/{provider}%2Fmock-fast:generateContent"
    with httpx2.Client(trust_env=False, timeout=10) as http:
        answer = http.post(url, json={"contents": [{"parts": [{"text": "hello"}]}]}, headers={"x-goog-api-key": gateway.key})
    assert answer.status_code == 200, answer.text
