"""An answer's words, and what the language model thought of them, to sound: the voices of 2.6 and 4.5 as one call.

4.5: talker -> speech tokens -> flow -> mel -> HiFT, in the voice of a reference clip. 2.6: the speaker's hidden state
and the text -> ChatTTS -> codes -> DVAE -> mel -> Vocos. Written over the raw networks, whoever runs them:
`bundle_voice` opens the graphs of an exported bundle, `torch_voice` the torch modules.
Letters: T words, L language width, N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ..checkpoints.bundle import Bundle
from ..errors import CheckpointError, MessageError, OptionError
from ..inputs.audio import load_audio
from ..inputs.official_tokenizer import OfficialTokenizer
from ..inputs.sources import Source
from ..model.config import OfficialConfig
from ..rates import SPEECH_RATE_HZ
from .chattts import ChatTTSVoice
from .chattts_text import ChatTTSText
from .conversation import content_digest
from .device import DevicePlan
from .filters import seeded_draw
from .flow import MAX_WHOLE_TOKENS, FlowPrompt, make_noise
from .speech.speaker import Speech
from .talker import TalkerNetwork, conditions, generate
from .token2wav import FlowMel, Token2Wav
from .voice_cloning import VoiceCloner

NOISE_SEED = 0
"""Of the flow's noise, where every mel begins: drawn anew in each process by the reference, here always the same."""
MIN_CODES, MAX_CODES = 50, 2048
"""Speech tokens of an answer, 25 a second: the published limits, 2 s to 82 s."""
CHATTTS_TOKENIZER = "assets/chattts_tokenizer"
"""Of 2.6, in a checkpoint and in a bundle."""
MAX_VOICES = 8
"""Reference clips whose analysis is remembered."""


class Voice(Protocol):
    """What speaks an answer."""

    def check(self, ref_audio: Source | None) -> None:
        """Raises MessageError or AudioError when no answer could be spoken with this reference clip."""
        ...

    def speak(self, ids: Sequence[int], hidden: np.ndarray, *, speaker_hidden: np.ndarray,
              ref_audio: Source | None = None, seed: int | None = None) -> Speech:
        """ids (T,) of the words; hidden (T, L), where each was read; speaker_hidden (L,) at 2.6's speaker token."""
        ...


class TalkerVoice:
    """The voice of 4.5. The reference clip's analysis is kept for the next answer."""

    def __init__(self, talker: TalkerNetwork, token2wav: Token2Wav, open_cloner: Callable[[], VoiceCloner]) -> None:
        """open_cloner: opens the networks that analyse a reference clip, when the first one comes."""
        self.talker = talker
        self.token2wav = token2wav
        self.max_codes = MAX_CODES
        self._open_cloner = open_cloner
        self._cloner: VoiceCloner | None = None
        self._prompts: dict[bytes, FlowPrompt] = {}

    def check(self, ref_audio: Source | None) -> None:
        """As Voice; the clip's analysis is kept for the answer."""
        self.prompt(ref_audio)

    def speak(self, ids: Sequence[int], hidden: np.ndarray, *, speaker_hidden: np.ndarray,
              ref_audio: Source | None = None, seed: int | None = None) -> Speech:
        """As Voice. Raises MessageError without a reference clip, and when the talker has nothing to say."""
        prompt = self.prompt(ref_audio)
        embeds = conditions(self.talker, ids, hidden, text_finished=True)
        spoken = generate(self.talker, embeds, seeded_draw(seed), min_codes=min(MIN_CODES, self.max_codes),
                          max_codes=self.max_codes)
        if not spoken.codes:
            raise MessageError("the talker ended before its first sound; ask with another seed, or for more words")
        return Speech(self._sound(np.array(spoken.codes), prompt, seed), "", SPEECH_RATE_HZ)

    def _sound(self, codes: np.ndarray, prompt: FlowPrompt, seed: int | None) -> np.ndarray:
        """(N,): at once, or, when that would take gigabytes, as a stream."""
        rng = np.random.default_rng(seed)
        if len(codes) <= MAX_WHOLE_TOKENS:
            return self.token2wav.convert(codes, prompt, rng)
        waveform, _ = self.token2wav.push(self.token2wav.start(prompt, rng), codes, is_last=True)
        return waveform

    def prompt(self, ref_audio: Source | None) -> FlowPrompt:
        """The analysis of a reference clip, remembered by its content. Raises MessageError without a clip."""
        if ref_audio is None:
            raise MessageError("MiniCPM-o 4.5 speaks in the voice of a clip: pass ref_audio, or let the conversation "
                               "begin with a system prompt that has one (`inputs.system_prompts.system_prompt`)")
        clip = ref_audio if isinstance(ref_audio, np.ndarray) else load_audio(ref_audio)
        key = content_digest(clip)
        if key not in self._prompts:
            self._cloner = self._cloner or self._open_cloner()
            self._prompts[key] = self._cloner.clone(clip)
            while len(self._prompts) > MAX_VOICES:
                self._prompts.pop(next(iter(self._prompts)))
        return self._prompts[key]


