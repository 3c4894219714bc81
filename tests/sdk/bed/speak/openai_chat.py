"""Chat completions through the openai package."""

import base64
import json

import openai
from openai.lib.streaming.chat import ChatCompletionStreamState

from .base import Call, Result, Said, Speaker, Usage, User

FINISH = {"stop": "stop", "length": "length", "tool_calls": "tool", "content_filter": "refused"}


class Chat(Speaker):
    name = "chat"
    dialect = "openai_chat"

    def connect(self, root, key, timeout, retries):
        return openai.OpenAI(base_url=root + "/v1", api_key=key, max_retries=retries, http_client=self.http)

    def ask(self, model, turns, *, stream=False, system=None, tools=(), must_call=None, schema=None, think=False,
            max_tokens=4096, stop=None, temperature=None):
        ask = {"model": self.prefix + model, "messages": messages(turns, system), "max_tokens": max_tokens}
        if tools:
            ask["tools"] = [
                {"type": "function",
                 "function": {"name": tool.name, "description": tool.description, "parameters": tool.schema}}
                for tool in tools
            ]
        if must_call:
            ask["tool_choice"] = {"type": "function", "function": {"name": must_call}}
        if schema:
            ask["response_format"] = {
                "type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True},
            }
        if think:
            ask["reasoning_effort"] = "high"
        if stop:
            ask["stop"] = stop
        if temperature is not None:
            ask["temperature"] = temperature
        return self._streamed(ask) if stream else self._whole(ask)

    def _whole(self, ask) -> Said:
        answer = self.client.chat.completions.create(**ask)
        return read(answer, answer.choices[0].message, 1, self.headers)

    def _streamed(self, ask) -> Said:
        # Not the stream helper: it raises where an answer was cut at its limit. Its accumulator does not.
        state = ChatCompletionStreamState()
        for chunk in self.client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}):
            state.handle_chunk(chunk)
            if chunk.choices:
                delta = chunk.choices[0].delta
                self.pieces += bool(delta.content or delta.tool_calls or getattr(delta, "reasoning_content", None))
        answer = state.current_completion_snapshot
        return read(answer, answer.choices[0].message, self.pieces, self.headers)


def messages(turns, system):
    out = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        match turn:
            case User(text, ()):
                out.append({"role": "user", "content": text})
            case User(text, images):
                pictures = [
                    {"type": "image_url",
                     "image_url": {"url": f"data:{image.kind};base64,{base64.b64encode(image.data).decode()}"}}
                    for image in images
                ]
                out.append({"role": "user", "content": [{"type": "text", "text": text}, *pictures]})
            case Said():
                out.append(turn.native)
            case Result(call, value):
                out.append({"role": "tool", "tool_call_id": call.id, "content": value})
    return out


def read(answer, message, pieces, headers) -> Said:
    calls = [
        Call(call.id, call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or []
    ]
    native = {"role": "assistant", "content": message.content}
    if message.tool_calls:
        native["tool_calls"] = [
            {"id": call.id, "type": "function",
             "function": {"name": call.function.name, "arguments": call.function.arguments}}
            for call in message.tool_calls
        ]
    # Not OpenAI's own fields, but what every other server calls them; they go back as they came.
    extra = message.model_extra or {}
    for field in ("reasoning_content", "reasoning", "reasoning_details"):
        if extra.get(field):
            native[field] = extra[field]
    usage = answer.usage and Usage(
        answer.usage.prompt_tokens,
        answer.usage.completion_tokens,
        getattr(answer.usage.prompt_tokens_details, "cached_tokens", 0) or 0,
        getattr(answer.usage.completion_tokens_details, "reasoning_tokens", 0) or 0,
    )
    return Said(
        text=message.content or "",
        reasoning=extra.get("reasoning_content") or extra.get("reasoning") or "",
        calls=calls,
        finish=FINISH.get(answer.choices[0].finish_reason, answer.choices[0].finish_reason),
        usage=usage,
        pieces=pieces,
        model=answer.model,
        id=answer.id,
        headers=headers,
        native=native,
    )
