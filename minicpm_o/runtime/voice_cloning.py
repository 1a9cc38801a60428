"""A reference clip to the voice of a reply: speech tokens, mel and speaker vector, by two networks and a mel.

Knows not how the voice is used (runtime/flow.py does). The networks are the checkpoint's own ONNX files, unchanged: the
S3 tokenizer (arXiv:2407.04051) and CAM++ (arXiv:2303.00332).
Letters: N samples, P speech tokens (25 a second), F frames, M mel bins.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import AudioError, CheckpointError
from ..inputs.voice_prompt import prompt_mel, resample, speaker_frames, tokenizer_mel
from ..rates import AUDIO_RATE_HZ, SPEECH_RATE_HZ
from .device import DevicePlan, make_session
from .flow import FlowPrompt

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

TOKENIZER_FILE = "speech_tokenizer_v2_25hz.onnx"
SPEAKER_FILE = "campplus.onnx"
FILE_NAMES = (TOKENIZER_FILE, SPEAKER_FILE)

LEAST_SECONDS = 0.12
"""Three speech tokens, which a stream needs to begin."""

MOST_SECONDS = 30.0
"""The tokenizer hears no more at once."""

FRAMES_PER_TOKEN = 2


class VoiceCloner:
    """The two networks."""

    def __init__(self, tokenizer: InferenceSession, speaker: InferenceSession) -> None:
        self._tokenizer = tokenizer
        self._speaker = speaker

    @classmethod
    def from_folder(cls, folder: Path, plan: DevicePlan) -> VoiceCloner:
        """Load the networks of assets/token2wav, or of an exported model. Raises CheckpointError when one is missing
        or cannot be loaded."""
        for name in FILE_NAMES:
            if not (folder / name).is_file():
                raise CheckpointError(f"the checkpoint has no {folder / name}; voice cloning needs it: download the "
                                      f"whole checkpoint, assets included, or leave the reference voice out")
        tokenizer, speaker = (make_session(folder / name, plan, kind="speech") for name in FILE_NAMES)
        return cls(tokenizer, speaker)

    def clone(self, waveform: np.ndarray) -> FlowPrompt:
        """The voice of a clip, (N,) float32 at 16 kHz; what follows after 30 s is left out, with a warning.

        Raises AudioError when the clip is shorter than 0.12 s, not mono or not finite.
        """
        clip = _fit(waveform)
        tokens = self._tokens(clip)
        mel = prompt_mel(resample(clip, AUDIO_RATE_HZ, SPEECH_RATE_HZ))     # (F, M)
        return FlowPrompt(tokens, match_frames(mel, FRAMES_PER_TOKEN * len(tokens)), self._speaker_vector(clip))

    def _tokens(self, clip: np.ndarray) -> np.ndarray:
        """(N,) to (P,) int64."""
        mel = tokenizer_mel(clip)[None]                                     # (1, 128, F)
        sound, length = (value.name for value in self._tokenizer.get_inputs())
        tokens = self._tokenizer.run(None, {sound: mel, length: np.array([mel.shape[2]], np.int32)})[0]
        return np.asarray(tokens, np.int64).reshape(-1)

    def _speaker_vector(self, clip: np.ndarray) -> np.ndarray:
        """(N,) to (W,) float32."""
        vector = self._speaker.run(None, {self._speaker.get_inputs()[0].name: speaker_frames(clip)[None]})[0]
        return np.asarray(vector, np.float32).reshape(-1)


def match_frames(mel: np.ndarray, frames: int) -> np.ndarray:
    """(F, M) to (frames, M): cut, or the last frame repeated, as the tokenizer rounds lengths its own way."""
    return np.pad(mel[:frames], ((0, max(0, frames - len(mel))), (0, 0)), mode="edge")


def _fit(waveform: np.ndarray) -> np.ndarray:
    seconds = waveform.shape[0] / AUDIO_RATE_HZ if waveform.ndim == 1 else 0.0
    if seconds < LEAST_SECONDS:
        raise AudioError(f"the reference voice has shape {waveform.shape}, expected (N,) at {AUDIO_RATE_HZ} Hz of "
                         f"{LEAST_SECONDS} s or more; a few seconds of one speaker clone well")
    if not np.isfinite(waveform).all():
        raise AudioError("the reference voice holds NaN or infinite samples; clean the sound first")
    if seconds > MOST_SECONDS:
        warnings.warn(f"the reference voice is {seconds:.1f} s long; only its first {MOST_SECONDS:.0f} s are heard",
                      stacklevel=3)
    return waveform[:round(MOST_SECONDS * AUDIO_RATE_HZ)].astype(np.float32, copy=False)
