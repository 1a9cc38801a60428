"""IFEval as VoiceBench scores it: 25 kinds of instructions that a program can check in a text.

Protocol: strict checks the answer as it is, loose takes any of eight forms of it (without its first line, last line,
asterisks); each is given by prompt (all its instructions followed) and by instruction; `final` is the mean of the four.
Answers are looked up BY PROMPT: rows that share a prompt are all scored with the last one's answer, with a note.
Source: Instruction-Following Evaluation for Large Language Models (arXiv:2311.07911), and VoiceBench (arXiv:2410.17196)
at 5338154.

Not the official tool: it finds languages with langdetect, sentences and words with NLTK's trained tokenisers; here
scripts and frequent words tell the language, and marks with a list of abbreviations end a sentence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from minicpm_o.evaluation.official.files import needed, needed_text, wrong
from minicpm_o.evaluation.rows import Row

LANGUAGE_CHECKS = frozenset({"language:response_language", "change_case:english_capital",
                             "change_case:english_lowercase"})
ANSWERS_OF_FORM = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


@dataclass(frozen=True)
class Arguments:
    """What an instruction asks for; an argument that is null counts as not there."""

    row: Row
    instruction: str
    values: Mapping[str, Any]

    def text(self, name: str) -> str:
        """A text."""
        return str(self._get(name, str, "a text"))

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        values = self._get(name, list, "a list of texts")
        if not all(isinstance(value, str) for value in values):
            raise self._wrong(name, values, "a list of texts")
        return list(values)

    def letter(self) -> str:
        """One sign, in lower case."""
        letter = self.text("letter").strip().lower()
        if len(letter) != 1:
            raise self._wrong("letter", letter, "one letter")
        return letter

    def number(self, name: str) -> float:
        """A number."""
        return float(self._get(name, (int, float), "a number"))

    def holds(self, count: int, wanted: str, relation: str) -> bool:
        """Whether a count stands in the relation ("at least", "less than") to the number wanted."""
        asked = self.text(relation)
        if asked not in ("at least", "less than"):
            raise self._wrong(relation, asked, '"at least" or "less than"')
        return count >= self.number(wanted) if asked == "at least" else count < self.number(wanted)

    def pattern(self, text: str, flags: re.RegexFlag = re.IGNORECASE) -> re.Pattern[str]:
        """Keywords are regular expressions, as in the official script."""
        try:
            return re.compile(text, flags)
        except re.error as error:
            raise wrong(self.row, f"keyword {text!r} of {self.instruction} ({error})", "a regular expression",
                        "escape its signs") from error

    def _get(self, name: str, kind: type | tuple[type, ...], expected: str) -> Any:
        value = self.values.get(name)
        if not isinstance(value, kind):
            raise self._wrong(name, value, expected)
        return value

    def _wrong(self, name: str, came: object, expected: str) -> Exception:
        return wrong(self.row, f"{name!r} of {self.instruction} is {came!r}", expected, "mend its kwargs")


Check: TypeAlias = Callable[[str, Arguments], bool]


# --- the evaluator ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Followed:
    """For each instruction of a prompt, whether the answer follows it: as it is, and in any of its loose forms."""

    strict: tuple[bool, ...]
    loose: tuple[bool, ...]


def follow(rows: Sequence[Row]) -> list[Followed]:
    """What the answers follow; rows that share a prompt are all judged by the last one's answer."""
    answers = {needed_text(row, "prompt"): needed_text(row, "response") for row in rows}
    return [Followed(_followed(row, (answer,)), _followed(row, loose_forms(answer)))
            for row in rows for answer in [answers[row.fields["prompt"]]]]


def followed_scores(parts: Sequence[Followed]) -> dict[str, float]:
    """Strict and loose accuracy by prompt and by instruction, 0 to 1, and their mean."""
    scores: dict[str, float] = {}
    for name, prompts in (("strict", [part.strict for part in parts]), ("loose", [part.loose for part in parts])):
        each = [hit for hits in prompts for hit in hits]
        scores[f"{name}-prompt"] = sum(map(all, prompts)) / len(prompts)
        scores[f"{name}-instruction"] = sum(each) / len(each) if each else 0.0
    scores["final"] = sum(scores.values()) / len(scores)
    return scores