class SpeakerVoice:
    """The voice of 2.6: what the language model heard of the reference clip lies in the speaker's hidden state."""

    def __init__(self, voice: ChatTTSVoice, text: ChatTTSText, tokenizer: OfficialTokenizer) -> None:
        self.voice = voice
        self.text = text
        self.tokenizer = tokenizer

    def check(self, ref_audio: Source | None) -> None:
        """As Voice: nothing keeps it from speaking."""

    def speak(self, ids: Sequence[int], hidden: np.ndarray, *, speaker_hidden: np.ndarray,
              ref_audio: Source | None = None, seed: int | None = None) -> Speech:
        """As Voice; a reference clip belongs into the system prompt, not here, and changes nothing."""
        text_ids = self.text.encode(self.tokenizer.decode(ids))
        if not text_ids:  # an answer of stars alone, which nobody says
            return Speech(np.zeros(0, np.float32), "", SPEECH_RATE_HZ)
        return Speech(self.voice.whole(text_ids, speaker_hidden, seed=seed), "", SPEECH_RATE_HZ)


def bundle_voice(bundle: Bundle, plan: DevicePlan, tokenizer: OfficialTokenizer) -> Voice:
    """The voice of an exported bundle. Raises CheckpointError when it was exported without one."""
    config = bundle.config
    if not isinstance(config, OfficialConfig) or not (config.talker or config.chattts):
        raise CheckpointError(f"the bundle in {bundle.folder} has no voice; export it again with speech")
    return _talker_voice(bundle.folder, config, plan) if config.talker else _speaker_voice(bundle.folder, config, plan,
                                                                                           tokenizer)


def _talker_voice(folder: Path, config: OfficialConfig, plan: DevicePlan) -> Voice:
    from .flow import FlowSession
    from .hift import HiftSession, Vocoder
    from .talker import TalkerSession

    talker, flow, hift = config.talker, config.flow, config.hift
    if talker is None or flow is None or hift is None:
        raise CheckpointError(f"the bundle in {folder} has a talker but no flow or vocoder; export it again from a "
                              f"checkpoint with its assets")
    mel = FlowMel(FlowSession.from_folder(folder, flow, plan), make_noise(flow, NOISE_SEED))
    token2wav = Token2Wav(mel, Vocoder(HiftSession(folder, plan), hift), flow)
    return TalkerVoice(TalkerSession.from_folder(folder, talker, plan), token2wav,
                       lambda: VoiceCloner.from_folder(folder, plan))


def _speaker_voice(folder: Path, config: OfficialConfig, plan: DevicePlan, tokenizer: OfficialTokenizer) -> Voice:
    from .chattts_sessions import ChatTTSSession, DvaeSession, VocosSession

    if config.chattts is None:
        raise OptionError(f"{config.name} has no ChatTTS")
    text = ChatTTSText.from_folder(folder / CHATTTS_TOKENIZER)
    network, mel, vocode = (ChatTTSSession.from_folder(folder, config.chattts, plan),
                            DvaeSession.from_folder(folder, plan), VocosSession.from_folder(folder, plan))
    voice = ChatTTSVoice(network, mel, vocode, text.tokens, ends_sentence=text.ends_sentence)
    return SpeakerVoice(voice, text, tokenizer)
