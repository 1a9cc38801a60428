"""What a half-duplex session puts into the model piece by piece: the words around each piece, and what is remembered.

    system                       <|im_start|>system\\n...<|im_end|>\\n
    user, first second           <|im_start|>user\\n and the media, left open
    user, further seconds        the media alone
    reply                        <|im_end|>\\n<|im_start|>assistant\\n..., see `reply_prompt`
    user again                   <|im_end|>\\n<|im_start|>user\\n and the media
    user, interrupting           <|tts_eos|><|im_end|>\\n<|im_start|>user\\n and the media

2.6 closes the first piece of a session whoever says it. Pure functions on a state that is passed in and returned.
Source: `streaming_prefill` and `streaming_generate` of both versions. Letter: N samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import MessageError, OptionError
from ..rates import AUDIO_RATE_HZ, exact_div
from .messages import Role
from .templates import OfficialVersion, Segment, Turn, chat_template, generation_prompt, markup

FIRST_CHUNK_MS = 1035
FIRST_CHUNK_SAMPLES = exact_div(FIRST_CHUNK_MS * AUDIO_RATE_HZ, 1000)
"""The first sound of a turn in 4.5 is at least this long: a second, and what its last mel frames look ahead."""


@dataclass(frozen=True)
class SessionPrompt:
    """What the next piece's words depend on; a fresh one belongs to no session yet."""

    session_id: str | None = None
    is_new_turn: bool = True
    """The user's next piece opens a turn."""
    has_replied: bool = False
    is_reply_complete: bool = False
    """False after a reply that was broken off."""
    chunk_index: int = 0
    """Pieces with sound since the encoder began to listen."""


@dataclass(frozen=True)
class PrefillPrompt:
    """One piece: its words, and what the session does with its caches."""

    segments: tuple[Segment, ...]
    is_new_session: bool
    """Forget everything: the language model's cache, the encoder's, the mel's, what was spoken."""
    is_stream: bool
    """Sound goes through the encoder with its cache; otherwise it is heard whole, as in chat."""
    chunk_index: int
    """0 for the first sound that the encoder hears in this turn."""
    forgets_before: bool
    """Drop the encoder's cache before this piece."""
    forgets_after: bool
    """Drop it after this piece."""


def prefill_prompt(version: OfficialVersion, state: SessionPrompt, session_id: str, role: Role,
                   content: Sequence[Segment], *, num_sounds: int = 0) -> tuple[SessionPrompt, PrefillPrompt]:
    """The next piece; content is the message's parts joined with nothing between them.

    Raises OptionError for an empty session_id, MessageError for more than one sound in a streamed piece of 4.5.
    """
    if not session_id:
        raise OptionError("session_id is empty; give each conversation a name of its own")
    is_first = session_id != state.session_id
    is_stream = version == "2.6" or role != "system"
    if is_first:
        state = SessionPrompt(session_id)
    elif role != "user":
        state = replace(state, is_new_turn=True)
    if version == "4.5" and is_stream and num_sounds > 1:
        raise MessageError(f"a piece of a session has {num_sounds} sounds; a stream takes one at a time, so send them "
                           f"as pieces of their own")
    segments, state = _first(version, state, role, content) if is_first else _further(state, role, content)
    prompt = PrefillPrompt(tuple(segments), is_first, is_stream, state.chunk_index,
                           forgets_before=is_first or role != "user", forgets_after=is_first)
    counts = version == "4.5" and is_stream and num_sounds > 0
    return replace(state, chunk_index=state.chunk_index + counts), prompt


def _first(version: OfficialVersion, state: SessionPrompt, role: Role,
           content: Sequence[Segment]) -> tuple[list[Segment], SessionPrompt]:
    if version == "4.5" and role == "user":
        return [markup("<|im_start|>user\n"), *content], replace(state, is_new_turn=False)
    turn = Turn(role, tuple(content))
    return chat_template(version, [turn], add_generation_prompt=False, use_tts_template=True), state


def _further(state: SessionPrompt, role: Role, content: Sequence[Segment]) -> tuple[list[Segment], SessionPrompt]:
    """Pieces of the system or the assistant come as they are, without a mark of who speaks."""
    if role != "user" or not state.is_new_turn:
        return list(content), state
    end = ("" if state.is_reply_complete else "<|tts_eos|>") + "<|im_end|>\n" if state.has_replied else ""
    return [markup(end + "<|im_start|>user\n"), *content], replace(state, is_new_turn=False)


def first_chunk(waveform: np.ndarray, chunk_index: int) -> np.ndarray:
    """(N,) with silence before it if it is the first of a turn and shorter than FIRST_CHUNK_MS."""
    missing = FIRST_CHUNK_SAMPLES - len(waveform)
    return np.pad(waveform, (missing, 0)) if chunk_index == 0 and missing > 0 else waveform


def reply_prompt(version: OfficialVersion, *, enable_thinking: bool = False,
                 use_tts_template: bool = True) -> list[Segment]:
    """What closes the user's turn and opens the reply; 2.6 always speaks."""
    opening = generation_prompt(version, enable_thinking=enable_thinking,
                                use_tts_template=use_tts_template or version == "2.6")
    return [markup("<|im_end|>\n"), *opening]


def reply_started(state: SessionPrompt) -> SessionPrompt:
    """A reply is broken off until it is said to be complete. The encoder forgets, so the next sound is a first one."""
    return replace(state, is_new_turn=True, has_replied=True, is_reply_complete=False, chunk_index=0)


def reply_finished(state: SessionPrompt) -> SessionPrompt:
    return replace(state, is_reply_complete=True)
