"""All sixteen pairs of dialects at the gateway's own mock, which refuses every field its dialect does not have.

What a client gets through the gateway is compared with what the upstream's own SDK gets without it.
"""

import json

import pytest

from bed.cells import CLOCK, DOT, INVOICE, MOCK, WEATHER, at, both_ways, every_dialect, everybody
from bed.gateway import PROVIDERS
from bed.speak import Result, User

STRICT = "mock-fast:strict=1"
# In its strict mode the mock wants signatures on Gemini's calls, which it only gives to those who think.
TOOLS = {provider: STRICT for provider in MOCK} | {"mock-gemini": "mock-fast"}
BRIEF = "Be brief, and speak Ελληνικά."


def same(said, reference) -> None:
    """Nothing that a user of either SDK sees differs."""
    assert said.text == reference.text
    assert said.reasoning == reference.reasoning
    assert [(call.name, call.args) for call in said.calls] == [(call.name, call.args) for call in reference.calls]
    assert said.finish == reference.finish
    assert said.usage.output == reference.usage.output
    # The mock counts the bytes of tools as they are spelt, which may differ by a word.
    assert abs(said.usage.input - reference.usage.input) <= 10


def accounted(log_of, client, said, provider: str) -> None:
    """The log agrees with what the client was told."""
    line = log_of(client)
    if line is None:
        return
    assert (line["status"], line["provider"], line["key"], line["project"]) == (200, provider, "matrix", "tests")
    assert (line["usage"]["input"], line["usage"]["output"]) == (said.usage.input, said.usage.output)
    assert len(line["attempts"]) == 1 and "error" not in line
    assert line["duration_ms"] >= line["overhead_ms"] >= 0


@everybody
@both_ways
@at(*MOCK)
def test_text(speak, native, log_of, speaker, provider, stream):
    turns = [User("Grüße! 東京 🚀 \\ \"quotes\"\nand a line")]
    reference = native(provider).ask(STRICT, turns, system=BRIEF)
    client = speak(speaker, provider)
    said = client.ask(STRICT, turns, system=BRIEF, stream=stream)
    same(said, reference)
    assert said.text and said.finish == "stop"
    if stream:
        assert said.pieces > 1
    accounted(log_of, client, said, provider)


@every_dialect
@both_ways
@at(*MOCK)
def test_a_longer_conversation(speak, native, speaker, provider, stream):
    reference, client = native(provider), speak(speaker, provider)
    turns, mirror = [User("First")], [User("First")]
    turns.append(client.ask(STRICT, turns, stream=stream))
    mirror.append(reference.ask(STRICT, mirror))
    turns.append(User("And then?"))
    mirror.append(User("And then?"))
    same(client.ask(STRICT, turns, system=BRIEF, stream=stream), reference.ask(STRICT, mirror, system=BRIEF))


@every_dialect
@both_ways
@at(*MOCK)
def test_a_tool_turn(speak, native, log_of, speaker, provider, stream):
    reference, client = native(provider), speak(speaker, provider)
    question = User("Please use get_weather for me")
    expected = reference.ask(TOOLS[provider], [question], tools=(WEATHER, CLOCK))
    first = client.ask(TOOLS[provider], [question], tools=(WEATHER, CLOCK), stream=stream)
    same(first, expected)
    assert [call.name for call in first.calls] == ["get_weather"]
    assert first.finish == "tool"
    result = json.dumps({"celsius": 21, "sky": "blau"})
    after = [question, expected, Result(expected.calls[0], result)]
    expected = reference.ask(TOOLS[provider], after, tools=(WEATHER, CLOCK))
    second = client.ask(TOOLS[provider], [question, first, Result(first.calls[0], result)], tools=(WEATHER, CLOCK), stream=stream)
    if client.dialect == PROVIDERS[provider][1]:
        same(second, expected)
    # A result is an object to Gemini and text to others: what is quoted may look different.
    assert "blau" in second.text and "21" in second.text and not second.calls
    accounted(log_of, client, second, provider)


