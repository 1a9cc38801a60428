"""The order of things in 2.6's voice: masks, draws, joins, segments, and the words of its errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from chattts_tiny import VOCOS, VOICE, arrays, vocos_module, voice_module

from minicpm_o.checkpoints.graphs.chattts import build_chattts
from minicpm_o.checkpoints.graphs.dvae import build_dvae
from minicpm_o.checkpoints.graphs.vocos import build_vocos
from minicpm_o.errors import CheckpointError, InputError, OptionError
from minicpm_o.model.config import ChatTTSConfig
from minicpm_o.runtime.chattts import (
    ChatTTSVoice,
    Joining,
    Segmenting,
    SoundJoiner,
    SpeechTokens,
    VoiceSampling,
    code_probabilities,
    overlap_add,
    text_validity,
    visible_slots,
)
from minicpm_o.runtime.chattts_sessions import ChatTTSSession, DvaeSession, VocosSession
from minicpm_o.runtime.device import plan_device
from minicpm_o.runtime.filters import seeded_draw
from oracle import assert_close

TOKENS = SpeechTokens(start=1, speaker=2, end=3, pad=0, audio_bos=4)
HIDDEN = np.random.default_rng(0).standard_normal(VOICE.llm_width).astype(np.float32)
END = VOICE.audio_eos
JOINING = Joining(context_steps=4, overlap_samples=4 * 2 * 16)


class Silent:
    """A network that says nothing of its own and notes what it was asked: text by slot, and how often sound ran."""

    def __init__(self, config: ChatTTSConfig = VOICE) -> None:
        self.config = config
        self.texts: list[tuple[int, list[int]]] = []
        self.steps: list[int] = []
        self.segments = 0
        self._asked: list[int] = []

    def new_cache(self) -> None:
        self.segments += 1

    def condition(self, ids: np.ndarray, speaker_hidden: np.ndarray | None) -> np.ndarray:
        assert (speaker_hidden is not None) == (TOKENS.speaker in ids)
        self._asked = ids.tolist()
        return np.zeros((len(ids), self.config.width), np.float32)

    def embed_codes(self, codes: np.ndarray) -> np.ndarray:
        return np.zeros((len(codes), self.config.width), np.float32)

    def run(self, embeds: np.ndarray, visible: np.ndarray, cache: None) -> np.ndarray:
        start = visible.shape[1] - len(embeds)
        if start < self.config.text_reserved_tokens + 2:
            self.texts.append((start, self._asked))
        else:
            self.steps.append(start)
        return np.zeros((self.config.num_codebooks, self.config.num_audio_tokens), np.float32)


def ending_after(*lengths: int) -> Any:
    """A draw that ends after so many steps, then after so many more, and so on; other codes count up."""
    script = iter([code for length in lengths for code in [1] * (4 * length) + [END, 1, 1, 1]])
    return lambda probabilities: next(script)


def voice(network: Any, **options: Any) -> ChatTTSVoice:
    """A voice whose sound is a step's number, one hop for each frame, so that it can be told what is heard when."""
    def mel(codes: np.ndarray) -> np.ndarray:
        return np.repeat(codes[:, 0], 2)[None].astype(np.float32)

    return ChatTTSVoice(network, mel, lambda frames: np.repeat(frames[0], VOCOS.hop_samples), TOKENS, joining=JOINING,
                        **options)


# ------------------------------------------------------------------------------------------------ who sees whom


def test_text_is_revealed_with_the_sound() -> None:
    config = ChatTTSConfig()
    valid = text_validity(config, 23)
    seen = {past: int(visible_slots(config, valid, past)[: len(valid)].sum()) for past in (302, 350, 351, 400, 401)}
    assert seen == {302: 12, 350: 12, 351: 22, 400: 22, 401: 26}
    assert not visible_slots(config, valid, 302)[302]


def test_a_full_segment_has_no_end_mark() -> None:
    config = ChatTTSConfig()
    assert text_validity(config, 300).all() and text_validity(config, 299).all()
    assert np.flatnonzero(~text_validity(config, 298)).tolist() == [301]


# ------------------------------------------------------------------------------------------------ drawing


def test_first_step_is_drawn_unfiltered() -> None:
    logits = np.linspace(-1, 1, 4 * 16).reshape(4, 16).astype(np.float32)
    free = code_probabilities(logits, [], VoiceSampling(), first=True, end_code=None)
    kept = code_probabilities(logits, [], VoiceSampling(), first=False, end_code=None)
    assert (free > 0).all() and (kept > 0).sum(1).min() >= 3 and (kept > 0).sum(1).max() < 16
    assert_close(free.sum(1), np.ones(4), 1e-6, "sums")
    expected = np.exp(logits / np.array([[0.1], [0.3], [0.1], [0.3]]))
    assert_close(free, expected / expected.sum(1, keepdims=True), 1e-6, "softmax of the cooled logits")


