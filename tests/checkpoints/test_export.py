"""A tiny random checkpoint of the official layout to a bundle, and what may go wrong on the way."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from filelock import FileLock, Timeout

from minicpm_o.checkpoints import export, export_steps
from minicpm_o.checkpoints.bundle import PROMPTS_FILE, Bundle
from minicpm_o.checkpoints.embeddings import quantise_rows, write_embeddings
from minicpm_o.checkpoints.export import export_checkpoint
from minicpm_o.checkpoints.export_report import RoundedMatrix, StepReport, layer_errors, mean_error
from minicpm_o.checkpoints.export_steps import ExportSettings
from minicpm_o.checkpoints.graphs.builder import StoredMatrix, take_matrix
from minicpm_o.checkpoints.official import Checkpoint
from minicpm_o.checkpoints.random_official import write_random_checkpoint
from minicpm_o.checkpoints.safetensors_file import pending_array
from minicpm_o.checkpoints.sizes import bundle_bytes, prompt_graph_bytes
from minicpm_o.checkpoints.torch_legacy import read_state_dict
from minicpm_o.checkpoints.torch_zip import write_state_dict
from minicpm_o.errors import CheckpointError, DiskFullError, OptionError
from minicpm_o.runtime.device import plan_device
from minicpm_o.runtime.engine import Embeddings, Engine
from minicpm_o.runtime.memory import plan_memory
from minicpm_o.runtime.opening import exported_request

SETTINGS = ExportSettings(bits=8, block_size=32)
TALK = ExportSettings(bits=8, block_size=32, vision=False, hearing=False, speech=False)
FILES = {
    "4.5": {"talker.onnx", "talker_embeddings.safetensors", "flow_encoder.onnx", "flow_decoder.onnx", "hift.onnx"},
    "2.6": {"chattts.onnx", "chattts_embeddings.safetensors", "dvae.onnx", "vocos.onnx",
            "assets/chattts_tokenizer/tokenizer.json"},
}


@pytest.fixture(scope="module", params=["2.6", "4.5"])
def source(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_random_checkpoint(folder, request.param, max_shard_bytes=300_000)
    return folder


@pytest.fixture(scope="module")
def exported(source, tmp_path_factory):
    return export_checkpoint(source, tmp_path_factory.mktemp("out") / "bundle", SETTINGS, progress=False)


@pytest.fixture(scope="module")
def tiny_45(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_random_checkpoint(folder, "4.5")
    return folder


def leftovers(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir() if path.name.startswith("."))


def test_the_bundle_is_whole(source, exported):
    bundle = Bundle.open(exported.folder)
    assert not bundle.damaged()
    checkpoint = Checkpoint.open(source)
    assert bundle.config.language == checkpoint.config.language and bundle.config.version == checkpoint.config.version
    common = {"language.onnx", "language.onnx.data", "embeddings.safetensors", "vision.onnx", "hearing.onnx",
              "tokenizer.json", "tokenizer_config.json", "export_report.json", "export_report.md"}
    assert common | FILES[bundle.config.version] <= set(bundle.files)
    assert bundle.settings["bits"] == 8 and bundle.settings["block_size"] == 32
    assert not leftovers(exported.folder)


def test_the_voice_has_the_shape_of_its_files(source, exported):
    config, by_default = Bundle.open(exported.folder).config, Checkpoint.open(source).config
    assert (config.vocos or config.flow) != (by_default.vocos or by_default.flow)
    if config.vocos:
        assert (config.vocos.width, config.vocos.ffn, config.vocos.layers) == (64, 160, 2)
    else:
        assert (config.hift.width, config.flow.encoder.width, config.flow.encoder.up_layers) == (48, 32, 1)


def test_sizes_are_foreseen(exported):
    """Tensors alone: graphs, page ends and the fixed matrices of the vocoder are little beside a full-size model."""
    bundle = Bundle.open(exported.folder)
    built = sum(entry.bytes for name, entry in bundle.files.items() if name.endswith((".data", ".safetensors")))
    assert bundle_bytes(bundle.config, 8, 32) == pytest.approx(built, rel=0.06)


@pytest.mark.parametrize(("bits", "bound"), [(None, 1e-5), (8, 0.05), (4, 0.5)])
def test_the_engine_thinks_as_torch_does(source, tmp_path, bits, bound):
    """bound: of the root mean square of what differs, over the logits' spread. Widths of 128 and random weights are the
    worst case: nothing averages out. The table of words has eight bits in every bundle, so both get its rows."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    settings = ExportSettings(bits=bits, block_size=32, vision=False, hearing=False, speech=False)
    folder = export_checkpoint(source, tmp_path / "bundle", settings, progress=False).folder
    checkpoint = Checkpoint.open(source)
    shape = checkpoint.config.language
    kind = transformers.Qwen2Config if shape.kind == "qwen2" else transformers.Qwen3Config
    reference = transformers.AutoModelForCausalLM.from_config(kind(
        vocab_size=shape.vocab_size, hidden_size=shape.width, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head_width,
        intermediate_size=shape.ffn, rms_norm_eps=shape.norm_eps, max_position_embeddings=shape.context_tokens,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta}, tie_word_embeddings=False)).eval()
    reference.load_state_dict({name: torch.from_numpy(np.array(tensor, np.float32))
                               for name, tensor in checkpoint.part("llm.").items()})
    engine = Engine.from_bundle(Bundle.open(folder), plan_device(threads=1))
    cache = engine.new_cache()
    embeds = engine.embed(np.arange(3, 30))
    steps = [engine.prefill(embeds, cache), engine.decode(7, cache), engine.decode(11, cache)]
    everything = np.concatenate([embeds, engine.embed([7]), engine.embed([11])])
    with torch.no_grad():
        expected = reference(inputs_embeds=torch.from_numpy(everything)[None]).logits[0].numpy()[-3:]
    got = np.stack([step.logits for step in steps])
    error = float(np.sqrt(((got - expected) ** 2).mean()) / expected.std())
    assert error <= bound, f"{error:.2e} of the logits' spread"


