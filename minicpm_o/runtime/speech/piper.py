"""Phonemes to sound with a Piper voice (VITS) on onnxruntime; optional, fast, one voice per graph.

The graph takes `input` (1, n) int64 ids, `input_lengths` (1,) and `scales` (3,) float32 (noise, length, noise of the
rhythm) and returns samples at its own rate; they are resampled to 24 kHz. Ids: a start, every symbol followed by a pad,
an end. The voices were trained on espeak's IPA, so misaki's symbols are spelled out in it here. It does not know text.

The graph is cut in two where its vocoder begins: latents (1, C, L) come from all the phonemes at once, sound from a few
latents at a time, with those beside them that it looks at. So the first sound is there before the last is computed.
Format: rhasspy/piper (MIT).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from minicpm_o.errors import CheckpointError, OptionError
from minicpm_o.rates import SPEECH_RATE_HZ
from minicpm_o.runtime.device import DevicePlan, make_session
from minicpm_o.runtime.speech.level import PEAK, gain, trimmed

if TYPE_CHECKING:
    import onnxruntime

PAD, START, END = "_", "^", "$"
VOCODER_BEGINS = "dec.conv_pre.weight"
"""The vocoder's first node has this weight."""
SAMPLES_PER_LATENT = 256
BESIDE_LATENTS = 12
"""So far a sample looks at latents beside its own, and two more: the vocoder's transposed and dilated convolutions."""
FIRST_LATENTS = 32
"""Of the first piece of sound, a third of a second; each later one is twice as long as the one before."""
LEVEL_PHONEMES = "ðə kwˈɪk bɹˈWn fˈɑks ʤˈʌmps ˈOvəɹ ðə lˈAzi dˈɔɡ."
"""Spoken once to find how loud a voice is."""

IPA = {
    "əɹ": "ɚ",
    "ɜɹ": "ɜː",
    "ɑɹ": "ɑːɹ",
    "ɔɹ": "ɔːɹ",
    "A": "eɪ",
    "I": "aɪ",
    "O": "oʊ",
    "W": "aʊ",
    "Y": "ɔɪ",
    "ʤ": "dʒ",
    "ʧ": "tʃ",
    "ᵊ": "ə",
    "ˈi": "ˈiː",
    "ˌi": "ˌiː",
    "u": "uː",
    "ɑ": "ɑː",
    "ɔ": "ɔː",
    "…": ".",
    "—": ",",
}
_SPELLED = re.compile("|".join(sorted(map(re.escape, IPA), key=len, reverse=True)))


def to_ipa(phonemes: str) -> str:
    """misaki's American symbols in espeak's IPA."""
    return _SPELLED.sub(lambda match: IPA[match.group()], phonemes)


@dataclass(frozen=True)
class Piece:
    """Some of a clause's sound."""

    waveform: NDArray[np.float32]
    """(N,) at 24 kHz."""
    rest_s: float = 0.0
    """Seconds of the clause still to come, about."""
    is_last: bool = True


