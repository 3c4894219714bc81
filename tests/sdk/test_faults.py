"""Every fault of an upstream, in every pair of dialects: the right exception, the right log line, nothing leaked."""

from dataclasses import dataclass

import anthropic
import openai
import pytest
from google.genai import errors as gemini

from bed.cells import DIALECTS, MOCK, at, both_ways, every_dialect
from bed.speak import StreamFailed, User

# HTTP status -> what each SDK makes of it; google-genai knows only whose fault it was.
CLASSES = {
    "chat": openai,
    "responses": openai,
    "messages": anthropic,
}
STATUS_CLASS = {
    400: "BadRequestError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    429: "RateLimitError",
    500: "InternalServerError",
    502: "InternalServerError",
    503: "InternalServerError",
    504: "InternalServerError",
    529: "InternalServerError",
}


@dataclass(frozen=True)
class Before:
    """A fault before the first content: the client gets a true HTTP status."""

    fault: str
    status: int
    codes: tuple[str, ...]


REFUSALS = [
    Before("429=3", 429, ("rate_limited",)),
    Before("quota", 429, ("quota_exceeded",)),
    Before("401", 502, ("upstream_credential_refused",)),
    Before("403", 403, ("upstream_forbidden",)),
    Before("404", 404, ("upstream_not_found",)),
    Before("400", 400, ("upstream_rejected",)),
    Before("context", 400, ("context_length_exceeded",)),
    Before("500", 500, ("upstream_error",)),
    Before("503", 503, ("upstream_overloaded",)),
    Before("529", 529, ("upstream_overloaded",)),
    Before("html", 502, ("upstream_error",)),
    Before("empty", 502, ("bad_upstream_answer", "stream_broken")),
    Before("cut-head", 502, ("upstream_unreachable", "stream_broken")),
    Before("cut-first", 502, ("stream_broken", "upstream_unreachable", "bad_upstream_answer")),
    Before("reset=head", 502, ("upstream_unreachable", "stream_broken")),
    Before("malformed-first", 502, ("bad_upstream_answer",)),
    Before("stall-head", 504, ("head_timeout", "first_token_timeout")),
    Before("stall-first", 504, ("first_token_timeout", "idle_timeout", "head_timeout")),
]

# Faults after some content: (what the log calls it). Not streamed, the same faults come before anything was sent.
BROKEN = {
    "cut-mid": ("stream_broken",),
    "eof-mid": ("stream_broken",),
    "reset=mid": ("stream_broken",),
    "malformed": ("bad_upstream_answer",),
    "error-mid": ("upstream_overloaded", "upstream_error"),
    "stall-mid": ("idle_timeout",),
}


def provoke(client, fault: str, stream: bool) -> Exception:
    with pytest.raises(Exception) as caught:
        client.ask(f"mock-fast:chunks=8,fault={fault}", [User("Tell me something secret-prompt-words.")], stream=stream)
    return caught.value


def is_status(speaker: str, error: Exception, status: int) -> None:
    """The error is what this SDK raises for an answer with this status, and it could read the body."""
    if speaker.startswith("gemini"):
        kind = gemini.ClientError if status < 500 else gemini.ServerError
        assert type(error) is kind, repr(error)
        assert error.code == status
        assert error.status and error.message, error.details
        return
    sdk = CLASSES[speaker]
    assert isinstance(error, getattr(sdk, STATUS_CLASS[status])), repr(error)
    assert error.status_code == status
    body = error.body["error"] if speaker == "messages" else error.body
    assert body["message"] and body["type"]


def nothing_leaked(error: Exception) -> None:
    text = repr(error) + str(getattr(error, "body", "")) + str(getattr(error, "details", ""))
    assert "upstream-secret" not in text
    assert "127.0.0.1" not in text


@every_dialect
@both_ways
@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.fault)
@at(*MOCK)
def test_before_the_first_content_a_fault_is_a_true_status(speak, log_of, speaker, provider, stream, case):
    client = speak(speaker, provider)
    error = provoke(client, case.fault, stream)
    # Anthropic says 400 when the account is empty; its own SDK gets what it would have got from there.
    native = (case.fault, speaker, provider) == ("quota", "messages", "mock-anthropic")
    status = 400 if native else case.status
    is_status(speaker, error, status)
    nothing_leaked(error)
    assert client.headers["x-portcullis-error"] in case.codes
    line = log_of(client)
    assert line["status"] == status
    assert line["error"]["code"] in case.codes
    assert line["stream"] is stream
    assert {attempt["provider"] for attempt in line["attempts"]} == {provider}
    assert line["attempts"][-1]["error"] == line["error"]["code"]
    assert "secret-prompt-words" not in str(line) and "upstream-secret" not in str(line)


