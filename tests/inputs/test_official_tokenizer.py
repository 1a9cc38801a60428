"""The official tokenizer: its files, its special tokens, and letters that stay letters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_tokenizer import BAD_TOKEN_IDS, made_tokenizer, write_tokenizer, write_tokenizer_json

from minicpm_o.errors import CheckpointError
from minicpm_o.inputs.official_tokenizer import OFFICIAL_STRINGS, OfficialTokenizer

TEXT = "<|im_start|>user\nhi<image><unk></image> <think>\n\nhé</think><|im_end|>"


@pytest.fixture
def tokenizer(tmp_path: Path) -> OfficialTokenizer:
    return made_tokenizer(tmp_path)


def test_special_tokens_are_found_by_their_strings(tokenizer: OfficialTokenizer) -> None:
    for name, text in OFFICIAL_STRINGS.items():
        if name != "default_voice":
            assert tokenizer.encode(text, markup=True) == [getattr(tokenizer.special, name)]
    assert tokenizer.special.default_voice is None
    assert tokenizer.special.placeholder == tokenizer.id_of("<unk>")


def test_tokens_of_the_other_version_are_none(tmp_path: Path) -> None:
    special = made_tokenizer(tmp_path, "2.6").special
    assert special.turn_eos is special.think_start is special.tts_pad is None
    assert special.default_voice is not None


def test_special_strings_that_somebody_typed_stay_letters(tokenizer: OfficialTokenizer) -> None:
    added = set(vars(tokenizer.special).values())
    ids = tokenizer.encode(TEXT)
    assert added.isdisjoint(ids)
    assert tokenizer.decode(ids) == TEXT


def test_the_placeholders_letters_are_not_the_placeholder(tokenizer: OfficialTokenizer) -> None:
    """"<unk>" is in the vocabulary and merges lead to it; only the cut before ">" keeps them apart."""
    assert tokenizer.encode("<unk>") == [tokenizer.id_of("<unk"), tokenizer.id_of(">")]


def test_markup_is_letters_between_tokens(tokenizer: OfficialTokenizer) -> None:
    special = tokenizer.special
    pieces = tokenizer.split_markup("<|im_start|>hi<image><image_id>\n")
    assert pieces == [special.im_start, "hi", special.image_start, special.image_id_start, "\n"]
    assert tokenizer.split_markup("") == []
    assert tokenizer.encode("hi<image>\n\n", markup=True) == [tokenizer.id_of("hi"), special.image_start,
                                                              tokenizer.id_of("ĊĊ")]


def test_decode_drops_special_tokens_and_keeps_the_others(tokenizer: OfficialTokenizer) -> None:
    ids = tokenizer.encode(TEXT, markup=True)
    assert tokenizer.decode(ids) == "user\nhi <think>\n\nhé</think>"
    assert tokenizer.decode(ids, keep_special=True) == TEXT
    assert tokenizer.decode([]) == ""


def test_text_is_composed_first(tokenizer: OfficialTokenizer) -> None:
    assert tokenizer.encode("e\u0301") == tokenizer.encode("é") == [tokenizer.id_of("Ã©")]


def test_digits_are_tokens_of_their_own_and_new_lines_run_together(tokenizer: OfficialTokenizer) -> None:
    assert tokenizer.encode("12\n\n") == [tokenizer.id_of("1"), tokenizer.id_of("2"), tokenizer.id_of("ĊĊ")]


def test_bad_token_ids_come_from_the_settings(tokenizer: OfficialTokenizer) -> None:
    assert tokenizer.bad_token_ids == tuple(BAD_TOKEN_IDS)


def test_vocab_size_is_above_every_id(tokenizer: OfficialTokenizer) -> None:
    assert tokenizer.vocab_size == tokenizer.id_of("</tool_call>") + 1


def test_one_file_reads_like_four(tmp_path: Path, tokenizer: OfficialTokenizer) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    one = OfficialTokenizer.from_folder(write_tokenizer_json(tmp_path, folder))
    assert one.special == tokenizer.special and one.vocab_size == tokenizer.vocab_size
    for is_markup in (False, True):
        ids = tokenizer.encode(TEXT, markup=is_markup)
        assert one.encode(TEXT, markup=is_markup) == ids
        assert one.decode(ids) == tokenizer.decode(ids)
    assert one.bad_token_ids == ()


@pytest.mark.parametrize("missing", ["<|tts_bos|>", "<slice>"])
def test_a_missing_token_is_named(tmp_path: Path, missing: str) -> None:
    write_tokenizer(tmp_path, without=missing)
    with pytest.raises(CheckpointError, match=f"no token '{missing}'".replace("|", r"\|")):
        OfficialTokenizer.from_folder(tmp_path)


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither tokenizer\.json nor vocab\.json"):
        OfficialTokenizer.from_folder(tmp_path)
    write_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json is not JSON"):
        OfficialTokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="holds list, expected a JSON object"):
        OfficialTokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"is not a tokenizer\.json"):
        OfficialTokenizer.from_folder(tmp_path)


@pytest.mark.parametrize(("settings", "words"), [
    ({"bad_token_ids": ["a"]}, "bad_token_ids .* is not a list of whole numbers"),
    ({"added_tokens_decoder": {"7": {}}}, "added_tokens_decoder .* is malformed"),
    ({"added_tokens_decoder": [7]}, "added_tokens_decoder .* is malformed"),
])
def test_malformed_settings_are_named(tmp_path: Path, settings: dict[str, object], words: str) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=words):
        OfficialTokenizer.from_folder(tmp_path)


def test_merges_that_are_none(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nnone\n")
    with pytest.raises(CheckpointError, match="are not a BPE vocabulary"):
        OfficialTokenizer.from_folder(tmp_path)
