"""Functions that a model may call, and answers of a given form: what the prompt says and what holds the answer to it.

A call is written as one JSON object {"name", "arguments"}; earlier calls and their results are shown to the model as
text. Knows no sockets.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

from ..runtime.constrain import ANY_OBJECT
from .errors import ApiError
from .schema import ChatMessage, ChatRequest, Tool

Form: TypeAlias = "Mapping[str, Any] | str"
"""A JSON schema or a Lark grammar."""

_INTRODUCTION = """You can call these functions:
{functions}
To call one, answer with nothing but {{"name": its name, "arguments": its arguments}}."""
_NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


def answer_form(request: ChatRequest) -> Form | None:
    """What the answer is held to; None where it is free."""
    tools = usable_tools(request)
    if tools and request.tool_choice not in (None, "auto"):
        return call_schema(tools)
    if tools:
        return tools_form(tools)
    return response_schema(request.response_format)


def tools_form(tools: Sequence[Tool]) -> str:
    """A grammar in which an answer is text, or one call: what begins with a brace is a call."""
    return f"start: text | call\ntext: /[^{{](.|\\n)*/\ncall: %json {json.dumps(call_schema(tools))}\n"


def response_schema(response_format: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The schema of a `response_format`. Raises ApiError for a kind that is not known."""
    kind = (response_format or {"type": "text"}).get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return ANY_OBJECT
    described = (response_format or {}).get("json_schema")
    schema = described.get("schema") if isinstance(described, Mapping) else None
    if kind != "json_schema" or not isinstance(schema, Mapping):
        raise ApiError('expected {"type": "text"}, {"type": "json_object"}, or {"type": "json_schema", "json_schema": '
                       '{"name": ..., "schema": {...}}}', param="response_format", code="invalid_value")
    return schema


def usable_tools(request: ChatRequest) -> list[Tool]:
    """The tools that this answer may call. Raises ApiError when the one that is asked for is not there."""
    tools = list(request.tools or ())
    choice = request.tool_choice
    if choice == "none":
        return []
    if isinstance(choice, Mapping):
        wanted = (choice.get("function") or {}).get("name") if isinstance(choice.get("function"), Mapping) else None
        tools = [tool for tool in tools if tool.function.name == wanted]
    if choice not in (None, "auto") and not tools:
        raise ApiError("tool_choice asks for a function that is not among tools", param="tool_choice",
                       code="invalid_value")
    return tools


def call_schema(tools: Sequence[Tool]) -> dict[str, Any]:
    """One call of one of them."""
    return {"anyOf": [
        {"type": "object", "additionalProperties": False, "required": ["name", "arguments"],
         "properties": {"name": {"const": tool.function.name},
                        "arguments": dict(tool.function.parameters or _NO_PARAMETERS)}} for tool in tools]}


def introduction(tools: Sequence[Tool]) -> str:
    """What the system message says of them."""
    lines = [json.dumps({"name": tool.function.name, "description": tool.function.description or "",
                         "parameters": tool.function.parameters or _NO_PARAMETERS}, ensure_ascii=False)
             for tool in tools]
    return _INTRODUCTION.format(functions="\n".join(lines))


def plain_messages(messages: Sequence[ChatMessage], tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Messages with calls and results written out, and the tools introduced by the first system message."""
    laid = [_plain(message) for message in messages]
    if tools:
        words = introduction(tools)
        if laid and laid[0]["role"] in ("system", "developer"):
            first = laid[0]
            content = first["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content or ())
            laid[0] = {**first, "content": [*parts, {"type": "text", "text": f"\n\n{words}"}]}
        else:
            laid.insert(0, {"role": "system", "content": words})
    return laid


def _plain(message: ChatMessage) -> dict[str, Any]:
    """A message as `media` reads it."""
    if message.role in ("tool", "function"):
        words = message.content if isinstance(message.content, str) else json.dumps(message.content)
        return {"role": "user", "content": result_text(words)}
    calls = [call_text(call["function"].get("name"), call["function"].get("arguments"))
             for call in message.tool_calls or () if isinstance(call.get("function"), Mapping)]
    if calls and not message.content:
        return {"role": message.role, "content": "\n".join(calls)}
    laid: dict[str, Any] = {"role": message.role, "content": message.content or message.refusal}
    return {**laid, "audio": message.audio} if message.audio else laid


def call_text(name: Any, arguments: Any) -> str:
    """An earlier call as the model reads it; arguments: JSON, or what should have been."""
    with suppress(TypeError, ValueError):
        arguments = json.loads(arguments)
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)


def result_text(result: Any) -> str:
    """What a function gave back, as the model reads it."""
    return f"The function returned: {result}"


def tool_calls(text: str, tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The call in an answer as OpenAI writes it; [] where the answer is none."""
    try:
        call = json.loads(text)
    except ValueError:
        return []
    names = {tool.function.name for tool in tools}
    if not isinstance(call, dict) or call.get("name") not in names:
        return []
    function = {"name": call["name"], "arguments": json.dumps(call.get("arguments", {}), ensure_ascii=False)}
    return [{"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}]