def followed_notes(rows: Sequence[Row], parts: Sequence[Followed]) -> list[str]:
    """What a reader of the scores must know."""
    return list(_notes(rows, len({row.fields["prompt"] for row in rows})))


def _followed(row: Row, forms: Sequence[str]) -> tuple[bool, ...]:
    """For each instruction of a row, whether one of the forms of the answer follows it; a blank form never does."""
    spoken = [form for form in forms if form.strip()]
    return tuple(any(check(form, arguments) for form in spoken) for check, arguments in _instructions(row))


def loose_forms(answer: str) -> tuple[str, ...]:
    """An answer, without first line, last line, both; and all of these without asterisks."""
    lines = answer.split("\n")
    cut = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    return tuple(form for text in (answer, *cut) for form in (text, text.replace("*", "")))


def _instructions(row: Row) -> Iterator[tuple[Check, Arguments]]:
    names, kwargs = needed(row, "instruction_id_list"), needed(row, "kwargs")
    if not isinstance(names, list) or not isinstance(kwargs, list) or len(kwargs) < len(names):
        raise wrong(row, f"{names!r} with kwargs {kwargs!r}", "two lists of one length", "mend the row")
    for name, values in zip(names, kwargs, strict=False):
        if name not in CHECKS:
            raise wrong(row, f"instruction {name!r}", "an instruction of IFEval, such as punctuation:no_comma",
                        "mend instruction_id_list")
        if not isinstance(values, dict):
            raise wrong(row, f"kwargs {values!r} of {name}", "an object", "mend the row")
        yield CHECKS[name], Arguments(row, name, values)


def _notes(rows: Sequence[Row], num_prompts: int) -> Iterator[str]:
    if num_prompts < len(rows):
        yield (f"{len(rows)} rows have {num_prompts} different prompts; as in the official script all rows of a prompt "
               f"are scored with the last one's answer: give every row its own prompt")
    named = {name for row in rows for name in row.fields["instruction_id_list"]}
    if guessed := sorted(named & LANGUAGE_CHECKS):
        yield f"{', '.join(guessed)}: the language was told by script and frequent words, not by langdetect"


# --- words and letters ------------------------------------------------------------------------------------------


def _all_keywords(text: str, arguments: Arguments) -> bool:
    return all(arguments.pattern(word).search(text) for word in arguments.texts("keywords"))


def _keyword_frequency(text: str, arguments: Arguments) -> bool:
    count = len(arguments.pattern(arguments.text("keyword")).findall(text))
    return arguments.holds(count, "frequency", "relation")


def _no_forbidden_word(text: str, arguments: Arguments) -> bool:
    words = arguments.texts("forbidden_words")
    return not any(arguments.pattern(rf"\b{word}\b").search(text) for word in words)


def _letter_frequency(text: str, arguments: Arguments) -> bool:
    return arguments.holds(text.lower().count(arguments.letter()), "let_frequency", "let_relation")


def _word_count(text: str, arguments: Arguments) -> bool:
    return arguments.holds(len(re.findall(r"\w+", text)), "num_words", "relation")


def _capital_words(text: str, arguments: Arguments) -> bool:
    words = re.findall(r"\w+(?:[-./&]\w+)*|'\w+", text)
    return arguments.holds(sum(word.isupper() for word in words), "capital_frequency", "capital_relation")


# --- sentences and paragraphs -----------------------------------------------------------------------------------

_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof st jr sr vs etc inc co ltd corp e.g i.e u.s u.k a.m p.m no fig al jan feb mar apr jun jul aug "
    "sep sept oct nov dec".split()
)


def count_sentences(text: str) -> int:
    """Sentences end with . ? or ! before a blank, but not behind an abbreviation or an initial."""
    words = text.split()
    ends = [_ends_sentence(word, following) for word, following in zip(words, [*words[1:], ""], strict=False)]
    return sum(ends) + bool(ends and not ends[-1])


def _ends_sentence(word: str, following: str) -> bool:
    bare = word.rstrip("\"'”’)]*")
    stem = bare.rstrip(".?!")
    mark = bare[len(stem):]
    if mark == ".":
        known = stem.lower().lstrip("(\"'“‘[*")
        return known not in _ABBREVIATIONS and not (len(known) == 1 and known.isalpha())
    return bool(mark) and not (set(mark) == {"."} and following[:1].islower())  # "wait... what"


