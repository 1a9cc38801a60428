"""Numbers to English words, as Americans say them ("one hundred five", "nineteen eighty-four"). Knows no sounds.

Everything takes the digits as text, so that leading zeros and long numbers keep their reading.
"""

from __future__ import annotations

MAX_CARDINAL_DIGITS = 15
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DENOMINATORS = {2: ("half", "halves"), 4: ("quarter", "quarters")}
ROMAN = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}


def cardinal(digits: str) -> str:
    """'1,204' -> one thousand two hundred four. Leading zeros and very long numbers are read digit by digit."""
    digits = digits.replace(",", "")
    if (len(digits) > 1 and digits[0] == "0") or len(digits) > MAX_CARDINAL_DIGITS:
        return spell_digits(digits)
    return _num2words(int(digits), "cardinal")


def decimal(digits: str) -> str:
    """'3.14' -> three point one four; '.5' -> point five; whole numbers as `cardinal`."""
    whole, point, rest = digits.partition(".")
    spoken = cardinal(whole) if whole else ""
    return f"{spoken} point {spell_digits(rest)}".strip() if point and rest else spoken


def ordinal(digits: str) -> str:
    """'21' -> twenty-first."""
    return _num2words(int(digits.replace(",", "")), "ordinal")


def spell_digits(digits: str) -> str:
    """'407' -> four zero seven."""
    return " ".join(DIGITS[int(digit)] for digit in digits)


def year(digits: str) -> str:
    """1984 -> nineteen eighty-four; 1905 -> nineteen oh five; 2007 -> two thousand seven; 1900 -> nineteen hundred."""
    century, rest = divmod(int(digits), 100)
    if century % 10 == 0 and rest < 10:
        return cardinal(digits)
    if rest == 0:
        return f"{cardinal(str(century))} hundred"
    return f"{cardinal(str(century))} {'oh ' if rest < 10 else ''}{cardinal(str(rest))}"


def decade(digits: str) -> str:
    """'1990' -> nineteen nineties; '80' -> eighties."""
    spoken = year(digits) if len(digits) == 4 else cardinal(digits)
    return f"{spoken[:-1]}ies" if spoken.endswith("y") else f"{spoken}s"


def fraction(above: int, below: int) -> str:
    """3, 4 -> three quarters; 5, 12 -> five twelfths."""
    one, many = DENOMINATORS.get(below) or (ordinal(str(below)), f"{ordinal(str(below))}s")
    return f"{cardinal(str(above))} {one if above == 1 else many}"


def roman(numeral: str) -> int:
    """'XIV' -> 14."""
    values = [ROMAN[letter] for letter in numeral]
    signed = [-value if value < max(values[index:]) else value for index, value in enumerate(values)]
    return sum(signed)


def _num2words(value: int, to: str) -> str:
    from num2words import num2words

    return str(num2words(value, to=to)).replace(" and ", " ").replace(",", "")
