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
import common
import engines
import official_full_size
import peers
import performance_page
import prefix
import race
import roofline
import shapes
import sound_peers
from minicpm_o.checkpoints.random_official import official_config
from minicpm_o.model.config import LanguageConfig, TalkerConfig
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


# What is compared with, and how near to the limit

SMALL = shapes.Shape("small", LanguageConfig(kind="qwen2", vocab_size=640, width=64, layers=2, heads=4, kv_heads=2,
                                             head_width=16, ffn=96, context_tokens=128, tied_head=True))


def without(shape: shapes.Shape, **changes: Any) -> shapes.Shape:
    return shapes.Shape(shape.name, LanguageConfig.from_dict(shape.config.to_dict() | changes))


def test_shapes_are_those_of_the_models_they_are_named_for() -> None:
    known = shapes.all_shapes()
    assert [round(shape.parameters / 1e6) for shape in known.values()] == [135, 494, 8189]
    assert "lm_head.weight" not in known["0.5b"].tensors and "lm_head.weight" in known["8b"].tensors
    assert [peers.bits_of(shape) for shape in known.values()] == [(8, 4), (8, 4), (4,)]


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("bits", [4, 8])
def test_gguf_holds_the_weights_that_our_graph_holds(bits: int, kind: str, tmp_path: Path) -> None:
    shape = without(SMALL, kind=kind)
    shapes.write_gguf(tmp_path / "small.gguf", shape, bits)
    reader = gguf.GGUFReader(tmp_path / "small.gguf")
    found = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    weights = shape.weights()
    assert len(found) == len(weights)
    assert {tensor.tensor_type.name for tensor in reader.tensors} == {f"Q{bits}_0", "F32"}
    queries = weights["model.layers.1.self_attn.q_proj.weight"]
    queries = shapes.interleave_rows(queries, 4) if kind == "llama" else queries
    table = weights["model.embed_tokens.weight"]
    for name, expected in (("blk.1.attn_q.weight", queries), ("token_embd.weight", table)):
        lost = np.linalg.norm(found[name] - expected) / np.linalg.norm(expected)
        assert lost < {4: 0.12, 8: 0.01}[bits], name
    assert len(reader.get_field("tokenizer.ggml.tokens").contents()) == 640


def test_interleaved_rows_come_back() -> None:
    from minicpm_o.checkpoints.gguf import restore_rows

    matrix = np.arange(96, dtype=np.float32).reshape(32, 3)
    assert np.array_equal(restore_rows(shapes.interleave_rows(matrix, 4), 4), matrix)


def test_our_engine_races_on_a_made_shape(tmp_path: Path) -> None:
    folder = shapes.Files(SMALL, tmp_path).bundle(8)
    assert shapes.Files(SMALL, tmp_path).bundle(8) == folder and not list(folder.parent.glob("*.part"))
    lap = engines.Ours(str(folder), 1, 32).lap([300, 301, 302], 4)
    assert len(lap.tokens) == 5 and lap.prefill_s > 0 and lap.decode_s > 0
    read = roofline.token_bytes(folder / "language.onnx", SMALL.config, 10)
    block_size = SMALL.block_size
    matrices = sum(shape[0] * math.ceil(shape[1] / block_size) * block_size
                   for shape in SMALL.tensors.values() if len(shape) == 2)
    cache = 2 * 2 * 2 * 10 * 16 * 4
    assert matrices * (1 + 4 / block_size) < read - cache < 1.05 * matrices * (1 + 4 / block_size)


def test_a_hugging_face_folder_has_every_weight(tmp_path: Path) -> None:
    from minicpm_o.checkpoints.safetensors_file import SafetensorsFile, bfloat16_to_float32

    shapes.write_hugging_face(tmp_path, SMALL)
    file = SafetensorsFile(tmp_path / "model.safetensors")
    assert {name: info.shape for name, info in file.infos.items()} == dict(SMALL.tensors)
    name = "model.layers.0.mlp.up_proj.weight"
    assert np.allclose(bfloat16_to_float32(file.raw(name)), SMALL.weights()[name], rtol=1 / 128)


