"""The sentences that MiniCPM-o 2.6 and 4.5 were trained to hear first, by mode and language, and those of their tasks.

They are literal: other words would work less well. 2.6 takes its system prompt in the user's role. The reference voice
stands between two sentences, the first of which says what to do with it. Source: `get_sys_prompt` and the model cards.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import MessageError, OptionError
from ..rates import AUDIO_RATE_HZ
from .audio import load_audio
from .messages import AudioPart, Message, Role, TextPart
from .sources import Source
from .templates import OfficialVersion

PromptMode = Literal["default", "omni", "audio_assistant", "audio_roleplay", "voice_cloning"]
Language = Literal["en", "zh"]


@dataclass(frozen=True)
class MarkupPart(TextPart):
    """Words whose special tokens count; never what a user typed."""


@dataclass(frozen=True)
class Around:
    """The sentences before and after the reference voice; `alone` is said when there is none."""

    prefix: str
    suffix: str | None = None
    alone: str | None = None


DEFAULT = "You are a helpful assistant. You can accept audio and text input and output voice and text."
CLONE_EN = "Clone the voice in the provided audio prompt."
CLONE_ZH = "模仿输入音频中的声音特征。"
CREATE_ZH = "模仿音频样本的音色并生成新的内容。"
STYLE_EN = "As an assistant, you will speak using this voice style."
STYLE_ZH = "作为助手，你将使用这种声音风格说话。"
ROLEPLAY_EN = "Try to role-play the character based on the audio prompt above."
ROLEPLAY_ZH = "假装你是上述音频中的人物，与我进行对话。"
ASSISTANT_ZH = ("你的任务是用这种声音模式来当一个助手。请认真、高质量地回复用户的问题。请用高自然度的方式和用户聊天。"
                "你是由面壁智能开发的人工智能助手：面壁小钢炮。")
OMNI_EN = "You are a helpful assistant. You can accept video, audio and text input and output voice and text. "
OMNI_ZH = "你是一个AI助手。你能接受视频，音频和文本输入并输出语音和文本。"
OMNI_STYLE_ZH = "请用这种声音风格来为用户提供帮助。 请认真、高质量地回复用户的问题。 请用高自然度的方式和用户聊天。"
OWN_VOICE = "Use the <reserved_53> voice."
"""Said without a reference voice. <reserved_53> is a token of 2.6 and mere letters in 4.5."""

PROMPTS: dict[tuple[OfficialVersion, PromptMode, Language], Around] = {
    ("2.6", "omni", "en"): Around(OMNI_EN + CLONE_EN, STYLE_EN, alone=OMNI_EN),
    ("2.6", "omni", "zh"): Around(OMNI_ZH + CLONE_ZH, STYLE_ZH, alone=OMNI_ZH),
    ("2.6", "audio_assistant", "en"): Around(CLONE_EN, STYLE_EN),
    ("2.6", "audio_assistant", "zh"): Around(CLONE_ZH, STYLE_ZH),
    ("2.6", "audio_roleplay", "en"): Around(CLONE_EN, ROLEPLAY_EN),
    ("2.6", "audio_roleplay", "zh"): Around(CLONE_ZH, ROLEPLAY_ZH),
    ("2.6", "voice_cloning", "en"): Around(CLONE_EN),
    ("2.6", "voice_cloning", "zh"): Around(CLONE_ZH),
    ("4.5", "omni", "en"): Around(CLONE_EN, STYLE_EN, alone=""),
    ("4.5", "omni", "zh"): Around(CREATE_ZH, OMNI_STYLE_ZH, alone=""),
    ("4.5", "audio_assistant", "en"): Around("Use the voice in the audio prompt to synthesize new content.",
                                             "You are a helpful assistant with the above voice style."),
    ("4.5", "audio_assistant", "zh"): Around(CREATE_ZH, ASSISTANT_ZH),
    ("4.5", "audio_roleplay", "en"): Around(CLONE_EN, ROLEPLAY_EN),
    ("4.5", "audio_roleplay", "zh"): Around(CLONE_ZH, ROLEPLAY_ZH),
    ("4.5", "voice_cloning", "en"): Around(CLONE_EN),
    ("4.5", "voice_cloning", "zh"): Around(CLONE_ZH),
}

NEWER_ASSISTANT: dict[Language, Around] = {
    "en": Around(CLONE_EN, "Please assist users while maintaining this voice style. Please answer the user's questions "
                           "seriously and in a high quality. Please chat with the user in a highly human-like and oral "
                           "style. You are a helpful assistant developed by ModelBest: MiniCPM-Omni."),
    "zh": Around(CLONE_ZH, ASSISTANT_ZH),
}
"""audio_assistant as 4.5's model card words it since."""

DEFAULT_LANGUAGE: dict[OfficialVersion, Language] = {"2.6": "zh", "4.5": "en"}

