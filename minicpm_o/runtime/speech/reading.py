"""Written English to what is said: numbers, money, dates, times, units, abbreviations, addresses, signs, other scripts.

    text -> plain line (markdown off, line ends to pauses) -> left to right, the first rule that matches -> tokens

Every character ends as a word, a pause or - quotation marks, markdown marks, a URL's scheme and invisible characters
only - as nothing; an unknown one is called by its Unicode name. It does not know sounds or the lexicon.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from minicpm_o.runtime.speech import numbers, vocabulary
from minicpm_o.runtime.speech.tokens import MARKS, SENTENCE_ENDS, Letters, Mark, Token, Word

Reader = Callable[[str], list[Token]]
"""Reads a run of characters of one script."""

Reading = Callable[[re.Match[str]], list[Token]]
"""Reads what a rule's pattern matched."""

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_MONTH = "|".join(rf"{name[:3]}(?:{name[3:]})?" for name in vocabulary.MONTHS) + "|Sept"
_UNITS = "|".join(re.escape(unit) for unit in sorted(vocabulary.UNITS, key=len, reverse=True))
_MONEY = "".join(re.escape(sign) for sign in vocabulary.CURRENCIES if sign != "¢")
_LATIN = "A-Za-zÀ-ÖØ-öø-ɏḀ-ỿ"
_NAMED_LETTER = re.compile(r"(?:LETTER|SYLLABLE|VOWEL SIGN)(?: (?:SMALL|CAPITAL))? ([A-Z]+)")


@dataclass(frozen=True)
class Rule:
    """A way of writing and how it is read aloud."""

    pattern: re.Pattern[str]
    read: Reading


def read(text: str, read_ideographs: Reader | None = None) -> list[Token]:
    """Tokens of a text, empty when it has no character that is said. `read_ideographs` reads runs of Chinese."""
    return _tidy(_scan(plain_text(text), read_ideographs or name_characters))


def plain_text(text: str) -> str:
    """Text without markdown's marks and invisible characters; line ends that part sentences become marks."""
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n"))
    text = "".join(_plain_character(character) for character in text)
    text = re.sub(r"!?\[([^\]\n]+)\]\((?:[^)\s]+)\)", r"\1", text)
    text = re.sub(r"^ *(?:#{1,6} |> ?|```.*$) *", "", text, flags=re.MULTILINE)
    text = re.sub(r"(\*\*|__|~~|`+)(?=\S)(.+?)(?<=\S)\1", r"\2", text)
    text = re.sub(r"(?<!\w)([*_])(?=\S)([^*_\n]+?)(?<=\S)\1(?!\w)", r"\2", text)
    text = re.sub(r"^ *[-*+•] +", "\n", text, flags=re.MULTILINE)
    text = re.sub(r"^ *(?:[-*_=] *){3,}$", "", text, flags=re.MULTILINE)
    text = re.sub(r"([^\s.!?…,;:—])[ \t]*\n(?=\s*\n|\s*\d+[.)] )", r"\1.\n", text)
    text = re.sub(r"([^\s.!?…,;:—])[ \t]*\n(?=[A-Z])", r"\1,\n", text)
    return re.sub(r"\s+", " ", text).strip()


def name_characters(text: str) -> list[Token]:
    """Characters by their Unicode names, for what nothing else can read."""
    tokens: list[Token] = []
    for character in text:
        name = unicodedata.name(character, "unknown character").lower()
        tokens += _words(re.sub(r"[^a-z ]", " ", name))
    return tokens


def _plain_character(character: str) -> str:
    """Fullwidth and ligature forms become plain; invisible characters go, controls part words."""
    category = unicodedata.category(character)
    if category == "Cf":
        return ""
    if category in ("Cc", "Zs", "Zl", "Zp"):
        return character if character == "\n" else " "
    if character in "‘’ʼ＇":
        return "'"
    decomposition = unicodedata.decomposition(character)
    if (
        decomposition.startswith(("<wide>", "<compat>", "<font>", "<narrow>"))
        and character not in vocabulary.PAUSES | vocabulary.SYMBOLS
    ):
        plain = unicodedata.normalize("NFKC", character)
        accent = plain.startswith(" ") or unicodedata.combining(plain[0])
        return character if accent else plain  # a spacing accent stays what it is
    return character