@every_dialect
@both_ways
@at(*MOCK)
def test_parallel_calls(speak, native, speaker, provider, stream):
    reference, client = native(provider), speak(speaker, provider)
    question = User("Use get_weather and get_time in parallel")
    expected = reference.ask(TOOLS[provider], [question], tools=(WEATHER, CLOCK))
    first = client.ask(TOOLS[provider], [question], tools=(WEATHER, CLOCK), stream=stream)
    same(first, expected)
    assert [call.name for call in first.calls] == ["get_weather", "get_time"]
    ids = [call.id for call in first.calls]
    if (client.dialect, provider) != ("gemini", "mock-gemini"):
        assert len(set(ids)) == 2 and all(ids), "each call has an id of its own"
    turns = [question, first, *(Result(call, "done") for call in first.calls)]
    assert client.ask(TOOLS[provider], turns, tools=(WEATHER, CLOCK), stream=stream).text


@every_dialect
@both_ways
@at(*MOCK)
def test_a_tool_that_must_be_called(speak, native, speaker, provider, stream):
    ask = {"tools": (WEATHER, CLOCK), "must_call": "get_time"}
    expected = native(provider).ask(STRICT, [User("Anything")], **ask)
    said = speak(speaker, provider).ask(STRICT, [User("Anything")], stream=stream, **ask)
    same(said, expected)
    assert [call.name for call in said.calls] == ["get_time"]


@every_dialect
@both_ways
@at(*MOCK)
def test_structured_output(speak, native, speaker, provider, stream):
    expected = native(provider).ask(STRICT, [User("An invoice")], schema=INVOICE)
    said = speak(speaker, provider).ask(STRICT, [User("An invoice")], schema=INVOICE, stream=stream)
    assert json.loads(said.text) == json.loads(expected.text)
    assert set(json.loads(said.text)) == {"number", "total", "lines"}


@every_dialect
@both_ways
@at(*MOCK)
def test_a_picture(speak, native, speaker, provider, stream):
    turns = [User("What is this?", (DOT,))]
    same(speak(speaker, provider).ask(STRICT, turns, stream=stream), native(provider).ask(STRICT, turns))


@every_dialect
@both_ways
@at(*MOCK)
def test_reasoning_and_its_return(speak, native, log_of, speaker, provider, stream):
    model = "mock-reasoning:strict=1"
    reference, client = native(provider), speak(speaker, provider)
    question = User("Think about it")
    expected = reference.ask(model, [question], think=True)
    first = client.ask(model, [question], think=True, stream=stream)
    assert (first.text, first.finish) == (expected.text, expected.finish)
    # How long it thinks depends on how an effort becomes a budget; that it thinks does not. Chat has no way to ask
    # for a summary, so that one of another dialect may come to nothing there.
    if (speaker, provider) != ("chat", "mock-responses"):
        assert first.reasoning.startswith('The user says: "Think about it".')
    assert first.usage.output > first.usage.reasoning
    if provider != "mock-anthropic":
        assert first.usage.reasoning > 0
    accounted(log_of, client, first, provider)
    # The turn goes back with whatever the SDK was given to keep.
    again = client.ask(model, [question, first, User("Go on")], think=True, stream=stream)
    assert again.text


@every_dialect
@both_ways
@at(*MOCK)
def test_the_output_bound(speak, native, speaker, provider, stream):
    expected = native(provider).ask(STRICT, [User("A long story")], max_tokens=16)
    said = speak(speaker, provider).ask(STRICT, [User("A long story")], max_tokens=16, stream=stream)
    same(said, expected)
    assert said.finish == "length"


@pytest.mark.parametrize("speaker", ["chat", "messages", "gemini-v1beta"])
@at("mock-chat", "mock-anthropic", "mock-gemini")
def test_stop_sequences(speak, native, speaker, provider):
    turns = [User("Say something")]
    word = native(provider).ask(STRICT, turns).text.split()[2]
    said = speak(speaker, provider).ask(STRICT, turns, stop=[word])
    same(said, native(provider).ask(STRICT, turns, stop=[word]))
    assert word not in said.text


@every_dialect
@at(*MOCK)
def test_the_answer_names_what_was_asked_for(speak, log_of, speaker, provider):
    client = speak(speaker, provider)
    said = client.ask("mock-fast", [User("Hello")])
    assert said.id and said.model
    if log_of(client) is None:
        return
    assert client.headers["x-portcullis-provider"] == provider
    assert client.headers["x-portcullis-model"] == "mock-fast"
    assert client.headers["x-portcullis-attempts"] == "1"
    assert float(client.headers["x-portcullis-overhead-ms"]) >= 0
    assert client.headers["x-request-id"]
    if speaker == "messages":
        assert client.headers["request-id"]
