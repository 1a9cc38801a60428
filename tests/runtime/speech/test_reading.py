from __future__ import annotations

import sys
import unicodedata

import pytest

from minicpm_o.runtime.speech.reading import read
from minicpm_o.runtime.speech.tokens import MARKS, Letters, Mark, Sounds, Token, Word


def said(text: str) -> str:
    """Words as they are, letters in angle brackets, marks without a space before; the closing dot is left out."""
    pieces = [f"<{token.text}>" if isinstance(token, Letters) else text_of(token) for token in read(text)]
    line = " ".join(pieces)
    for mark in MARKS:
        line = line.replace(f" {mark}", mark)
    return line.removesuffix(".")


def text_of(token: Token) -> str:
    assert isinstance(token, (Word, Mark))
    return token.text


NUMBERS = {
    "0": "zero",
    "105 and 1,204": "one hundred five and one thousand two hundred four",
    "007": "zero zero seven",
    "3.14": "three point one four",
    "-5 or +3": "minus five or plus three",
    "12345678901234567890": "one two three four five six seven eight nine zero one two three four five six seven eight "
    "nine zero",
    "the 21st, 2nd and 103rd": "the twenty first, second and one hundred third",
    "1/2, 3/4, 2 1/3, 5/12": "one half, three quarters, two and one third, five twelfths",
    "½ and 2¾": "one half and two and three quarters",
    "50%, 3.5 %": "fifty percent, three point five percent",
    "5-10, 16:9": "five to ten, sixteen to nine",
    "5 - 3 = 2": "five minus three equals two",
    "1920x1080, 3 x 4": "one thousand nine hundred twenty by one thousand eighty, three times four",
    "x² + y^3": "x squared plus y to the power of three",
    "version 1.2.3": "version one point two point three",
    "#5 and No. 7": "number five and number seven",
    "~10": "about ten",
    "24/7": "twenty four seven",
    "Henry VIII, World War II, Malcolm X": "Henry the eighth, World War two, Malcolm <X>",
    "1e5": "one e five",
    "٣": "three",
}

YEARS = {
    "1984": "nineteen eighty four",
    "1905": "nineteen oh five",
    "1900": "nineteen hundred",
    "2000": "two thousand",
    "2007": "two thousand seven",
    "2024": "twenty twenty four",
    "1066": "one thousand sixty six",
    "the 1990s and '80s": "the nineteen nineties and eighties",
    "2010-2015": "twenty ten to twenty fifteen",
}

MONEY = {
    "$1": "one dollar",
    "$1,250.40": "one thousand two hundred fifty dollars and forty cents",
    "$0.99": "ninety nine cents",
    "£1.01": "one pound and one penny",
    "€20": "twenty euros",
    "20 €": "twenty euros",
    "$3.5 million": "three point five million dollars",
    "$5k": "five thousand dollars",
    "-$2": "minus two dollars",
    "50¢": "fifty cents",
    "¥300": "three hundred yen",
}

TIMES = {
    "3:05 p.m. today": "three oh five <PM> today",
    "at 7:00": "at seven o'clock",
    "14:00": "fourteen hundred",
    "10:30:15": "ten thirty and fifteen seconds",
    "9 AM": "nine <AM>",
    "3/5/2024": "March fifth, twenty twenty four",
    "25/12/2024": "December twenty fifth, twenty twenty four",
    "2024-02-29": "February twenty ninth, twenty twenty four",
    "99/99/2024": "ninety nine slash ninety nine slash two thousand twenty four",
    "Jan. 7": "January seventh",
    "May 5th, 2020": "May fifth, twenty twenty",
    "5 March 2021": "the fifth of March, twenty twenty one",
    "The 21st of May": "the twenty first of May",
    "I may go": "I may go",
}

UNITS = {
    "1 km, 10 km": "one kilometer, ten kilometers",
    "100 km/h": "one hundred kilometers per hour",
    "-5°C, 72 °F, 90°": "minus five degrees Celsius, seventy two degrees Fahrenheit, ninety degrees",
    "16 GB at 2.5GHz": "sixteen gigabytes at two point five gigahertz",
    "3m²": "three square meters",
    "5'11\"": "five feet eleven inches",
    "10 min": "ten minutes",
    "4K and 3D": "four K and three D",
}

