"""Speech recognition: word and character error rates as Whisper's normalisers, jiwer and lmms-eval give them.

Rates are of the whole corpus: all errors over all words of the references, not the mean of utterances. The normaliser
decides the number, so it is part of every name:
- whisper_english, whisper_basic: `whisper/normalizers` of openai/whisper c0d2f62 (arXiv:2212.04356, appendix C).
  English joins spoken digits ("one two three" -> 123): one wrong digit makes the whole run wrong.
- whisper_basic_no_blanks: the basic one without blanks, for the CER of Chinese.
- pypi_english: the package whisper-normalizer as it is; 0.1.15 expands kinda, sorta, dunno and cause, Whisper does not.
- raw: the texts as they stand.
Counts follow jiwer 4.0.0 (alignment of rapidfuzz). `lmms_eval_error_rate` is `librispeech_wer` of lmms-eval 75571cfe,
with its Chinese text normalisation (numbers spelled out, `cn_tn.py`) and without its Cantonese, which needs zhconv.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minicpm_o.errors import InputError
from minicpm_o.evaluation.metrics import edit_distance
from minicpm_o.evaluation.normalise import basic_normaliser, english_normaliser
from minicpm_o.evaluation.official.files import needed_text, read_records, read_text

Normalise = Callable[[str], str]

# --- normalisers ------------------------------------------------------------------------------------------------

_NOT_OF_WHISPER = frozenset({r"\bkinda\b", r"\bsorta\b", r"\bdunno\b", r"\bcause\b"})
"""Contractions that the package whisper-normalizer has added to Whisper's."""


def whisper_english() -> Normalise:
    """Whisper's EnglishTextNormalizer. Raises MissingExtraError without the extra `eval`."""
    kind: Any = type(english_normaliser())
    own = kind()  # not the one that all of the program share
    own.replacers = {pattern: word for pattern, word in own.replacers.items() if pattern not in _NOT_OF_WHISPER}
    normaliser: Normalise = own
    return normaliser


def whisper_basic(*, split_letters: bool = False, remove_diacritics: bool = False) -> Normalise:
    """Whisper's BasicTextNormalizer. Raises MissingExtraError without the extra `eval`."""
    kind: Any = type(basic_normaliser())
    normaliser: Normalise = kind(split_letters=split_letters, remove_diacritics=remove_diacritics)
    return normaliser


def _no_blanks() -> Normalise:
    basic = whisper_basic()
    return lambda text: basic(text).replace(" ", "")


NORMALISERS: Mapping[str, Callable[[], Normalise]] = {
    "whisper_english": whisper_english,
    "whisper_basic": whisper_basic,
    "whisper_basic_no_blanks": _no_blanks,
    "pypi_english": english_normaliser,
    "raw": lambda: str,
}


# --- jiwer ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ErrorCounts:
    """How a text differs from its reference, in words or characters."""

    hits: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def errors(self) -> int:
        """All three kinds."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def reference_length(self) -> int:
        """Words of the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float:
        """WER or CER; where the reference is empty, jiwer gives the number of insertions."""
        return self.errors / self.reference_length if self.reference_length else float(self.insertions)

    @property
    def match_error_rate(self) -> float:
        """MER: errors over all places of the alignment."""
        places = self.hits + self.errors
        return self.errors / places if places else 0.0

    @property
    def information_lost(self) -> float:
        """WIL: 1 - hits / reference length * hits / hypothesis length."""
        said = self.hits + self.substitutions + self.insertions
        if not self.reference_length:
            return float(said > 0)
        return 1 - (self.hits / self.reference_length * self.hits / said if said else 0.0)


def jiwer_words(text: str) -> list[str]:
    """The words of a text as jiwer splits it: runs of white space become a blank, a lone tab does not."""
    return [word for word in re.sub(r"\s\s+", " ", text).strip().split(" ") if word]


def align(reference: Sequence[str], hypothesis: Sequence[str]) -> ErrorCounts:
    """Counts of a shortest alignment; of several the one that rapidfuzz takes.

    It walks back from the end and prefers a deletion where one is on a shortest path, then an insertion that pays more
    than a substitution would, then the diagonal."""
    start, end = _common_ends(reference, hypothesis)
    wanted, said = reference[start : len(reference) - end], hypothesis[start : len(hypothesis) - end]
    table = _distances(wanted, said)
    row, column = len(said), len(wanted)
    hits, substitutions, deletions, insertions = start + end, 0, 0, 0
    while row and column:
        if table[row][column] - table[row][column - 1] == 1:
            column, deletions = column - 1, deletions + 1
        elif row > 1 and table[row - 1][column] - table[row - 1][column - 1] == -1:
            row, insertions = row - 1, insertions + 1
        else:
            row, column = row - 1, column - 1
            equal = wanted[column] == said[row]
            hits, substitutions = hits + equal, substitutions + (not equal)
    return ErrorCounts(hits, substitutions, deletions + column, insertions + row)