@pytest.mark.parametrize(("bits", "wish", "there"), [(4, None, True), (4, False, False), (8, None, False),
                                                     (8, True, True)])
def test_a_graph_for_prompts_where_it_pays_or_is_wished_for(source, tmp_path, bits, wish, there):
    settings = ExportSettings(bits=bits, block_size=32, prompts=wish, vision=False, hearing=False, speech=False)
    bundle = Bundle.open(export_checkpoint(source, tmp_path / "bundle", settings, progress=False).folder)
    assert bundle.has(PROMPTS_FILE) == there == exported_request(bundle).prompts
    more = plan_memory(bundle.config, exported_request(bundle)).total_bytes - plan_memory(
        bundle.config, replace(exported_request(bundle), prompts=False)).total_bytes
    assert more == there * prompt_graph_bytes(bundle.config.language)


def test_words_are_the_checkpoints_rows(source, exported):
    rows = Checkpoint.open(source).part("llm.")["model.embed_tokens.weight"]
    found = Embeddings.from_file(exported.folder / "embeddings.safetensors")
    expected = quantise_rows(rows)
    assert (found.table == expected["embed_tokens"]).all() and (found.scales == expected["scales"]).all()


def test_matrices_on_disk_are_read_by_rows(source, tmp_path):
    part = Checkpoint.open(source).part("llm.")
    name = "model.layers.0.mlp.up_proj.weight"
    matrix = take_matrix(part, name, part.shape(name))
    assert isinstance(matrix, StoredMatrix) and len(matrix) == part.shape(name)[0]
    assert (matrix[5:9] == part[name][5:9]).all()
    with pytest.raises(CheckpointError, match="has shape"):
        write_embeddings(part, "model.embed_tokens.weight", (3, 4), tmp_path / "words")


# --- the report ------------------------------------------------------------------------------------------------------


def test_the_report_tells_of_every_part(exported):
    report = exported.report
    assert report.peak_mb is None or report.peak_mb > 10
    assert [step.name for step in report.steps][:4] == ["language", "words", "vision", "hearing"]
    language = report.steps[0]
    assert {matrix.bits for matrix in language.matrices} == {8}
    assert len(language.matrices) == 2 * 4 + 1
    assert all(0 < matrix.relative_error < 0.02 for step in report.steps for matrix in step.matrices)
    errors = [error for _, error in report.layers]
    assert errors == sorted(errors, reverse=True)
    assert "language: model.layers.1" in dict(report.layers) and "language: lm_head" in dict(report.layers)
    stored = json.loads((exported.folder / "export_report.json").read_text())
    assert StepReport.from_dict(stored["steps"][0]) == language
    assert "| language |" in (exported.folder / "export_report.md").read_text()


