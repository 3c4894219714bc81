"""What a conversation is made of, in no dialect's words."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import httpx2


@dataclass(frozen=True)
class Image:
    """A picture by value."""

    data: bytes
    kind: str = "image/png"


@dataclass(frozen=True)
class User:
    """What the user said."""

    text: str
    images: tuple[Image, ...] = ()


@dataclass(frozen=True)
class Call:
    """A tool call as the SDK gave it; `args` decoded."""

    id: str | None
    name: str
    args: dict


@dataclass(frozen=True)
class Result:
    """What a tool answered."""

    call: Call
    value: str


@dataclass(frozen=True)
class Tool:
    name: str
    description: str
    schema: dict


@dataclass(frozen=True)
class Usage:
    """Tokens as the SDK's user sees them, input with what was cached, output with what was thought."""

    input: int
    output: int
    cached: int = 0
    reasoning: int = 0


@dataclass
class Said:
    """An assistant's turn."""

    text: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)
    # stop | length | tool | refused
    finish: str | None = None
    usage: Usage | None = None
    # How many events with content a stream had; 1 when it was none.
    pieces: int = 1
    model: str | None = None
    id: str | None = None
    headers: dict = field(default_factory=dict)
    # The turn in the SDK's own form, for the next request.
    native: object = None


class StreamFailed(Exception):
    """The stream said that it failed, in a dialect whose SDK hands that over as an event and raises nothing."""

    def __init__(self, code: str | None, message: str):
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


class Speaker(ABC):
    """A client of one dialect. SDK retries are off: what a test counts is what the gateway did."""

    name: str
    dialect: str

    def __init__(self, root: str, key: str, prefix: str = "", timeout: float = 10.0, retries: int = 0):
        self.prefix = prefix
        self.headers: dict = {}
        self.status: int | None = None
        # Content events of the stream so far, also when it breaks.
        self.pieces = 0
        self.http = httpx2.Client(timeout=timeout, trust_env=False, event_hooks={"response": [self._seen]})
        self.client = self.connect(root, key, timeout, retries)

    def _seen(self, response) -> None:
        self.pieces = 0
        self.headers = {key.lower(): value for key, value in response.headers.items()}
        self.status = response.status_code

    @property
    def exchange(self) -> str:
        """The gateway's id of the last request."""
        return self.headers["x-portcullis-id"]

    def close(self) -> None:
        self.http.close()

    @abstractmethod
    def connect(self, root: str, key: str, timeout: float, retries: int): ...

    @abstractmethod
    def ask(
        self,
        model: str,
        turns: list,
        *,
        stream: bool = False,
        system: str | None = None,
        tools: tuple[Tool, ...] = (),
        must_call: str | None = None,
        schema: dict | None = None,
        think: bool = False,
        max_tokens: int = 4096,
        stop: list[str] | None = None,
        temperature: float | None = None,
    ) -> Said:
        """One turn. `turns` holds User, Said and Result in order."""
