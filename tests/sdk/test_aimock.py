"""Every client dialect through every upstream dialect as aimock speaks them: what it was told to say must arrive."""

import json

import pytest

from bed.cells import AIMOCK, DOT, INVOICE, WEATHER, at, both_ways, every_dialect, everybody
from bed.speak import Result, Usage, User

HELLO = 'Hi! Naïve café, 東京, 🚀 and a "quoted" \\ backslash.'


@everybody
@both_ways
@at(*AIMOCK)
def test_text_and_usage_arrive_as_they_were_sent(speak, speaker, provider, stream):
    said = speak(speaker, provider).ask("any-model", [User("hello")], system="Be brief.", stream=stream)
    assert said.text == HELLO
    assert said.finish == "stop"
    assert said.usage == Usage(11, 17)
    assert not said.calls and not said.reasoning
    if stream:
        assert said.pieces > 1, "the stream came in one piece"


@everybody
@both_ways
@at(*AIMOCK)
def test_a_tool_call_goes_out_and_its_result_comes_back(speak, speaker, provider, stream):
    client = speak(speaker, provider)
    question = User("what is the weather in Paris?")
    first = client.ask("any-model", [question], tools=(WEATHER,), stream=stream)
    assert [(call.name, call.args) for call in first.calls] == [("get_weather", {"city": "Paris", "unit": "celsius"})]
    assert first.finish == "tool"
    assert first.usage == Usage(21, 8)
    turns = [question, first, Result(first.calls[0], '{"celsius": 21}')]
    second = client.ask("any-model", turns, tools=(WEATHER,), stream=stream)
    assert second.text == "It is 21 °C in Paris."
    assert second.finish == "stop"


@every_dialect
@both_ways
@at(*AIMOCK)
def test_parallel_calls_keep_their_order_ids_and_arguments(speak, speaker, provider, stream):
    client = speak(speaker, provider)
    question = User("compare two cities")
    first = client.ask("any-model", [question], tools=(WEATHER,), stream=stream)
    assert [call.args for call in first.calls] == [{"city": "Paris"}, {"city": "Zürich"}]
    assert [call.id for call in first.calls] == ["call_aimock_p", "call_aimock_z"]
    turns = [question, first, *(Result(call, "sunny") for call in first.calls)]
    assert client.ask("any-model", turns, tools=(WEATHER,), stream=stream).text == "Both are sunny."


@every_dialect
@both_ways
@at(*AIMOCK)
def test_text_before_a_call_stays_text(speak, speaker, provider, stream):
    said = speak(speaker, provider).ask("any-model", [User("talk and call")], tools=(WEATHER,), stream=stream)
    assert said.text == "Let me look."
    assert [call.args for call in said.calls] == [{"city": "Paris"}]
    assert said.finish == "tool"


@every_dialect
@both_ways
@at(*AIMOCK)
def test_structured_output_is_the_json_that_was_sent(speak, speaker, provider, stream):
    said = speak(speaker, provider).ask("any-model", [User("as an invoice")], schema=INVOICE, stream=stream)
    assert json.loads(said.text) == {"number": "A-17", "total": 42.5, "lines": ["paper", "ink"]}


@every_dialect
@both_ways
@at(*AIMOCK)
def test_reasoning_is_kept_apart_from_text(speak, speaker, provider, stream):
    client = speak(speaker, provider)
    question = User("think hard: six times seven?")
    said = client.ask("any-model", [question], think=True, stream=stream)
    assert said.text == "42."
    assert said.reasoning == "Six times seven is forty-two."
    # The turn goes back as the SDK gave it, signatures and all, and is accepted.
    again = client.ask("any-model", [question, said, User("hello")], think=True, stream=stream)
    assert again.text == HELLO


@every_dialect
@both_ways
@at("aimock-openai", "aimock-anthropic", "aimock-gemini")
def test_an_answer_cut_at_the_limit_says_so(speak, speaker, provider, stream):
    said = speak(speaker, provider).ask("any-model", [User("tell a long story")], max_tokens=3, stream=stream)
    assert (said.text, said.finish) == ("It was a", "length")


@every_dialect
@both_ways
@at(*AIMOCK)
def test_a_picture_is_taken_along(speak, speaker, provider, stream):
    said = speak(speaker, provider).ask("any-model", [User("what is in the picture?", (DOT,))], stream=stream)
    assert said.text == "A single red dot."