def _common_ends(first: Sequence[str], second: Sequence[str]) -> tuple[int, int]:
    """Lengths of the common beginning and of the common end of the rest."""
    shorter = min(len(first), len(second))
    start = next((at for at in range(shorter) if first[at] != second[at]), shorter)
    end = next((at for at in range(shorter - start) if first[-1 - at] != second[-1 - at]), shorter - start)
    return start, end


def _distances(wanted: Sequence[str], said: Sequence[str]) -> list[list[int]]:
    """Edit distances of every beginning of `said` (row) from every beginning of `wanted` (column)."""
    table = [list(range(len(wanted) + 1))]
    for number, word in enumerate(said, start=1):
        above, row = table[-1], [number]
        for column, other in enumerate(wanted):
            row.append(min(above[column] + (word != other), above[column + 1] + 1, row[column] + 1))
        table.append(row)
    return table


@dataclass(frozen=True)
class AsrScores:
    """Error rates of a corpus after a normaliser, whose name is part of theirs."""

    normaliser: str
    references: tuple[str, ...]
    hypotheses: tuple[str, ...]
    words: ErrorCounts
    characters: float
    """CER of jiwer; blanks count as characters."""
    utterances: tuple[float, ...]
    """WER of each utterance."""

    @property
    def metrics(self) -> dict[str, float]:
        """Rates by their full names."""
        rates = {"wer": self.words.rate, "mer": self.words.match_error_rate, "wil": self.words.information_lost,
                 "cer": self.characters}
        return {f"{name}_jiwer_{self.normaliser}": rate for name, rate in rates.items()}


def asr_scores(normaliser: str, references: Sequence[str], hypotheses: Sequence[str]) -> AsrScores:
    """Error rates of recognised texts as jiwer counts them; normalisers: see NORMALISERS."""
    if normaliser not in NORMALISERS:
        raise InputError(f"the normaliser {normaliser!r} is unknown here; known are {', '.join(NORMALISERS)}")
    _same_number(references, hypotheses)
    normalise = NORMALISERS[normaliser]()
    wanted, said = tuple(map(normalise, references)), tuple(map(normalise, hypotheses))
    counts = [align(jiwer_words(first), jiwer_words(second)) for first, second in zip(wanted, said, strict=True)]
    return AsrScores(normaliser, wanted, said, _total(counts), _character_rate(wanted, said),
                     tuple(count.rate for count in counts))


def _total(counts: Sequence[ErrorCounts]) -> ErrorCounts:
    return ErrorCounts(*(sum(column) for column in zip(*(
        (count.hits, count.substitutions, count.deletions, count.insertions) for count in counts), strict=True)))


def _character_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    pairs = [(first.strip(), second.strip()) for first, second in zip(references, hypotheses, strict=True)]
    errors = sum(edit_distance(first, second) for first, second in pairs)
    return errors / max(1, sum(len(first) for first, _ in pairs))


def _same_number(references: Sequence[str], hypotheses: Sequence[str]) -> None:
    if len(references) != len(hypotheses) or not references:
        raise InputError(f"{len(references)} references and {len(hypotheses)} hypotheses; expected as many of both "
                         "and at least one; write an empty text where nothing was recognised")


# --- lmms-eval --------------------------------------------------------------------------------------------------

_TAG = re.compile(r"<\|.*?\|>")
_BLANK_BEFORE_MARK = re.compile(r" ?([!,.?;:])")


@dataclass(frozen=True)
class LmmsEvalRate:
    """An error rate in per cent, named by script and language."""

    name: str
    percent: float


def lmms_eval_error_rate(references: Sequence[str], hypotheses: Sequence[str], language: str) -> LmmsEvalRate:
    """WER (for zh: CER) as lmms-eval's LibriSpeech task counts it.

    language: en, zh, or another one that is written with blanks."""
    _same_number(references, hypotheses)
    split = _lmms_eval_splitter(language)
    pairs = [(split(first), split(second)) for first, second in zip(references, hypotheses, strict=True)]
    if not pairs[0][0]:
        raise InputError(f"the first reference, {references[0]!r}, has no words left; lmms-eval stops there. Leave the "
                         "pair out or put another first")
    errors = sum(edit_distance(first, second) for first, second in pairs)
    unit = "cer" if language == "zh" else "wer"
    return LmmsEvalRate(f"{unit}_lmms_eval_{language}", 100 * errors / sum(len(first) for first, _ in pairs))