TRANSCRIBE_ZH = "请仔细听这段音频片段，并将其内容逐字记录。"
"""Speech recognition in Chinese, and translation of English speech into Chinese."""
TRANSCRIBE_EN = "Please listen to the audio snippet carefully and transcribe the content."
"""Speech recognition in English, and translation of Chinese speech into English."""
SPEAKER = "Based on the speaker's content, speculate on their gender, condition, age range, and health status."
SOUND_CAPTION = "Summarize the main content of the audio."
SOUND_KEYWORD = "Generate one keyword that can convey the audio's content or associated meaning."
"""2.6."""
MIMIC = "Please repeat the following speech in the appropriate language."
MIMIC_26 = "Please repeat each user's speech, including voice style and speech content."
MIMIC_SYSTEM = ("You are a helpful assistant. You can accept video, audio, and text input and output voice and text. "
                "Respond with just the answer, no redundancy.")
READ_ALOUD_EN = "Please read the text below."
READ_ALOUD_ZH = "请朗读以下内容。"
READ_STYLE_ZH = "请用这种声音风格来为用户提供帮助。 直接作答，不要有冗余内容"


def system_role(version: OfficialVersion) -> Role:
    """Who says the system prompt: in 2.6 it is the user."""
    return "user" if version == "2.6" else "system"


def system_prompt(version: OfficialVersion, mode: PromptMode = "default", *, language: Language | None = None,
                  ref_audio: Source | None = None, rate_hz: int | None = None, ref_audio_max_ms: int | None = None,
                  newer: bool = False) -> Message:
    """The first message of a conversation.

    ref_audio: a sound of the voice to speak in, cut at ref_audio_max_ms; rate_hz goes with an array. language: of the
    prompt; answers are in the language of the question. newer: audio_assistant of 4.5 as its model card words it since.
    Raises OptionError for an unknown mode or language, MessageError where a voice must be shown and is not.
    """
    if mode not in get_args(PromptMode) or language not in (None, *get_args(Language)):
        raise OptionError(f"there is no system prompt of mode {mode!r} in language {language!r}; the modes are "
                          f"{', '.join(get_args(PromptMode))}, the languages {', '.join(get_args(Language))}")
    role = system_role(version)
    if mode == "default":
        if ref_audio is not None:
            warnings.warn("ref_audio has no effect: the mode default has no place for a voice; name another mode",
                          stacklevel=2)
        return Message(role, (TextPart(DEFAULT),))
    language = language or DEFAULT_LANGUAGE[version]
    is_newer = newer and version == "4.5" and mode == "audio_assistant"
    words = NEWER_ASSISTANT[language] if is_newer else PROMPTS[version, mode, language]
    if ref_audio is not None:
        return _around(role, words, _voice(ref_audio, rate_hz, ref_audio_max_ms))
    if words.alone is not None:
        return Message(role, (TextPart(words.alone),))
    if words.suffix is None:
        raise MessageError("the mode voice_cloning needs ref_audio, a sound of the voice to clone; pass one")
    return Message(role, (MarkupPart(OWN_VOICE), TextPart(words.suffix)))


def read_aloud(version: OfficialVersion, text: str, ref_audio: Source, *, rate_hz: int | None = None,
               language: Language | None = None) -> list[Message]:
    """Messages that have a text spoken in the reference voice (zero-shot text to speech).

    language: of 2.6's prompt; 4.5 is asked in Chinese whatever the language of the text. Sample at temperature 0.1.
    """
    if version == "4.5":
        first = _around("system", Around(CREATE_ZH, READ_STYLE_ZH), _voice(ref_audio, rate_hz, None))
        return [first, Message("user", (TextPart(f"{READ_ALOUD_ZH} {text}"),))]
    first = system_prompt(version, "voice_cloning", language=language, ref_audio=ref_audio, rate_hz=rate_hz)
    return [first, Message("user", (TextPart(READ_ALOUD_EN), TextPart(text)))]


def mimic(version: OfficialVersion, speech: Source, *, rate_hz: int | None = None) -> list[Message]:
    """Messages that have somebody's speech said again."""
    sound = AudioPart(speech, rate_hz)
    if version == "2.6":
        return [Message("user", (TextPart(MIMIC_26), sound))]
    return [Message("system", (TextPart(MIMIC_SYSTEM),)), Message("user", (TextPart(MIMIC), sound))]


def _around(role: Role, words: Around, voice: AudioPart) -> Message:
    after = () if words.suffix is None else (TextPart(words.suffix),)
    return Message(role, (TextPart(words.prefix), voice, *after))


def _voice(source: Source, rate_hz: int | None, max_ms: int | None) -> AudioPart:
    if max_ms is None:
        return AudioPart(source, rate_hz)
    if max_ms <= 0:
        raise OptionError(f"ref_audio_max_ms is {max_ms}; it must be above 0, or None for the whole sound")
    return AudioPart(load_audio(source, rate_hz=rate_hz)[:AUDIO_RATE_HZ * max_ms // 1000], AUDIO_RATE_HZ)
