"""Sounds: formats, rates, channels, bad input, the log-mel transform and files written."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from minicpm_o.errors import AudioError, DiskFullError, OptionError
from minicpm_o.inputs import audio
from minicpm_o.inputs.audio import load_audio, log_mel, mel_filters, pad_to, write_wav

RATE_HZ = 16_000


def assert_is_tone(waveform: np.ndarray, seconds: float, hz: float = 440, peak: float = 0.5) -> None:
    """A clean tone of that frequency, amplitude and length, up to the delay and fringes of a codec."""
    assert waveform.dtype == np.float32 and waveform.ndim == 1
    assert abs(len(waveform) / RATE_HZ - seconds) < 0.1, f"{len(waveform) / RATE_HZ} s, expected {seconds} s"
    middle = waveform[len(waveform) // 4:len(waveform) // 4 * 3]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert abs(spectrum.argmax() * RATE_HZ / len(middle) - hz) < 5
    assert abs(np.abs(middle).max() - peak) < 0.05


@pytest.mark.parametrize(("format", "subtype"), [
    ("WAV", "PCM_U8"), ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "PCM_32"), ("WAV", "FLOAT"), ("WAV", "ULAW"),
    ("WAV", "MS_ADPCM"), ("WAVEX", "PCM_16"), ("RF64", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"),
    ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("CAF", "PCM_16")])
def test_formats_of_libsndfile(format: str, subtype: str, tone: Callable, wav_bytes: Callable) -> None:
    data = wav_bytes(tone(2, 48_000), 48_000, format=format, subtype=subtype)
    assert_is_tone(load_audio(data), 2)


@pytest.mark.parametrize(("name", "codec"), [
    ("a.m4a", "aac"), ("a.mp4", "aac"), ("a.aac", "aac"), ("a.webm", "libopus"), ("a.mkv", "flac"),
    ("a.mov", "pcm_s16le"), ("a.avi", "libmp3lame"), ("a.opus", "libopus"), ("a.oga", "flac")])
@pytest.mark.parametrize("channels", [1, 2])
def test_containers_of_pyav(name: str, codec: str, channels: int, tone: Callable, encode_sound: Callable) -> None:
    waveform = tone(2, 48_000)
    path = encode_sound(name, codec, waveform if channels == 1 else np.stack([waveform, waveform], 1))
    assert_is_tone(load_audio(path), 2)
    assert_is_tone(load_audio(path.read_bytes()), 2)


def test_the_sound_of_a_video(encode_video: Callable) -> None:
    assert_is_tone(load_audio(encode_video("a.mp4", "libx264", "aac", seconds=2)), 2)
    with pytest.raises(AudioError, match=r"mute\.mp4' has no sound track"):
        load_audio(encode_video("mute.mp4", "libx264", None, seconds=1))


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_rates_and_channels(rate_hz: int, channels: int, tone: Callable, wav_bytes: Callable) -> None:
    waveform = tone(1, rate_hz)
    many = np.stack([waveform] * channels, axis=1)
    from_file = load_audio(wav_bytes(many, rate_hz, subtype="FLOAT"))
    assert len(from_file) == RATE_HZ
    assert_is_tone(from_file, 1)
    for array in (many, many.T):
        np.testing.assert_allclose(load_audio(array, rate_hz=rate_hz), from_file, atol=1e-6)


def test_file_in_blocks_is_the_same_as_whole(monkeypatch: pytest.MonkeyPatch, wav_bytes: Callable) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (44_100, 2)).astype(np.float32)
    data = wav_bytes(noise, 44_100, subtype="FLOAT")
    whole = load_audio(data)
    monkeypatch.setattr(audio, "BLOCK_SAMPLES", 1_001)                      # the last block holds fewer than 2 samples
    np.testing.assert_allclose(load_audio(data), whole, atol=1e-5)


def test_channels_are_averaged(wav_bytes: Callable) -> None:
    stereo = np.stack([np.full(1600, 0.8), np.full(1600, -0.2)], axis=1)
    np.testing.assert_allclose(load_audio(wav_bytes(stereo, subtype="FLOAT")), np.full(1600, 0.3), atol=1e-6)


def test_resampling_removes_what_16_khz_cannot_hold(tone: Callable) -> None:
    assert np.abs(load_audio(tone(1, 48_000, hz=11_000), rate_hz=48_000)[800:-800]).max() < 1e-3


@pytest.mark.parametrize(("dtype", "half", "silence"), [
    (np.int8, 64, 0), (np.int16, 16384, 0), (np.int32, 1 << 30, 0), (np.uint8, 192, 128), (np.float16, 0.5, 0),
    (np.float32, 0.5, 0), (np.float64, 0.5, 0)])
def test_sample_types(dtype: type, half: float, silence: float) -> None:
    array = np.full(1600, silence, dtype)
    array[::2] = half
    loaded = load_audio(array, rate_hz=RATE_HZ)
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, np.tile(np.float32([0.5, 0]), 800))


def test_the_given_array_is_not_changed() -> None:
    array = np.full(1600, 3.0, np.float32)
    load_audio(array, rate_hz=RATE_HZ)
    assert (array == 3).all()


def test_loud_sound_is_turned_down_not_cut(wav_bytes: Callable) -> None:
    loud = np.linspace(-3, 3, 1600, dtype=np.float32)
    for source in (wav_bytes(loud, subtype="FLOAT"), loud):
        loaded = load_audio(source, rate_hz=RATE_HZ if source is loud else None)
        np.testing.assert_allclose(loaded, loud / 3, atol=1e-6)


def test_silence_is_a_sound() -> None:
    assert not load_audio(np.zeros(100, np.int16), rate_hz=RATE_HZ).any()


@pytest.mark.parametrize(("array", "rate_hz", "words"), [
    (np.zeros(100, np.float32), None, "pass rate_hz"),
    (np.zeros(100, np.float32), 0, "rate_hz=0 is not a rate"),
    (np.zeros(100, np.float32), -16000, "is not a rate"),
    (np.zeros(100, np.float32), 16000.5, "is not a rate"),
    (np.zeros(0, np.float32), RATE_HZ, "holds no samples"),
    (np.zeros((0, 2), np.float32), RATE_HZ, "holds no samples"),
    (np.float32(1), RATE_HZ, r"shape \(\)"),
    (np.zeros((2, 3, 4), np.float32), RATE_HZ, r"expected \(N,\)"),
    (np.zeros((100, 100), np.float32), RATE_HZ, "at most 64 channels"),
    (np.array([0, np.nan] * 50), RATE_HZ, "NaN or infinite"),
    (np.array([0, np.inf] * 50), RATE_HZ, "NaN or infinite"),
    (np.array([0, 1e300] * 50), RATE_HZ, "NaN or infinite"),
    (np.array([0.0, 20_000.0] * 50), RATE_HZ, "divide by the full scale"),
    (np.zeros(100, np.int64), RATE_HZ, "type int64"),
    (np.zeros(100, bool), RATE_HZ, "type bool"),
    (np.zeros(100, complex), RATE_HZ, "type complex128"),
    (np.array(["a"] * 100), RATE_HZ, "type <U1"),
    (np.zeros(200_000, np.float32), 1_000, "longer than the limit of 100 s"),
])
def test_bad_arrays(array: np.ndarray, rate_hz: int | None, words: str) -> None:
    with pytest.raises(AudioError, match=words), warnings.catch_warnings():
        warnings.simplefilter("error")
        load_audio(np.asarray(array), rate_hz=rate_hz, max_seconds=100)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_in_a_file(bad: float, wav_bytes: Callable) -> None:
    waveform = np.zeros(4 * 65536, np.float32)
    waveform[200_000] = bad
    with pytest.raises(AudioError, match=r"NaN or infinite samples from about 12\.3 s on"):
        load_audio(wav_bytes(waveform, subtype="FLOAT"))


@pytest.mark.parametrize("format", ["WAV", "FLAC", "AIFF"])
def test_file_without_samples(format: str, wav_bytes: Callable) -> None:
    with pytest.raises(AudioError, match=r"holds no samples|is not a sound|are empty \(0 bytes\)"):
        load_audio(wav_bytes(np.zeros(0, np.float32), format=format))


def test_missing_directory_empty_and_wrong_sources(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    for source, words in ((tmp_path / "no.wav", "no audio file"), (tmp_path, "directory"), (None, "NoneType"),
                          (tmp_path / "empty.wav", "empty"), ("http://example.invalid/a.wav", "allow_urls"),
                          ([0.0, 0.1], "list")):
        with pytest.raises(AudioError, match=words):
            load_audio(source)


def test_rate_given_with_a_file(wav_bytes: Callable) -> None:
    with pytest.raises(AudioError, match="leave rate_hz out"):
        load_audio(wav_bytes(np.zeros(100)), rate_hz=8000)


@pytest.mark.parametrize(("name", "content", "words"), [
    ("a.wav", b"just words, no sound at all, and some more of them", "is not a sound"),
    ("a.mp3", b"%PDF-1.7" + b" " * 500, "looks like a PDF document"),
    ("a.raw", bytes(range(256)) * 20, "is not a sound"),
    ("a.wav", b"\x89PNG\r\n\x1a\n" + bytes(500), "looks like a PNG picture"),
    ("a.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n", "is not a sound"),
    ("a.ffconcat", b"ffconcat version 1.0\nfile 'other.wav'\n", "is not a sound"),
    ("a.wav", b"RIFF\x24\0\0\0WAVE", "is not a sound|no samples"),
])
def test_wrong_types(name: str, content: bytes, words: str, tmp_path: Path, encode_sound: Callable,
                     tone: Callable) -> None:
    encode_sound("other.ts", "aac", tone(1, 48_000))                        # play lists must not lead here
    encode_sound("other.wav", "pcm_s16le", tone(1, 48_000))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AudioError, match=f"{name}'.*({words})"):
        load_audio(tmp_path / name)


@pytest.mark.parametrize(("format", "subtype"), [("WAV", "PCM_16"), ("WAVEX", "FLOAT"), ("FLAC", "PCM_16"),
                                                 ("MP3", "MPEG_LAYER_III")])
@pytest.mark.parametrize("keep", [0.02, 0.3, 0.6, 0.9])
def test_truncated_files(format: str, subtype: str, keep: float, wav_bytes: Callable) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 20 * RATE_HZ)
    data = wav_bytes(noise, format=format, subtype=subtype)
    with pytest.raises(AudioError, match="truncated"):
        load_audio(data[:int(len(data) * keep)])


@pytest.mark.parametrize(("name", "codec", "options"), [("a.m4a", "aac", {}), ("a.mkv", "aac", {})])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.8])
def test_truncated_containers(name: str, codec: str, options: dict, keep: float, encode_sound: Callable) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 20 * 48_000).astype(np.float32)
    data = encode_sound(name, codec, noise).read_bytes()
    with pytest.raises(AudioError, match="truncated"):
        load_audio(data[:int(len(data) * keep)])


def test_wav_from_a_pipe_states_no_length(wav_bytes: Callable, tone: Callable) -> None:
    data = bytearray(wav_bytes(tone(1, RATE_HZ)))
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    assert_is_tone(load_audio(bytes(data)), 1)


def test_wav_with_chunks_before_the_sound(wav_bytes: Callable, tone: Callable) -> None:
    data = wav_bytes(tone(1, RATE_HZ))
    assert_is_tone(load_audio(data[:36] + b"LIST\x05\0\0\0INFO!\0" + data[36:]), 1)


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3"])
def test_scrambled_files_raise_only_audio_errors(format: str, wav_bytes: Callable, tone: Callable) -> None:
    clean = wav_bytes(tone(0.5, RATE_HZ), format=format)
    rng = np.random.default_rng(1)
    for _ in range(40):
        data = np.frombuffer(clean, np.uint8).copy()
        where = rng.integers(0, min(len(data), 400), 4)
        data[where] = rng.integers(0, 256, 4)
        try:
            loaded = load_audio(data.tobytes())
            assert np.isfinite(loaded).all() and np.abs(loaded).max() <= 1
        except AudioError as error:
            assert len(str(error)) > 20


def test_too_long(wav_bytes: Callable, encode_sound: Callable, tone: Callable) -> None:
    for source in (wav_bytes(np.zeros(3 * RATE_HZ)), encode_sound("a.m4a", "aac", tone(3, 48_000))):
        with pytest.raises(AudioError, match="longer than the limit of 2 s; cut it"):
            load_audio(source, max_seconds=2)


# Log-mel


def test_log_mel_equals_whispers() -> None:
    transformers = pytest.importorskip("transformers")
    extractor = transformers.WhisperFeatureExtractor()
    rng = np.random.default_rng(0)
    waveform = (rng.standard_normal(30 * RATE_HZ) * np.linspace(0, 0.3, 30 * RATE_HZ)).astype(np.float32)
    waveform[100_000:150_000] = 0
    expected = extractor(waveform, sampling_rate=RATE_HZ, return_tensors="np").input_features[0]
    difference = np.abs(log_mel(waveform) - expected)
    assert log_mel(waveform).shape == (80, 3000) and log_mel(waveform).dtype == np.float32
    assert difference.max() < 1e-4, f"max {difference.max()}, mean {difference.mean()}"
    np.testing.assert_allclose(mel_filters(80), extractor.mel_filters.T, atol=1e-7)


def test_log_mel_of_a_part_equals_the_padded_one() -> None:
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 5 * RATE_HZ).astype(np.float32)
    part, padded = log_mel(waveform), log_mel(pad_to(waveform, 30 * RATE_HZ))
    np.testing.assert_allclose(part[:, :-2], padded[:, :498], atol=1e-5)    # the last two see the reflected end


@pytest.mark.parametrize(("samples", "frames"), [(160, 1), (319, 1), (320, 2), (16_000, 100), (16_159, 100)])
def test_log_mel_frames(samples: int, frames: int) -> None:
    mel = log_mel(np.random.default_rng(0).uniform(-1, 1, samples).astype(np.float32))
    assert mel.shape == (80, frames) and np.isfinite(mel).all()


def test_log_mel_finds_the_tone(tone: Callable) -> None:
    mel = log_mel(tone(1, RATE_HZ, hz=1000))
    centre = mel_filters(80)[mel[:, 50].argmax()].argmax() * RATE_HZ / 400
    assert abs(centre - 1000) <= 40


def test_log_mel_of_silence() -> None:
    np.testing.assert_allclose(log_mel(np.zeros(1600, np.float32)), np.full((80, 10), -1.5), atol=1e-6)


def test_log_mel_wants_a_waveform() -> None:
    for wrong in (np.zeros(159, np.float32), np.zeros((2, 1600), np.float32)):
        with pytest.raises(AudioError, match="expected"):
            log_mel(wrong)


def test_pad_to() -> None:
    np.testing.assert_array_equal(pad_to(np.ones(3, np.float32), 5), [1, 1, 1, 0, 0])
    assert pad_to(np.ones(3, np.float32), 3).dtype == np.float32
    with pytest.raises(AudioError, match="cut it first"):
        pad_to(np.ones(3, np.float32), 2)


# Writing


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3", ".WAV"])
def test_written_files_are_read_back(suffix: str, tmp_path: Path, tone: Callable) -> None:
    path = tmp_path / f"speech{suffix}"
    write_wav(path, tone(2, 24_000), 24_000)
    assert_is_tone(load_audio(path), 2)
    assert os.listdir(tmp_path) == [path.name]


def test_wav_keeps_samples(tmp_path: Path) -> None:
    waveform = np.random.default_rng(0).uniform(-1, 1, (1000, 2)).astype(np.float32)
    write_wav(tmp_path / "a.wav", waveform, 24_000)
    back, rate_hz = soundfile.read(tmp_path / "a.wav")
    assert rate_hz == 24_000
    np.testing.assert_allclose(back, waveform, atol=1 / 32767)


def test_values_above_full_scale_are_cut_not_wrapped(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.array([1.5, -1.5], np.float32), 24_000)
    np.testing.assert_allclose(soundfile.read(tmp_path / "a.wav")[0], [1, -1], atol=1e-4)


def test_long_vorbis(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.ogg", np.random.default_rng(0).uniform(-0.1, 0.1, 1_500_000).astype(np.float32), 24_000)
    assert soundfile.info(tmp_path / "a.ogg").frames == 1_500_000


@pytest.mark.parametrize(("name", "waveform", "rate_hz", "error", "words"), [
    ("a.xyz", np.zeros(9), 24_000, OptionError, r"as \.xyz.*use one of \.wav"),
    ("a", np.zeros(9), 24_000, OptionError, "without suffix"),
    ("a.wav", np.zeros(0), 24_000, AudioError, r"shape \(0,\)"),
    ("a.wav", np.array([np.nan]), 24_000, AudioError, "finite"),
    ("a.wav", np.zeros(9), 0, AudioError, "not a rate"),
    ("a.opus", np.zeros(9), 44_100, AudioError, "44100 Hz as .opus"),
    ("no/folder/a.wav", np.zeros(9), 24_000, AudioError, "folder that exists"),
])
def test_what_cannot_be_written(name: str, waveform: np.ndarray, rate_hz: int, error: type[Exception], words: str,
                                tmp_path: Path) -> None:
    with pytest.raises(error, match=words):
        write_wav(tmp_path / name, waveform, rate_hz)
    assert not os.listdir(tmp_path)


def test_writing_over_a_directory(tmp_path: Path) -> None:
    (tmp_path / "a.wav").mkdir()
    with pytest.raises(AudioError, match="cannot write"):
        write_wav(tmp_path / "a.wav", np.zeros(9), 24_000)
    assert os.listdir(tmp_path) == ["a.wav"]


def test_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tone: Callable) -> None:
    path = tmp_path / "a.wav"
    write_wav(path, tone(1, 24_000), 24_000)
    before = path.read_bytes()

    def full(self: Path, data: bytes) -> None:
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiskFullError, match="no room"):
        write_wav(path, tone(2, 24_000), 24_000)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.wav"]