def test_errors_of_a_layer_count_by_size():
    matrices = (RoundedMatrix("model.layers.3.a", 4, (10, 10), 0.1), RoundedMatrix("lm_head", 4, (5, 5), 0.3),
                RoundedMatrix("model.layers.3.b", 4, (10, 30), 0.2))
    step = StepReport("language", 1.0, 10, None, matrices)
    expected = ((100 * 0.1**2 + 300 * 0.2**2) / 400) ** 0.5
    assert layer_errors([step]) == [("language: lm_head", pytest.approx(0.3)),
                                    ("language: model.layers.3", pytest.approx(expected))]
    assert mean_error(()) is None
    with pytest.raises(CheckpointError, match="record of an exported part is damaged"):
        StepReport.from_dict({"name": "language"})


# --- again, and interrupted ------------------------------------------------------------------------------------------


def interrupted_at(monkeypatch, name):
    """Ctrl-C in the middle of a part; returns the names of the parts that are built from then on."""
    real, built = export._build, []

    def build(step, folder, hear):
        (folder / "half.onnx").write_bytes(b"half")
        if step.name == name:
            raise KeyboardInterrupt
        (folder / "half.onnx").unlink()
        built.append(step.name)
        real(step, folder, hear)

    monkeypatch.setattr(export, "_build", build)
    return built


def test_an_equal_bundle_is_not_made_again(tiny_45, tmp_path, monkeypatch):
    first = export_checkpoint(tiny_45, tmp_path / "bundle", TALK, progress=False)
    built = interrupted_at(monkeypatch, None)
    again = export_checkpoint(tiny_45, tmp_path / "bundle", TALK, progress=False)
    assert again.folder == first.folder and again.report is None and not built
    (tmp_path / "bundle" / "language.onnx").write_bytes(b"damaged")
    assert export_checkpoint(tiny_45, tmp_path / "bundle", TALK, progress=False).report is not None
    assert built == ["language", "words", "text"] and not Bundle.open(tmp_path / "bundle").damaged()
    export_checkpoint(tiny_45, tmp_path / "bundle", ExportSettings(4, 32, False, False, False), progress=False)
    assert Bundle.open(tmp_path / "bundle").settings["bits"] == 4


def test_an_interrupted_export_goes_on(tiny_45, tmp_path, monkeypatch):
    target, whole = tmp_path / "bundle", tmp_path / "whole"
    export_checkpoint(tiny_45, whole, SETTINGS, progress=False)
    with monkeypatch.context() as patch:
        built = interrupted_at(patch, "vision")
        with pytest.raises(KeyboardInterrupt):
            export_checkpoint(tiny_45, target, SETTINGS, progress=False)
        assert built == ["language", "words"]
    assert not target.exists() and not list(tmp_path.rglob("half.onnx"))
    with monkeypatch.context() as patch:
        built = interrupted_at(patch, None)
        done = export_checkpoint(tiny_45, target, SETTINGS, progress=False)
    assert done.resumed == ("language", "words") and "language" not in built and "vision" in built
    files, expected = Bundle.open(target).files, Bundle.open(whole).files
    assert {name: entry for name, entry in files.items() if "report" not in name} == (
        {name: entry for name, entry in expected.items() if "report" not in name})
    assert not Bundle.open(target).damaged() and not leftovers(target)


