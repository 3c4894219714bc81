"""Client dialects behind one face: each speaker drives a real SDK and says what that SDK's user would have seen."""

from .base import Call, Image, Result, Said, Speaker, StreamFailed, Tool, Usage, User
from .anthropic_messages import Messages
from .gemini import GeminiV1, GeminiV1Beta
from .openai_chat import Chat
from .openai_responses import Responses

SPEAKERS: dict[str, type[Speaker]] = {
    speaker.name: speaker for speaker in (Chat, Responses, Messages, GeminiV1, GeminiV1Beta)
}

__all__ = ["SPEAKERS", "Call", "Image", "Result", "Said", "Speaker", "StreamFailed", "Tool", "Usage", "User"]
