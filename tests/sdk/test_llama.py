"""Every client dialect at a real engine. What it says is noise; that the same noise arrives is the point."""

import pytest

from bed.cells import LLAMA, WEATHER, at, both_ways, every_dialect, everybody
from bed.gateway import speaks
from bed.speak import SPEAKERS, User
from bed.upstreams import post_json

PROMPT = "what is a gateway"


@pytest.fixture(scope="session")
def noise(servers) -> dict:
    """What the model says to the prompt when nobody stands between."""
    ask = {"model": "tiny-random", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 24, "temperature": 0}
    return post_json(servers["llama"].url + "/v1/chat/completions", ask)


@everybody
@both_ways
@at(*LLAMA)
def test_the_engine_says_the_same_through_every_dialect(speak, noise, speaker, provider, stream):
    client = speak(speaker, provider)
    said = client.ask("tiny-random", [User(PROMPT)], max_tokens=24, temperature=0, stream=stream)
    assert said.text.strip() == noise["choices"][0]["message"]["content"].strip()
    assert said.usage.output == 24
    assert said.usage.input > 10
    if stream:
        assert said.pieces > 4


@pytest.mark.parametrize("speaker", ["chat", "messages", "gemini-v1beta"])
@at("llama-chat", "llama-anthropic")
def test_the_engine_stops_where_it_was_told_to(speak, noise, speaker, provider):
    word = noise["choices"][0]["message"]["content"][8:11]
    said = speak(speaker, provider).ask("tiny-random", [User(PROMPT)], max_tokens=24, temperature=0, stop=[word])
    assert word not in said.text


@every_dialect
@at(*LLAMA)
def test_the_engine_takes_tools_and_history(speak, speaker, provider):
    client = speak(speaker, provider)
    first = client.ask("tiny-random", [User(PROMPT)], system="Be brief.", max_tokens=8, temperature=0)
    turns = [User(PROMPT), first, User("go on")]
    second = client.ask("tiny-random", turns, tools=(WEATHER,), max_tokens=8, temperature=0)
    assert second.usage.input > first.usage.input
