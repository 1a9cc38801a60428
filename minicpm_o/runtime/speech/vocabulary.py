"""What written signs, shortened words and units are called in English. Tables only."""

from __future__ import annotations

MONTHS = ("January February March April May June July August September October November December").split()

MONTH_NAMES = (
    {name[:3].lower(): name for name in MONTHS} | {name.lower(): name for name in MONTHS} | {"sept": "September"}
)

CURRENCIES: dict[str, tuple[str, str, str, str]] = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "€": ("euro", "euros", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "¥": ("yen", "yen", "sen", "sen"),
    "₹": ("rupee", "rupees", "paisa", "paise"),
    "₩": ("won", "won", "jeon", "jeon"),
    "₽": ("ruble", "rubles", "kopek", "kopeks"),
    "¢": ("cent", "cents", "", ""),
}
"""One, many, one hundredth, many hundredths."""

MAGNITUDES = {"k": "thousand", "m": "million", "b": "billion", "bn": "billion", "t": "trillion"}

UNITS: dict[str, tuple[str, str]] = {
    "km/h": ("kilometer per hour", "kilometers per hour"),
    "m/s": ("meter per second", "meters per second"),
    "mph": ("mile per hour", "miles per hour"),
    "fps": ("frame per second", "frames per second"),
    "rpm": ("revolution per minute", "revolutions per minute"),
    "km²": ("square kilometer", "square kilometers"),
    "m²": ("square meter", "square meters"),
    "m³": ("cubic meter", "cubic meters"),
    "km": ("kilometer", "kilometers"),
    "cm": ("centimeter", "centimeters"),
    "mm": ("millimeter", "millimeters"),
    "m": ("meter", "meters"),
    "ft": ("foot", "feet"),
    "in.": ("inch", "inches"),
    "mi": ("mile", "miles"),
    "yd": ("yard", "yards"),
    "kg": ("kilogram", "kilograms"),
    "mg": ("milligram", "milligrams"),
    "g": ("gram", "grams"),
    "lbs": ("pound", "pounds"),
    "lb": ("pound", "pounds"),
    "oz": ("ounce", "ounces"),
    "ml": ("milliliter", "milliliters"),
    "mL": ("milliliter", "milliliters"),
    "L": ("liter", "liters"),
    "l": ("liter", "liters"),
    "ms": ("millisecond", "milliseconds"),
    "sec": ("second", "seconds"),
    "s": ("second", "seconds"),
    "min": ("minute", "minutes"),
    "hrs": ("hour", "hours"),
    "hr": ("hour", "hours"),
    "h": ("hour", "hours"),
    "GHz": ("gigahertz", "gigahertz"),
    "MHz": ("megahertz", "megahertz"),
    "kHz": ("kilohertz", "kilohertz"),
    "Hz": ("hertz", "hertz"),
    "TB": ("terabyte", "terabytes"),
    "GB": ("gigabyte", "gigabytes"),
    "MB": ("megabyte", "megabytes"),
    "KB": ("kilobyte", "kilobytes"),
    "kB": ("kilobyte", "kilobytes"),
    "Mbps": ("megabit per second", "megabits per second"),
    "Gbps": ("gigabit per second", "gigabits per second"),
    "kWh": ("kilowatt hour", "kilowatt hours"),
    "mAh": ("milliamp hour", "milliamp hours"),
    "MW": ("megawatt", "megawatts"),
    "kW": ("kilowatt", "kilowatts"),
    "W": ("watt", "watts"),
    "mV": ("millivolt", "millivolts"),
    "kV": ("kilovolt", "kilovolts"),
    "V": ("volt", "volts"),
    "dB": ("decibel", "decibels"),
    "px": ("pixel", "pixels"),
    "MP": ("megapixel", "megapixels"),
    "°C": ("degree Celsius", "degrees Celsius"),
    "℃": ("degree Celsius", "degrees Celsius"),
    "°F": ("degree Fahrenheit", "degrees Fahrenheit"),
    "℉": ("degree Fahrenheit", "degrees Fahrenheit"),
    "°": ("degree", "degrees"),
    "%": ("percent", "percent"),
    "‰": ("per mille", "per mille"),
}

ABBREVIATIONS = {
    "mr": "mister",
    "mrs": "missus",
    "ms": "Ms.",
    "dr": "doctor",
    "prof": "professor",
    "gen": "general",
    "sgt": "sergeant",
    "capt": "captain",
    "lt": "lieutenant",
    "col": "colonel",
    "sen": "senator",
    "rep": "representative",
    "gov": "governor",
    "rev": "reverend",
    "hon": "honorable",
    "jr": "junior",
    "sr": "senior",
    "vs": "versus",
    "etc": "etc",
    "e.g": "for example",
    "i.e": "that is",
    "approx": "approximately",
    "dept": "department",
    "inc": "incorporated",
    "ltd": "limited",
    "corp": "corporation",
    "co": "company",
    "ave": "avenue",
    "blvd": "boulevard",
    "rd": "road",
    "mt": "mount",
    "ft": "fort",
    "fig": "figure",
    "figs": "figures",
    "eq": "equation",
    "vol": "volume",
    "ch": "chapter",
    "pp": "pages",
    "est": "established",
    "misc": "miscellaneous",
    "jan": "January",
    "feb": "February",
    "mar": "March",
    "apr": "April",
    "jun": "June",
    "jul": "July",
    "aug": "August",
    "sept": "September",
    "sep": "September",
    "oct": "October",
    "nov": "November",
    "dec": "December",
}
"""Shortened words that are written with a dot; a dot at the end of the text or before a new sentence still pauses."""

