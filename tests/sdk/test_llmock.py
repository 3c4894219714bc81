"""Every client dialect through llmock, which also judges our manners as a client."""

import json
import time

import pytest

from bed.cells import INVOICE, LLMOCK, WEATHER, at, both_ways, every_dialect, everybody
from bed.speak import Result, User
from bed.upstreams import get_json, post_json


@everybody
@both_ways
@at(*LLMOCK)
def test_the_prompt_reaches_the_model_and_its_echo_comes_back(speak, speaker, provider, stream):
    said = speak(speaker, provider).ask("any-model", [User("Größe 42, naïve 東京 🚀")], stream=stream)
    assert said.text == "Hello! You said: Größe 42, naïve 東京 🚀"
    assert said.finish == "stop"
    assert said.usage.input > 0 and said.usage.output > 0
    if stream:
        assert said.pieces > 1


@every_dialect
@both_ways
@at(*LLMOCK)
def test_an_agent_loop_ends(speak, speaker, provider, stream):
    client = speak(speaker, provider)
    question = User("weather please")
    first = client.ask("any-model", [question], tools=(WEATHER,), stream=stream)
    assert [call.name for call in first.calls] == ["get_weather"]
    assert isinstance(first.calls[0].args["city"], str)
    assert first.finish == "tool"
    second = client.ask("any-model", [question, first, Result(first.calls[0], "21")], tools=(WEATHER,), stream=stream)
    assert second.text and not second.calls
    assert second.finish == "stop"


@every_dialect
@both_ways
@at(*LLMOCK)
def test_a_named_tool_is_the_one_that_is_called(speak, speaker, provider, stream):
    client = speak(speaker, provider)
    said = client.ask("any-model", [User("anything")], tools=(WEATHER,), must_call="get_weather", stream=stream)
    assert [call.name for call in said.calls] == ["get_weather"]


@every_dialect
@both_ways
@at("llmock-openai", "llmock-responses", "llmock-gemini")
def test_structured_output_fits_its_schema(speak, speaker, provider, stream):
    said = speak(speaker, provider).ask("any-model", [User("an invoice")], schema=INVOICE, stream=stream)
    invoice = json.loads(said.text)
    assert set(invoice) == {"number", "total", "lines"}
    assert isinstance(invoice["lines"], list)
