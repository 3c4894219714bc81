"""Responses through the openai package."""

import base64
import json

import openai

from .base import Call, Result, Said, Speaker, StreamFailed, Usage, User

CONTENT = {
    "response.output_text.delta",
    "response.refusal.delta",
    "response.function_call_arguments.delta",
    "response.reasoning_summary_text.delta",
    "response.reasoning_text.delta",
}

ENDS = {"response.completed", "response.incomplete"}


class Responses(Speaker):
    name = "responses"
    dialect = "openai_responses"

    def connect(self, root, key, timeout, retries):
        return openai.OpenAI(base_url=root + "/v1", api_key=key, max_retries=retries, http_client=self.http)

    def ask(self, model, turns, *, stream=False, system=None, tools=(), must_call=None, schema=None, think=False,
            max_tokens=4096, stop=None, temperature=None):
        ask = {"model": self.prefix + model, "input": items(turns), "max_output_tokens": max_tokens, "store": False}
        if system:
            ask["instructions"] = system
        if tools:
            ask["tools"] = [
                {"type": "function", "name": tool.name, "description": tool.description, "parameters": tool.schema,
                 "strict": False}
                for tool in tools
            ]
        if must_call:
            ask["tool_choice"] = {"type": "function", "name": must_call}
        if schema:
            ask["text"] = {"format": {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}}
        if think:
            ask["reasoning"] = {"effort": "high", "summary": "auto"}
            ask["include"] = ["reasoning.encrypted_content"]
        if stop:
            # The dialect has no stop sequences; a server that knows them takes them all the same.
            ask["extra_body"] = {"stop": stop}
        if temperature is not None:
            ask["temperature"] = temperature
        return self._streamed(ask) if stream else read(self.client.responses.create(**ask), 1, self.headers)

    def _streamed(self, ask) -> Said:
        # Not the stream helper: it wants indices that llama.cpp leaves out.
        text, last = "", None
        for event in self.client.responses.create(**ask, stream=True):
            self.pieces += event.type in CONTENT
            if event.type == "response.output_text.delta":
                text += event.delta
            elif event.type == "error":
                raise StreamFailed(event.code, event.message)
            elif event.type == "response.failed":
                raise StreamFailed(event.response.error.code, event.response.error.message)
            last = event
        assert last and last.type in ENDS, f"the stream ended with {last and last.type}"
        said = read(last.response, self.pieces, self.headers)
        assert said.text == text, "the deltas do not add up to the answer"
        return said


def items(turns):
    out = []
    for turn in turns:
        match turn:
            case User(text, images):
                parts = [{"type": "input_text", "text": text}]
                for image in images:
                    url = f"data:{image.kind};base64,{base64.b64encode(image.data).decode()}"
                    parts.append({"type": "input_image", "image_url": url, "detail": "auto"})
                out.append({"role": "user", "content": parts})
            case Said():
                out.extend(turn.native)
            case Result(call, value):
                out.append({"type": "function_call_output", "call_id": call.id, "output": value})
    return out


def read(answer, pieces, headers) -> Said:
    said = Said(pieces=pieces, model=answer.model, id=answer.id, headers=headers, text=answer.output_text)
    for item in answer.output:
        if item.type == "function_call":
            said.calls.append(Call(item.call_id, item.name, json.loads(item.arguments)))
        elif item.type == "reasoning":
            parts = [*(item.summary or []), *(item.content or [])]
            said.reasoning += "".join(part.text for part in parts)
    said.native = [item.model_dump(exclude_none=True, exclude={"parsed_arguments", "parsed"}) for item in answer.output]
    if answer.status == "completed":
        said.finish = "tool" if said.calls else "stop"
    elif answer.incomplete_details:
        reason = answer.incomplete_details.reason
        said.finish = {"max_output_tokens": "length", "content_filter": "refused"}.get(reason, reason)
    else:
        said.finish = answer.status
    if answer.usage:
        said.usage = Usage(
            answer.usage.input_tokens,
            answer.usage.output_tokens,
            getattr(answer.usage.input_tokens_details, "cached_tokens", 0) or 0,
            getattr(answer.usage.output_tokens_details, "reasoning_tokens", 0) or 0,
        )
    return said