def _sentence_count(text: str, arguments: Arguments) -> bool:
    return arguments.holds(count_sentences(text), "num_sentences", "relation")


def _paragraph_count(text: str, arguments: Arguments) -> bool:
    """Paragraphs between *** lines; an empty one may only be the first or the last."""
    parts = re.split(r"\s?\*\*\*\s?", text)
    if not all(part.strip() for part in parts[1:-1]):
        return False
    return sum(bool(part.strip()) for part in parts) == arguments.number("num_paragraphs")


def _first_word_of_paragraph(text: str, arguments: Arguments) -> bool:
    """The n-th paragraph (they stand a blank line apart) begins with a word, and there are so many paragraphs."""
    parts = text.split("\n\n")
    total = sum(bool(part.strip()) for part in parts)
    nth = int(arguments.number("nth_paragraph"))
    words = parts[nth - 1].split() if nth <= total else []
    if not words:
        return False
    first = re.split(r"[.,?!'\"]", words[0].lstrip("'").lstrip('"'), maxsplit=1)[0].lower()
    return total == arguments.number("num_paragraphs") and first == arguments.text("first_word").lower()


# --- what stands in it and how it looks -------------------------------------------------------------------------


def _placeholders(text: str, arguments: Arguments) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= arguments.number("num_placeholders")


def _postscript(text: str, arguments: Arguments) -> bool:
    marker = arguments.text("postscript_marker")
    usual = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return arguments.pattern(usual.get(marker, marker.lower())).search(text.lower()) is not None