def _lmms_eval_splitter(language: str) -> Callable[[str], Sequence[str]]:
    """How lmms-eval makes units of a text: English passes both of Whisper's normalisers."""
    if language == "yue":
        raise InputError("Cantonese (yue) needs the tables of the package zhconv, which this package does not bring; "
                         "convert the texts to simplified Chinese and score them as zh")
    if language == "zh":
        return lambda text: "".join(_lower_words(chinese_text(re.sub(r"\s+", "", _without_tags(text)))))
    basic = whisper_basic()
    if language == "en":
        english = whisper_english()
        return lambda text: _lower_words(basic(english(_without_tags(text))))
    return lambda text: _lower_words(basic(_without_tags(text)))


def _without_tags(text: str) -> str:
    plain = re.sub(r"\s+", " ", _TAG.sub(" ", text))
    return _BLANK_BEFORE_MARK.sub(r"\1", plain).lstrip(" ")


def _lower_words(text: str) -> list[str]:
    """Words in lower case without those that are all punctuation."""
    words = [word for word in text.split(" ") if not all(unicodedata.category(mark)[0] == "P" for mark in word)]
    return " ".join(words).lower().split()


# --- Chinese numbers as lmms-eval spells them out ---------------------------------------------------------------

_DIGITS = "零一二三四五六七八九"
_UNITS = {1: "十", 2: "百", 3: "千", 4: "万", 8: "亿", 12: "兆", 16: "京", 20: "垓", 24: "秭", 28: "穰", 32: "沟",
          36: "涧", 40: "正", 44: "载"}  # fmt: skip
_MEASURES = (
    "匹张座回场尾条个首阙阵网炮顶丘棵只支袭辆挑担颗壳窠曲墙群腔砣客贯扎捆刀令打手罗坡山"
    "岭江溪钟队单双对出口头脚板跳枝件贴针线管名位身堂课本页家户层丝毫厘分钱两斤铢石钧锱"
    "忽寸尺丈里寻常铺程撮勺合升斗盘碗碟叠桶笼盆盒杯斛锅簋篮罐瓶壶卮盏箩箱煲啖袋钵年月日"
    "季刻时周天秒旬纪岁世更夜春夏秋冬代伏辈丸泡粒幢堆根道面片块"
)
_MARKS = (
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃《》「」『』"
    "【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏·〈〉"
) + string.punctuation
_NUMBER = r"\d+(?:\.\d+)?"
_MONEY_UNIT = "(?:亿|千万|百万|[万千百元块角毛分])"

_DATE = re.compile(r"\D+((?:(?:[089]\d|(?:19|20)\d\d)年)?(?:\d\d?月(?:\d\d?[日号])?)?)")
_MONEY = re.compile(rf"\D+({_NUMBER}[多余几]?{_MONEY_UNIT}(?:\d{_MONEY_UNIT}?)?)")
_MOBILE = re.compile(r"\D((?:\+?86 ?)?1(?:[38]\d|5[0-35-9]|7[678]|9[89])\d{8})\D")
_TELEPHONE = re.compile(r"\D((?:0(?:10|2[1-3]|[3-9]\d\d)-?)?[1-9]\d{6,7})\D")
_FRACTION = re.compile(r"\d+/\d+")
_PERCENTAGE = re.compile(rf"{_NUMBER}[%％]")
_MEASURED = re.compile(rf"({_NUMBER})[多余几]?(?:[{_MEASURES}]|[千毫微]克|[千分厘毫微]米)")
_LETTERS_AROUND_TWO = re.compile(r"[a-zA-Z]+二[a-zA-Z]+")


def chinese_text(text: str) -> str:
    """A Chinese text with its numbers spelled out and blanks for punctuation, as lmms-eval compares it.

    Kinds of numbers are looked for one after the other; each that is found is replaced where its digits first stand,
    which may be within another number, as in the original."""
    spelled = f"^{text}$"  # the patterns want something before and after a number
    for pattern, spell in _spellers():
        for found in pattern.findall(spelled):
            spelled = spelled.replace(found, spell(found), 1)
    return spelled.lstrip("^").rstrip("$").translate(dict.fromkeys(map(ord, _MARKS), " "))


