"""An upstream that says exactly the bytes a test gave it, and keeps exactly the bytes it was sent.

One connection a thread, no HTTP library: nothing tidies up what the gateway wrote, nothing what the test answers.
"""

import json
import socket
import threading
from dataclasses import dataclass

from .process import until

SLICE = 65_536


@dataclass
class Heard:
    """One request as it came in."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    # Bytes of the answer that the system has taken so far.
    sent: int = 0

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    def json(self):
        return json.loads(self.body)


def reply(body: bytes | str | dict, status: int = 200, kind: str = "application/json", **headers: str) -> bytes:
    """A whole HTTP answer."""
    raw = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    lines = [f"HTTP/1.1 {status} Scripted", f"content-type: {kind}", f"content-length: {len(raw)}"]
    lines += [f"{key.replace('_', '-')}: {value}" for key, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw


def sse(*frames: str, status: int = 200) -> bytes:
    """A whole stream; each frame is sent as it stands. The connection ends it, as many small servers do."""
    head = f"HTTP/1.1 {status} Scripted\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    return head.encode() + "".join(frames).encode()


class Scripted:
    """Tests queue answers under a model name; a request takes the next answer of the model it names."""

    def __init__(self):
        self._answers: dict[str, list[bytes]] = {}
        self._heard: dict[str, list[Heard]] = {}
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def answer(self, model: str, *answers: bytes) -> None:
        with self._lock:
            self._answers.setdefault(model, []).extend(answers)

    def heard(self, model: str, count: int = 1) -> list[Heard]:
        """The requests for a model; waits until there are `count`."""
        until(f"{count} requests for {model}", lambda: len(self._heard.get(model, [])) >= count, 5)
        return self._heard[model]

    def stop(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            while (heard := read_request(stream)) is not None:
                model = model_of(heard)
                with self._lock:
                    self._heard.setdefault(model, []).append(heard)
                    queue = self._answers.get(model) or []
                    said = queue.pop(0) if queue else reply({"error": {"message": f"nothing scripted for {model}"}}, 418)
                try:
                    for at in range(0, len(said), SLICE):
                        connection.sendall(said[at : at + SLICE])
                        heard.sent = at + SLICE
                except OSError:
                    return
                if b"connection: close" in said.partition(b"\r\n\r\n")[0]:
                    return


def read_request(stream) -> Heard | None:
    line = stream.readline().decode("latin-1").strip()
    if not line:
        return None
    method, path, _ = line.split(" ")
    headers = []
    while (header := stream.readline().decode("latin-1").rstrip("\r\n")):
        key, _, value = header.partition(":")
        headers.append((key, value.strip()))
    lower = {key.lower(): value for key, value in headers}
    if "chunked" in lower.get("transfer-encoding", ""):
        body = b""
        while (size := int(stream.readline().split(b";")[0], 16)):
            body += stream.read(size)
            stream.readline()
        stream.readline()
    else:
        body = stream.read(int(lower.get("content-length", 0)))
    return Heard(method, path, headers, body)


def model_of(heard: Heard) -> str:
    """The model a request is for: in the path (Gemini) or the body."""
    if "/models/" in heard.path:
        return heard.path.split("/models/")[1].split("?")[0].rpartition(":")[0]
    try:
        return str(heard.json().get("model"))
    except (ValueError, AttributeError):
        return ""
