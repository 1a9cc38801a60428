"""What the benchmarks reckon and write, without any engine: llama.cpp's file, rounds and ratios, the report."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import brief_voice
import official_full_size
import race
from minicpm_o.checkpoints.random_official import official_config
from minicpm_o.model.config import TalkerConfig
from minicpm_o.runtime.filters import seeded_draw
from minicpm_o.runtime.talker import generate
from random_gguf import language_tensors, write_random_gguf


class FakeWorker:
    """Answers with a prefill and a decode time that were decided beforehand, and writes down when it was asked."""

    def __init__(self, name: str, turns: list[str], seconds: list[tuple[float, float]]) -> None:
        self.name, self.turns, self.seconds = name, turns, iter(seconds)

    def ask(self, ids: list[int], decode: int) -> dict[str, Any]:
        self.turns.append(self.name)
        prefill_s, decode_s = next(self.seconds)
        return {"prefill_s": prefill_s, "decode_s": decode_s, "peak_rss_mb": len(ids) + decode}


class EndlessTalker:
    """Every speech token is as likely as any other."""

    config = TalkerConfig()

    def new_cache(self) -> None:
        return None

    def embed_codes(self, codes: np.ndarray) -> np.ndarray:
        return np.zeros((len(codes), self.config.width), np.float32)

    def run(self, embeds: np.ndarray, cache: None) -> np.ndarray:
        return np.zeros(self.config.num_audio_tokens, np.float32)


@pytest.mark.parametrize("version", ["2.6", "4.5"])
def test_gguf_has_the_shape_of_the_language_part(version: str, tmp_path: Path) -> None:
    config = official_config(version, "tiny", layers=1)
    path = tmp_path / "language.gguf"
    write_random_gguf(path, config)
    reader = gguf.GGUFReader(path)
    found = {tensor.name: tuple(int(size) for size in reversed(tensor.shape)) for tensor in reader.tensors}
    assert found == language_tensors(config)
    assert ("blk.0.attn_q.bias" in found, "blk.0.attn_q_norm.weight" in found) == (version == "2.6", version == "4.5")
    assert found["output.weight"] == (config.language.vocab_size, config.language.width)
    arch = {"2.6": "qwen2", "4.5": "qwen3"}[version]
    values = {key: reader.get_field(key).contents() for key in (
        "general.architecture", f"{arch}.block_count", f"{arch}.vocab_size", f"{arch}.attention.head_count_kv")}
    assert list(values.values()) == [arch, 1, config.language.vocab_size, config.language.kv_heads]
    for tensor in reader.tensors:
        assert tensor.tensor_type.name == ("Q4_0" if len(tensor.shape) == 2 else "F32"), tensor.name


def test_gguf_matrices_are_of_a_sensible_size(tmp_path: Path) -> None:
    path = tmp_path / "language.gguf"
    write_random_gguf(path, official_config("4.5", "tiny", layers=1))
    for tensor in gguf.GGUFReader(path).tensors:
        if len(tensor.shape) == 2:
            matrix = gguf.dequantize(tensor.data, tensor.tensor_type)
            spread = 1 / math.sqrt(matrix.shape[1])
            assert abs(matrix.std() / spread - 1) < 0.05 and abs(matrix.mean()) < spread / 10, tensor.name


def test_layers_cut_every_transformer() -> None:
    config = official_config("4.5", "full", layers=2)
    assert {part.layers for part in (config.language, config.vision, config.hearing, config.talker)} == {2}
    assert config.language.width == official_config("4.5", "full").language.width


def test_rounds_take_turns_and_the_first_one_does_not_count() -> None:
    turns: list[str] = []
    course = race.Course(prompt=10, decode=4, rounds=2)
    workers = {"ours": FakeWorker("ours", turns, [(9, 9), (1, 2), (2, 1)]),
               "theirs": FakeWorker("theirs", turns, [(9, 9), (2, 1), (5, 4)])}
    rounds = race.measure(workers, course, vocab_size=1000)
    assert turns == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert rounds == {"ours": [{"prefill": 10, "decode": 2, "peak_rss_mb": 14}, {"prefill": 5, "decode": 4,
                                                                                 "peak_rss_mb": 14}],
                      "theirs": [{"prefill": 5, "decode": 4, "peak_rss_mb": 14}, {"prefill": 2, "decode": 1,
                                                                                  "peak_rss_mb": 14}]}


def test_ratios_are_taken_within_a_round() -> None:
    """A machine that slows down between rounds changes the speeds, and no ratio."""
    def rounds(speeds: tuple[float, ...]) -> list[race.Rates]:
        return [{"decode": speed, "prefill": 10 * speed, "peak_rss_mb": speed} for speed in speeds]

    ours, theirs = race.summarise({"ours": rounds((8, 2, 40)), "theirs": rounds((4, 1, 20))})
    assert ours["decode_ratio"] == ours["prefill_ratio"] == 1 and ours["decode_tokens_per_s"] == 8
    assert theirs["decode_ratios"] == [2, 2, 2] and theirs["prefill_ratio"] == 2
    assert (theirs["decode_tokens_per_s"], theirs["prefill_tokens_per_s"], theirs["peak_rss_mb"]) == (4, 40, 20)


def test_prompt_is_the_same_in_every_run() -> None:
    ids = race.prompt_ids(50, 1000)
    assert ids == race.prompt_ids(50, 1000) and len(ids) == 50 and min(ids) >= 300 and max(ids) < 1000


@pytest.fixture
def run(tmp_path: Path) -> official_full_size.Run:
    return official_full_size.Run("4.5", tmp_path, 2, 4, sys.executable, race.Course())


def test_report_keeps_the_other_steps_and_versions(run: official_full_size.Run, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    engines = race.summarise({name: [{"decode": 3.0, "prefill": 30.0, "peak_rss_mb": 7.0}] for name in ("a", "b")})
    answers = [{"question": "text", "prompt_tokens": 9, "load_s": 1, "first_token_s": 2, "prefill_tokens_per_s": 4.5,
                "decode_tokens_per_s": 5, "whole_s": 6, "peak_rss_mb": 7, "sound_s": None}]
    cost = {"seconds": 12.5, "peak_rss_mb": 345.6}
    for step, found in (("export", cost | {"mb": 1}), ("export", cost | {"mb": 78.9}),
                        ("use", cost | {"answers": answers}), ("race", {"engines": engines})):
        report = official_full_size.keep(path, run, step, found)
    assert report == json.loads(path.read_text(encoding="utf-8"))
    assert list(report["versions"]["4.5"]) == ["export", "use", "race"]
    text = official_full_size.tables(report)
    assert "| 4.5 | exported to 4 bits | 12.5 | 345.6 | 78.9 |" in text
    assert "| 4.5 | text | 9 | 1 | 2 | 4.5 | 5 | 6 | 7 |" in text
    assert "| b | 3.0 | 1.0 | 30.0 | 1.0 | 7.0 |" in text and text.count("commit ") == 1
    speeds = official_full_size.speeds(report)
    assert speeds and "exported" not in speeds and "| b | 3.0 |" in speeds
    del report["versions"]["4.5"]["race"]
    assert official_full_size.speeds(report) is None


def test_files_go_when_no_step_needs_them_any_more(run: official_full_size.Run) -> None:
    for folder in (run.checkpoint, run.bundle):
        folder.mkdir()
    run.gguf.touch()
    left = []
    for step in official_full_size.STEPS:
        official_full_size.tidy(run, step, list(official_full_size.STEPS))
        left.append([path.exists() for path in (run.checkpoint, run.bundle, run.gguf)])
    assert left == [[True, True, True], [False, True, True], [False, True, True], [False, False, False]]


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="the system does not say what a process held")
def test_a_command_is_measured_alone() -> None:
    hold = "import sys; held = bytearray(300_000_000); held[::4096] = bytes(len(held[::4096])); print('done')"
    cost, output = official_full_size.measured([sys.executable, "-c", hold])
    assert output == "done\n" and cost["peak_rss_mb"] > 300
    with pytest.raises(SystemExit, match="exit code 3"):
        official_full_size.measured([sys.executable, "-c", "raise SystemExit(3)"])


def test_random_q4_0_is_drawn_by_its_seed(tmp_path: Path) -> None:
    config = official_config("2.6", "tiny", layers=1)
    contents = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_random_gguf(tmp_path / name, config, seed)
        contents.append(np.fromfile(tmp_path / name, np.uint8))
    assert np.array_equal(contents[0], contents[1]) and not np.array_equal(contents[0], contents[2])


def test_a_brief_talker_ends_whenever_it_speaks() -> None:
    talker = brief_voice.BriefTalker(EndlessTalker(), num_codes=60)
    embeds = np.zeros((3, talker.config.width), np.float32)
    for seed in (0, 1):
        spoken = generate(talker, embeds, seeded_draw(seed))
        assert spoken.finished and len(spoken.codes) == 60


def test_made_up_voice_is_of_the_flows_shape() -> None:
    flow = official_config("4.5", "full").flow
    assert flow is not None
    prompt = brief_voice.made_up_prompt(flow)
    assert len(prompt.mel) == flow.encoder.up_factor * len(prompt.tokens) and prompt.mel.shape[1] == flow.mel_bins
    assert prompt.speaker.shape == (flow.speaker_width,) and 0 <= prompt.tokens.min() <= prompt.tokens.max()
    assert prompt.tokens.max() < flow.vocab_size