WORDS = {
    "Dr. Smith vs. Mr. Jones": "doctor Smith versus mister Jones",
    "St. Peter on 12 Main St.": "saint Peter on twelve Main street",
    "e.g., cats, i.e. pets, etc.": "for example, cats, that is pets, etc",
    "The U.S. army left the U.S. It won": "The <US> army left the <US>. It won",
    "a Ph.D. thesis": "a <PHD> thesis",
    "J. K. Rowling. Plan B. Then": "<J> <K> Rowling. Plan B. Then",
    "it's the dogs' o'clock": "it's the dogs' o'clock",
    "well-known mother-in-law": "well-known mother-in-law",
    "mp3, H2O, COVID-19": "mp three, H two O, COVID nineteen",
    "C++ & C#, 5 > 3": "C plus plus and C hash, five greater than three",
    "snake_case": "snake underscore case",
    "see https://www.example.com/a-b?x=1.": "see <WWW> dot example dot com slash a dash b question mark x equals one",
    "mail john.doe@example.org": "mail john dot doe at example dot org",
    "at openai.com/blog now": "at openai dot com slash blog now",
    "#MeToo @john_doe": "hashtag Me Too at john doe",
    "call 555-123-4567": "call five five five, one two three, four five six seven",
    "Ｆｕｌｌ ﬁne １２": "Full fine twelve",
}

MARKUP = {
    "**Bold** and *it* and `code`": "Bold and it and code",
    "- one\n- two": "one. two",
    "# Title\nText": "Title, Text",
    "1. First\n2. Second": "one. First. two. Second",
    "[the page](https://example.com/x)": "the page",
    "Wait... what?! (yes) no -- ok": "Wait… what? yes, no— ok",
    "“Quoted,” she said": "Quoted, she said",
    "lines that\nare wrapped": "lines that are wrapped",
}

OTHERS = {
    "😂": "face with tears of joy",
    "ok 👍🏽": "ok, thumbs up sign, medium skin tone",
    "🇺🇸": "flag of <US>",
    "Привет": "privyet",
    "α or β": "alpha or beta",
    "ひらがな": "hiragana",
    "한국": "hangug",
    "नमस्ते": "namasatae",
    "☃": "snowman",
    "\ue000": "unknown character",
}


@pytest.mark.parametrize(
    ("text", "spoken"),
    [pair for table in (NUMBERS, YEARS, MONEY, TIMES, UNITS, WORDS, MARKUP, OTHERS) for pair in table.items()],
)
def test_reading(text: str, spoken: str) -> None:
    assert said(text) == spoken


@pytest.mark.parametrize("text", ["", " \n\t", "...", "!?", "“”", "---", "\u200b\ufeff"])
def test_nothing_to_say(text: str) -> None:
    assert read(text) == []


def test_a_text_always_ends_with_a_sentence_end() -> None:
    for text in ("Hello", "Hello,", "Hello (there)", "Hello!", "Hello:"):
        last = read(text)[-1]
        assert isinstance(last, Mark) and last.text in ".!?…"


def test_chinese_goes_to_its_reader() -> None:
    tokens = read("I said 你好 twice", lambda run: [Sounds(f"[{run}]")])
    assert Sounds("[你好]") in tokens and Word("twice") in tokens


def test_no_character_is_dropped() -> None:
    """Between two words, each character of all of Unicode is said, or is one of those that have no sound."""
    silent = {"Cf", "Cc", "Zs", "Zl", "Zp", "Mn", "Me"}
    quiet = set("\"'“”„‟«»‹›‘’‚‛「」『』《》〈〉【】〔〕-¿¡ʼ＇´`｀＂｢｣*")
    plain = read("x x")
    for code in (*range(0x20, 0x3100), *range(0xAC00, 0xAC10), *range(0xF900, 0x10000), *range(0x1F300, 0x1FB00)):
        character = unicodedata.normalize("NFC", chr(code))[0]
        if unicodedata.category(character) in silent or character in quiet or code > sys.maxunicode:
            continue
        assert read(f"x {character} x") != plain, f"U+{code:04X} {unicodedata.name(character, '?')} is not said"
