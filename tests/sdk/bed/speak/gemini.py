"""generateContent through google-genai, in both API versions."""

from google import genai
from google.genai import types

from .base import Call, Result, Said, Speaker, Usage, User

FINISH = {"STOP": "stop", "MAX_TOKENS": "length", "SAFETY": "refused", "PROHIBITED_CONTENT": "refused"}


class Gemini(Speaker):
    dialect = "gemini"
    version: str

    def connect(self, root, key, timeout, retries):
        options = types.HttpOptions(
            base_url=root,
            api_version=self.version,
            httpx_client=self.http,
            timeout=int(timeout * 1000),
            retry_options=types.HttpRetryOptions(attempts=retries + 1, initial_delay=0.01),
        )
        return genai.Client(api_key=key, http_options=options)

    def ask(self, model, turns, *, stream=False, system=None, tools=(), must_call=None, schema=None, think=False,
            max_tokens=4096, stop=None, temperature=None):
        config = types.GenerateContentConfig(
            max_output_tokens=max_tokens,
            stop_sequences=stop,
            system_instruction=system,
            temperature=temperature,
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        )
        if tools:
            declared = [
                types.FunctionDeclaration(
                    name=tool.name, description=tool.description, parameters_json_schema=tool.schema,
                )
                for tool in tools
            ]
            config.tools = [types.Tool(function_declarations=declared)]
        if must_call:
            config.tool_config = types.ToolConfig(
                function_calling_config=types.FunctionCallingConfig(mode="ANY", allowed_function_names=[must_call]),
            )
        if schema:
            config.response_mime_type = "application/json"
            config.response_json_schema = schema
        if think:
            config.thinking_config = types.ThinkingConfig(thinking_budget=2048, include_thoughts=True)
        ask = {"model": self.prefix + model, "contents": contents(turns), "config": config}
        if not stream:
            return read([self.client.models.generate_content(**ask)], self.headers)
        chunks = []
        for chunk in self.client.models.generate_content_stream(**ask):
            chunks.append(chunk)
            self.pieces += has_content(chunk)
        return read(chunks, self.headers)


class GeminiV1(Gemini):
    name = "gemini-v1"
    version = "v1"


class GeminiV1Beta(Gemini):
    name = "gemini-v1beta"
    version = "v1beta"


def has_content(chunk) -> bool:
    return bool(chunk.candidates and chunk.candidates[0].content and chunk.candidates[0].content.parts)


def contents(turns):
    out = []
    for turn in turns:
        match turn:
            case User(text, images):
                pictures = [types.Part.from_bytes(data=image.data, mime_type=image.kind) for image in images]
                out.append(types.Content(role="user", parts=[*pictures, types.Part(text=text)]))
            case Said():
                out.append(turn.native)
            case Result(call, value):
                answer = types.FunctionResponse(id=call.id, name=call.name, response={"output": value})
                part = types.Part(function_response=answer)
                # Answers to parallel calls go back together.
                if out[-1].parts[0].function_response:
                    out[-1].parts.append(part)
                else:
                    out.append(types.Content(role="user", parts=[part]))
    return out


def read(chunks, headers) -> Said:
    said = Said(headers=headers, pieces=0)
    parts = []
    for chunk in chunks:
        said.model = chunk.model_version or said.model
        said.id = chunk.response_id or said.id
        candidate = chunk.candidates[0] if chunk.candidates else None
        if has_content(chunk):
            said.pieces += 1
            parts += candidate.content.parts
        if candidate and candidate.finish_reason:
            reason = candidate.finish_reason.value
            said.finish = FINISH.get(reason, reason)
        if (usage := chunk.usage_metadata) is not None:
            thought = usage.thoughts_token_count or 0
            said.usage = Usage(
                usage.prompt_token_count or 0,
                (usage.candidates_token_count or 0) + thought,
                usage.cached_content_token_count or 0,
                thought,
            )
    for part in parts:
        if part.function_call:
            said.calls.append(Call(part.function_call.id, part.function_call.name, part.function_call.args or {}))
        elif part.thought:
            said.reasoning += part.text or ""
        else:
            said.text += part.text or ""
    # Gemini itself says STOP; aimock says FUNCTION_CALL.
    if said.calls and said.finish in ("stop", "FUNCTION_CALL"):
        said.finish = "tool"
    said.native = types.Content(role="model", parts=parts)
    return said