def test_an_export_interrupted_at_the_end_goes_on(tiny_45, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(export, "replace_folder", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            export_checkpoint(tiny_45, tmp_path / "bundle", TALK, progress=False)
    assert not (tmp_path / "bundle").exists()
    built = interrupted_at(monkeypatch, None)
    export_checkpoint(tiny_45, tmp_path / "bundle", TALK, progress=False)
    assert not built and not Bundle.open(tmp_path / "bundle").damaged()


@pytest.mark.parametrize("change", ["settings", "source", "part"])
def test_what_is_not_the_same_starts_clean(tiny_45, tmp_path, monkeypatch, change):
    source, target = tmp_path / "source", tmp_path / "bundle"
    shutil.copytree(tiny_45, source)
    with monkeypatch.context() as patch:
        interrupted_at(patch, "words")
        with pytest.raises(KeyboardInterrupt):
            export_checkpoint(source, target, TALK, progress=False)
    settings = TALK
    if change == "settings":
        settings = replace(TALK, bits=4, prompts=False)
    elif change == "source":
        shutil.copyfile(source / "model.safetensors", source / "copy")
        (source / "copy").replace(source / "model.safetensors")
    else:
        (tmp_path / ".export-bundle" / "steps" / "language" / "language.onnx").unlink()
    built = interrupted_at(monkeypatch, None)
    export_checkpoint(source, target, settings, progress=False)
    assert built == ["language", "words", "text"]


def test_one_export_at_a_time(tiny_45, tmp_path):
    from filelock import FileLock

    work = tmp_path / ".export-bundle"
    work.mkdir()
    with FileLock(work / ".lock"), pytest.raises(CheckpointError, match="another process is exporting"):
        export_checkpoint(tiny_45, tmp_path / "bundle", TALK, progress=False)


# --- what is refused -------------------------------------------------------------------------------------------------


def test_no_room_is_seen_beforehand(tiny_45, tmp_path, monkeypatch):
    monkeypatch.setattr(export.shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    with pytest.raises(DiskFullError, match=r"needs 0\.02 GB more and 0\.00 GB are free; free some, choose another"):
        export_checkpoint(tiny_45, tmp_path / "bundle", TALK, progress=False)
    assert not (tmp_path / "bundle").exists()


def test_room_that_ends_is_said_in_words(tiny_45, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        def full(*args):
            (tmp_path / ".export-bundle" / "steps" / "words" / "some").write_bytes(b"some")
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(export_steps.embeddings, "write_embeddings", full)
        with pytest.raises(DiskFullError, match="became full; free some room and export again, which goes on"):
            export_checkpoint(tiny_45, tmp_path / "bundle", TALK, progress=False)
    assert not (tmp_path / "bundle").exists() and not list(tmp_path.rglob("some"))
    assert export_checkpoint(tiny_45, tmp_path / "bundle", TALK, progress=False).resumed == ("language",)


def test_a_truncated_checkpoint_is_refused(tiny_45, tmp_path):
    shutil.copytree(tiny_45, tmp_path / "source")
    weights = tmp_path / "source" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="is cut short"):
        export_checkpoint(tmp_path / "source", tmp_path / "bundle", TALK, progress=False)
    assert not (tmp_path / "bundle").exists() and not leftovers(tmp_path / "bundle")


def test_a_checkpoint_without_its_voice_files(tiny_45, tmp_path):
    shutil.copytree(tiny_45, tmp_path / "source")
    shutil.rmtree(tmp_path / "source" / "assets")
    with pytest.raises(CheckpointError, match=r"has no assets/token2wav/flow\.pt; speech needs it"):
        export_checkpoint(tmp_path / "source", tmp_path / "bundle", SETTINGS, progress=False)
    export_checkpoint(tmp_path / "source", tmp_path / "bundle", TALK, progress=False)


def test_folders_and_settings_that_cannot_be(tiny_45, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_bytes(b"jpg")
    with pytest.raises(OptionError, match="holds other things than a bundle; choose another folder with --out"):
        export_checkpoint(tiny_45, tmp_path / "photos", TALK, progress=False)
    assert (tmp_path / "photos" / "me.jpg").exists()
    for settings, words in ((ExportSettings(bits=3), "4 or 8 bits"), (ExportSettings(block_size=48), "power of two"),
                            (ExportSettings(bits=None, prompts=True), "a float32 bundle reads them as they are")):
        with pytest.raises(OptionError, match=words):
            export_checkpoint(tiny_45, tmp_path / "bundle", settings, progress=False)
    with pytest.raises(CheckpointError, match="cannot make the folder .* choose another one with --out"):
        export_checkpoint(tiny_45, tmp_path / "photos" / "me.jpg" / "bundle", TALK, progress=False)
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        export_checkpoint(tmp_path / "photos", tmp_path / "bundle", TALK, progress=False)


def test_networks_of_a_cloner_and_sounds_come_along(tiny_45, tmp_path):
    shutil.copytree(tiny_45, tmp_path / "source")
    for name in ("assets/token2wav/campplus.onnx", "assets/token2wav/speech_tokenizer_v2_25hz.onnx", "assets/ref.wav"):
        (tmp_path / "source" / name).write_bytes(name.encode())
    settings = ExportSettings(8, 32, vision=False, hearing=False)
    folder = export_checkpoint(tmp_path / "source", tmp_path / "bundle", settings, progress=False).folder
    assert {"campplus.onnx", "speech_tokenizer_v2_25hz.onnx", "assets/ref.wav"} <= set(Bundle.open(folder).files)


def edit_tokenizer(folder, change):
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda folder: (folder / "tokenizer.json").unlink(), "has neither tokenizer.json nor vocab.json and merges.txt"),
    (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer.json is damaged"),
    (lambda folder: (folder / "tokenizer_config.json").write_text("{"), "tokenizer_config.json is damaged"),
    (lambda folder: edit_tokenizer(folder, lambda values: values.update(
        added_tokens=[token for token in values["added_tokens"] if token["content"] != "<unit>"])),
     "has no token '<unit>': it is of another model"),
    (lambda folder: edit_tokenizer(folder, lambda values: [
        token.update(id=token["id"] + 100_000) for token in values["added_tokens"]]), "but the model has 617 words"),
])
def test_a_bundle_without_its_tokenizer_is_not_begun(tiny_45, tmp_path, spoil, words):
    shutil.copytree(tiny_45, tmp_path / "source")
    spoil(tmp_path / "source")
    with pytest.raises(CheckpointError, match=words):
        export_checkpoint(tmp_path / "source", tmp_path / "bundle", TALK, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_the_voice_of_2_6_needs_its_tokenizer(tmp_path):
    write_random_checkpoint(tmp_path / "source", "2.6")
    shutil.rmtree(tmp_path / "source" / "assets" / "chattts_tokenizer")
    with pytest.raises(CheckpointError, match="lacks assets/chattts_tokenizer/tokenizer.json, speech needs it"):
        export_checkpoint(tmp_path / "source", tmp_path / "bundle", SETTINGS, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize(("name", "tensor"), [
    ("flow.pt", "encoder.up_encoders.0.self_attn.pos_bias_u"), ("hift.pt", "resblocks.3.convs1.0.bias"),
])
def test_a_voice_file_that_lacks_a_tensor_is_named_beforehand(tiny_45, tmp_path, name, tensor):
    shutil.copytree(tiny_45, tmp_path / "source")
    path = tmp_path / "source" / "assets" / "token2wav" / name
    tensors = {key: value for key, value in read_state_dict(path).items() if key != tensor}
    write_state_dict(path, [pending_array(key, value) for key, value in tensors.items()])
    with pytest.raises(CheckpointError, match=f"{name} lacks the tensor '{tensor}'"):
        export_checkpoint(tmp_path / "source", tmp_path / "bundle", SETTINGS, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_a_voice_file_with_numbers_that_are_none(tiny_45, tmp_path):
    shutil.copytree(tiny_45, tmp_path / "source")
    path = tmp_path / "source" / "assets" / "token2wav" / "flow.pt"
    tensors = read_state_dict(path)
    tensors["encoder.after_norm.weight"][0] = np.nan
    write_state_dict(path, [pending_array(key, value) for key, value in tensors.items()])
    with pytest.raises(CheckpointError, match="encoder.after_norm.weight in flow.pt holds numbers that are not finite"):
        export_checkpoint(tmp_path / "source", tmp_path / "bundle", SETTINGS, progress=False)
    assert not (tmp_path / "bundle").exists()


def test_the_target_may_be_a_link_or_lie_above(tiny_45, tmp_path, monkeypatch):
    disk, link = tmp_path / "disk", tmp_path / "link"
    link.symlink_to(disk / "bundle")
    folder = export_checkpoint(tiny_45, link, TALK, progress=False).folder
    assert folder == (disk / "bundle").resolve() and link.is_symlink() and not Bundle.open(link).damaged()
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    with pytest.raises(OptionError, match="holds other things than a bundle"):
        export_checkpoint(tiny_45, Path(".."), TALK, progress=False)


def test_what_is_cleared_away_is_not_the_next_exports(tiny_45, tmp_path, monkeypatch):
    held = []
    clear = shutil.rmtree

    def watch(path, **options):
        if Path(path).name == ".export-bundle":
            lock = FileLock(Path(path) / ".lock", timeout=0)
            with pytest.raises(Timeout):
                lock.acquire()
            held.append(True)
        clear(path, **options)

    monkeypatch.setattr(export.shutil, "rmtree", watch)
    export_checkpoint(tiny_45, tmp_path / "bundle", TALK, progress=False)
    assert held and not leftovers(tmp_path / "bundle")
