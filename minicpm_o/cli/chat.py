"""`chat`: a conversation in the terminal, or from a pipe with one turn a line."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from ..api import MiniCPMO, Reply
from ..errors import MiniCPMOError, OptionError
from ..inputs.messages import Message, Part, TextPart
from ..inputs.templates import OfficialVersion
from .answer import LOADERS, PARTS, AnswerOptions, check_options, note, question_parts, show, stream
from .loading import version_of
from .output import one_line, report, say, write

HELP = """\
/image FILE   add a picture to the next turn
/audio FILE   add a sound
/video FILE   add a video
(empty line)  send what was added without words
/history      show the conversation
/save FILE    write it as JSON messages
/reset        begin anew
/help         this list
/quit         leave (also Ctrl-D); Ctrl-C stops an answer
A line that begins with // is text that begins with /."""

NANO_TOKENS = 512
"""Longest answer of nano in a conversation; official models have limits of their own."""


@dataclass
class Chat:
    """One conversation and what has been added to its next turn."""

    model: MiniCPMO
    options: AnswerOptions
    system: str | None = None
    version: OfficialVersion | None = None
    """None is nano."""
    messages: list[Message] = field(default_factory=list)
    pending: list[tuple[str, str]] = field(default_factory=list)
    """(kind, source), not yet sent."""
    replies: list[Reply] = field(default_factory=list)
    num_errors: int = 0

    def __post_init__(self) -> None:
        self._reset("")

    def line(self, line: str) -> bool:
        """Act on one line; False when it says to leave. Errors of the user are told and the conversation goes on."""
        try:
            return self._act(line.strip())
        except (MiniCPMOError, OSError) as error:
            self.num_errors += 1
            say(f"minicpm-o: {one_line(error)}")
            return True

    def _act(self, line: str) -> bool:
        if line.startswith("/") and not line.startswith("//"):
            name, _, rest = line.partition(" ")
            return self._command(name, rest.strip())
        text = line.removeprefix("/") if line.startswith("//") else line
        if text or self.pending:
            self._turn(text)
        return True

    def _command(self, name: str, rest: str) -> bool:
        if name in ("/quit", "/exit"):
            return False
        commands: dict[str, Callable[[str], None]] = {
            **{f"/{kind}": partial(self._add, kind) for kind in PARTS},
            "/history": self._history, "/save": self._save, "/reset": self._reset, "/help": lambda rest: say(HELP)}
        if name not in commands:
            raise OptionError(f"there is no command {name}; /help lists them, and // begins a text with /")
        commands[name](rest)
        return True

    def _add(self, kind: str, source: str) -> None:
        """Add a file to the next turn; it is opened once now, so that a wrong one is told at once."""
        source = source.strip("\"'")
        if not source:
            raise OptionError(f"/{kind} needs a file, as in: /{kind} my file")
        if "://" not in source:
            source = str(Path(source).expanduser())
            LOADERS[kind](source)
        self.pending.append((kind, source))
        say(f"added {source}")

    def _turn(self, text: str) -> None:
        """Send the turn and show the answer; Ctrl-C ends the answer early, and what was said so far is kept."""
        turn = Message("user", question_parts(self.pending, text, self.version))
        self.pending = []
        cancel = threading.Event()
        with ctrl_c_sets(cancel):
            reply = show(stream(self.model, [*self.messages, turn], self.options, cancel=cancel), self.options)
        self.messages.append(turn)
        if reply.text:
            self.messages.append(Message("assistant", (TextPart(reply.text),)))
        self.replies.append(reply)
        if reply.finish_reason == "cancelled":
            say("(stopped)")
        note(reply, reply.timing, self.model, self.options)

    def _history(self, rest: str) -> None:
        for message in self.messages:
            write(f"{message.role}: {' '.join(_short(part) for part in message.parts)}\n")

    def _save(self, path: str) -> None:
        if not path:
            raise OptionError("/save needs a file, as in: /save chat.json")
        target = Path(path).expanduser()
        target.write_text(json.dumps([as_dict(message) for message in self.messages], ensure_ascii=False, indent=1),
                          encoding="utf-8")
        say(f"saved {len(self.messages)} messages to {target}")

    def _reset(self, rest: str) -> None:
        self.messages = [Message("system", (TextPart(self.system),))] if self.system else []
        self.pending = []


def converse(options: AnswerOptions, system: str | None = None) -> dict[str, Any] | int:
    """Talk until the input ends. Returns the JSON object, or the exit code: 2 when a piped line was in error."""
    version = version_of(options.loading.model)
    check_options(options, version)
    if version is None and options.max_tokens is None:
        options = replace(options, max_tokens=NANO_TOKENS)
    model, opened_s = options.loading.open()
    talk = Chat(model, options, system, version)
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        say(f"{model.name}, {model.plan.threads} threads. /help lists the commands.")
    for line in typed_lines() if is_terminal else sys.stdin:
        if not talk.line(line):
            break
    if talk.pending and not is_terminal:
        talk.line("")
    if options.as_json:
        return _summary(talk, opened_s)
    return 2 if talk.num_errors and not is_terminal else 0


def typed_lines() -> Iterator[str]:
    """Lines typed at a prompt; Ctrl-C clears the line, Ctrl-D ends."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  gives `input` its line editing and history
    while True:
        try:
            yield input("> ")
        except KeyboardInterrupt:
            say("")
        except EOFError:
            say("")
            return


@contextlib.contextmanager
def ctrl_c_sets(event: threading.Event) -> Iterator[None]:
    """Inside, the first Ctrl-C sets the event; a second one interrupts as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread alone
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def as_dict(message: Message) -> dict[str, Any]:
    """A message as `messages_from_openai` reads it."""
    return {"role": message.role, "content": [_part_dict(part) for part in message.parts]}


def _part_dict(part: Part) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    kind = next(kind for kind, made in PARTS.items() if isinstance(part, made))
    return {"type": kind, kind: str(part.source)}


def _short(part: Part) -> str:
    values = _part_dict(part)
    return part.text if isinstance(part, TextPart) else f"[{values['type']} {values[values['type']]}]"


def _summary(talk: Chat, opened_s: float) -> dict[str, Any]:
    """The last answer as every verb reports it, and all turns."""
    turns = [report(reply.text, model=reply.model, usage=reply.usage, timing=reply.timing,
                    finish_reason=reply.finish_reason, warnings=list(reply.warnings)) for reply in talk.replies]
    last = talk.replies[-1] if talk.replies else None
    return report(last.text if last else "", model=talk.model.name, usage=last.usage if last else None,
                  timing=replace(last.timing, load_s=opened_s + talk.model.parts.load_s) if last else None,
                  turns=turns, errors=talk.num_errors)