@every_dialect
@pytest.mark.parametrize("fault", [fault for fault in BROKEN if fault != "error-mid"])
@at(*MOCK)
def test_a_whole_answer_that_breaks_is_a_true_status(speak, log_of, speaker, provider, fault):
    client = speak(speaker, provider)
    error = provoke(client, fault, stream=False)
    is_status(speaker, error, 504 if fault == "stall-mid" else 502)
    nothing_leaked(error)
    assert log_of(client)["status"] == client.status


@every_dialect
@pytest.mark.parametrize("fault", BROKEN)
@at(*MOCK)
def test_a_stream_that_breaks_says_so_in_the_clients_words(speak, log_of, speaker, provider, fault):
    client = speak(speaker, provider)
    error = provoke(client, fault, stream=True)
    assert client.status == 200
    assert client.pieces > 0, "no content came before the fault"
    if speaker == "responses":
        assert isinstance(error, (StreamFailed, openai.APIError)), repr(error)
    elif speaker == "chat":
        assert isinstance(error, openai.APIError), repr(error)
        assert not isinstance(error, openai.APIConnectionError), repr(error)
    elif speaker == "messages":
        assert isinstance(error, anthropic.APIStatusError), repr(error)
        assert error.body["error"]["type"] in ("api_error", "overloaded_error", "timeout_error"), error.body
    else:
        assert isinstance(error, gemini.APIError), repr(error)
        assert error.code >= 500
    nothing_leaked(error)
    line = log_of(client)
    assert line["error"]["code"] in BROKEN[fault]
    assert line["status"] >= 500, "a stream that broke is a failure"
    assert len(line["attempts"]) == 1
    assert line["usage"]["output"] > 0, "what had been said is accounted"


@every_dialect
@at(*MOCK)
def test_an_error_event_before_any_content_is_still_a_true_status(speak, log_of, speaker, provider):
    client = speak(speaker, provider)
    provoke(client, "error-first", stream=True)
    assert client.status >= 500
    assert log_of(client)["status"] == client.status


@every_dialect
@at(*MOCK)
def test_a_wait_that_the_upstream_asks_for_is_passed_on(speak, speaker, provider):
    client = speak(speaker, provider)
    provoke(client, "429=3", stream=False)
    assert client.headers["retry-after"] == "3"
    assert client.headers["x-should-retry"] == "true"


@every_dialect
@at(*MOCK)
def test_a_caller_is_told_that_the_conversation_is_too_long_in_its_own_words(speak, speaker, provider):
    client = speak(speaker, provider)
    error = provoke(client, "context", stream=False)
    if speaker in ("chat", "responses"):
        assert error.code == "context_length_exceeded"
    elif speaker == "messages":
        assert error.body["error"]["type"] == "invalid_request_error"
    else:
        assert error.status == "INVALID_ARGUMENT"


@every_dialect
@both_ways
@pytest.mark.parametrize("harmless", ["slow=50", "drip=0"])
@at(*MOCK)
def test_what_is_merely_odd_is_put_up_with(speak, log_of, speaker, provider, stream, harmless):
    client = speak(speaker, provider)
    said = client.ask(f"mock-fast:chunks=4,fault={harmless}", [User("Hello there")], stream=stream)
    assert said.text and said.finish == "stop"
    line = log_of(client)
    assert line["status"] == 200 and "error" not in line


@pytest.mark.parametrize(
    "speaker, provider",
    # The Anthropic SDK itself wants usage from Anthropic.
    [(speaker, provider) for speaker in DIALECTS for provider in MOCK if (speaker, provider) != ("messages", "mock-anthropic")],
)
@both_ways
def test_an_answer_without_usage_is_an_answer(speak, log_of, speaker, provider, stream):
    client = speak(speaker, provider)
    said = client.ask("mock-fast:chunks=4,fault=no-usage", [User("Hello there")], stream=stream)
    assert said.text and said.finish == "stop"
    assert log_of(client)["status"] == 200


@every_dialect
@at("nobody-home")
def test_an_upstream_that_is_not_there_is_a_bad_gateway(speak, log_of, speaker, provider):
    client = speak(speaker, provider)
    with pytest.raises(Exception) as caught:
        client.ask("any-model", [User("Hello")])
    is_status(speaker, caught.value, 502)
    nothing_leaked(caught.value)
    assert log_of(client)["error"]["code"] == "upstream_unreachable"