def _scan(plain: str, read_ideographs: Reader = name_characters) -> list[Token]:
    tokens: list[Token] = []
    position = 0
    while position < len(plain):
        found, position = _read_at(plain, position, read_ideographs)
        tokens += found
    return tokens


def _read_at(text: str, position: int, read_ideographs: Reader) -> tuple[list[Token], int]:
    """Tokens of the first rule that matches here, and where it ends."""
    for rule in _rules():
        match = rule.pattern.match(text, position)
        if match and match.end() > position:
            return rule.read(match), match.end()
    stop = _end_of_script(text, position)
    if stop == position:
        return _sign(text[position]), position + 1
    run = text[position:stop]
    return (read_ideographs(run) if _is_ideograph(run[0]) else _foreign_word(run)), stop


def _end_of_script(text: str, position: int) -> int:
    """End of the run of ideographs, or of letters with their vowel signs, that starts here."""
    stop, ideographs = position, _is_ideograph(text[position])
    while stop < len(text) and _is_letter(text[stop], stop > position) and _is_ideograph(text[stop]) == ideographs:
        stop += 1
    return stop


def _is_letter(character: str, inside: bool) -> bool:
    return unicodedata.category(character)[0] in ("LM" if inside else "L")


def _is_ideograph(character: str) -> bool:
    return (unicodedata.name(character, "").startswith("CJK ") and character.isalpha()) or character in "〇々"


# --- words and letters -------------------------------------------------------------------------------------------


def _words(text: str) -> list[Token]:
    return [Word(word) for word in re.findall(r"[A-Za-z]+(?:'[A-Za-z]+)*\.?", text)]


def _word(match: re.Match[str]) -> list[Token]:
    return [Word(match.group())]


def _dotted_letters(match: re.Match[str]) -> list[Token]:
    """U.S. -> U S; before a new sentence or the end its last dot also ends the sentence."""
    letters: list[Token] = [Letters(re.sub(r"[^A-Za-z]", "", match.group()).upper())]
    return letters + _end_mark(match)


def _end_mark(match: re.Match[str]) -> list[Token]:
    rest = match.string[match.end() :]
    return [Mark(".")] if not rest.strip() or re.match(r"\s+(?!Ltd|Inc|Corp)[A-Z][a-z]", rest) else []


def _abbreviation(match: re.Match[str]) -> list[Token]:
    shortened = match.group(1).lower()
    tokens = _words(vocabulary.ABBREVIATIONS[shortened])
    return tokens + (_end_mark(match) if shortened in vocabulary.ABBREVIATIONS_THAT_MAY_END else _last_mark(match))


def _last_mark(match: re.Match[str]) -> list[Token]:
    return [] if match.string[match.end() :].strip() else [Mark(".")]


def _without_dot(match: re.Match[str]) -> list[Token]:
    return _words(vocabulary.WITHOUT_DOT[match.group().lower()])


def _saint_or_street(match: re.Match[str]) -> list[Token]:
    follows_name = re.search(r"\d\S*(?: [A-Z]\w+)* $", match.string[: match.start()][-32:])
    saint = re.match(r"\s+[A-Z]", match.string[match.end() :]) and not follows_name
    return [Word("saint")] if saint else [Word("street"), *_last_mark(match)]


def _initial(match: re.Match[str]) -> list[Token]:
    return [Letters(match.group()[0])]


def _number_sign(match: re.Match[str]) -> list[Token]:
    return [Word("number")]


def _address(match: re.Match[str]) -> list[Token]:
    """A URL or e-mail address: its words and signs one by one; the scheme is not said."""
    address = re.sub(r"^[a-z]+://", "", match.group(), flags=re.IGNORECASE)
    tokens: list[Token] = []
    for piece in re.findall(r"[A-Za-z]+|\d+|[^A-Za-z\d]", address):
        tokens += _address_piece(piece)
    return tokens


