"""What every matrix is made of: who asks, where it ends, and with what."""

import struct
import zlib

import pytest

from .speak import SPEAKERS, Image, Tool

AIMOCK = ["aimock-openai", "aimock-responses", "aimock-anthropic", "aimock-gemini"]
LLMOCK = ["llmock-openai", "llmock-responses", "llmock-anthropic", "llmock-gemini"]
LLAMA = ["llama", "llama-chat", "llama-responses", "llama-anthropic"]
MOCK = ["mock-chat", "mock-responses", "mock-anthropic", "mock-gemini"]
SCRIPT = ["script-chat", "script-responses", "script-anthropic", "script-gemini"]

# One speaker a dialect, where the API version cannot matter.
DIALECTS = [name for name in SPEAKERS if name != "gemini-v1"]

everybody = pytest.mark.parametrize("speaker", SPEAKERS)
every_dialect = pytest.mark.parametrize("speaker", DIALECTS)
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


def at(*providers: str):
    return pytest.mark.parametrize("provider", providers)


WEATHER = Tool(
    "get_weather",
    "The weather of a city.",
    {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
        "required": ["city"],
    },
)
CLOCK = Tool("get_time", "The time in a zone.", {"type": "object", "properties": {"zone": {"type": "string"}}})
INVOICE = {
    "type": "object",
    "properties": {
        "number": {"type": "string"},
        "total": {"type": "number"},
        "lines": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["number", "total", "lines"],
    "additionalProperties": False,
}


def png(red: int = 255) -> bytes:
    """A picture of one pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixel = zlib.compress(bytes([0, red, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")


DOT = Image(png())
