"""Turns to the prompts of MiniCPM-o 2.6 and 4.5, as segments: words, markup, and slots where media go.

    2.6, plain     Qwen2.5's template: with a line of its own when there is no system turn
    2.6, speech    every turn as it is, then <|im_start|>assistant\\n<|spk_bos|><|spk|><|spk_eos|><|tts_bos|>
    4.5            Qwen3's template, then <think>\\n\\n</think>\\n\\n unless it may think, then <|tts_bos|> for speech

Segments instead of one string, so that special tokens which somebody typed stay letters while the template's count.
Source: the chat_template of each checkpoint's tokenizer_config.json. Opens no file and knows no ids.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from ..errors import MessageError

OfficialVersion = Literal["2.6", "4.5"]
TurnRole = Literal["system", "user", "assistant", "tool"]
Origin = Literal["text", "image", "audio", "video"]


@dataclass(frozen=True)
class Words:
    """Text. In markup, special tokens count; elsewhere they are the letters they are written in."""

    text: str
    is_markup: bool = False
    origin: Origin = "text"
    """What it counts for."""


@dataclass(frozen=True)
class Slot:
    """Where the prompt's picture or sound number `index` goes."""

    kind: Literal["image", "audio"]
    index: int = 0


Segment: TypeAlias = Words | Slot


@dataclass(frozen=True)
class ToolCall:
    """A function that the assistant called; arguments are an object, or the JSON of one."""

    name: str
    arguments: Mapping[str, Any] | str


@dataclass(frozen=True)
class Turn:
    """A message ready for the template."""

    role: TurnRole
    content: tuple[Segment, ...]
    reasoning: str | None = None
    """What an assistant thought before it spoke; 4.5 alone."""
    tool_calls: tuple[ToolCall, ...] = ()


Tools: TypeAlias = Sequence[Mapping[str, Any]]
"""Descriptions of functions, as JSON schema has them."""

SLOT_TAGS: dict[OfficialVersion, str] = {"2.6": "(<{0}>./</{0}>)", "4.5": "<{0}>./</{0}>"}
"""How a slot is written where a prompt is shown as text."""

QWEN_LINE = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
NO_THOUGHTS = "<think>\n\n</think>\n\n"
SPEECH_START: dict[OfficialVersion, str] = {"2.6": "<|spk_bos|><|spk|><|spk_eos|><|tts_bos|>", "4.5": "<|tts_bos|>"}

_TOOLS_HEAD = ("# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with "
               "function signatures within <tools></tools> XML tags:\n<tools>")
_TOOLS_TAIL = ('\n</tools>\n\nFor each function call, return a json object with function name and arguments within '
               '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": '
               '<args-json-object>}\n</tool_call><|im_end|>\n')


def chat_template(version: OfficialVersion, turns: Sequence[Turn], *, add_generation_prompt: bool = True,
                  enable_thinking: bool = False, use_tts_template: bool = False, tools: Tools = ()) -> list[Segment]:
    """The whole prompt. Raises MessageError when there is no turn; warns of options that the version's template lacks.
    """
    if not turns:
        raise MessageError("there are no messages to make a prompt of; give at least one")
    if version == "4.5":
        end = generation_prompt(version, enable_thinking=enable_thinking, use_tts_template=use_tts_template)
        return [*_qwen3(turns, tools), *(end if add_generation_prompt else ())]
    if enable_thinking:
        warnings.warn("enable_thinking has no effect: MiniCPM-o 2.6 does not think aloud", stacklevel=2)
    if use_tts_template and tools:
        warnings.warn("tools have no effect: 2.6's template for speech has no place for them", stacklevel=2)
    segments = _speech(turns) if use_tts_template else _qwen25(turns, tools)
    end = generation_prompt(version, use_tts_template=use_tts_template)
    return [*segments, *(end if add_generation_prompt else ())]


def generation_prompt(version: OfficialVersion, *, enable_thinking: bool = False,
                      use_tts_template: bool = False) -> list[Segment]:
    """What opens the assistant's turn."""
    thoughts = NO_THOUGHTS if version == "4.5" and not enable_thinking else ""
    return [markup("<|im_start|>assistant\n" + thoughts + (SPEECH_START[version] if use_tts_template else ""))]


def prompt_text(segments: Sequence[Segment], version: OfficialVersion) -> str:
    """The prompt as the reference shows it: slots as tags."""
    return "".join(item.text if isinstance(item, Words) else SLOT_TAGS[version].format(item.kind) for item in segments)


def markup(text: str) -> Words:
    return Words(text, is_markup=True)


# 2.6


def _speech(turns: Sequence[Turn]) -> list[Segment]:
    return [segment for turn in turns for segment in _chatml(turn)]


