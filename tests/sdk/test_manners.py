"""What goes up and what comes down, byte by byte, at an upstream that keeps what it hears and says what it is told."""

import json
import uuid

import httpx2
import pytest

from bed.cells import DOT, SCRIPT, at, every_dialect
from bed.scripted import reply, sse
from bed.speak import User

# Numbers no float keeps, keys in no usual order, fields nobody knows, text in several scripts, odd spacing.
ODD_FIELDS = '"zz_unknown": {"b":1.10,"a":[1e2, 12345678901234567890123, -0.0]} , "ключ":"значе\\u043dие 🚀"'

ASKS = {
    "script-chat": ("/v1/chat/completions", '{"messages":[{"content":"Grüße","role":"user"}], %s ,"model":"%s","temperature":0.70}'),
    "script-responses": ("/v1/responses", '{"input":"Grüße", %s ,"model":"%s","temperature":0.70}'),
    "script-anthropic": ("/v1/messages", '{"messages":[{"content":"Grüße","role":"user"}],"max_tokens":16, %s ,"model":"%s","temperature":0.70}'),
}
UPSTREAM_PATH = {"script-chat": "/v1/chat/completions", "script-responses": "/v1/responses", "script-anthropic": "/v1/messages"}

# Whole answers with the same oddities.
ANSWERS = {
    "script-chat": '{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"up","x_odd":%s,"choices":[{"index":0,"message":{"role":"assistant","content":"né\\u00e9"},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}',
    "script-responses": '{"id":"resp_1","object":"response","created_at":1,"model":"up","status":"completed","x_odd":%s,"output":[{"type":"message","id":"msg_1","status":"completed","role":"assistant","content":[{"type":"output_text","text":"né","annotations":[]}]}],"usage":{"input_tokens":5,"output_tokens":2,"total_tokens":7}}',
    "script-anthropic": '{"id":"msg_1","type":"message","role":"assistant","model":"up","x_odd":%s,"content":[{"type":"text","text":"né"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":5,"output_tokens":2}}',
}
ODD_VALUE = '{"n":12345678901234567890123,"f":1.10,"e":1e2}'