def test_a_peer_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def worker(entrant: race.Entrant, course: race.Course) -> Any:
        if entrant.engine == "llama":
            raise race.EngineError("an engine ended:\n  File x\nModuleNotFoundError: No module named 'llama_cpp'")
        found = FakeWorker(entrant.engine, [], [(1, 1)])
        found.close = lambda: None  # type: ignore[attr-defined]
        return found

    def refuse(files: shapes.Files, bits: int) -> race.Entrant:
        raise shapes.NotMadeError("16.4 GB in bfloat16, and 3.0 GB of memory are free")

    monkeypatch.setattr(race, "Worker", worker)
    field = [peers.Peer("minicpm-o", lambda files, bits: race.Entrant("ours", tmp_path)),
             peers.Peer("llama.cpp", lambda files, bits: race.Entrant("llama", tmp_path)),
             peers.Peer("large", refuse), peers.Peer("other bits", refuse, bits=(8,))]
    with peers.ExitStack() as stack:
        found = peers.line_up(stack, field, shapes.Files(SMALL, tmp_path), 4, race.Course())
    assert list(found.workers) == ["minicpm-o"]
    assert found.missing == {"llama.cpp": "ModuleNotFoundError: No module named 'llama_cpp'",
                             "large": "16.4 GB in bfloat16, and 3.0 GB of memory are free"}
    with peers.ExitStack() as stack, pytest.raises(race.EngineError):
        peers.line_up(stack, field[1:], shapes.Files(SMALL, tmp_path), 4, race.Course())


def test_agreement_counts_equal_next_tokens() -> None:
    class Teller:
        def __init__(self, said: list[int]) -> None:
            self.said = iter(said)

        def ask(self, ids: list[int], decode: int) -> dict[str, Any]:
            return {"tokens": [next(self.said)]}

    workers: Any = {"ours": Teller([1, 2, 3]), "theirs": Teller([1, 9, 3])}
    assert peers.agreement(workers, [[5], [6], [7]]) == {"texts": 3, "equal": {"ours": 3, "theirs": 2}}


def test_faults_lose_the_folders_of_the_machine() -> None:
    path = Path("/somewhere/deep") / "nano.gguf"
    assert common.last_words(f"a\nValueError: cannot read '{path}'\n\n") == "ValueError: cannot read nano.gguf"
    assert common.last_words("") == "no word"


def test_shares_are_taken_within_a_round() -> None:
    """A machine that slows down slows the pass over memory too."""
    found = roofline.share_of([(10e9, 40.0), (5e9, 20.0), (20e9, 80.0)], read=100_000_000)
    assert found == {"bandwidth_gb_s": 10, "tokens_per_s": 40, "limit_tokens_per_s": 100, "share": 0.4}


def test_passes_over_memory_give_a_rate(tmp_path: Path) -> None:
    for once in (roofline.numpy_pass(4_000_000, 2), roofline.onnxruntime_pass(4_000_000, 1, tmp_path)):
        assert once() > 0
    assert roofline.bandwidth([lambda: 7.0, lambda: 9.0]) == 9


def test_sound_is_compared_with_the_right_rival() -> None:
    answers = {"minicpm-o": [{"took_s": 2, "text": "A cat, a dog.", "peak_rss_mb": 5}] * 3,
               "other": [{"took_s": 4, "text": "a cat dog", "peak_rss_mb": 6}] * 3}
    ours, other = sound_peers.heard_rows(10, "A cat, a dog", 12.0, answers)
    assert (ours["times_real_time"], other["times_real_time"], other["ours_over_it"]) == (6, 3, 2)
    assert (ours["word_errors"], other["word_errors"]) == (0, 0.25)
    assert set(sound_peers.RIVALS) | set(sound_peers.RIVALS.values()) == set(sound_peers.SPEAKING)


def test_vocabulary_ends_with_the_marks_of_time() -> None:
    tokenizer = {"model": {"vocab": {"b": 1, "a": 0}}, "added_tokens": [{"content": "<|x|>", "id": 2}]}
    words = sound_peers.vocabulary(tokenizer)
    assert words[:4] == ["a", "b", "<|x|>", "<|0.00|>"] and words[-1] == "<|30.00|>" and len(words) == 3 + 1501


def test_text_is_read_in_whole_sentences() -> None:
    assert sound_peers.clauses("One two. Three four five. Six.", 10) == ["One two. Three four five.", "Six."]


def test_goals_are_met_missed_or_not_measured() -> None:
    least, most = performance_page.Goal("a", 3, "×", 3.0), performance_page.Goal("b", 3, "s", 3.1, is_least=False)
    assert (least.is_met, most.is_met, performance_page.Goal("c", 3, "s", None).is_met) == (True, False, None)
    assert most.row() == ("b", "≤ 3 s", "3.1 s", "not met")