def _address_piece(piece: str) -> list[Token]:
    if piece.isdigit():
        return _words(numbers.cardinal(piece) if len(piece) < 3 else numbers.spell_digits(piece))
    if piece.isalpha():
        return [Letters(piece.upper())] if piece.lower() in ("www", "http", "html", "io", "ai", "uk") else [Word(piece)]
    return _words({".": "dot", "-": "dash", "?": "question mark", ":": "colon"}.get(piece, "")) or _sign(piece)


def _hashtag(match: re.Match[str]) -> list[Token]:
    return [Word("hashtag"), *_scan(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", match.group(1)))]


def _mention(match: re.Match[str]) -> list[Token]:
    return [Word("at"), *_scan(match.group(1).replace("_", " "))]


# --- numbers ---------------------------------------------------------------------------------------------------


def _amount(digits: str) -> str:
    return numbers.decimal(digits)


def _signed(sign: str | None) -> str:
    return "minus " if sign and sign in "-−" else "plus " if sign == "+" else ""


def _number(match: re.Match[str]) -> list[Token]:
    return _words(_signed(match.group(1)) + _amount(match.group(2)))


def _year(match: re.Match[str]) -> list[Token]:
    return _words(numbers.year(match.group()))


def _decade(match: re.Match[str]) -> list[Token]:
    return _words(numbers.decade(match.group(1)))


def _ordinal(match: re.Match[str]) -> list[Token]:
    return _words(numbers.ordinal(match.group(1)))


def _money(match: re.Match[str]) -> list[Token]:
    """$1,250.40 -> dollars and cents; $3.5 million -> three point five million dollars."""
    sign, minus, amount, scale = match.group("sign"), match.group("minus"), match.group("amount"), match.group("scale")
    one, many, cent, cents = vocabulary.CURRENCIES[sign]
    minus = _signed(minus)
    if scale:
        scale = vocabulary.MAGNITUDES.get(scale.strip().lower(), scale.strip().lower())
        return _words(f"{minus}{_amount(amount)} {scale} {many}")
    whole, _, rest = amount.partition(".")
    if len(rest) != 2 or not cent:
        return _words(f"{minus}{_amount(amount)} {one if amount == '1' else many}")
    parts = [_counted(whole, one, many)] if int(whole.replace(",", "") or 0) else []
    parts += [_counted(rest.lstrip("0"), cent, cents)] if int(rest) else []
    return _words(minus + (" and ".join(parts) or f"zero {many}"))


def _counted(digits: str, one: str, many: str) -> str:
    return f"{_amount(digits)} {one if digits == '1' else many}"


def _with_unit(match: re.Match[str]) -> list[Token]:
    sign, amount, unit = match.group(1), match.group(2), match.group(3)
    one, many = vocabulary.UNITS[unit]
    tokens = _words(f"{_signed(sign)}{_amount(amount)} {one if amount == '1' else many}")
    return tokens + (_end_mark(match) if unit.endswith(".") else [])


def _feet_and_inches(match: re.Match[str]) -> list[Token]:
    return _words(f"{_counted(match.group(1), 'foot', 'feet')} {_counted(match.group(2), 'inch', 'inches')}")


def _range(match: re.Match[str]) -> list[Token]:
    """5-10 -> five to ten, with the unit behind both; years as years."""
    first, last = (
        numbers.year(part) if re.fullmatch(r"1[1-9]\d\d|20\d\d", part) else _amount(part) for part in match.groups()
    )
    return _words(f"{first} to {last}")


def _fraction(match: re.Match[str]) -> list[Token]:
    whole, above, below = match.group(1), int(match.group(2)), int(match.group(3))
    lead = f"{numbers.cardinal(whole)} and " if whole else ""
    if 0 < above < below and below in vocabulary.SPOKEN_DENOMINATORS:
        return _words(lead + numbers.fraction(above, below))
    return _words(f"{lead}{numbers.cardinal(match.group(2))} over {numbers.cardinal(match.group(3))}")


def _vulgar_fraction(match: re.Match[str]) -> list[Token]:
    whole = match.group(1)
    spoken = numbers.fraction(*vocabulary.VULGAR_FRACTIONS[match.group(2)])
    return _words(f"{numbers.cardinal(whole)} and {spoken}" if whole else spoken)


def _idiom(match: re.Match[str]) -> list[Token]:
    return _words(vocabulary.IDIOMS[match.group()])


def _dotted_number(match: re.Match[str]) -> list[Token]:
    return _words(" point ".join(numbers.cardinal(part) for part in match.group().split(".")))


def _phone(match: re.Match[str]) -> list[Token]:
    """Digit by digit, a short pause between the groups."""
    tokens: list[Token] = [Word("plus")] if match.group().startswith("+") else []
    for group in re.findall(r"\d+", match.group()):
        tokens += [*_words(numbers.spell_digits(group)), Mark(",")]
    return tokens[:-1]


def _numbered(match: re.Match[str]) -> list[Token]:
    return _words(f"number {numbers.cardinal(match.group(1))}")


def _squared(match: re.Match[str]) -> list[Token]:
    raised = "".join(str(unicodedata.digit(character)) for character in match.group())
    return _words({"2": "squared", "3": "cubed"}.get(raised, f"to the power of {numbers.cardinal(raised)}"))


def _power(match: re.Match[str]) -> list[Token]:
    return _words(f"to the power of {_signed(match.group(1))}{numbers.cardinal(match.group(2))}")


def _times(match: re.Match[str]) -> list[Token]:
    unspaced = match.group() in ("x", "X", "×")  # 1920x1080: a size
    return [Word("by" if unspaced else "times")]


def _minus(match: re.Match[str]) -> list[Token]:
    return [Word("minus")]


def _about(match: re.Match[str]) -> list[Token]:
    return [Word("about")]


def _roman(match: re.Match[str]) -> list[Token]:
    cue, numeral = match.group(1), match.group(2)
    if len(numeral) == 1 and cue.lower() not in vocabulary.ROMAN_AFTER:
        return [Word(cue), Letters(numeral)]
    value = str(numbers.roman(numeral))
    if cue.lower() in vocabulary.ROMAN_AFTER:
        return [Word(cue), *_words(numbers.cardinal(value))]
    return [Word(cue), Word("the"), *_words(numbers.ordinal(value))]


# --- times and dates -------------------------------------------------------------------------------------------


def _time(match: re.Match[str]) -> list[Token]:
    """3:05 pm -> three oh five P M; 7:00 -> seven o'clock; 14:00 -> fourteen hundred."""
    hour, minute, second, half = int(match.group(1)), match.group(2), match.group(3), match.group(4)
    spoken = numbers.cardinal(str(hour))
    if int(minute) or second:
        spoken += " " + (f"oh {numbers.cardinal(minute[1])}" if minute[0] == "0" else numbers.cardinal(minute))
    elif not half:
        spoken += " hundred" if hour > 12 else " o'clock" if hour else " hundred"
    if second:
        spoken += f" and {_counted(second.lstrip('0') or '0', 'second', 'seconds')}"
    return [*_words(spoken), *_half_of_day(match, half)]


def _hour(match: re.Match[str]) -> list[Token]:
    return [*_words(numbers.cardinal(match.group(1))), *_half_of_day(match, match.group(2))]


def _half_of_day(match: re.Match[str], half: str | None) -> list[Token]:
    if not half:
        return []
    letters: list[Token] = [Letters(half.replace(".", "").upper())]
    return letters + (_end_mark(match) if half.endswith(".") else [])


def _month_day(match: re.Match[str]) -> list[Token]:
    month, day, year = match.group(1), match.group(2), match.group(3)
    return _date(vocabulary.MONTH_NAMES[month.lower()], day, year)


def _day_month(match: re.Match[str]) -> list[Token]:
    day, month, year = match.group(1), match.group(2), match.group(3)
    name = vocabulary.MONTH_NAMES[month.lower()]
    tokens = _words(f"the {numbers.ordinal(day)} of {name}")
    return tokens + ([Mark(","), *_words(numbers.year(year))] if year else [])


def _iso_date(match: re.Match[str]) -> list[Token]:
    year, month, day = match.groups()
    return _checked_date(match.group(), int(month), day, year)


def _slash_date(match: re.Match[str]) -> list[Token]:
    """3/5/2024: month first, as Americans write; day first where the first number is over 12."""
    first, second, year = match.groups()
    month, day = (second, first) if int(first) > 12 else (first, second)
    return _checked_date(match.group(), int(month), day, year)


def _checked_date(written: str, month: int, day: str, year: str) -> list[Token]:
    """A day of the calendar, or its numbers one by one."""
    if 1 <= month <= 12 and 1 <= int(day) <= 31:
        return _date(vocabulary.MONTHS[month - 1], day, year)
    between = " slash " if "/" in written else " dash "
    return _words(between.join(numbers.cardinal(part.lstrip("0") or "0") for part in re.split(r"\D", written)))


def _date(month: str, day: str, year: str | None) -> list[Token]:
    tokens = _words(f"{month} {numbers.ordinal(day)}")
    if not year:
        return tokens
    full = year if len(year) == 4 else f"{'19' if int(year) > 50 else '20'}{year}"
    return [*tokens, Mark(","), *_words(numbers.year(full))]


# --- signs and other scripts -----------------------------------------------------------------------------------


def _dots(match: re.Match[str]) -> list[Token]:
    return [Mark("…")]


def _dash(match: re.Match[str]) -> list[Token]:
    return [Mark("—")]


def _blank(match: re.Match[str]) -> list[Token]:
    return [Word("blank")]


def _sign(character: str) -> list[Token]:
    """One character that no rule took."""
    if character.isspace() or character in vocabulary.SILENT:
        return []
    if character in MARKS:
        return [Mark(character)]
    if character in vocabulary.PAUSES:
        mark = vocabulary.PAUSES[character]
        return [Mark(mark)] if mark else []
    if character in vocabulary.SYMBOLS:
        return _words(vocabulary.SYMBOLS[character])
    if character == "-":
        return []
    return _named(character)


def _named(character: str) -> list[Token]:
    if character in vocabulary.SKIN_TONES:
        return _words(vocabulary.SKIN_TONES[character])
    if "\U0001f1e6" <= character <= "\U0001f1ff":
        return [Letters(chr(ord(character) - 0x1F1E6 + ord("A")))]
    if unicodedata.category(character) in ("Mn", "Me"):
        return []
    if unicodedata.category(character) == "So" and unicodedata.east_asian_width(character) == "W":
        return [Mark(","), *name_characters(character), Mark(",")]
    if unicodedata.category(character) == "Nd":
        return _words(numbers.cardinal(str(unicodedata.digit(character))))
    return name_characters(character)


def _flag(match: re.Match[str]) -> list[Token]:
    return [Word("flag"), Word("of"), Letters("".join(chr(ord(c) - 0x1F1E6 + ord("A")) for c in match.group()))]


def _foreign_word(word: str) -> list[Token]:
    """A word in another alphabet or syllabary, by what its letters sound like or are called."""
    names = [_latin(character) for character in word]
    if len(word) == 1 and word.lower() in vocabulary.GREEK:
        return _words(unicodedata.name(word).split(" WITH ")[0].split()[-1].lower())
    if unicodedata.name(word[0], "").split()[0] in vocabulary.SOUNDED_SCRIPTS:
        return _words("".join(names)) or name_characters(word)
    return _words(" ".join(names)) or name_characters(word)


def _latin(character: str) -> str:
    """How a letter of another script sounds (tables), or the name that Unicode gives it."""
    for letter in (character.lower(), unicodedata.normalize("NFD", character.lower())[0]):
        if letter in vocabulary.LETTER_SOUNDS:
            return vocabulary.LETTER_SOUNDS[letter]
    found = _NAMED_LETTER.search(unicodedata.name(character, ""))
    name = found.group(1).lower() if found else ""
    return vocabulary.SYLLABLES.get(name, name)


def _tidy(tokens: list[Token]) -> list[Token]:
    """No mark at the beginning, the strongest of several in a row, and a sentence end at the end: voices need one."""
    tidy: list[Token] = []
    for token in tokens:
        if not isinstance(token, Mark):
            tidy.append(token)
        elif tidy and isinstance(tidy[-1], Mark):
            tidy[-1] = _stronger(tidy[-1], token)
        elif tidy:
            tidy.append(token)
    if tidy and not (isinstance(tidy[-1], Mark) and tidy[-1].text in SENTENCE_ENDS):
        tidy[-1:] = [Mark(".")] if isinstance(tidy[-1], Mark) else [tidy[-1], Mark(".")]
    return tidy


def _stronger(first: Mark, second: Mark) -> Mark:
    return second if second.text in SENTENCE_ENDS and first.text not in "?!" else first


def rule_patterns() -> list[tuple[str, str]]:
    """Name of the reading and pattern of every rule, in the order in which they are tried, for who reads elsewhere."""
    return [(rule.read.__name__.strip("_"), rule.pattern.pattern) for rule in _rules()]


@cache
def _rules() -> tuple[Rule, ...]:
    """All rules in the order in which they are tried; a rule before another hides it where both match."""
    pairs = (*_address_rules(), *_money_rules(), *_date_rules(), *_number_rules(), *_word_rules())
    return tuple(Rule(re.compile(pattern), reader) for pattern, reader in pairs)


def _address_rules() -> Iterator[tuple[str, Reading]]:
    path, last = r"[^\s<>\"]*", r"[^\s<>\".,;:!?)\]]"
    yield rf"(?:https?://|www\.){path}{last}", _address
    yield r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+", _address
    yield rf"(?:[A-Za-z0-9][A-Za-z0-9-]*\.)+(?:{vocabulary.TOP_LEVEL_DOMAINS})\b(?:/{path}{last})?(?!\.?\w)", _address
    yield r"#([A-Za-z]\w*)", _hashtag
    yield r"@([A-Za-z]\w*)", _mention
    yield r"(?:\+?\b\d{1,3}[ .-])?(?:\(\d{3}\) ?|\b\d{3}[-. ])\d{3}[-. ]\d{4}\b|\b\d{3}-\d{4}\b|\+\d{8,15}\b", _phone


def _money_rules() -> Iterator[tuple[str, Reading]]:
    scale = r"(?P<scale> (?:thousand|million|billion|trillion)\b|(?:[kKmMbBtT]|bn)\b)?"
    yield rf"(?P<minus>[-−])?(?P<sign>[{_MONEY}]) ?(?P<amount>{_NUMBER}){scale}", _money
    yield (
        rf"(?P<minus>[-−])?(?P<amount>{_NUMBER}) ?(?P<sign>[¢{_MONEY.replace(re.escape('$'), '')}])(?P<scale>(?!))?",
        _money,
    )


def _date_rules() -> Iterator[tuple[str, Reading]]:
    yield r"\b(?P<iso_year>\d{4})-(?P<iso_month>\d{2})-(?P<iso_day>\d{2})\b", _iso_date
    yield r"\b(?P<first>\d{1,2})/(?P<second>\d{1,2})/(?P<year>\d{4}|\d{2})\b", _slash_date
    yield rf"\b({_MONTH})\.? (\d{{1,2}})(?:st|nd|rd|th)?\b(?!:|\.\d|,\d)(?:,? (\d{{4}})\b)?", _month_day
    yield rf"\b(?:[Tt]he )?(\d{{1,2}})(?:st|nd|rd|th)? (?:of )?({_MONTH})\b(?:,? (\d{{4}})\b)?", _day_month
    yield r"\b([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?(?: ?([aApP]\.[mM]\.|[aApP][mM]\b))?(?!\d|:)", _time
    yield r"\b(1[0-2]|0?[1-9]) ?([aApP]\.[mM]\.|[aApP][mM]\b)", _hour
    yield r"\b(\d0|\d{4})'?s\b", _decade
    yield r"'(\d0)'?s\b", _decade


def _number_rules() -> Iterator[tuple[str, Reading]]:
    signed = rf"(?<![\w)])([-−+])?({_NUMBER})"
    yield rf"\b(?:{'|'.join(vocabulary.IDIOMS)})\b", _idiom
    yield r"(?<![\d/])(?:(\d+)[ -])?(\d+)/(\d+)(?![\d/])", _fraction
    yield rf"(\d*) ?([{''.join(vocabulary.VULGAR_FRACTIONS)}])", _vulgar_fraction
    yield r"(\d+)['′] ?(\d+)(?:\"|″|'')", _feet_and_inches
    yield r"\b\d+(?:\.\d+){2,}\b", _dotted_number
    yield r"\b(\d[\d,]*)(?:st|nd|rd|th)\b", _ordinal
    yield rf"(?<![\w.])({_NUMBER})(?:-| ?– ?)({_NUMBER})(?![\w-])", _range
    yield r"(?<![\w.:])(\d+):(\d+)(?![\d:])", _range
    yield rf"{signed} ?({_UNITS})(?![A-Za-z0-9²³])", _with_unit
    yield r"#(\d+)\b", _numbered
    yield r"\bNo\. ?(?=\d)", _number_sign
    yield r"\b(?:1[1-9]\d\d|20\d\d)\b(?![.,]\d|-\d)", _year
    yield r"(?<=[\w)])\^\{?([-−+])?(\d+)\}?", _power
    yield r"[²³⁰¹⁴-⁹]+", _squared
    yield r"(?<=\d) ?([xX×*]) ?(?=\d)", _times
    yield r"(?<=[\w)]) [-−] (?=\d)", _minus
    yield r"~(?=\d)", _about
    yield signed, _number
    yield rf"()({_NUMBER})", _number


def _word_rules() -> Iterator[tuple[str, Reading]]:
    ordinary = vocabulary.ABBREVIATIONS.keys() - vocabulary.ABBREVIATIONS_THAT_ARE_WORDS
    capitals = "|".join(word.capitalize() for word in sorted(vocabulary.ABBREVIATIONS_THAT_ARE_WORDS))
    starters = "|".join(vocabulary.SENTENCE_STARTERS)
    word = rf"[{_LATIN}]+(?:'[{_LATIN}]+)*"
    yield r"\bSt\.(?= |$)", _saint_or_street
    yield rf"\b({capitals})\.(?= [A-Z0-9])", _abbreviation
    yield r"\b([Ff]ig|[Ee]q|[Cc]h)\.(?= ?\d)", _abbreviation
    yield rf"(?i:\b({'|'.join(re.escape(word) for word in sorted(ordinary))})\.)(?![A-Za-z])", _abbreviation
    yield rf"\b(?:{'|'.join(vocabulary.WITHOUT_DOT)})\b(?!')", _without_dot
    yield r"(?:\b[A-Za-z]\.){2,}(?![A-Za-z])|\b(?:[A-Za-z]\.){2,}[A-Za-z]\b|\bPh\.D\.|\bPhD\b", _dotted_letters
    yield rf"\b[A-HJ-Z]\.(?= (?!(?:{starters})\b)[A-Z])", _initial
    yield r"\b([A-Z][a-z]+) (I{2,3}|IV|V|VI{1,3}|IX|X|XI{1,3}|XI?V|XVI{1,3}|XI?X|XX)\b(?!')", _roman
    yield rf"{word}(?:-{word})*(?:(?<=s)')?", _word
    yield r"\.{2,}|(?:\. ){2,}\.", _dots
    yield r"-{2,}| [-–] | ?[—–] ?", _dash
    yield r"_{3,}", _blank
    yield "[\U0001f1e6-\U0001f1ff]{2}", _flag
