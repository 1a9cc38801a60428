"""Sounds to what the frozen ear makes of them: audio/NAME_frames.npy and audio/NAME_frames.json.

As at run time: whole seconds, windows of 30 s, and within a window a second hears itself and what came before.
Shapes: B batch, M mel bins, F mel frames, E encoder width, N samples.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...checkpoints.storage import sha256_of
from ...errors import InputError
from ...inputs.audio import log_mel, pad_to
from ...model.config import HearingConfig
from ...rates import UNIT_ENCODER_FRAMES, UNIT_MS, UNIT_SAMPLES, WINDOW_S, exact_div
from ..mixture import read_stage
from ..recipe import Precision
from .speech import FULL_SCALE, SoundFiles
from .work import Marker, bar, find_files, open_array, write_json

WINDOW_UNITS = exact_div(WINDOW_S * 1000, UNIT_MS)
_LOG = logging.getLogger("minicpm_o")
_BATCH_UNITS = 64
_ENCODER_FIELDS = ("mel_bins", "width", "heads", "encoder_layers", "ffn", "max_encoder_frames")
"""What the frames depend on; the projector behind the encoder may change without hearing all again."""
_SAVE_EVERY = 20
"""Batches between two notes of how far the work is."""

Ears = Callable[[np.ndarray], np.ndarray]
"""log_mel (B, M, F) float32 -> frames (B, F/2, E), block-causal."""


@dataclass(frozen=True)
class Window:
    """Sound that is encoded at once: samples [start, stop) of the file, to frames from `frame` on."""

    start: int
    stop: int
    frame: int
    units: int
    """Seconds begun."""


def lay_frames(sounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sounds' entries with `units`, seconds begun, and `frame`, where their frames start: end to end, in order."""
    units = [-(-entry["n"] // UNIT_SAMPLES) for entry in sounds]
    starts = itertools.accumulate(units, initial=0)
    return [
        {**entry, "frame": start * UNIT_ENCODER_FRAMES, "units": count}
        for entry, start, count in zip(sounds, starts, units, strict=False)
    ]


def windows_of(entry: dict[str, Any]) -> Iterator[Window]:
    """A laid-out sound in windows of at most 30 s."""
    end = entry["start"] + entry["n"]
    for unit in range(0, entry["units"], WINDOW_UNITS):
        start, count = entry["start"] + unit * UNIT_SAMPLES, min(WINDOW_UNITS, entry["units"] - unit)
        stop = min(end, start + count * UNIT_SAMPLES)
        yield Window(start, stop, entry["frame"] + unit * UNIT_ENCODER_FRAMES, count)


def batches_of(windows: list[Window]) -> list[list[Window]]:
    """Windows of one length together, about a minute a batch, short ones first."""
    ordered = sorted(windows, key=lambda window: window.units)
    batches = []
    for units, group in itertools.groupby(ordered, key=lambda window: window.units):
        same, size = list(group), max(1, _BATCH_UNITS // units)
        batches += [same[i : i + size] for i in range(0, len(same), size)]
    return batches


def prepare_hearing(out: Path, name: str, open_ears: Callable[[], Ears], hearing: HearingConfig) -> None:
    """Write the frames of the sounds called `name`, going on where an earlier run stopped; the index comes last.

    Raises InputError when the sounds are missing or not finished.
    """
    folder = out / "audio"
    files = SoundFiles(folder, name)
    entries = lay_frames(_finished_sounds(files))
    batches = batches_of([window for entry in entries for window in windows_of(entry)])
    frames, index = (folder / f"{name}_frames.{ending}" for ending in ("npy", "json"))
    shape = {name: getattr(hearing, name) for name in _ENCODER_FIELDS}
    recipe = [entries, sha256_of(files.pcm), shape]
    marker = Marker(folder / f"{name}_frames.done.json", recipe, len(batches), (frames,))
    if marker.is_finished() and index.is_file():
        _LOG.info("%s is there already", frames)
        return
    index.unlink(missing_ok=True)
    size = (sum(entry["units"] for entry in entries) * UNIT_ENCODER_FRAMES, hearing.width)
    array = open_array(frames, size, resume=marker.done() > 0)
    _hear_all(batches, np.memmap(files.pcm, dtype="<i2", mode="r"), open_ears(), array, marker, name)
    write_json(index, entries)


def _finished_sounds(files: SoundFiles) -> list[dict[str, Any]]:
    state = read_stage(files.marker, "speech")
    if state["done"] != state["total"]:
        raise InputError(f"{files.pcm} holds {state['done']} of {state['total']} texts; finish it: --only speech")
    return read_stage(files.index, "speech")


def _hear_all(
    batches: list[list[Window]], pcm: np.ndarray, ears: Ears, array: np.ndarray, marker: Marker, name: str
) -> None:
    for number in bar(range(marker.done(), len(batches)), f"hearing: {name}"):
        batch = batches[number]
        mel = np.stack([log_mel(_waveform(pcm, window)) for window in batch])
        for window, heard in zip(batch, ears(mel), strict=True):
            array[window.frame : window.frame + window.units * UNIT_ENCODER_FRAMES] = heard
        if (number + 1) % _SAVE_EVERY == 0 or number + 1 == len(batches):
            array.flush()
            marker.reach(number + 1)


def _waveform(pcm: np.ndarray, window: Window) -> np.ndarray:
    """(N,) float32, silence added up to whole seconds."""
    waveform = pcm[window.start : window.stop].astype(np.float32) / FULL_SCALE
    return pad_to(waveform, window.units * UNIT_SAMPLES)


def open_ears(hearing: HearingConfig, precision: Precision = "fp32") -> Ears:
    """The frozen ear in torch, with the part's weights. Raises PartMissingError when they are not here."""
    import torch

    from ...checkpoints.ctranslate2 import read_variables, whisper_tensors
    from ...model.encoders.hearing import HearingEncoder, block_causal_bias

    tensors, prefix = whisper_tensors(read_variables(find_files("whisper")["model.bin"])), "model.encoder."
    weights = {name[len(prefix) :]: torch.from_numpy(t) for name, t in tensors.items() if name.startswith(prefix)}
    ear = HearingEncoder(hearing).eval()
    ear.encoder.load_state_dict(weights)

    def hear(mel: np.ndarray) -> np.ndarray:
        bias = block_causal_bias(mel.shape[2] // 2, UNIT_ENCODER_FRAMES)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            frames: np.ndarray = ear(torch.from_numpy(mel), bias).float().numpy()
        return frames

    return hear