def _bullets(text: str, arguments: Arguments) -> bool:
    stars = re.findall(r"^\s*\*[^*].*$", text, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", text, re.MULTILINE)
    return len(stars) + len(dashes) == arguments.number("num_bullets")


def _one_of_forms(text: str, arguments: Arguments) -> bool:
    return any(form in text for form in ANSWERS_OF_FORM)


def _highlights(text: str, arguments: Arguments) -> bool:
    """Text between one asterisk or two; the official script counts the two patterns on their own."""
    single = [part for part in re.findall(r"\*[^\n*]*\*", text) if part.strip("*").strip()]
    double = [part for part in re.findall(r"\*\*[^\n*]*\*\*", text)
              if part.removeprefix("**").removesuffix("**").strip()]
    return len(single) + len(double) >= arguments.number("num_highlights")


def _sections(text: str, arguments: Arguments) -> bool:
    """The official name of the word that opens a section has a slip of the pen."""
    opener = arguments.pattern(rf"\s?{arguments.text('section_spliter')}\s?\d+\s?", re.UNICODE)
    return len(opener.findall(text)) >= arguments.number("num_sections")


def _json(text: str, arguments: Arguments) -> bool:
    bare = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        bare = bare.removeprefix(fence)
    try:
        json.loads(bare.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str, arguments: Arguments) -> bool:
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", text))


def _two_responses(text: str, arguments: Arguments) -> bool:
    """Two different answers with ****** between; an empty part may only be the first or the last."""
    parts = [part.strip() for part in text.split("******")]
    spoken = [part for part in parts if part]
    return all(parts[1:-1]) and len(spoken) == 2 and spoken[0] != spoken[1]


def _repeats_prompt(text: str, arguments: Arguments) -> bool:
    return text.strip().lower().startswith(arguments.text("prompt_to_repeat").strip().lower())


def _ends_with(text: str, arguments: Arguments) -> bool:
    return text.strip().strip('"').lower().endswith(arguments.text("end_phrase").strip().lower())


def _quoted(text: str, arguments: Arguments) -> bool:
    bare = text.strip()
    return len(bare) > 1 and bare[0] == bare[-1] == '"'


def _no_comma(text: str, arguments: Arguments) -> bool:
    return "," not in text


# --- languages --------------------------------------------------------------------------------------------------

_SCRIPTS = (
    ("ja", "[\u3040-\u30ff]"), ("ko", "[\u1100-\u11ff\uac00-\ud7af]"), ("zh-cn", "[\u4e00-\u9fff]"),
    ("th", "[\u0e00-\u0e7f]"), ("he", "[\u0590-\u05ff]"), ("bn", "[\u0980-\u09ff]"), ("pa", "[\u0a00-\u0a7f]"),
    ("gu", "[\u0a80-\u0aff]"), ("ta", "[\u0b80-\u0bff]"), ("te", "[\u0c00-\u0c7f]"), ("kn", "[\u0c80-\u0cff]"),
    ("ml", "[\u0d00-\u0d7f]"), ("hi", "[\u0900-\u097f]"), ("ru", "[\u0400-\u04ff]"), ("ar", "[\u0600-\u06ff]"),
)  # fmt: skip
_WITHIN_SCRIPT: Mapping[str, tuple[tuple[str, str], ...]] = {
    "ru": (("uk", "[іїєґ]"), ("bg", r"\b(?:съм|са|със|които|който|от|ще|във)\b")),
    "ar": (("ur", "[ٹڈڑںے]"), ("fa", "[پچژگ]")),
    "hi": (("mr", r"(?:आहे|आणि|मध्ये|नाही)"), ("ne", r"(?:छ|गर्न|हुन्छ|तपाईं)")),
}
"""Signs by which one of several languages of a script is told from the most frequent one."""
_FREQUENT_WORDS: Mapping[str, frozenset[str]] = {
    "en": frozenset("the and of to is in that it you for with are this i not was be have".split()),
    "de": frozenset("der die das und ist nicht ein eine zu den mit von ich sie es auf für".split()),
    "es": frozenset("el la los las y es que en un una por con para no del se lo su".split()),
    "pt": frozenset("o os as e é que em um uma por com para não do da se ao são".split()),
    "fr": frozenset("le la les et est que en un une des pour avec pas du je il dans sur".split()),
    "it": frozenset("il lo gli e è che in un una per con non di della sono del si anche".split()),
    "pl": frozenset("i w na nie się jest z do to że jak o od po dla są ale czy".split()),
    "fi": frozenset("ja on ei se että hän ovat olla mutta kun niin joka myös tai ole minä".split()),
    "vi": frozenset("và là của có không một cho được các người trong với này những tôi để".split()),
    "sw": frozenset("na ya wa kwa ni katika za la kuwa hii watu yake hiyo kama lakini cha".split()),
}


def language_of(text: str) -> str:
    """Code of a text's language as langdetect names it; English where nothing tells it."""
    counts = {code: len(re.findall(signs, text)) for code, signs in _SCRIPTS}
    script = max(counts, key=lambda code: counts[code])
    if counts[script] > len(re.findall("[A-Za-z]", text)):
        script = "ja" if counts["ja"] and script == "zh-cn" else script
        tokens = _WITHIN_SCRIPT.get(script, ())
        return next((code for code, signs in tokens if re.search(signs, text.lower())), script)
    words = re.findall(r"[^\W\d_]+", text.lower())
    return max(_FREQUENT_WORDS, key=lambda code: sum(word in _FREQUENT_WORDS[code] for word in words))


def _in_language(text: str, arguments: Arguments) -> bool:
    return language_of(text) == arguments.text("language")


def _capitals(text: str, arguments: Arguments) -> bool:
    return text.isupper() and language_of(text) == "en"


def _lower_case(text: str, arguments: Arguments) -> bool:
    return text.islower() and language_of(text) == "en"


CHECKS: Mapping[str, Check] = {
    "keywords:existence": _all_keywords,
    "keywords:frequency": _keyword_frequency,
    "keywords:forbidden_words": _no_forbidden_word,
    "keywords:letter_frequency": _letter_frequency,
    "language:response_language": _in_language,
    "length_constraints:number_sentences": _sentence_count,
    "length_constraints:number_paragraphs": _paragraph_count,
    "length_constraints:number_words": _word_count,
    "length_constraints:nth_paragraph_first_word": _first_word_of_paragraph,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _one_of_forms,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeats_prompt,
    "startend:end_checker": _ends_with,
    "startend:quotation": _quoted,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _capitals,
    "change_case:english_lowercase": _lower_case,
    "punctuation:no_comma": _no_comma,
}
