"""Clients that leave: the upstream is let go at once, and what had been said is accounted, once."""

import json
import socket
import time
import uuid

import pytest

from bed.cells import MOCK, at, every_dialect
from bed.process import until
from bed.scripted import sse
from bed.speak import User
from bed.upstreams import get_json

# Endless by any test's measure, a piece every 5 ms.
LONG = "mock-fast:chunks=4000,delay=5ms,length=64000"

LIMIT_MS = 100


def entries(servers, marker: str) -> list[dict]:
    """What the mock keeps of the requests whose body holds the marker."""
    requests = get_json(servers["mock"].url + "/__mock/last")["requests"]
    return [entry for entry in requests if marker in entry["body"]]


def ended(servers, marker: str) -> dict:
    def look():
        found = entries(servers, marker)
        return found and found[0]["outcome"] != "open" and found[0]

    return until(f"the end of {marker} at the mock", look, 5)


def open_stream(client, model: str, prompt: str):
    """A stream read up to its second piece, and the way to leave it."""
    sdk, name = client.client, client.prefix + model
    match client.name:
        case "chat":
            stream = sdk.chat.completions.create(model=name, messages=[{"role": "user", "content": prompt}], stream=True)
        case "responses":
            stream = sdk.responses.create(model=name, input=prompt, stream=True)
        case "messages":
            stream = sdk.messages.create(
                model=name, messages=[{"role": "user", "content": prompt}], max_tokens=100_000, stream=True
            )
        case _:
            stream = sdk.models.generate_content_stream(model=name, contents=prompt)
    events = iter(stream)
    for _ in range(8):
        next(events)
    return events


@every_dialect
@at(*MOCK)
def test_a_client_that_leaves_mid_stream_frees_the_upstream(speak, servers, log_of, speaker, provider):
    client, marker = speak(speaker, provider), uuid.uuid4().hex
    events = open_stream(client, LONG, marker)
    [entry] = entries(servers, marker)
    assert entry["outcome"] == "open"
    left = time.monotonic()
    client.http.close()
    entry = ended(servers, marker)
    noticed_ms = (time.monotonic() - left) * 1000
    del events
    assert entry["client_gone"], entry
    # Both are upper bounds: the poll itself takes its time.
    assert noticed_ms < LIMIT_MS + 100, f"the upstream was held for {noticed_ms:.0f} ms"
    line = log_of(client)
    assert (line["status"], line["error"]["code"]) == (499, "client_gone")
    # Gemini states its usage with every piece, the others at the end.
    assert line["usage"]["output"] > 0 and (line.get("usage_estimated") or provider == "mock-gemini")
    assert len(line["attempts"]) == 1


@pytest.mark.parametrize("fault", ["stall-head", "stall-first"])
@pytest.mark.parametrize("stream", ["true", "false"])
def test_a_client_that_leaves_while_it_waits_frees_the_upstream(gateway, servers, fault, stream):
    marker = uuid.uuid4().hex
    body = f'{{"model":"mock-chat/mock-fast:fault={fault}","stream":{stream},"messages":[{{"role":"user","content":"{marker}"}}]}}'
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as connection:
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nx-request-id: {marker}\r\n"
            f"authorization: Bearer {gateway.key}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        connection.sendall((head + body).encode())
        until("the request at the mock", lambda: entries(servers, marker), 5)
    left = time.monotonic()
    entry = ended(servers, marker)
    noticed_ms = (time.monotonic() - left) * 1000
    assert entry["client_gone"], entry
    assert noticed_ms < LIMIT_MS + 100, f"the upstream was held for {noticed_ms:.0f} ms"
    line = until("the log line", lambda: gateway.log.with_request_id(marker), 5)
    assert line["error"]["code"] == "client_gone"


def test_a_client_that_stops_reading_stops_the_upstream(gateway, script):
    """Backpressure: what the system's buffers take may be on its way, but not the whole answer."""
    model, size = f"m-{uuid.uuid4().hex}", 64 << 20
    words = "word " * 3000
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
             "choices": [{"index": 0, "delta": {"content": words}, "finish_reason": None}]}
    frame = f"data: {json.dumps(chunk)}\n\n"
    script.answer(model, sse(*[frame] * (size // len(frame))))
    body = f'{{"model":"script-chat/{model}","stream":true,"messages":[{{"role":"user","content":"x"}}]}}'
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        connection.settimeout(5)
        connection.connect(("127.0.0.1", gateway.port))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {gateway.key}\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall((head + body).encode())
        assert connection.recv(1024).startswith(b"HTTP/1.1 200")
        [heard] = script.heard(model)

        def steady():
            before = heard.sent
            time.sleep(0.2)
            return heard.sent == before

        until("the upstream to stop", steady, 10)
        assert heard.sent < size / 2, "the answer was read ahead"
