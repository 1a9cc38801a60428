"""Token2wav over scripted networks: a flow whose mel tells tokens and time, a vocoder that hums by that time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from minicpm_o.errors import OptionError
from minicpm_o.model.config import FlowConfig, FlowDecoderConfig, FlowEncoderConfig, HiftConfig
from minicpm_o.runtime.flow import FlowPrompt, make_noise
from minicpm_o.runtime.hift import Vocoder
from minicpm_o.runtime.token2wav import SILENCE_TOKEN, FlowMel, Token2Wav, Token2WavState, cross_fade
from oracle import assert_close

CONFIG = FlowConfig()
PROMPT = FlowPrompt(np.arange(10), np.zeros((20, 80), np.float32), np.zeros(192, np.float32))
FRAME = 480
KEPT = 8 * FRAME


@dataclass
class IdentityFlow:
    """Mel of two rows: when a frame sounds, counted from the turn's start, and the token that it is half of."""

    pieces: list[tuple[int, ...]] = field(default_factory=list)

    def offline(self, tokens, prompt: FlowPrompt) -> np.ndarray:
        return self.mel(tokens, 0)

    def start(self, prompt: FlowPrompt) -> int:
        assert prompt is PROMPT
        return 0

    def chunk(self, state: int, tokens, is_last: bool) -> tuple[np.ndarray, int]:
        self.pieces.append(tuple(tokens))
        spoken = tokens if is_last else tokens[:-3]
        return self.mel(spoken, state), state + 2 * len(spoken)

    def mel(self, tokens, start: int) -> np.ndarray:
        mel = np.zeros((80, 2 * len(tokens)), np.float32)
        mel[0], mel[1] = start + np.arange(2 * len(tokens)), np.repeat(tokens, 2)
        return mel


@dataclass
class Hum:
    """200 Hz by the time in the mel's first row, or the token in its second; the source is the noise."""

    row: int = 0
    frame_samples: int = FRAME
    kept: list[int] = field(default_factory=list)

    def vocode(self, mel: np.ndarray, *, rng=None, kept_source=None) -> tuple[np.ndarray, np.ndarray]:
        kept_source = np.zeros(0, np.float32) if kept_source is None else kept_source
        self.kept.append(len(kept_source))
        source = np.concatenate([kept_source, rng.random(mel.shape[1] * FRAME - len(kept_source), np.float32)])
        values = np.repeat(mel[self.row], FRAME)
        if self.row:
            return values, source
        samples = values * FRAME + np.tile(np.arange(FRAME), mel.shape[1])
        return np.sin(2 * np.pi * 200 * samples / 24_000).astype(np.float32), source


def machine(row: int = 0) -> Token2Wav:
    return Token2Wav(IdentityFlow(), Hum(row), CONFIG)


def begin(token2wav: Token2Wav, seed: int = 0) -> Token2WavState:
    return token2wav.start(PROMPT, np.random.default_rng(seed))


def stream(token2wav: Token2Wav, codes: np.ndarray, sizes: list[int], *, flush_first: bool = False) -> list[np.ndarray]:
    """Codes in pieces of these sizes, then the end of the turn."""
    state, waveforms, position = begin(token2wav), [], 0
    for place, size in enumerate(sizes):
        waveform, state = token2wav.push(state, codes[position:position + size], flush=flush_first and place == 0)
        waveforms.append(waveform)
        position += size
    waveform, state = token2wav.push(state, codes[position:], is_last=True)
    return [*waveforms, waveform]


