"""A half-duplex session's words between its pieces, and when the encoder forgets. Whole runs are in tests/parity."""

from __future__ import annotations

import numpy as np
import pytest

from minicpm_o.errors import MessageError, OptionError
from minicpm_o.inputs.session_prompt import (
    FIRST_CHUNK_SAMPLES,
    PrefillPrompt,
    SessionPrompt,
    first_chunk,
    prefill_prompt,
    reply_finished,
    reply_prompt,
    reply_started,
)
from minicpm_o.inputs.templates import Slot, Words, prompt_text

SOUND = (Slot("audio"),)


def feed(version: str, state: SessionPrompt, role: str = "user", session: str = "s",
         **more: int) -> tuple[SessionPrompt, PrefillPrompt, str]:
    state, prompt = prefill_prompt(version, state, session, role, SOUND, **{"num_sounds": 1, **more})
    return state, prompt, prompt_text(prompt.segments, version).replace("(", "").replace(")", "")


def test_a_user_without_system_prompt() -> None:
    state, prompt, text = feed("4.5", SessionPrompt())
    assert text == "<|im_start|>user\n<audio>./</audio>" and prompt.is_new_session and prompt.forgets_after
    state, prompt, text = feed("4.5", state)
    assert text == "<audio>./</audio>" and not prompt.is_new_session and not prompt.forgets_before
    assert [prompt.chunk_index, state.chunk_index] == [1, 2]


def test_26_closes_its_first_piece() -> None:
    state, _, text = feed("2.6", SessionPrompt())
    assert text == "<|im_start|>user\n<audio>./</audio><|im_end|>\n"
    state, prompt, text = feed("2.6", state)
    assert text == "<|im_start|>user\n<audio>./</audio>" and prompt.is_stream
    assert feed("2.6", state)[2] == "<audio>./</audio>"


@pytest.mark.parametrize("version", ["2.6", "4.5"])
def test_replies_are_closed_before_the_next_turn(version: str) -> None:
    state, _, _ = feed(version, SessionPrompt(), "system")
    state, _, _ = feed(version, state)
    state = reply_started(state)
    assert state.chunk_index == 0
    assert feed(version, state)[2].startswith("<|tts_eos|><|im_end|>\n<|im_start|>user\n")
    finished, _, text = feed(version, reply_finished(state))
    assert text.startswith("<|im_end|>\n<|im_start|>user\n")
    assert feed(version, finished)[2] == "<audio>./</audio>"


def test_another_session_begins_anew() -> None:
    state, _, _ = feed("4.5", SessionPrompt())
    state, prompt, text = feed("4.5", reply_started(state), session="t")
    assert prompt.is_new_session and text.startswith("<|im_start|>user\n") and not state.has_replied


def test_a_later_system_piece_comes_as_it_is_and_makes_the_encoder_forget() -> None:
    state, _, _ = feed("4.5", SessionPrompt())
    state, prompt, text = feed("4.5", state, "system")
    assert text == "<audio>./</audio>" and prompt.forgets_before and not prompt.is_stream
    assert feed("4.5", state)[2].startswith("<|im_start|>user\n")


def test_first_chunk_is_preceded_by_silence() -> None:
    second = np.ones(16_000, np.float32)
    padded = first_chunk(second, 0)
    assert len(padded) == FIRST_CHUNK_SAMPLES and not padded[: FIRST_CHUNK_SAMPLES - 16_000].any()
    assert padded[-16_000:].all()
    assert len(first_chunk(second, 1)) == 16_000
    assert len(first_chunk(np.ones(20_000, np.float32), 0)) == 20_000


def test_reply_prompts() -> None:
    assert prompt_text(reply_prompt("4.5"), "4.5") == (
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n<|tts_bos|>")
    assert prompt_text(reply_prompt("4.5", enable_thinking=True, use_tts_template=False), "4.5") == (
        "<|im_end|>\n<|im_start|>assistant\n")
    assert prompt_text(reply_prompt("2.6", use_tts_template=False), "2.6") == (
        "<|im_end|>\n<|im_start|>assistant\n<|spk_bos|><|spk|><|spk_eos|><|tts_bos|>")


def test_wrong_pieces() -> None:
    with pytest.raises(OptionError, match="session_id is empty"):
        prefill_prompt("4.5", SessionPrompt(), "", "user", SOUND)
    with pytest.raises(MessageError, match="has 3 sounds"):
        feed("4.5", SessionPrompt(), num_sounds=3)
    assert feed("4.5", SessionPrompt(), "system", num_sounds=3)[1].segments
    assert prefill_prompt("4.5", SessionPrompt(), "s", "user", (Words("hi"),))[0].chunk_index == 0