def test_filters_keep_three() -> None:
    logits = np.zeros((1, 30), np.float32)
    logits[0, 7] = 50
    kept = code_probabilities(logits, [], VoiceSampling((1.0,), top_p=0.5, top_k=1), first=False, end_code=None)
    assert (kept > 0).sum() >= 3 and kept.argmax() == 7
    flat = np.linspace(0, 1e-3, 30)[None].astype(np.float32)
    kept = code_probabilities(flat, [], VoiceSampling((1.0,), top_p=1.0, top_k=5), first=False, end_code=None)
    assert np.flatnonzero(kept[0]).tolist() == [25, 26, 27, 28, 29]


def test_penalty_counts_the_last_sixteen_steps() -> None:
    logits = np.array([[2.0, -2.0, 1.0, 1.0]], np.float32)
    history = [np.array([3])] * 5 + [np.array([0])] * 14 + [np.array([1])] * 2
    sampling = VoiceSampling((1.0,), top_p=1.0, repetition_penalty=1.1)
    got = code_probabilities(logits, history, sampling, first=False, end_code=None)
    scores = np.array([2.0 / 1.1**14, -2.0 * 1.1**2, 1.0, 1.0])
    assert_close(got[0], np.exp(scores) / np.exp(scores).sum(), 1e-6, "probabilities")


def test_the_end_may_be_barred_and_damage_is_named() -> None:
    logits = np.zeros((4, 16), np.float32)
    barred = code_probabilities(logits, [], VoiceSampling(), first=True, end_code=15)
    assert (barred[:, 15] == 0).all() and (barred[:, :15] > 0).all()
    logits[2, 3] = np.nan
    with pytest.raises(CheckpointError, match="damaged"):
        code_probabilities(logits, [], VoiceSampling(), first=True, end_code=None)


def test_seeded_draws_repeat_and_never_hit_the_impossible() -> None:
    probabilities = np.array([0.0, 0.3, 0.7, 0.0])
    first, second = seeded_draw(3), seeded_draw(3)
    drawn = [first(probabilities) for _ in range(200)]
    assert drawn == [second(probabilities) for _ in range(200)] and set(drawn) == {1, 2}


@pytest.mark.parametrize("options", [{"temperatures": (0.1, 0.0)}, {"top_p": 0.0}, {"min_steps": 25},
                                     {"steps_per_call": 5, "min_steps": 0}, {"repetition_penalty": 0.0}])
def test_sampling_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        VoiceSampling(**options)


# ------------------------------------------------------------------------------------------------ joining


def test_joined_pieces_are_the_whole() -> None:
    whole = np.random.default_rng(1).standard_normal(3000).astype(np.float32)
    joiner = SoundJoiner(Joining(overlap_samples=200))
    pieces = [joiner.add(whole[:1000]), joiner.add(whole[800:1900]), joiner.add(whole[1700:]), joiner.flush()]
    assert [len(piece) for piece in pieces] == [800, 900, 1100, 200]
    assert_close(np.concatenate(pieces), whole, 1e-6, "waveform")
    assert not len(joiner.flush())


def test_overlap_must_fit() -> None:
    with pytest.raises(OptionError, match="cannot overlap 20 samples"):
        overlap_add(np.zeros(10), np.zeros(50), 20)


# ------------------------------------------------------------------------------------------------ speaking


def test_text_is_read_ten_tokens_at_a_time_and_ends_with_its_mark() -> None:
    network = Silent()
    waveform = voice(network).whole(range(10, 33), HIDDEN, draw=ending_after(64))
    assert network.texts == [(0, [1, 2, *range(10, 20)]), (12, list(range(20, 30))), (22, [30, 31, 32]), (25, [3])]
    assert network.steps == list(range(42, 42 + 65)), "every step follows the one before, whatever was read between"
    assert len(waveform) == 64 * 2 * VOCOS.hop_samples


def test_no_text_is_asked_for_before_the_sound_of_what_is_there() -> None:
    asked: list[int] = []

    def slowly() -> Iterator[int]:
        for token in range(10, 35):
            asked.append(token)
            yield token

    pieces = voice(Silent()).speak(slowly(), HIDDEN, draw=ending_after(70))
    first = next(pieces)
    assert len(asked) == 10 and len(first) == 25 * 2 * VOCOS.hop_samples - JOINING.overlap_samples
    assert sum(map(len, pieces)) + len(first) == 70 * 2 * VOCOS.hop_samples


