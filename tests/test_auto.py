"""MiniCPM-o behind transformers' Auto classes: loaded, run, trained, saved; wrong folders and options."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from minicpm_o import auto  # noqa: E402
from minicpm_o.auto import (  # noqa: E402
    MiniCPMOConfig,
    MiniCPMOForConditionalGeneration,
    MiniCPMOProcessor,
    MiniCPMOTokenizerFast,
    checkpoint_folder,
    register,
)
from minicpm_o.checkpoints.official import Checkpoint  # noqa: E402
from minicpm_o.checkpoints.random_official import write_random_checkpoint  # noqa: E402
from minicpm_o.errors import CheckpointError, OptionError, UnknownModelError  # noqa: E402
from minicpm_o.model.omni import RawMedia  # noqa: E402

AUTO_MAP = {"AutoConfig": "configuration_minicpmo.MiniCPMOConfig", "AutoModel": "modeling_minicpmo.MiniCPMO",
            "AutoModelForCausalLM": "modeling_minicpmo.MiniCPMO",
            "AutoProcessor": "processing_minicpmo.MiniCPMOProcessor"}


def write(folder: Path, version: str) -> Path:
    """A random checkpoint whose config.json names code of its own, as the released ones do."""
    write_random_checkpoint(folder, version)
    for name in ("config.json", "preprocessor_config.json"):
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**values, "auto_map": AUTO_MAP}))
    return folder


@pytest.fixture(scope="module", params=["2.6", "4.5"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("auto") / request.param, request.param)


@pytest.fixture(scope="module")
def model(folder: Path) -> MiniCPMOForConditionalGeneration:
    return MiniCPMOForConditionalGeneration.from_pretrained(folder, dtype="float32")


@pytest.fixture(scope="module")
def processor(folder: Path) -> MiniCPMOProcessor:
    return MiniCPMOProcessor.from_pretrained(folder)


def picture(width: int = 60, height: int = 40) -> dict[str, Any]:
    from PIL import Image

    pixels = np.random.default_rng(1).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return {"type": "image", "image": Image.fromarray(pixels)}


def sound(seconds: float = 1.0) -> dict[str, Any]:
    waveform = np.random.default_rng(2).standard_normal(int(16_000 * seconds)).astype(np.float32) * 0.1
    return {"type": "audio", "audio": waveform, "rate_hz": 16_000}


def user(*content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(content)}]


WORDS = {"type": "text", "text": "what is this?"}


def test_auto_classes_find_it_and_run_no_remote_code(folder: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(folder)
    assert type(config) is MiniCPMOConfig
    for name in ("AutoModel", "AutoModelForCausalLM"):
        found = getattr(transformers, name).from_pretrained(folder)
        assert type(found) is MiniCPMOForConditionalGeneration
        assert found.dtype == torch.bfloat16 and not found.training
    assert type(transformers.AutoProcessor.from_pretrained(folder)) is MiniCPMOProcessor


def test_auto_class_passes_options_on(folder: Path) -> None:
    found = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, device_map="auto", attn_implementation="eager", init_tts=False, init_audio=False)
    assert found.dtype == torch.float32
    assert found.omni.language.config._attn_implementation == "eager"
    assert found.omni.talker is None and found.omni.chattts is None and found.omni.hearing is None
    assert found.omni.vision is not None
    assert not found.config.init_tts and not found.config.init_audio and found.config.init_vision


def test_the_tokenizer_alone(folder: Path, processor: MiniCPMOProcessor, tmp_path: Path) -> None:
    """From files as the releases have them: no tokenizer.json, and a class whose code is in the repository."""
    whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    added = {entry["id"]: {key: value for key, value in entry.items() if key != "id"}
             for entry in whole["added_tokens"]}
    files = {
        "config.json": json.loads((folder / "config.json").read_text()), "vocab.json": whole["model"]["vocab"],
        "added_tokens.json": {entry["content"]: place for place, entry in added.items()},
        "tokenizer_config.json": {**settings, "tokenizer_class": "MiniCPMOTokenizerFast", "added_tokens_decoder": added,
                                  "auto_map": {"AutoTokenizer": ["tokenization_minicpmo.MiniCPMOTokenizerFast", None]}},
    }
    for name, values in files.items():
        (tmp_path / name).write_text(json.dumps(values), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("\n".join(" ".join(merge) for merge in whole["model"]["merges"]) + "\n",
                                         encoding="utf-8")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert type(tokenizer) is MiniCPMOTokenizerFast
    text = "<|im_start|>user\nHello there, 你好  12<image><unk></image><|im_end|>"
    assert tokenizer(text)["input_ids"] == processor.tokenizer.encode(text, markup=True)
    assert len(tokenizer) == processor.tokenizer.vocab_size


def test_registering_twice_does_no_harm() -> None:
    register()
    assert "minicpmo" in transformers.models.auto.configuration_auto.CONFIG_MAPPING


def test_config_keeps_the_official_layout(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    config = MiniCPMOConfig.from_pretrained(folder)
    assert {**config.to_dict(), "auto_map": AUTO_MAP} == values
    assert config.hidden_size == values["hidden_size"] and config.vision_config == values["vision_config"]
    assert config.official() == Checkpoint.open(folder).config


def test_config_is_saved_and_changed(folder: Path, tmp_path: Path) -> None:
    config = MiniCPMOConfig.from_pretrained(folder)
    config.num_hidden_layers = 7
    config.save_pretrained(tmp_path)
    again = MiniCPMOConfig.from_pretrained(tmp_path)
    assert again.num_hidden_layers == 7 == again.official().language.layers
    assert MiniCPMOConfig().official().version == "4.5"
    assert MiniCPMOConfig().hidden_size == 4096


def test_forward_is_the_language_models(model: MiniCPMOForConditionalGeneration) -> None:
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.inference_mode():
        got = model(input_ids=ids, labels=ids)
        expected = model.omni.language(input_ids=ids, labels=ids)
        from_embeds = model(inputs_embeds=model.embed(ids))
    torch.testing.assert_close(got.logits, expected.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(got.loss, expected.loss)
    torch.testing.assert_close(from_embeds.logits, got.logits, atol=1e-5, rtol=0)


def test_padding_on_the_left_changes_nothing(model: MiniCPMOForConditionalGeneration) -> None:
    ids = torch.tensor([[3, 4, 5, 6]])
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], dim=1)
    mask = (torch.arange(7) >= 3).long()[None]
    with torch.inference_mode():
        alone, beside = model(input_ids=ids).logits, model(input_ids=padded, attention_mask=mask).logits[:, 3:]
    torch.testing.assert_close(beside, alone, atol=1e-4, rtol=0)


def test_media_reach_the_embeddings(model: MiniCPMOForConditionalGeneration, processor: MiniCPMOProcessor) -> None:
    inputs = processor(user(picture(), sound(), WORDS))
    media = inputs["media"][0]
    assert media.pieces and media.sounds
    fused, words = model.embed(inputs["input_ids"], inputs["media"]), model.embed(inputs["input_ids"])
    changed = (fused != words).any(-1)[0]
    expected = torch.zeros_like(changed)
    for span in (*media.image_spans, *media.audio_spans):
        expected[span.start : span.stop] = True
    assert torch.equal(changed, expected) and expected.sum() > 60


def test_generate_is_the_greedy_loop(model: MiniCPMOForConditionalGeneration, processor: MiniCPMOProcessor) -> None:
    inputs = processor(user(picture(), WORDS))
    length = inputs["input_ids"].shape[1]
    ids = model.generate(**inputs, max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert ids.shape == (1, length + 5)
    assert torch.equal(ids[:, :length], inputs["input_ids"])
    embeds = model.embed(inputs["input_ids"], inputs["media"])
    for step in range(5):
        with torch.no_grad():
            following = model(inputs_embeds=embeds).logits[0, -1].argmax()
        assert following == ids[0, length + step]
        embeds = torch.cat([embeds, model.embed(following[None, None])], dim=1)
    assert isinstance(processor.decode(ids[0]), str)
    alone = model.generate(inputs_embeds=model.embed(inputs["input_ids"], inputs["media"]), max_new_tokens=5,
                           do_sample=False, eos_token_id=None)
    assert torch.equal(alone[0], ids[0, length:])


def test_a_batch_is_its_prompts(model: MiniCPMOForConditionalGeneration, processor: MiniCPMOProcessor) -> None:
    """Also the batch of one prompt with sound and one without, which the reference cannot run."""
    conversations = [user(sound(), WORDS), user(picture(), WORDS), user({"type": "text", "text": "hello there you"})]
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    batch = processor(conversations)
    assert batch["input_ids"].shape == batch["attention_mask"].shape and len(batch["media"]) == 3
    together = model.generate(**batch, **options)[:, -4:]
    for row, conversation in zip(together, conversations, strict=True):
        assert torch.equal(model.generate(**processor(conversation), **options)[0, -4:], row)


def test_beams_and_samples(model: MiniCPMOForConditionalGeneration) -> None:
    ids = torch.tensor([[3, 4, 5, 6]])
    out = model.generate(ids, num_beams=3, num_return_sequences=2, max_new_tokens=3, do_sample=False)
    assert out.shape[0] == 2
    torch.manual_seed(0)
    assert model.generate(inputs=ids, do_sample=True, top_k=5, max_new_tokens=3).shape[1] > 4


def test_generation_ends_where_the_checkpoint_says(model: MiniCPMOForConditionalGeneration,
                                                   processor: MiniCPMOProcessor) -> None:
    special = processor.tokenizer.special
    assert model.generation_config.eos_token_id == [special.im_end, special.endoftext]
    assert model.generation_config.pad_token_id == special.endoftext


def test_template_as_text_and_as_ids(processor: MiniCPMOProcessor) -> None:
    text = processor.apply_chat_template(user(WORDS), tokenize=False)
    assert text.startswith("<|im_start|>") and text.rstrip().endswith(("assistant", "</think>")) and "what is" in text
    ids = processor.apply_chat_template(user(WORDS), return_dict=False)
    assert torch.equal(ids, processor(user(WORDS))["input_ids"])
    assert processor.batch_decode(ids, skip_special_tokens=False) == [text]


def test_inputs_move_as_any_others(processor: MiniCPMOProcessor) -> None:
    inputs = processor(user(picture(), WORDS)).to("cpu", torch.bfloat16)
    assert inputs["input_ids"].dtype == torch.int64
    assert isinstance(inputs["media"][0], RawMedia)


def test_saved_is_loaded(model: MiniCPMOForConditionalGeneration, processor: MiniCPMOProcessor, folder: Path,
                         tmp_path: Path) -> None:
    saved = MiniCPMOForConditionalGeneration.from_pretrained(folder)
    saved.save_pretrained(tmp_path, max_shard_size="1MB")
    processor.save_pretrained(tmp_path)
    values = json.loads((folder / "config.json").read_text())
    values.pop("auto_map")
    assert json.loads((tmp_path / "config.json").read_text()) == values
    new, old = Checkpoint.open(tmp_path), Checkpoint.open(folder)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert set(new.tensors) == set(old.tensors)
    for name in old.tensors:
        np.testing.assert_array_equal((new.bits(name) or ("", 0))[1], (old.bits(name) or ("", 1))[1])
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    inputs = transformers.AutoProcessor.from_pretrained(tmp_path)(user(WORDS))
    options = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(again.generate(**inputs, **options), model.generate(**inputs, **options))
    assert again.generation_config.eos_token_id == model.generation_config.eos_token_id
    assert {path.name for path in (tmp_path / "assets").rglob("*.pt")} == {
        path.name for path in (folder / "assets").rglob("*.pt")}


def test_without_parts_is_saved_without_parts(folder: Path, tmp_path: Path) -> None:
    thin = MiniCPMOForConditionalGeneration.from_pretrained(folder, init_vision=False, init_tts=False)
    thin.save_pretrained(tmp_path)
    again = MiniCPMOForConditionalGeneration.from_pretrained(tmp_path)
    assert again.omni.vision is None and again.omni.hearing is not None
    assert again.omni.talker is None and again.omni.chattts is None


def test_recomputing_gives_the_same_gradients(folder: Path, processor: MiniCPMOProcessor) -> None:
    inputs = processor(user(picture(), WORDS))
    gradients = []
    for recompute in (False, True):
        net = MiniCPMOForConditionalGeneration.from_pretrained(folder, dtype="float32", init_tts=False).train()
        if recompute:
            net.gradient_checkpointing_enable()
            assert net.omni.language.model.layers[0].gradient_checkpointing and net.omni.vision.recompute
        net(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in net.named_parameters()})
    plain, recomputed = gradients
    assert plain["omni.vision.encoder.layers.0.mlp.fc1.weight"].abs().max() > 0
    for name, gradient in plain.items():
        if gradient is not None:
            torch.testing.assert_close(recomputed[name], gradient, atol=1e-5, rtol=1e-4, msg=name)
    net.gradient_checkpointing_disable()
    assert not net.omni.language.model.layers[0].gradient_checkpointing and not net.omni.vision.recompute


def test_flash_attention_is_asked_for_by_name(folder: Path) -> None:
    """Without its package transformers says what to install; that it gets that far is what is ours."""
    if transformers.utils.is_flash_attn_2_available():
        pytest.skip("flash attention is installed")
    with pytest.raises(ImportError, match=r"(?i)flash"):
        MiniCPMOForConditionalGeneration.from_pretrained(folder, attn_implementation="flash_attention_2")


def test_another_models_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    with pytest.raises(CheckpointError, match="of a model of type 'qwen3', expected 'minicpmo'"):
        MiniCPMOForConditionalGeneration.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="it has no config.json"):
        checkpoint_folder(tmp_path.parent)
    with pytest.raises(UnknownModelError, match="there is no folder"):
        checkpoint_folder("no/such/folder")


def test_repositories_are_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(auto, "fetch", lambda name, **options: seen.append((name, options)) or tmp_path)
    assert checkpoint_folder("minicpm-o-4_5") == tmp_path
    assert checkpoint_folder("somebody/tuned", {"revision": "abc", "token": None}) == tmp_path
    assert seen == [("openbmb/MiniCPM-o-4_5", {}), ("somebody/tuned", {"revision": "abc"})]


def test_wrong_options(folder: Path, model: MiniCPMOForConditionalGeneration, processor: MiniCPMOProcessor) -> None:
    with pytest.raises(OptionError, match="dtype is 'int4'"):
        MiniCPMOForConditionalGeneration.from_pretrained(folder, dtype="int4")
    with pytest.raises(OptionError, match="max_shard_size is 'large'"):
        model.save_pretrained(folder / "new", max_shard_size="large")
    with pytest.raises(OptionError, match="give either input_ids"):
        model()
    with pytest.raises(OptionError, match="give input_ids"):
        model.generate()
    with pytest.raises(OptionError, match="there are 1 prompts and media of 2"):
        model.embed(torch.tensor([[1]]), [RawMedia(), RawMedia()])
    with pytest.raises(OptionError, match="return_tensors is 'np'"):
        processor(user(WORDS), return_tensors="np")
    with pytest.raises(OptionError, match="the options of a prompt are .*max_slice_nums"):
        processor(user(WORDS), max_slices=3)
    with pytest.warns(UserWarning, match="no effect for MiniCPM-o: load_in_4bit"):
        MiniCPMOForConditionalGeneration.from_pretrained(folder, load_in_4bit=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        MiniCPMOForConditionalGeneration.from_pretrained(folder, trust_remote_code=True, low_cpu_mem_usage=True)


def test_importing_registers() -> None:
    code = ("import transformers, minicpm_o.auto; "
            "print(type(transformers.AutoConfig.for_model('minicpmo')).__module__)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "minicpm_o.auto"
