"""Streams that wait long for their first word: kept open in a way that every SDK survives, and true to the end."""

import anthropic
import openai
import pytest
from google.genai import errors as gemini

from bed.cells import MOCK, at, every_dialect
from bed.gateway import Gateway
from bed.process import until
from bed.speak import SPEAKERS, StreamFailed, User

SILENT = "mock-fast:chunks=4,ttft=400ms"


@pytest.fixture(scope="module")
def eager(servers, tmp_path_factory):
    """A gateway that says something every 50 ms."""
    it = Gateway(servers, tmp_path_factory.mktemp("eager"), stream={"keep_alive": "50ms"})
    yield it
    it.stop()


@pytest.fixture
def speak(eager):
    open_clients = []

    def make(speaker: str, provider: str):
        root, prefix = eager.where(provider, SPEAKERS[speaker].dialect)
        open_clients.append(SPEAKERS[speaker](root, eager.key, prefix))
        return open_clients[-1]

    yield make
    for client in open_clients:
        client.close()


@every_dialect
@at(*MOCK)
def test_a_late_first_word_breaks_no_sdk(speak, speaker, provider):
    said = speak(speaker, provider).ask(SILENT, [User("Hello")], stream=True)
    assert said.text and said.finish == "stop"


@every_dialect
@at(*MOCK)
def test_a_pause_inside_a_stream_breaks_no_sdk(speak, speaker, provider):
    said = speak(speaker, provider).ask("mock-fast:chunks=4,delay=150ms", [User("Hello")], stream=True)
    assert said.text and said.finish == "stop"


@every_dialect
@at(*MOCK)
def test_a_failure_after_the_head_went_out_early_is_told_in_the_clients_words(speak, eager, speaker, provider):
    client = speak(speaker, provider)
    client.http.headers["x-request-id"] = request_id = f"late-{speaker}-{provider}"
    kinds = {"chat": openai.APIError, "responses": (StreamFailed, openai.APIError), "messages": anthropic.APIStatusError}
    with pytest.raises(kinds.get(speaker, gemini.APIError)):
        client.ask("mock-fast:head=300ms,fault=500", [User("Hello")], stream=True)
    line = until("the log line", lambda: eager.log.with_request_id(request_id), 5)
    assert line["status"] == 500 and line["error"]["code"] == "upstream_error"
