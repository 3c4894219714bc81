"""Messages through the anthropic package."""

import base64

import anthropic

from .base import Call, Result, Said, Speaker, Usage, User

FINISH = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool", "refusal": "refused"}


class Messages(Speaker):
    name = "messages"
    dialect = "anthropic"

    def connect(self, root, key, timeout, retries):
        return anthropic.Anthropic(base_url=root, api_key=key, max_retries=retries, http_client=self.http)

    def ask(self, model, turns, *, stream=False, system=None, tools=(), must_call=None, schema=None, think=False,
            max_tokens=4096, stop=None, temperature=None):
        ask = {"model": self.prefix + model, "messages": messages(turns), "max_tokens": max_tokens}
        if system:
            ask["system"] = system
        if tools:
            ask["tools"] = [
                {"name": tool.name, "description": tool.description, "input_schema": tool.schema} for tool in tools
            ]
        if must_call:
            ask["tool_choice"] = {"type": "tool", "name": must_call}
        if schema:
            ask["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
        if think:
            ask["thinking"] = {"type": "enabled", "budget_tokens": 2048}
        if stop:
            ask["stop_sequences"] = stop
        if temperature is not None:
            ask["extra_body"] = {"temperature": temperature}
        if stream:
            return self._streamed(ask)
        return read(self.client.messages.create(**ask), 1, self.headers)

    def _streamed(self, ask) -> Said:
        with self.client.messages.stream(**ask) as events:
            for event in events:
                self.pieces += event.type == "content_block_delta"
            answer = events.get_final_message()
        return read(answer, self.pieces, self.headers)


def messages(turns):
    out = []
    for turn in turns:
        match turn:
            case User(text, images):
                parts = [
                    {"type": "image",
                     "source": {"type": "base64", "media_type": image.kind,
                                "data": base64.b64encode(image.data).decode()}}
                    for image in images
                ]
                out.append({"role": "user", "content": [*parts, {"type": "text", "text": text}]})
            case Said():
                out.append(turn.native)
            case Result(call, value):
                block = {"type": "tool_result", "tool_use_id": call.id, "content": value}
                # All results of one turn belong into one message.
                if out[-1]["role"] == "user":
                    out[-1]["content"].append(block)
                else:
                    out.append({"role": "user", "content": [block]})
    return out


def read(answer, pieces, headers) -> Said:
    said = Said(pieces=pieces, model=answer.model, id=answer.id, headers=headers)
    for block in answer.content:
        if block.type == "text":
            said.text += block.text
        elif block.type == "thinking":
            said.reasoning += block.thinking
        elif block.type == "tool_use":
            said.calls.append(Call(block.id, block.name, block.input))
    # Only fields of the wire form: the stream helper adds its own.
    said.native = {
        "role": "assistant",
        "content": [block.model_dump(exclude_none=True, exclude={"parsed_output"}) for block in answer.content],
    }
    said.finish = FINISH.get(answer.stop_reason, answer.stop_reason)
    usage = answer.usage
    cached = usage.cache_read_input_tokens or 0
    written = usage.cache_creation_input_tokens or 0
    details = getattr(usage, "output_tokens_details", None)
    thought = getattr(details, "thinking_tokens", 0) or 0
    said.usage = Usage(usage.input_tokens + cached + written, usage.output_tokens, cached, thought)
    return said