def test_an_end_amid_the_text_ends_the_reply() -> None:
    network = Silent()
    waveform = voice(network).whole(range(10, 50), HIDDEN, draw=ending_after(40))
    assert len(network.texts) == 2 and len(waveform) == 40 * 2 * VOCOS.hop_samples


def test_a_long_text_goes_on_in_a_new_segment() -> None:
    network = Silent()
    speaker = voice(network, ends_sentence=lambda ids: ids[-1] == 21, segmenting=Segmenting(soft_tokens=10))
    text = [*range(10, 30), *range(10, 16)]  # 21 stands at place 11
    waveform = speaker.whole(text, HIDDEN, draw=ending_after(60, 30))
    assert network.segments == 2
    second = network.texts[network.texts.index((12, [20, 21])) + 2 :]
    carried = [17, 18, 19, 20, 21]
    assert second == [(0, [1, 2, *carried]), (7, [22, 23, 24, 25, 26]), (12, [27, 28, 29, *range(10, 16)]), (21, [3])]
    assert len(waveform) == (60 + 30) * 2 * VOCOS.hop_samples


def test_a_text_without_an_end_is_cut_where_no_more_fits() -> None:
    network = Silent()
    voice(network).whole([20] * 50, HIDDEN, draw=ending_after(110, 30))
    assert network.segments == 2
    assert [3] not in [ids for start, ids in network.texts if start > 40], "a full segment has no room for the mark"


def test_a_loop_is_cut_off() -> None:
    network = Silent()
    sampling = VoiceSampling(max_steps=60)
    waveform = voice(network, sampling=sampling).whole(range(10, 20), HIDDEN, draw=lambda probabilities: 1)
    assert len(waveform) == 75 * 2 * VOCOS.hop_samples
    assert network.segments == 1


@pytest.mark.parametrize("ids, hidden, error, words", [
    ([], HIDDEN, InputError, "no tokens"),
    ([10], np.zeros(7), OptionError, r"shape \(7,\), expected \(1, 20\)"),
    ([10], HIDDEN * np.nan, OptionError, "NaN"),
    ([10, 90], HIDDEN, OptionError, "text token 90 is not of the voice's vocabulary of 90"),
])
def test_what_cannot_be_spoken_is_refused(ids, hidden, error, words) -> None:
    with pytest.raises(error, match=words):
        voice(Silent()).whole(ids, hidden, draw=ending_after(30))


def test_sessions_speak_as_the_torch_network(tmp_path) -> None:
    pytest.importorskip("torch")
    from minicpm_o.model.outputs.chattts import TorchChatTTS
    from minicpm_o.model.outputs.vocos import TorchVocos

    module, vocoder, plan = voice_module(), vocos_module(), plan_device(threads=1)
    for build, weights in ((build_chattts, arrays(module)), (build_dvae, arrays(module, "dvae."))):
        build(weights, VOICE, bits=None, block_size=16, folder=tmp_path)
    build_vocos(arrays(vocoder), VOCOS, bits=None, block_size=16, folder=tmp_path)
    network = TorchChatTTS(module)
    twins = [ChatTTSVoice(network, network.mel, TorchVocos(vocoder), TOKENS, joining=JOINING),
             ChatTTSVoice(ChatTTSSession.from_folder(tmp_path, VOICE, plan), DvaeSession.from_folder(tmp_path, plan),
                          VocosSession.from_folder(tmp_path, plan), TOKENS, joining=JOINING)]
    seen: list[list[np.ndarray]] = [[], []]
    waveforms = []
    for twin, probabilities in zip(twins, seen, strict=True):
        script = ending_after(58)
        varied = iter(range(10_000))

        def draw(shown: np.ndarray, seen=probabilities, script=script, varied=varied) -> int:
            seen.append(shown)
            code = script(shown)
            return code if code == END else next(varied) % END

        waveforms.append(twin.whole(range(10, 33), HIDDEN, draw=draw))
    assert len(waveforms[0]) == 58 * 2 * VOCOS.hop_samples
    assert_close(waveforms[1], waveforms[0], 1e-4 * float(np.abs(waveforms[0]).max()), "waveform")
    difference = np.abs(np.stack(seen[0]) - np.stack(seen[1])).max(1)
    assert np.quantile(difference, 0.95) <= 1e-3, "probabilities, but for codes at the edge of a filter"
