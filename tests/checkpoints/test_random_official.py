"""Random checkpoints of the official layout: what is in them, and that whoever reads them finds it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from minicpm_o.checkpoints import random_official, storage
from minicpm_o.checkpoints.official import Checkpoint
from minicpm_o.checkpoints.official_layout import expected_tensors
from minicpm_o.checkpoints.random_official import (
    CHATTTS_FOLDER,
    TOKEN2WAV,
    VOCOS_FILE,
    main,
    make_plan,
    official_config,
    write_random_checkpoint,
)
from minicpm_o.checkpoints.random_tokenizer import ADDED_26, ADDED_45, unknown_place, write_tokenizer
from minicpm_o.checkpoints.torch_legacy import read_state_dict
from minicpm_o.checkpoints.voice_layout import flow_tensors, hift_tensors, vocos_tensors
from minicpm_o.errors import CheckpointError, DiskFullError
from minicpm_o.model.config import OfficialConfig

VERSIONS = ("2.6", "4.5")


@pytest.fixture(scope="module", params=VERSIONS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, OfficialConfig]:
    folder = tmp_path_factory.mktemp("random") / request.param
    return folder, write_random_checkpoint(folder, request.param, max_shard_bytes=2_000_000)


def test_the_checkpoint_is_whole(written: tuple[Path, OfficialConfig]) -> None:
    folder, config = written
    checkpoint = Checkpoint.open(folder)
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 1
    assert {name: stored.shape for name, stored in checkpoint.tensors.items()} == expected_tensors(config)
    assert checkpoint.config.language == config.language
    assert (checkpoint.config.talker, checkpoint.config.chattts) == (config.talker, config.chattts)
    assert checkpoint.num_bytes() == 2 * sum(int(np.prod(shape)) for shape in expected_tensors(config).values())


def test_numbers_are_of_a_sensible_size(written: tuple[Path, OfficialConfig]) -> None:
    checkpoint = Checkpoint.open(written[0])
    weight = checkpoint.read("llm.model.layers.0.mlp.down_proj.weight")
    assert abs(weight.mean()) < 0.01 and abs(weight.std() * np.sqrt(weight.shape[1]) - 1) < 0.05
    assert abs(checkpoint.read("llm.model.norm.weight") - 1).max() < 0.2
    positions = checkpoint.read("apm.embed_positions.weight")
    assert not positions[0, : positions.shape[1] // 2].any() and (positions[0, positions.shape[1] // 2 :] == 1).all()
    for name in checkpoint.tensors:
        assert np.isfinite(checkpoint.read(name)).all(), name


def test_voice_files(written: tuple[Path, OfficialConfig]) -> None:
    folder, config = written
    files = {f"{TOKEN2WAV}/flow.pt": config.flow and flow_tensors(config.flow),
             f"{TOKEN2WAV}/hift.pt": config.hift and hift_tensors(config.hift),
             VOCOS_FILE: config.vocos and vocos_tensors(config.vocos)}
    for name, shapes in files.items():
        assert (folder / name).is_file() == bool(shapes)
        if shapes:
            tensors = read_state_dict(folder / name)
            assert {key: tensor.shape for key, tensor in tensors.items()} == shapes
            assert all(tensor.dtype == np.float32 for tensor in tensors.values())


def test_voice_files_are_pytorchs(written: tuple[Path, OfficialConfig]) -> None:
    torch = pytest.importorskip("torch")
    for path in written[0].rglob("*.pt"):
        state = torch.load(path, weights_only=True)
        for name, tensor in read_state_dict(path).items():
            np.testing.assert_array_equal(state[name].numpy(), tensor)


def test_the_seed_decides(tmp_path: Path) -> None:
    config = official_config("4.5", "tiny")
    names = ("llm.lm_head.weight", "vpm.post_layernorm.bias")

    def numbers(seed: int, name: str) -> np.ndarray:
        pending = next(tensor for tensor in make_plan(config, seed).tensors if tensor.name == name)
        return np.concatenate(list(pending.blocks()))

    for name in names:
        np.testing.assert_array_equal(numbers(3, name), numbers(3, name))
        assert (numbers(3, name) != numbers(4, name)).mean() > 0.9
    other = "vpm.encoder.layers.0.layer_norm1.bias"
    assert not np.array_equal(numbers(3, "vpm.post_layernorm.bias"), numbers(3, other))


@pytest.mark.parametrize("version", VERSIONS)
def test_full_size_is_the_released_one(version: str) -> None:
    plan = make_plan(official_config(version, "full"), seed=0)
    assert len(plan.tensors) == {"2.6": 1599, "4.5": 1414}[version]
    model_bytes = sum(tensor.num_bytes for tensor in plan.tensors)
    assert model_bytes == 2 * {"2.6": 8_674_997_028, "4.5": 9_371_787_666}[version]


def test_blocks_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minicpm_o.checkpoints.safetensors_file._BLOCK_BYTES", 12800)
    for tensor in make_plan(official_config("2.6", "tiny"), seed=0).tensors[:40]:
        blocks = list(tensor.blocks())
        assert sum(block.nbytes for block in blocks) == tensor.num_bytes
        assert max(block.size for block in blocks) <= 100


def test_special_tokens_of_the_full_vocabulary_have_their_places(tmp_path: Path) -> None:
    for version, added, size in (("2.6", ADDED_26, 151_700), ("4.5", ADDED_45, 151_748)):
        write_tokenizer(tmp_path, version, size)
        values = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
        ids = {entry["content"]: entry["id"] for entry in values["added_tokens"]}
        assert len(values["model"]["vocab"]) == 151_643
        assert ids["<unk>"] == 128_244 == values["model"]["vocab"]["<unk>"]
        assert [ids[token] for token in added] == list(range(151_643, size))
        assert ids["<|im_end|>"] == 151_645
    assert (ids["<think>"], ids["<|tts_bos|>"], ids["<|turn_eos|>"], ids["<|tts_pad|>"]) == (
        151_667, 151_703, 151_717, 151_722)


def test_the_tokenizer_reads_and_writes_text(written: tuple[Path, OfficialConfig]) -> None:
    import tokenizers

    folder, config = written
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == config.language.vocab_size
    text = "Hello there, how is the weather? 你好 🙂\n  123"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert len(tokenizer.encode("the weather").ids) < len("the weather")
    marked = tokenizer.encode("<|im_start|>user\n<unk><|im_end|>").ids
    assert marked[0] == tokenizer.token_to_id("<|im_start|>") and marked[-1] == tokenizer.token_to_id("<|im_end|>")
    assert marked[-2] == unknown_place(512)


def test_transformers_reads_the_tokenizers(written: tuple[Path, OfficialConfig]) -> None:
    transformers = pytest.importorskip("transformers")
    folder, config = written
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == config.language.vocab_size
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>", "<|im_end|>", "<|endoftext|>")
    assert tokenizer("<image>")["input_ids"] == [tokenizer.convert_tokens_to_ids("<image>")]
    if config.chattts:
        speaker = transformers.AutoTokenizer.from_pretrained(folder / CHATTTS_FOLDER)
        assert len(speaker) == config.chattts.num_text_tokens
        ids = speaker("[Stts][spk_emb]hi[Etts][PAD][Ptts]", add_special_tokens=False)["input_ids"]
        assert (ids[1], ids[-3], ids[-1]) == (
            config.chattts.speaker_token, config.chattts.text_eos, config.chattts.audio_bos)


def test_chattts_tokens_of_the_full_vocabulary_have_their_places(tmp_path: Path) -> None:
    import tokenizers

    random_official.write_chattts_tokenizer(tmp_path, 21_178)
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    places = [tokenizer.token_to_id(token) for token in ("[Ptts]", "[Etts]", "[spk_emb]", "[speed_9]")]
    assert places == [21_132, 21_133, 21_143, 21_177]


def test_a_folder_with_weights_is_left_alone(written: tuple[Path, OfficialConfig]) -> None:
    with pytest.raises(CheckpointError, match="has weights already; give an empty folder"):
        write_random_checkpoint(written[0])


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = storage.shutil._ntuple_diskusage(10**12, 10**12 - 10**6, 10**6)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DiskFullError, match="no room to write"):
        write_random_checkpoint(tmp_path / "new", size="full")
    assert not (tmp_path / "new").exists()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(tmp_path / "new"), "--version", "4.5", "--seed", "5"]
    assert main(arguments) == 0
    assert Checkpoint.open(tmp_path / "new").config.version == "4.5"
    assert main(arguments) == 2
    assert "error: " in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="no version '3.0'"):
        official_config("3.0", "tiny")