def _qwen25(turns: Sequence[Turn], tools: Tools) -> list[Segment]:
    first = turns[0].content if turns[0].role == "system" else (Words(QWEN_LINE),)
    segments: list[Segment] = [markup("<|im_start|>system\n"), *first]
    segments += [markup("\n\n"), *_tools_block(tools)] if tools else [markup("<|im_end|>\n")]
    for index, turn in enumerate(turns):
        if turn.role == "tool":
            segments += _tool_response(turns, index)
        elif turn.role == "assistant" and turn.tool_calls:
            said = [markup("\n"), *turn.content] if _is_filled(turn.content) else []
            calls = [segment for call in turn.tool_calls for segment in (markup("\n"), *_tool_call(call))]
            segments += [markup("<|im_start|>assistant"), *said, *calls, markup("<|im_end|>\n")]
        elif index > 0 or turn.role != "system":
            segments += _chatml(turn)
    return segments


# 4.5


def _qwen3(turns: Sequence[Turn], tools: Tools) -> list[Segment]:
    first = turns[0].content if turns[0].role == "system" else None
    segments: list[Segment] = []
    if tools:
        segments += [markup("<|im_start|>system\n"), *(() if first is None else (*first, markup("\n\n")))]
        segments += _tools_block(tools)
    elif first is not None:
        segments += _chatml(turns[0])
    last_query = _last_query(turns)
    for index, turn in enumerate(turns):
        if turn.role == "tool":
            segments += _tool_response(turns, index)
        elif turn.role == "assistant":
            segments += _qwen3_answer(turn, is_new=index > last_query, is_last=index == len(turns) - 1)
        elif index > 0 or turn.role == "user":
            segments += _chatml(turn)
    return segments


def _last_query(turns: Sequence[Turn]) -> int:
    """Index of the last turn in which a user asked something, rather than handed back what a tool said."""
    queries = [index for index, turn in enumerate(turns) if turn.role == "user" and not _is_tool_response(turn.content)]
    return queries[-1] if queries else len(turns) - 1


def _is_tool_response(content: tuple[Segment, ...]) -> bool:
    text = prompt_text(content, "4.5")
    return text.startswith("<tool_response>") and text.endswith("</tool_response>")


def _qwen3_answer(turn: Turn, *, is_new: bool, is_last: bool) -> list[Segment]:
    """Thoughts are shown again only while the question that they were about is still open (is_new)."""
    reasoning, content = _think_split(turn)
    segments: list[Segment] = [markup("<|im_start|>assistant\n")]
    if is_new and (is_last or reasoning):
        segments += [markup("<think>\n"), Words(reasoning.strip("\n")), markup("\n</think>\n\n")]
        content_shown = _without_leading_newlines(content)
    else:
        content_shown = content
    segments += content_shown
    for index, call in enumerate(turn.tool_calls):
        segments += [markup("\n")] if index or _is_filled(content) else []
        segments += _tool_call(call)
    return [*segments, markup("<|im_end|>\n")]


def _think_split(turn: Turn) -> tuple[str, tuple[Segment, ...]]:
    """Thoughts and answer of an assistant; thoughts written into the answer are found if it is of words alone."""
    if turn.reasoning is not None:
        return turn.reasoning, turn.content
    words = [item for item in turn.content if isinstance(item, Words)]
    text = "".join(item.text for item in words)
    if "</think>" not in text or len(words) < len(turn.content):
        return "", turn.content
    answer = text.split("</think>")[-1].lstrip("\n")
    reasoning = text.split("</think>")[0].rstrip("\n").split("<think>")[-1].lstrip("\n")
    return reasoning, (Words(answer, is_markup=all(item.is_markup for item in words)),)


def _without_leading_newlines(content: tuple[Segment, ...]) -> tuple[Segment, ...]:
    for index, item in enumerate(content):
        if isinstance(item, Slot):
            return content[index:]
        if text := item.text.lstrip("\n"):
            return (replace(item, text=text), *content[index + 1:])
    return ()


# Both


def _chatml(turn: Turn) -> list[Segment]:
    return [markup(f"<|im_start|>{turn.role}\n"), *turn.content, markup("<|im_end|>\n")]


def _is_filled(content: tuple[Segment, ...]) -> bool:
    return any(isinstance(item, Slot) or item.text for item in content)


def _tools_block(tools: Tools) -> list[Segment]:
    described = [Words("\n" + _to_json(tool)) for tool in tools]
    return [markup(_TOOLS_HEAD), *described, markup(_TOOLS_TAIL)]


def _tool_call(call: ToolCall) -> list[Segment]:
    arguments = call.arguments if isinstance(call.arguments, str) else _to_json(call.arguments)
    return [markup("<tool_call>\n"), Words(f'{{"name": "{call.name}", "arguments": {arguments}}}'),
            markup("\n</tool_call>")]


def _tool_response(turns: Sequence[Turn], index: int) -> list[Segment]:
    """Responses that follow one another share a turn of the user."""
    is_first = index == 0 or turns[index - 1].role != "tool"
    is_last = index == len(turns) - 1 or turns[index + 1].role != "tool"
    return [markup(("<|im_start|>user" if is_first else "") + "\n<tool_response>\n"), *turns[index].content,
            markup("\n</tool_response>" + ("<|im_end|>\n" if is_last else ""))]


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
