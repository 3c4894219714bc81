"""Who may call, with what, for which model: the SDKs' own exceptions, and requests no SDK would send."""

import socket

import anthropic
import httpx2
import openai
import pytest
from google.genai import errors as gemini

from bed.cells import every_dialect, everybody
from bed.speak import User

HELLO = [User("Hello")]


def expect(speaker: str, status: int, name: str, ask) -> Exception:
    if speaker.startswith("gemini"):
        with pytest.raises(gemini.ClientError) as caught:
            ask()
        assert caught.value.code == status
    else:
        sdk = anthropic if speaker == "messages" else openai
        with pytest.raises(getattr(sdk, name)) as caught:
            ask()
        assert caught.value.status_code == status
    return caught.value


@everybody
def test_a_wrong_key_is_an_authentication_error(speak, log_of, speaker):
    client = speak(speaker, "mock-chat", key="sk-wrong")
    error = expect(speaker, 401, "AuthenticationError", lambda: client.ask("mock-fast", HELLO))
    assert "sk-wrong" not in repr(error)
    line = log_of(client)
    assert (line["status"], line["error"]["code"], line["attempts"]) == (401, "invalid_credential", [])
    assert "sk-wrong" not in str(line)


@everybody
def test_a_model_that_the_key_may_not_use_is_permission_denied(speak, log_of, gateway, speaker):
    client = speak(speaker, "mock-chat", key=gateway.narrow_key)
    expect(speaker, 403, "PermissionDeniedError", lambda: client.ask("mock-fast", HELLO))
    line = log_of(client)
    assert (line["key"], line["error"]["code"], line["attempts"]) == ("narrow", "model_not_allowed", [])


@everybody
def test_a_key_may_use_the_models_it_was_given(speak, log_of, gateway, speaker):
    client = speak(speaker, "mock-chat", key=gateway.narrow_key)
    client.prefix = ""
    assert client.ask("house-model", HELLO).text
    line = log_of(client)
    assert (line["key"], line["project"], line["model"], line["provider"]) == ("narrow", "tests", "house-model", "mock-chat")


@everybody
@pytest.mark.parametrize("model", ["nobody/knows", "unheard-of"])
def test_an_unknown_model_is_not_found(speak, log_of, speaker, model):
    client = speak(speaker, "mock-chat")
    client.prefix = ""
    error = expect(speaker, 404, "NotFoundError", lambda: client.ask(model, HELLO))
    if speaker in ("chat", "responses"):
        assert error.code == "model_not_found"
    assert log_of(client)["error"]["code"] == "model_not_found"


# Every header that an SDK or a tool puts its key in.
HEADERS = [
    {"authorization": "Bearer KEY"},
    {"authorization": "bearer KEY"},
    {"x-api-key": "KEY"},
    {"api-key": "KEY"},
    {"x-goog-api-key": "KEY"},
]
CHAT = '{"model":"house-model","messages":[{"role":"user","content":"Hello"}]}'


def post(gateway, body: str | bytes, path: str = "/v1/chat/completions", headers: dict | None = None, key: str | None = None):
    headers = {"authorization": f"Bearer {key or gateway.key}", "content-type": "application/json", **(headers or {})}
    raw = body if isinstance(body, bytes) else body.encode()
    with httpx2.Client(trust_env=False, timeout=10) as http:
        return http.post(gateway.url + path, content=raw, headers=headers)


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: " ".join(*header.items()))
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions"])
def test_a_key_is_found_in_every_usual_header(gateway, header, path):
    headers = {name: value.replace("KEY", gateway.key) for name, value in header.items()}
    with httpx2.Client(trust_env=False, timeout=10) as http:
        assert http.post(gateway.url + path, content=CHAT, headers=headers).status_code == 200


def test_a_stranger_does_not_make_us_read_a_body(gateway):
    """The refusal comes although not one byte of the promised body does."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-length: 1000000\r\n\r\n")
        answer = b""
        while b"missing_credential" not in answer:
            answer += connection.recv(4096) or pytest.fail(f"no refusal: {answer}")
    assert answer.startswith(b"HTTP/1.1 401 ")


# Bodies that could be authorised as one thing and sent as another, or as nothing at all.
ODD = {
    "two models": '{"model":"house-model","model":"mock-chat/mock-fast","messages":[{"role":"user","content":"x"}]}',
    "two models, escaped": '{"model":"house-model","mod\\u0065l":"mock-chat/mock-fast","messages":[]}',
    "upper-case model": '{"Model":"mock-chat/mock-fast","model":"house-model","messages":[{"role":"user","content":"x"}]}',
    "two streams": '{"model":"house-model","stream":true,"stream":false,"messages":[{"role":"user","content":"x"}]}',
    "no model": '{"messages":[{"role":"user","content":"x"}]}',
    "model is a number": '{"model":17,"messages":[{"role":"user","content":"x"}]}',
    "model is null": '{"model":null,"messages":[{"role":"user","content":"x"}]}',
    "an array": '[{"model":"house-model"}]',
    "not JSON": "model=house-model",
    "cut": '{"model":"house-model","messages":[{"role":',
    "more after it": CHAT + "{}",
    "nothing": "",
    "not UTF-8": b'{"model":"house-model","messages":[{"role":"user","content":"\xff\xfe"}]}',
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_an_odd_body_is_a_bad_request(gateway, odd, path):
    answer = post(gateway, ODD[odd], path, key=gateway.narrow_key)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]
    line = gateway.log.of(answer.headers["x-portcullis-id"])
    assert line["status"] == 400 and line["attempts"] == []


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_the_content_type_changes_nothing(gateway, kind):
    headers = {"authorization": f"Bearer {gateway.narrow_key}"} | ({"content-type": kind} if kind else {})
    with httpx2.Client(trust_env=False, timeout=10) as http:
        allowed = http.post(gateway.url + "/v1/chat/completions", content=CHAT, headers=headers)
        other = CHAT.replace("house-model", "mock-chat/mock-fast")
        refused = http.post(gateway.url + "/v1/chat/completions", content=other, headers=headers)
    assert (allowed.status_code, refused.status_code) == (200, 403)


def test_what_is_not_served_is_told_in_the_callers_words(gateway):
    answer = post(gateway, CHAT, "/v1/chat/completion")
    assert answer.status_code == 404 and "/v1/chat/completions" in answer.json()["error"]["message"]
    with httpx2.Client(trust_env=False, timeout=10) as http:
        answer = http.get(gateway.url + "/v1/messages", headers={"x-api-key": gateway.key, "anthropic-version": "2023-06-01"})
    assert answer.status_code == 405 and answer.headers["allow"] == "POST"
    assert answer.json()["type"] == "error"