@dataclass(frozen=True)
class Piper:
    """A loaded voice."""

    to_latents: onnxruntime.InferenceSession
    vocoder: onnxruntime.InferenceSession
    ids: dict[str, list[int]]
    scales: tuple[float, float, float]
    own_rate_hz: int

    @classmethod
    def open(cls, path: Path, plan: DevicePlan) -> Piper:
        """Load `path` and the `.json` beside it. Errors: CheckpointError when one is missing or damaged."""
        settings_path = path.with_name(path.name + ".json")
        try:
            settings = json.loads(settings_path.read_text(encoding="utf-8"))
            inference = settings["inference"]
            scales = (inference["noise_scale"], inference["length_scale"], inference["noise_w"])
            ids, rate_hz = settings["phoneme_id_map"], int(settings["audio"]["sample_rate"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"the voice settings {settings_path} cannot be read ({error!r})") from error
        to_latents, vocoder = (make_session(path, plan, kind="speech", graph=half) for half in _halves(path))
        return cls(to_latents, vocoder, ids, scales, rate_hz)

    def pieces(self, phonemes: str, speed: float = 1.0) -> Iterator[Piece]:
        """The sound of a clause at the common loudness, its first third of a second as soon as it is there.

        Errors: OptionError for a symbol the voice does not have.
        """
        latents = self.latents(phonemes, speed)
        seconds, given_s = latents.shape[2] * SAMPLES_PER_LATENT / self.own_rate_hz, 0.0
        for waveform in trimmed(self._resampled(self.sounds(latents)), SPEECH_RATE_HZ):
            given_s += len(waveform) / SPEECH_RATE_HZ
            yield Piece(np.clip(waveform * self._gain, -PEAK, PEAK), max(0.0, seconds - given_s), is_last=False)
        yield Piece(np.zeros(0, np.float32))

    def latents(self, phonemes: str, speed: float = 1.0) -> NDArray[np.float32]:
        """Phonemes to what the vocoder makes sound of, (1, C, L)."""
        return self._latents(to_ipa(phonemes), speed)

    def _latents(self, ipa: str, speed: float = 1.0) -> NDArray[np.float32]:
        noise, length, rhythm = self.scales
        ids = np.array([self._to_ids(ipa)], dtype=np.int64)
        feeds = {
            "input": ids,
            "input_lengths": np.array([ids.shape[1]], dtype=np.int64),
            "scales": np.array([noise, length / speed, rhythm], dtype=np.float32),
        }
        return np.asarray(self.to_latents.run(None, feeds)[0], dtype=np.float32)

    def sounds(self, latents: NDArray[np.float32], first: int = FIRST_LATENTS) -> Iterator[NDArray[np.float32]]:
        """(1, C, L) to waveforms at the voice's own rate, each of twice as many latents as the one before."""
        total, start, count = latents.shape[2], 0, first
        while start < total:
            stop = min(total, start + count)
            left, right = max(0, start - BESIDE_LATENTS), min(total, stop + BESIDE_LATENTS)
            seen = np.ascontiguousarray(latents[:, :, left:right])
            sound = np.asarray(self.vocoder.run(None, {self.vocoder.get_inputs()[0].name: seen})[0]).ravel()
            yield sound[(start - left) * SAMPLES_PER_LATENT : (stop - left) * SAMPLES_PER_LATENT]
            start, count = stop, 2 * count

    def _resampled(self, sounds: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """At 24 kHz."""
        import soxr

        stream = soxr.ResampleStream(self.own_rate_hz, SPEECH_RATE_HZ, 1, dtype="float32")
        for sound in sounds:
            yield np.asarray(stream.resample_chunk(sound), np.float32)
        yield np.asarray(stream.resample_chunk(np.zeros(0, np.float32), last=True), np.float32)

    @cached_property
    def _gain(self) -> float:
        """One for all that the voice says, so that pieces and clauses fit together."""
        known = "".join(symbol for symbol in to_ipa(LEVEL_PHONEMES) if symbol in self.ids)
        return gain(np.concatenate([*self._resampled(self.sounds(self._latents(known)))]), SPEECH_RATE_HZ)

    def _to_ids(self, ipa: str) -> list[int]:
        unknown = sorted(set(ipa) - self.ids.keys())
        if unknown:
            raise OptionError(f"this Piper voice has no sound for {' '.join(unknown)!r}; take a Kokoro voice")
        pad = self.ids[PAD]
        return [*self.ids[START], *pad, *(id for symbol in ipa for id in (*self.ids[symbol], *pad)), *self.ids[END]]


def _halves(path: Path) -> tuple[bytes, bytes]:
    """A voice's graph up to its vocoder, and the vocoder. Errors: CheckpointError for what is no Piper voice."""
    import onnx
    from onnx.utils import Extractor

    try:
        model = onnx.load(str(path))
        seam = next(node.input[0] for node in model.graph.node if VOCODER_BEGINS in node.input)
        if seam not in {value.name for value in model.graph.value_info}:
            model.graph.value_info.append(onnx.helper.make_tensor_value_info(seam, onnx.TensorProto.FLOAT, None))
        extractor = Extractor(model)
        given, made = ([value.name for value in values] for values in (model.graph.input, model.graph.output))
        return (extractor.extract_model(given, [seam]).SerializeToString(),
                extractor.extract_model([seam], made).SerializeToString())
    except Exception as error:  # protobuf and onnx raise their own kinds
        raise CheckpointError(f"{path} is no Piper voice that can be spoken with ({error!r}); get it again") from error