def _spellers() -> Iterator[tuple[re.Pattern[str], Normalise]]:
    yield _DATE, _spell_date
    yield _MONEY, _spell_money
    yield _MOBILE, _spell_digits
    yield _TELEPHONE, _spell_digits
    yield _FRACTION, _spell_fraction
    yield _PERCENTAGE, lambda found: "百分之" + spell_number(found.strip("%％"))
    yield _MEASURED, spell_number
    yield re.compile(r"\d{4,32}"), _spell_digits
    yield re.compile(_NUMBER), spell_number
    yield _LETTERS_AROUND_TWO, lambda found: found.replace("二", "2", 1)


def _spell_date(date: str) -> str:
    """A year by its digits, month and day as numbers."""
    year, mark, rest = date.rpartition("年")
    return _spell_digits(year) + mark + re.sub(r"\d+", lambda found: spell_number(found.group()), rest)


def _spell_money(text: str) -> str:
    """An amount with each of its numbers spelled out, wherever the same digits stand."""
    spelled = text
    for number in re.findall(_NUMBER, text):
        spelled = spelled.replace(number, spell_number(number))
    return spelled


def _spell_digits(text: str) -> str:
    """Digit by digit, anything between left out."""
    return "".join(_DIGITS[int(character)] for character in text if character.isdecimal())


def _spell_fraction(fraction: str) -> str:
    numerator, denominator = fraction.split("/")
    return f"{spell_number(denominator)}分之{spell_number(numerator)}"


def spell_number(number: str) -> str:
    """A number in Chinese: 2012 -> 两千零一十二, 12 -> 十二, 0.5 -> 零点五."""
    whole, point, decimals = number.partition(".")
    symbols = _with_units(whole) if len(whole) > 1 else list(_spell_digits(whole))
    spelled = "".join(_with_pair(symbols)) + ("点" if point else "") + _spell_digits(decimals)
    if spelled.startswith("点"):
        return "零" + spelled
    return spelled[1:] if spelled.startswith("一十") else spelled


def _with_units(digits: str) -> list[str]:
    """Digits and units of a whole number; a zero only before a last digit, as in 105 -> 一百零五."""
    plain = digits.lstrip("0")
    if not plain:
        return []
    if len(plain) == 1:
        return list(_spell_digits(plain if plain == digits else "0" + plain))
    power = max(power for power in _UNITS if power < len(plain))
    return [*_with_units(digits[:-power]), _UNITS[power], *_with_units(plain[-power:])]


def _with_pair(symbols: Sequence[str]) -> list[str]:
    """两 for 二 before 百, 千, 万 and larger units, unless it follows 十 or a digit."""
    large = set(_UNITS.values()) - {"十"}
    before, after = [None, *symbols][:-1], [*symbols, None][1:]
    return [
        "两" if symbol == "二" and follower in large and (leader is None or leader in large) else symbol
        for leader, symbol, follower in zip(before, symbols, after, strict=True)
    ]


# --- files ------------------------------------------------------------------------------------------------------

LIBRISPEECH = ("Get LibriSpeech from https://www.openslr.org/12: a folder such as test-clean with "
               "SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt and, beside it, a .flac for each of its lines")


@dataclass(frozen=True)
class Utterance:
    """A recording and what is said in it."""

    id: str
    audio: Path
    text: str


def read_pairs(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """References and hypotheses of a file {"reference", "hypothesis"} a line."""
    rows = read_records(path, "Expected a line {reference, hypothesis} for each recording")
    return (tuple(needed_text(row, "reference") for row in rows),
            tuple(needed_text(row, "hypothesis") for row in rows))


def load_librispeech(folder: Path) -> tuple[Utterance, ...]:
    """The recordings of a part of LibriSpeech (test-clean, test-other, ...) in the order of their ids."""
    paths = sorted(folder.glob("*/*/*.trans.txt"))
    if not paths:
        raise InputError(f"{folder} has no transcripts SPEAKER/CHAPTER/*.trans.txt. {LIBRISPEECH}")
    return tuple(_utterance(path, number, line) for path in paths
                 for number, line in enumerate(read_text(path, LIBRISPEECH).splitlines(), start=1))


def _utterance(path: Path, number: int, line: str) -> Utterance:
    id, _, text = line.partition(" ")
    audio = path.with_name(f"{id}.flac")
    if not text or not audio.is_file():
        raise InputError(f"{path.name} line {number} is {line[:60]!r}; expected the name of a recording beside it and "
                         f"its words. {LIBRISPEECH}")
    return Utterance(id, audio, text)