@pytest.mark.parametrize("count", [0, 1, 24, 25, 26, 50, 60, 99, 300])
@pytest.mark.parametrize("step", [1, 10, 25, 60])
def test_every_token_sounds_once(count: int, step: int) -> None:
    """As many samples as the whole reply has, behind three tokens of silence."""
    token2wav, codes = machine(row=1), np.arange(count) * 331 % 997 + 1
    waveform = np.concatenate(stream(token2wav, codes, [step] * (count // step)))
    assert waveform.dtype == np.float32
    whole = np.repeat([SILENCE_TOKEN] * 3 + codes.tolist(), 2 * FRAME)
    assert waveform.shape == whole.shape
    assert_close(waveform / whole, np.ones(len(whole)), 0.09, "token that sounds, apart from the cross-fades' gain")


def test_pieces_are_25_tokens_and_3_ahead() -> None:
    token2wav, codes = machine(), np.arange(60)
    waveforms = stream(token2wav, codes, [25, 25])
    heard = [SILENCE_TOKEN] * 3 + codes.tolist()
    assert token2wav.flow.pieces == [tuple(heard[:28]), tuple(heard[25:53]), tuple(heard[50:])]
    assert [len(waveform) for waveform in waveforms] == [24_000 - KEPT, 24_000, 13 * 2 * FRAME + KEPT]
    assert token2wav.vocoder.kept == [0, KEPT, KEPT]


def test_flush_speaks_what_has_its_lookahead() -> None:
    for count, spoken in ((4, 0), (5, 5), (20, 20), (25, 25), (30, 30)):
        token2wav = machine()
        waveform, state = token2wav.push(begin(token2wav), np.arange(count), flush=True)
        assert len(waveform) == max(0, spoken * 2 * FRAME - KEPT)
        assert state.tokens == (*[SILENCE_TOKEN] * 3, *range(count))[spoken:]
    waveform, _ = token2wav.push(begin(token2wav), np.arange(5))
    assert not len(waveform)


@pytest.mark.parametrize("flush_first", [False, True])
def test_no_clicks_at_joins(flush_first: bool) -> None:
    """A hum goes on through all joins: no step between samples is larger than in the hum itself, but for the gain."""
    codes = np.zeros(130, int)
    waveform = np.concatenate(stream(machine(), codes, [13, 30, 25, 25], flush_first=flush_first))
    whole, _ = Hum().vocode(IdentityFlow().mel(np.zeros(133), 0), rng=np.random.default_rng(0))
    assert np.abs(np.diff(waveform)).max() <= 1.09 * np.abs(np.diff(whole)).max()
    assert_close(waveform, whole, 0.09, "streamed and whole")


class Tally(Hum):
    """Every sample is the number of the call."""

    def vocode(self, mel: np.ndarray, *, rng=None, kept_source=None) -> tuple[np.ndarray, np.ndarray]:
        _, source = super().vocode(mel, rng=rng, kept_source=kept_source)
        return np.full(len(source), len(self.kept), np.float32), source


def test_joins_are_cross_faded() -> None:
    token2wav = Token2Wav(IdentityFlow(), Tally(), CONFIG)
    first, second, third = stream(token2wav, np.zeros(60, int), [25, 25])
    assert (first == 1).all()
    window = np.hamming(2 * KEPT)
    assert_close(second[:KEPT], 2 * window[:KEPT] + window[KEPT:], 1e-5, "second over first")
    assert (second[KEPT:] == 2).all()
    assert_close(third[:KEPT], 3 * window[:KEPT] + 2 * window[KEPT:], 1e-5, "third over second")
    assert (third[KEPT:] == 3).all()


def test_state_is_a_value() -> None:
    token2wav, codes = machine(), np.arange(40)
    _, state = token2wav.push(begin(token2wav), codes[:30])
    copy = replace(state)
    first, after = token2wav.push(state, codes[30:], is_last=True)
    again, after_again = token2wav.push(state, codes[30:], is_last=True)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(after.source, after_again.source)
    for name in ("tokens", "pieces", "seed", "flow"):
        assert getattr(state, name) == getattr(copy, name)


def test_a_turn_ends_where_the_prompt_ended() -> None:
    token2wav, codes = machine(), np.arange(40)
    start = begin(token2wav)
    first, state = token2wav.push(start, codes, is_last=True)
    assert (state.flow, state.tokens) == (start.flow, start.tokens)
    assert not state.mel.size and not state.source.size and not state.waveform.size
    second, _ = token2wav.push(state, codes, is_last=True)
    np.testing.assert_array_equal(first, second)


def noise_of(seed: int, pieces: int) -> list[np.ndarray]:
    """Sources of the pieces of a stream."""
    token2wav = machine()
    state, sources = begin(token2wav, seed), []
    for _ in range(pieces):
        _, state = token2wav.push(state, np.zeros(25, int))
        sources.append(state.source)
    return sources


def test_noise_is_the_seeds_and_new_in_every_piece() -> None:
    one, same, other = noise_of(1, 2), noise_of(1, 2), noise_of(2, 2)
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one[0], one[1]) and not np.array_equal(one[0], other[0])


def test_units_of_full_duplex_are_a_second() -> None:
    token2wav = machine()
    state, lengths = begin(token2wav), []
    for count, is_first, is_end in ((20, True, False), (25, False, False), (25, False, False), (10, False, True),
                                    (2, True, False)):
        waveform, state = token2wav.speak_unit(state, np.zeros(count, int), is_first=is_first, end_of_turn=is_end)
        lengths.append(len(waveform))
        silent = np.argmax(waveform != 0) if waveform.any() else len(waveform)
        assert silent == {0: 24_000 - (20 * 2 * FRAME - KEPT) + 1, 4: 24_000}.get(len(lengths) - 1, silent)
    assert lengths[0] == lengths[1] == lengths[2] == lengths[4] == 24_000
    assert sum(lengths[:4]) == 24_000 - (20 * 2 * FRAME - KEPT) + 83 * 2 * FRAME


def test_whole_conversion() -> None:
    codes, rng = np.arange(30), np.random.default_rng(0)
    waveform = machine(row=1).convert(codes, PROMPT, rng)
    np.testing.assert_array_equal(waveform, np.repeat(codes, 2 * FRAME).astype(np.float32))


def test_cross_fade_is_the_halves_of_a_hamming_window() -> None:
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(8) / 7)
    old, new = np.arange(4, dtype=np.float32), np.full(6, 10, np.float32)
    expected = [*(10 * window[:4] + old * window[4:]), 10, 10]
    assert_close(cross_fade(old, new), expected, 1e-5, "blend")


def test_tokens_must_be_whole_numbers() -> None:
    token2wav = machine()
    with pytest.raises(OptionError, match="whole numbers, not float64"):
        token2wav.push(begin(token2wav), np.array([1.5]))


def test_over_the_networks_themselves() -> None:
    """Tiny random flow and vocoder in torch: sound of the right length, the same for the same seed."""
    torch = pytest.importorskip("torch")
    from minicpm_o.model.outputs.flow import Flow, TorchFlow
    from minicpm_o.model.outputs.hift import Hift, TorchHift

    torch.manual_seed(0)
    config = FlowConfig(vocab_size=6561, speaker_width=12, mel_bins=8, steps=2,
                        encoder=FlowEncoderConfig(width=16, heads=2, ffn=32, layers=1, up_layers=1),
                        decoder=FlowDecoderConfig(width=16, heads=2, head_width=8, layers=1))
    hift = HiftConfig(mel_bins=8, width=16, pitch_width=8)
    prompt = FlowPrompt(np.arange(12), np.zeros((24, 8), np.float32), np.ones(12, np.float32))
    flow = FlowMel(TorchFlow(Flow(config)), make_noise(config, frames=500))
    token2wav = Token2Wav(flow, Vocoder(TorchHift(Hift(hift)), hift), config)
    codes = np.arange(40)
    assert token2wav.convert(codes, prompt, np.random.default_rng(0)).shape == (40 * 960,)

    def spoken() -> np.ndarray:
        state = token2wav.start(prompt, np.random.default_rng(5))
        first, state = token2wav.push(state, codes[:25])
        rest, _ = token2wav.push(state, codes[25:], is_last=True)
        return np.concatenate([first, rest])

    waveform = spoken()
    assert waveform.shape == (43 * 960,) and np.isfinite(waveform).all() and waveform.any()
    np.testing.assert_array_equal(waveform, spoken())
