"""Chinese characters to the phonemes that Kokoro's Chinese voices were trained on; needs the optional package pypinyin.

    characters -> words and pinyin (pypinyin) -> initial + final + tone -> IPA, tones as arrows

Initials and finals follow the IPA description of Mandarin in S. Duanmu, The Phonology of Standard Chinese, 2007.
Tones: 1 →, 2 ↗, 3 ↓, 4 ↘, neutral nothing. Numbers beside Chinese characters are read in Chinese.
"""

from __future__ import annotations

import re

from minicpm_o.errors import MissingExtraError
from minicpm_o.runtime.speech.tokens import Sounds, Token

HAN = "〇㐀-䶿一-鿿豈-﫿"
_NUMBER_BESIDE_HAN = re.compile(
    rf"(?<![\d.,A-Za-z])(\d[\d,]*(?:\.\d+)?)(%?)(?=\s?[{HAN}])|(?<=[{HAN}])\s?(\d[\d,]*(?:\.\d+)?)(%?)(?![\d.,:/-]*\d)"
)

INITIALS = {
    "b": "p", "p": "pʰ", "m": "m", "f": "f", "d": "t", "t": "tʰ", "n": "n", "l": "l", "g": "k", "k": "kʰ", "h": "x",
    "j": "ʨ", "q": "ʨʰ", "x": "ɕ", "zh": "ꭧ", "ch": "ꭧʰ", "sh": "ʂ", "r": "ɻ", "z": "ʦ", "c": "ʦʰ", "s": "s",
}  # fmt: skip

FINALS = {
    "a": "a_", "ai": "ai_", "an": "a_n", "ang": "a_ŋ", "ao": "au_", "e": "ɤ_", "ei": "ei_", "en": "ə_n", "eng": "ə_ŋ",
    "er": "ɚ_", "i": "i_", "ia": "ja_", "ian": "jɛ_n", "iang": "ja_ŋ", "iao": "jau_", "ie": "je_", "in": "i_n",
    "ing": "i_ŋ", "io": "jɔ_", "iong": "jʊ_ŋ", "iou": "jou_", "iu": "jou_", "o": "wo_", "ong": "ʊ_ŋ", "ou": "ou_",
    "u": "u_", "ua": "wa_", "uai": "wai_", "uan": "wa_n", "uang": "wa_ŋ", "uei": "wei_", "ui": "wei_", "uen": "wə_n",
    "un": "wə_n", "ueng": "wə_ŋ", "uo": "wo_", "v": "y_", "van": "ɥɛ_n", "ve": "ɥe_", "vn": "y_n", "ê": "ɛ_",
}  # fmt: skip
"""Finals with `_` where the tone goes."""

BUZZED = "ɨ_"
"""The vowel of zhi, chi, shi, ri, zi, ci, si."""

SYLLABIC = {"m": "m_", "n": "n_", "ng": "ŋ_", "hm": "hm_", "hng": "hŋ_", "o": "ɔ_"}
TONES = {"1": "→", "2": "↗", "3": "↓", "4": "↘", "5": ""}
HAN_DIGITS = "零一二三四五六七八九"


def read_ideographs(text: str) -> list[Token]:
    """A run of Chinese characters as sounds, one token a word.

    Errors: MissingExtraError when pypinyin is not installed.
    """
    try:
        from pypinyin import Style, lazy_pinyin
        from pypinyin.seg.mmseg import seg
    except ImportError as error:
        raise MissingExtraError("Chinese text needs pypinyin; run `pip install 'minicpm-o[zh]'`") from error
    tokens: list[Token] = []
    for word in seg.cut(text):
        syllables = lazy_pinyin(word, style=Style.TONE3, neutral_tone_with_five=True)
        tokens.append(Sounds("".join(syllable_sounds(syllable) for syllable in syllables)))
    return tokens


def is_chinese(text: str) -> bool:
    """Whether a text has more Chinese characters than Latin letters."""
    return len(re.findall(f"[{HAN}]", text)) > len(re.findall("[A-Za-z]", text))


def syllable_sounds(pinyin: str) -> str:
    """'hao3' -> xau↓. A syllable that is not pinyin gives a neutral vowel, so that the rhythm stays."""
    syllable, tone = (pinyin[:-1], pinyin[-1]) if pinyin[-1:].isdigit() else (pinyin, "5")
    if syllable in SYLLABIC:
        return SYLLABIC[syllable].replace("_", TONES[tone])
    initial, final = _split(syllable)
    sounds = BUZZED if final == "i" and initial in ("zh", "ch", "sh", "r", "z", "c", "s") else FINALS.get(final, "ə_")
    return INITIALS.get(initial, "") + sounds.replace("_", TONES.get(tone, ""))


def numbers_to_han(text: str) -> str:
    """Arabic numbers next to Chinese characters in Chinese: 2024年 by digits, 12个 as 十二个, 5%的 as 百分之五的."""
    return _NUMBER_BESIDE_HAN.sub(_number_to_han, text)


def _number_to_han(match: re.Match[str]) -> str:
    digits, percent = match.group(1) or match.group(3), match.group(2) or match.group(4)
    behind = match.string[match.end() :].lstrip()[:1]
    whole, point, rest = digits.replace(",", "").partition(".")
    spelled = (behind == "年" and len(whole) == 4) or (len(whole) > 1 and whole[0] == "0") or len(whole) > 12
    spoken = _spell(whole) if spelled else _cardinal(int(whole))
    spoken += f"点{_spell(rest)}" if point and rest else ""
    return f"百分之{spoken}" if percent else spoken


def _spell(digits: str) -> str:
    return "".join(HAN_DIGITS[int(digit)] for digit in digits)


def _cardinal(value: int) -> str:
    if value == 0:
        return HAN_DIGITS[0]
    for size, name in ((10**8, "亿"), (10**4, "万")):
        if value >= size:
            high, low = divmod(value, size)
            return _cardinal(high) + name + _rest(low, size)
    return _below_ten_thousand(value)


def _rest(value: int, size: int) -> str:
    if not value:
        return ""
    return ("零" if value < size // 10 else "") + (
        _below_ten_thousand(value, first=False) if value < 10**4 else _cardinal(value)
    )


def _below_ten_thousand(value: int, *, first: bool = True) -> str:
    spoken, gap = "", False
    for size, name in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit, value = divmod(value, size)
        if digit:
            spoken += ("零" if gap and spoken else "") + HAN_DIGITS[digit] + name
        gap = not digit
    return spoken[1:] if first and spoken.startswith("一十") else spoken


def _split(syllable: str) -> tuple[str, str]:
    """Initial and final of toneless pinyin as it is written (yi, wu, yu and the dropped dots of ü undone)."""
    syllable = syllable.replace("ü", "v")
    if syllable[:1] == "y":
        return "", _after_y(syllable[1:])
    if syllable[:1] == "w":
        return "", "u" if syllable == "wu" else "u" + syllable[1:]
    initial = next((syllable[:size] for size in (2, 1) if syllable[:size] in INITIALS), "")
    final = syllable[len(initial) :]
    if initial in ("j", "q", "x") and final[:1] == "u":
        final = "v" + final[1:]
    return initial, final


def _after_y(rest: str) -> str:
    if rest[:1] == "u":
        return "v" + rest[1:]
    return rest if rest[:1] == "i" else "i" + rest
