from __future__ import annotations

import sys

import pytest

from minicpm_o.errors import MissingExtraError
from minicpm_o.runtime.speech.chinese import FINALS, INITIALS, is_chinese, numbers_to_han, read_ideographs
from minicpm_o.runtime.speech.chinese import syllable_sounds as sounds
from minicpm_o.runtime.speech.kokoro import to_ids
from minicpm_o.runtime.speech.tokens import Sounds


@pytest.mark.parametrize(
    ("pinyin", "phonemes"),
    [
        ("ni3", "ni↓"),
        ("hao3", "xau↓"),
        ("zhong1", "ꭧʊ→ŋ"),
        ("guo2", "kwo↗"),
        ("shi4", "ʂɨ↘"),
        ("zi5", "ʦɨ"),
        ("xue2", "ɕɥe↗"),
        ("lv4", "ly↘"),
        ("nü3", "ny↓"),
        ("yu3", "y↓"),
        ("yuan2", "ɥɛ↗n"),
        ("you3", "jou↓"),
        ("wu3", "u↓"),
        ("wei4", "wei↘"),
        ("liu4", "ljou↘"),
        ("gui4", "kwei↘"),
        ("sun1", "swə→n"),
        ("er4", "ɚ↘"),
        ("ju4", "ʨy↘"),
        ("ng2", "ŋ↗"),
        ("??", "ə"),
    ],
)
def test_syllables(pinyin: str, phonemes: str) -> None:
    assert sounds(pinyin) == phonemes


def test_all_sounds_are_in_the_vocabulary() -> None:
    for part in (*INITIALS.values(), *FINALS.values()):
        assert to_ids(part.replace("_", "→"))


@pytest.mark.parametrize(
    ("text", "han"),
    [
        ("2024年", "二零二四年"),
        ("我12岁", "我十二岁"),
        ("有105个", "有一百零五个"),
        ("20000人", "二万人"),
        ("10,300元", "一万零三百元"),
        ("5%的人", "百分之五的人"),
        ("3.14是", "三点一四是"),
        ("007号", "零零七号"),
        ("123456789个", "一亿二千三百四十五万六千七百八十九个"),
        ("100000001个", "一亿零一个"),
        ("0个", "零个"),
        ("in 2024 it", "in 2024 it"),
        ("mp3 你好", "mp3 你好"),
    ],
)
def test_numbers_beside_chinese(text: str, han: str) -> None:
    assert numbers_to_han(text) == han


def test_words_and_readings_come_from_pypinyin() -> None:
    pytest.importorskip("pypinyin")
    tokens = read_ideographs("银行很长")
    assert next(token.phonemes for token in tokens if isinstance(token, Sounds)) == "i↗nxa↗ŋ"


def test_missing_pypinyin_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypinyin", None)
    with pytest.raises(MissingExtraError, match=r"minicpm-o\[zh\]"):
        read_ideographs("你好")


def test_is_chinese() -> None:
    assert is_chinese("你好 ok") is False
    assert is_chinese("你好世界 ok") is True
    assert is_chinese("") is False