ABBREVIATIONS_THAT_MAY_END = frozenset("etc inc ltd corp co jr sr ave blvd rd dept est".split())
ABBREVIATIONS_THAT_ARE_WORDS = frozenset("co gen col sen rep rev mar jun dec fig est mt ft eq ch".split())
"""Read as shortened words only when a dot follows, and these only before a capital or a digit."""

WITHOUT_DOT = {"Mr": "mister", "Mrs": "missus", "Ms": "Ms.", "Dr": "doctor", "vs": "versus", "etc": "etc"}

SENTENCE_STARTERS = (
    "The A An It He She They We You This That These Those There Then Now In On At By For From With And But Or So If "
    "When While As After Before Is Are Was Were Do Does Did What Who Where Why How My Your His Her Its Our Their"
).split()
"""A capital letter with a dot before one of these ended a sentence; before another name it is an initial."""

SYMBOLS = {
    "&": "and",
    "+": "plus",
    "=": "equals",
    "@": "at",
    "%": "percent",
    "#": "hash",
    "/": "slash",
    "\\": "backslash",
    "_": "underscore",
    "*": "asterisk",
    "~": "tilde",
    "^": "caret",
    "<": "less than",
    ">": "greater than",
    "$": "dollar",
    "€": "euro",
    "£": "pound",
    "¥": "yen",
    "¢": "cent",
    "₹": "rupee",
    "₩": "won",
    "₽": "ruble",
    "°": "degrees",
    "©": "copyright",
    "®": "registered",
    "™": "trademark",
    "§": "section",
    "¶": "paragraph",
    "×": "times",
    "÷": "divided by",
    "−": "minus",
    "±": "plus or minus",
    "≈": "is about",
    "≠": "is not equal to",
    "≤": "less than or equal to",
    "≥": "greater than or equal to",
    "→": "to",
    "←": "from",
    "⇒": "implies",
    "∞": "infinity",
    "√": "square root of",
    "∑": "sum",
    "∫": "integral",
    "∂": "partial",
    "∈": "in",
    "²": "squared",
    "³": "cubed",
    "‰": "per mille",
    "№": "number",
    "`": "backtick",
}

PAUSES = {
    "(": ",",
    ")": ",",
    "[": ",",
    "]": ",",
    "{": ",",
    "}": ",",
    "|": ",",
    "•": ",",
    "·": ",",
    "–": "—",
    "—": "—",
    "―": "—",
    "…": "…",
    "、": ",",
    "，": ",",
    "。": ".",
    "．": ".",
    "！": "!",
    "？": "?",
    "：": ":",
    "；": ";",
    "（": ",",
    "）": ",",
    "¿": "",
    "¡": "",
}
"""Signs that pause (empty: only shape the tone that the closing mark gives)."""

SILENT = frozenset("\"'“”„‟«»‹›‘’‚‛「」『』《》〈〉【】〔〕")
"""Quotation marks: seen, not heard."""

VULGAR_FRACTIONS = {"¼": (1, 4), "½": (1, 2), "¾": (3, 4), "⅓": (1, 3), "⅔": (2, 3), "⅛": (1, 8), "⅜": (3, 8),
                    "⅝": (5, 8), "⅞": (7, 8), "⅕": (1, 5), "⅖": (2, 5), "⅗": (3, 5), "⅘": (4, 5), "⅙": (1, 6),
                    "⅚": (5, 6)}  # fmt: skip

SPOKEN_DENOMINATORS = frozenset((2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 20, 100))

IDIOMS = {"24/7": "twenty four seven", "9/11": "nine eleven", "50/50": "fifty fifty"}

SKIN_TONES = {
    "\U0001f3fb": "light skin tone",
    "\U0001f3fc": "medium light skin tone",
    "\U0001f3fd": "medium skin tone",
    "\U0001f3fe": "medium dark skin tone",
    "\U0001f3ff": "dark skin tone",
}

ROMAN_AFTER = frozenset("chapter war part volume section act scene book title phase stage type grade level".split())

TOP_LEVEL_DOMAINS = "com|org|net|edu|gov|io|ai|dev|app|info|co|me|tv|uk|de|fr|cn|jp|eu|us|ca"

LETTER_SOUNDS = dict(
    zip(
        "абвгдежзийклмнопрстуфхцчшщъыьэюяіїєґαβγδεζηθικλμνξοπρσςτυφχψω",
        [
            *"a b v g d ye zh z i y k l m n o p r s t u f kh ts ch sh shch".split(),
            *("", "y", "", *"e yu ya i yi ye g".split()),
            *"a v g d e z i th i k l m n x o p r s s t i f h ps o".split(),
        ],
        strict=True,
    )
)
"""Cyrillic and Greek letters as an English reader would write their sounds."""

GREEK = frozenset("αβγδεζηθικλμνξοπρσςτυφχψω")

SOUNDED_SCRIPTS = frozenset(
    "CYRILLIC GREEK HIRAGANA KATAKANA HANGUL DEVANAGARI BENGALI GUJARATI TAMIL TELUGU KANNADA MALAYALAM".split()
)
"""Scripts whose letters' names are their sounds; words in others are read as the names of their letters."""

SYLLABLES = {"si": "shi", "ti": "chi", "tu": "tsu", "hu": "fu", "zi": "ji", "di": "ji", "du": "zu"}