STREAMS = {
    "script-chat": [
        ": a comment\n\n",
        'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"up","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"x":1.10}\n\n',
        'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"up","choices":[{"index":0,"delta":{"content":"né 🚀"},"finish_reason":null}]}\r\n\r\n',
        'data:{"id":"c","object":"chat.completion.chunk","created":1,"model":"up","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
        'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"up","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}\n\n',
        "data: [DONE]\n\n",
    ],
    "script-anthropic": [
        'event: message_start\ndata: {"type":"message_start","message":{"id":"m","type":"message","role":"assistant","content":[],"model":"up","stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":5,"output_tokens":1}}}\n\n',
        'event: ping\ndata: {"type": "ping"}\n\n',
        'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""},"x":12345678901234567890123}\n\n',
        'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"né 🚀"}}\n\n',
        'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n',
        'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":2}}\n\n',
        'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    ],
}


@pytest.fixture
def model() -> str:
    """A name of this test's own, so that tests do not hear each other."""
    return "m-" + uuid.uuid4().hex[:12]


@pytest.fixture
def post(gateway):
    with httpx2.Client(trust_env=False, timeout=10) as http:

        def send(path: str, body: str, **headers: str):
            headers = {name.replace("_", "-"): value for name, value in headers.items()}
            headers |= {"authorization": f"Bearer {gateway.key}", "content-type": "application/json"}
            return http.post(gateway.url + path, content=body.encode(), headers=headers)

        yield send


@at(*ASKS)
def test_the_same_dialect_is_relayed_byte_for_byte(post, script, provider, model):
    path, ask = ASKS[provider]
    answer = ANSWERS[provider] % ODD_VALUE
    script.answer(model, reply(answer))
    got = post(path, ask % (ODD_FIELDS, f"{provider}/{model}"))
    assert got.text == answer
    [heard] = script.heard(model)
    assert heard.path == UPSTREAM_PATH[provider]
    assert heard.body.decode() == ask % (ODD_FIELDS, model)


@at(*STREAMS)
def test_a_stream_of_the_same_dialect_is_relayed_byte_for_byte(post, script, provider, model):
    path, ask = ASKS[provider]
    script.answer(model, sse(*STREAMS[provider]))
    extra = ODD_FIELDS + ',"stream":true,"stream_options":{"include_usage":true}'
    got = post(path, ask % (extra, f"{provider}/{model}"))
    assert got.headers["content-type"].startswith("text/event-stream")
    assert got.text == "".join(STREAMS[provider])


def test_usage_is_asked_for_and_hidden_from_who_did_not_ask(post, script, gateway, model):
    path, ask = ASKS["script-chat"]
    script.answer(model, sse(*STREAMS["script-chat"]))
    got = post(path, ask % ('"stream":true', f"script-chat/{model}"))
    assert '"usage"' not in got.text
    assert got.text.endswith("data: [DONE]\n\n")
    [heard] = script.heard(model)
    assert heard.json()["stream_options"] == {"include_usage": True}
    usage = gateway.log.of(got.headers["x-portcullis-id"])["usage"]
    assert (usage["input"], usage["output"]) == (5, 2)


@every_dialect
@at(*SCRIPT)
def test_nothing_of_the_gateways_own_goes_upstream(speak, script, gateway, speaker, provider, model):
    """Neither keys nor hop headers, nor what an SDK tells about itself."""
    script.answer(model, reply({"error": {"message": "enough heard"}}, 400))
    client = speak(speaker, provider)
    client.http.headers.update(
        {"connection": "keep-alive, x-private", "x-private": "1", "te": "trailers", "proxy-authorization": "Basic eA==",
         "cookie": "session=1", "x-forwarded-for": "10.9.8.7"}
    )
    with pytest.raises(Exception):
        client.ask(model, [User("Hello")])
    [heard] = script.heard(model)
    names = {name.lower() for name, _ in heard.headers}
    everything = str(heard.headers) + heard.path
    assert gateway.key not in everything
    assert gateway.key not in heard.body.decode()
    for name in ("cookie", "x-private", "te", "proxy-authorization", "x-forwarded-for", "keep-alive"):
        assert name not in names
    assert not [name for name in names if name.startswith(("x-stainless", "x-portcullis"))]
    credentials = [value for _, value in heard.headers if "upstream-secret" in value]
    assert len(credentials) == 1, "the provider's own key, once"
    assert heard.header("content-type") == "application/json"


def test_headers_that_belong_to_the_dialect_are_kept(post, script, model):
    path, ask = ASKS["script-anthropic"]
    script.answer(model, reply(ANSWERS["script-anthropic"] % 1))
    post(path, ask % ('"a":1', f"script-anthropic/{model}"), anthropic_version="2023-06-01", anthropic_beta="one,two")
    [heard] = script.heard(model)
    assert heard.header("anthropic-version") == "2023-06-01"
    assert heard.header("anthropic-beta") == "one,two"


@every_dialect
@at(*SCRIPT)
def test_a_picture_reaches_every_dialect(speak, script, speaker, provider, model):
    import base64

    script.answer(model, reply({"error": {"message": "enough heard"}}, 400))
    with pytest.raises(Exception):
        speak(speaker, provider).ask(model, [User("What is this?", (DOT,))])
    [heard] = script.heard(model)
    encoded = base64.b64encode(DOT.data).decode()
    body = heard.json()
    image = {
        "script-chat": lambda: [
            part["image_url"]["url"] for part in body["messages"][-1]["content"] if part["type"] == "image_url"
        ] == [f"data:image/png;base64,{encoded}"],
        "script-responses": lambda: [
            part["image_url"] for part in body["input"][-1]["content"] if part["type"] == "input_image"
        ] == [f"data:image/png;base64,{encoded}"],
        "script-anthropic": lambda: [
            part["source"] for part in body["messages"][-1]["content"] if part["type"] == "image"
        ] == [{"type": "base64", "media_type": "image/png", "data": encoded}],
        "script-gemini": lambda: encoded in json.dumps(body["contents"][-1]).replace("-", "+").replace("_", "/"),
    }
    assert image[provider](), body


def test_the_callers_request_id_is_taken_over(post, script, gateway, model):
    path, ask = ASKS["script-chat"]
    script.answer(model, reply(ANSWERS["script-chat"] % 1))
    got = post(path, ask % ('"a":1', f"script-chat/{model}"), x_request_id="req-from-outside")
    assert got.headers["x-request-id"] == "req-from-outside"
    line = gateway.log.of(got.headers["x-portcullis-id"])
    assert line["request_id"] == "req-from-outside"


def test_a_refusal_of_the_same_dialect_comes_down_as_it_was_said(post, script, model):
    path, ask = ASKS["script-chat"]
    said = '{"error":{"message":"No such parameter: zz","type":"invalid_request_error","param":"zz","code":null}}'
    script.answer(model, reply(said, 400))
    got = post(path, ask % ('"a":1', f"script-chat/{model}"))
    assert got.status_code == 400
    assert got.json() == json.loads(said)