def some_reports() -> dict[str, Any]:
    machine = {"date": "2026-11-27", "commit": "abc", "cpu": "x", "cores": 2, "onnxruntime": "1"}
    rates = {"minicpm-o": {"decode": 40.0, "prefill": 400.0, "peak_rss_mb": 7.0},
             "llama.cpp": {"decode": 50.0, "prefill": 200.0, "peak_rss_mb": 7.0}}
    summed = race.summarise({name: [rate] for name, rate in rates.items()})
    rows = [row | {"load_s": 1, "version": "1"} for row in summed]
    raced = {"shape": "nano", "bits": 8, "block_size": 64, "machine": machine, "parameters": 1e6, "engines": rows,
             "course": {"rounds": 1, "prompt": 2, "decode": 3, "threads": 2},
             "missing": {"OpenVINO GenAI": "it is not there"}, "agreement": {"texts": 2, "equal": {"minicpm-o": 2}}}
    limit = {"model": "0.5b, 4 bits", "parameters": 494e6, "bytes_per_token": 3e8, "bandwidth_gb_s": 12,
             "tokens_per_s": 20.0, "limit_tokens_per_s": 40.0, "share": 0.5}
    return {"peers": {"races": {"nano, 8 bits": raced}},
            "roofline": {"machine": machine, "command": "x", "threads": 2, "rounds": 1, "limits": [limit],
                         "memory_gb_s": 11, "context": [], "sound": [], "pictures": [], "sessions": []},
            "speculative": {"machine": machine, "command": "x", "sets": {
                name: {"median_ratio": 1.5, "tokens_ratio": 1.3, "plain_tokens_per_s": 10,
                       "speculative_tokens_per_s": 15, "identical": name == "chat"} for name in ("chat", "other")}},
            "web": {"machine": machine, "command": "x", "seconds": {"photo": [2.0, 1.0, 9.0]}, "tokens_per_s": [30.0],
                    "memory": {"browser_process_mb": 1200.0}, "folder_mb": 245.0}}


def test_page_says_what_is_met_and_what_remains() -> None:
    text = performance_page.page(some_reports())
    assert "| nano, 8 bits: decode against llama.cpp | ≥ 1 × | 0.8 × | not met |" in text
    assert "| nano, 8 bits: prefill against llama.cpp | ≥ 1.3 × | 2 × | met |" in text
    assert "| 0.5b, 4 bits: decode, share of what the memory allows | ≥ 75 % | 50 % | not met |" in text
    ahead = "prompts, answers identical"
    assert f"| speculative decoding, chat {ahead}: tokens of the set | ≥ 1.4 × | 1.3 × | not met |" in text
    assert f"| speculative decoding, chat {ahead}: its median prompt | ≥ 1.4 × | 1.5 × | met |" in text
    assert f"| speculative decoding, other {ahead}: its median prompt | ≥ 1.4 × | 0 × | not met |" in text
    assert "| in the browser: the folder | ≤ 250 MB | 245 MB | met |" in text and "| photo, s | 2 |" in text
    assert "OpenVINO GenAI did not take part: it is not there." in text
    assert "| 0.5b, 4 bits | 50.0 | 25.0 | 25.0 |" in text and text.count("Not measured yet.") == 3
    assert "Not measured yet." in performance_page.page({})


def test_same_report_draws_the_same_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a.svg", "b.svg"):
        roofline.plot(some_reports()["roofline"], tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_prefix_report_tells_when_an_answer_is_another() -> None:
    rows = [{"text": "A cat.", "load_s": 1.0, "ttft_s": value, "process_s": 2.0, "peak_rss_mb": 400.0, "prompt": 58,
             "cached": 44, "disk_mb": 2.04} for value in (0.3, 0.1, 0.2)]
    report = {"rounds": 3, "command": "python benchmarks/prefix.py", "machine": common.machine(), "cases": {
        name: {"same_answer": same, "runs": {"the same again": prefix.middle(rows)}}
        for name, same in (("photo", True), ("sound", False))}}
    text = prefix.markdown(report)
    assert text.count("| the same again | 1.00 | 0.20 | 2.00 | 400 | 58 | 44 | 2.0 |") == 2
    assert "photo: the same answer" in text and "sound: the answers DIFFER" in text
