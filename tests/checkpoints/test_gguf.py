from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from minicpm_o.checkpoints.gguf import GGUFFile, build_tokenizer, hf_name, restore_rows
from minicpm_o.errors import CheckpointError


@pytest.fixture
def gguf_path(tmp_path: Path, weights: dict[str, np.ndarray], write_gguf: Callable[..., Path]) -> Path:
    return write_gguf(tmp_path / "tiny.gguf", weights)


def test_config_comes_from_the_metadata(gguf_path: Path) -> None:
    config = GGUFFile(gguf_path).config()
    assert (config.width, config.heads, config.kv_heads, config.head_width) == (64, 4, 2, 16)
    assert (config.layers, config.ffn, config.vocab_size, config.context_tokens) == (2, 96, 268, 128)
    assert config.norm_eps == 1e-5  # the short decimal, though the file stores a float32
    assert config.rope_theta == 100_000.0


def test_tensors_have_hugging_face_names_and_row_order(gguf_path: Path, weights: dict[str, np.ndarray]) -> None:
    tensors = GGUFFile(gguf_path).tensors()
    assert len(tensors) == len(weights)
    for name, values in weights.items():
        found = tensors[hf_name(name)]
        assert found.dtype == np.float32 and found.flags.writeable
        atol = np.abs(values).max() / 127 if "ffn_gate" in name else 0
        np.testing.assert_allclose(found, values, rtol=0, atol=atol, err_msg=name)


def test_restore_rows_parts_the_pairs_of_each_head() -> None:
    rows = np.array([0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11], dtype=np.float32)  # two heads of six, halves interleaved
    np.testing.assert_array_equal(restore_rows(rows[:, None] * [1, 10], 2)[:, 1], np.arange(12) * 10)


def test_tokenizer_renames_media_tokens_and_cuts_digits(gguf_path: Path) -> None:
    tokenizer = GGUFFile(gguf_path).tokenizer()
    assert tokenizer.token_to_id("<image>") == 3
    assert tokenizer.token_to_id("<unk>") == 9
    assert tokenizer.token_to_id("<repo_name>") is None
    assert tokenizer.encode(" he12").tokens == ["Ġhe", "1", "2"]
    assert tokenizer.encode("<|im_start|><unk>").ids == [1, 9]
    text = "Größe 42\n\t你好 🙂"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_tokenizer_can_keep_the_old_names(gguf_path: Path) -> None:
    assert GGUFFile(gguf_path).tokenizer(renames={}).token_to_id("<repo_name>") == 3


def test_renaming_an_ordinary_word_is_refused(vocabulary: tuple[list[str], list[str]]) -> None:
    with pytest.raises(CheckpointError, match="ordinary words"):
        build_tokenizer(*vocabulary, special_ids=range(10), renames={11: "<image>"})


def test_two_tokens_of_one_name_are_refused(vocabulary: tuple[list[str], list[str]]) -> None:
    with pytest.raises(CheckpointError, match="twice"):
        build_tokenizer(*vocabulary, special_ids=range(10), renames={3: "he"})


def test_unknown_tensor_is_refused() -> None:
    with pytest.raises(CheckpointError, match="ssm_in"):
        hf_name("blk.0.ssm_in.weight")


@pytest.mark.parametrize("kept", [0, 10, 2_000])
def test_truncated_file_is_one_sentence(gguf_path: Path, kept: int) -> None:
    gguf_path.write_bytes(gguf_path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"not a whole GGUF file.*fetch it again"):
        GGUFFile(gguf_path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        GGUFFile(tmp_path / "none.gguf")


def test_other_architecture_and_tokenizer_are_refused(
    tmp_path: Path, weights: dict[str, np.ndarray], write_gguf: Callable[..., Path]
) -> None:
    with pytest.raises(CheckpointError, match="'mamba'"):
        GGUFFile(write_gguf(tmp_path / "a.gguf", weights, architecture="mamba"))
    other = GGUFFile(write_gguf(tmp_path / "b.gguf", weights, pre="qwen2"))
    with pytest.raises(CheckpointError, match="'qwen2' tokenizer"):
        other.tokenizer()
