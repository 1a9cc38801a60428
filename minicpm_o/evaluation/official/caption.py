"""Captioning: BLEU-1 to -4, ROUGE-L and CIDEr as coco-caption counts them, with its tokeniser or with none.

Script: pycocoevalcap 1.2 (COCO caption evaluation, arXiv:1504.00325; CIDEr arXiv:1411.5726). The name of a score says
what made words of the texts:
- ptb: coco-caption's own way, Stanford's Penn Treebank tokeniser 3.4.1, lower case, punctuation dropped. Here it is
  `ptb_text`, in regular expressions and without Java; of 4,493 made-up captions full of abbreviations and marks it
  writes 4,483 as the original does. What differs: telephone numbers in two parts, and a letter that ends a sentence.
- raw: the texts split at blanks, as VLMEvalKit e8e78f05 scores them (it prints 100 times the numbers), and as Chinese
  captions are scored that stand split into characters.
CIDEr is times 1 (papers print times 100). Its document frequencies come from the references of the set in use, so sets
do not compare; take at least 100 pictures. METEOR is not here: version 1.5 is a Java program with paraphrase tables and
WordNet, and a part of it would give another number. Nor is SPICE, which needs Stanford's parser.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from minicpm_o.errors import InputError
from minicpm_o.evaluation.metrics import Ngram, Tokens, cider, rouge_l
from minicpm_o.evaluation.official.files import Id, field, id_field, numbered, picture, read_json

BLEU_ORDERS = 4
_SMALL, _TINY = 1e-9, 1e-15
"""What coco-caption adds to counts of possible and of right n-grams, so that nothing is divided by zero."""

# --- the tokeniser of coco-caption ------------------------------------------------------------------------------

_DROPPED = frozenset("'.?!,:;")
_BRACKETS = str.maketrans({"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"})
_REPLACED = {
    "£": "#", "€": "$", "¢": "cents", "&amp;": "&", "&lt;": "<", "&gt;": ">", "y'all": "y' all",
    "½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3", "cannot": "can not", "gonna": "gon na",
    "gotta": "got ta", "wanna": "wan na", "gimme": "gim me", "lemme": "lem me",
}  # fmt: skip
_TYPED = str.maketrans({
    "’": "'", "‘": "'", "“": '"', "”": '"', "«": '"', "»": '"', "„": '"', "`": '"', "\n": " ", "–": " -- ", "—": " -- ",
    "…": " ... ", **{fraction: f" {fraction} " for fraction in "½¼¾⅓⅔"},
})  # fmt: skip

_ABBREVIATIONS = r"""
mr mrs ms mlle mme messrs drs? profs? sens? reps? attys? govs? lieut lt col gen adm rev maj sgt cpl pvt capt cmdr comdr
pfc spc supt det adj adv asst assoc ens insp sfc msgr hon brig pres esq jr sr bros inc cos? corp ltd plc bancorp bhd
assn univ intl sys dept pt[ye]s? cie st ste ave blvd rd sq bldg ct mt ft rt est tel ext ph etc vs cf al ph[.]d
jan feb mar apr jun jul aug sept? oct nov dec mon tues? wed thu thurs fri
ariz calif ala colo conn fla ga ind kan ky md mich minn mo mont neb nev okla penn tenn va vt wis wyo
""".split()
_CAPITAL_STATES = "Ill Del La Miss Ore Pa Tex Ark Wash Mass".split()
_BEFORE_NUMBERS = "nos? figs? ca art prop pp op".split()

_SET_APART = re.compile(r"""(?ix)
    (?<=[\w.]) (n't | '(?:s|m|d|ll|re|ve)) (?!\w)
  | (?<=\w) ('n'(?=\w) | (?<!cap)'n(?=\s|$))  # rock'n'roll, more'n
""")
_TOKEN = re.compile(
    rf"""(?=\S)(?:
      (?P<plain>(?<!\S)[A-Za-z]+(?=,?(?:\s|\Z)))                     # most words, found before all else is tried
    | </?[A-Za-z][^<>\s]*>                                         # tags
    | (?:https?|ftp)://\S*[\w/] | [\w.+-]+@\w+(?:\.\w+)+           # addresses
    | [#@][^\W\d]\w*                                               # hashtags
    | &(?:amp|lt|gt);
    | [:;=]-?[()DP](?!\w)                                          # smileys
    | [A-Z]{{1,2}}\$ | [Cc]\+\+
    | (?i:n't | '(?:s|m|d|ll|re|ve|em|til|cause) | 'n'? | '\d\ds?)(?!\w) | '[Tt](?=(?i:is|was)\b)
    | (?:\w+-)*(?:[^\W\d_]\.)+(?:[^\W\d_](?![\w.])|(?![^\W\d_]))(?:-\w+)*  # p.m. u.s U.S.-based J.
    | (?i:{"|".join(_ABBREVIATIONS)})\.(?!\w) | (?:{"|".join(_CAPITAL_STATES)})\.(?!\w)
    | (?i:{"|".join(_BEFORE_NUMBERS)})\.(?=\s*\d)
    | \d+\ \d+/\d+(?![\w/])                                        # 2 1/2
    | [-+]?\d+(?:[.,:]\d+)+ | [-+.,]\d+
    | [A-Z]+(?:&[A-Z]+)+                                           # AT&T
    | (?i:y'all|ma'am|cap'n|ol'|dunkin')(?!\w)
    | \w+(?:-\w+)*-[^\W\d_]'[^\W\d_]+ | [^\W\d_]'[^\W\d_]{{2,}}    # four-o'clock, o'clock
    | \w+(?:-\w+)*\.(?=[,;:])                                      # dog., is taken for an abbreviation
    | \w+(?:(?:[-/]|(?<=[^\W\d_])[.!?](?=[^\W\d_]))\w+)*           # words, 2-3, and/or, dog.cat
    | [!?]+ | \.+ | -+ | \*+ | "+ | \S
    )""",
    re.VERBOSE,
)


def ptb_text(text: str) -> str:
    """An English caption as coco-caption tokenises it: lower-case words with blanks between."""
    return " ".join(_tokens(text))


def ptb_tokens(text: str) -> list[str]:
    """The same as the words that CIDEr and ROUGE-L count."""
    return ptb_text(text).split()


def _tokens(text: str) -> Iterator[str]:
    typed = text.translate(_TYPED)
    for found in _TOKEN.finditer(_SET_APART.sub(r" \1\2 ", typed) if "'" in typed else typed):
        token = found.group().lower().replace(" ", "\N{NO-BREAK SPACE}")  # 2 1/2 is one word
        token = _REPLACED.get(token, token)
        if found.lastgroup == "plain" or not _is_dropped(token := token.translate(_BRACKETS)):
            yield token


def _is_dropped(token: str) -> bool:
    """Single marks, stops and quotes of any number, short dashes, and emoji outside Unicode's first plane."""
    marks = set(token)
    return (token in _DROPPED or marks == {"."} or marks == {'"'} or (marks == {"-"} and len(token) < 5)
            or (len(token) == 1 and ord(token) > 0xFFFF))


TOKENISERS: Mapping[str, Callable[[str], str]] = {"ptb": ptb_text, "raw": str}


# --- BLEU -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bleu:
    """BLEU-1 to -4 of all captions together, and of each."""

    corpus: tuple[float, ...]
    items: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class _Matches:
    """N-grams of a caption that stand in its references, and that it has, for each order; and the lengths."""

    right: tuple[int, ...]
    possible: tuple[int, ...]
    length: int
    reference_length: int


def bleu(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> Bleu:
    """BLEU of captions as coco-caption counts it: of the reference lengths the nearest, of equally near the shorter."""
    matches = [_matches(words, captions) for words, captions in zip(hypotheses, references, strict=True)]
    return Bleu(_bleu(_sum(matches)), tuple(map(_bleu, matches)))


def _matches(words: Tokens, captions: Sequence[Tokens]) -> _Matches:
    most: Counter[Ngram] = Counter()
    for caption in captions:
        most |= _ngrams(caption)
    right = [0] * BLEU_ORDERS
    for gram, count in (_ngrams(words) & most).items():
        right[len(gram) - 1] += count
    nearest = min((abs(len(caption) - len(words)), len(caption)) for caption in captions)[1]
    possible = tuple(max(0, len(words) - order) for order in range(BLEU_ORDERS))
    return _Matches(tuple(right), possible, len(words), nearest)


def _ngrams(words: Tokens) -> Counter[Ngram]:
    return Counter(tuple(words[start : start + order]) for order in range(1, BLEU_ORDERS + 1)
                   for start in range(len(words) - order + 1))


def _sum(matches: Sequence[_Matches]) -> _Matches:
    right = tuple(sum(column) for column in zip(*(match.right for match in matches), strict=True))
    possible = tuple(sum(column) for column in zip(*(match.possible for match in matches), strict=True))
    return _Matches(right, possible, sum(match.length for match in matches),
                    sum(match.reference_length for match in matches))


def _bleu(matches: _Matches) -> tuple[float, ...]:
    """Geometric means of the precisions up to each order, times the penalty on short captions."""
    ratio = (matches.length + _TINY) / (matches.reference_length + _SMALL)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    product, scores = 1.0, []
    for order, (right, possible) in enumerate(zip(matches.right, matches.possible, strict=True), start=1):
        product *= (right + _TINY) / (possible + _SMALL)
        scores.append(product ** (1 / order) * penalty)
    return tuple(scores)


# --- all scores of a set of captions ----------------------------------------------------------------------------


@dataclass(frozen=True)
class CaptionScores:
    """Scores of a set and of each caption; the tokeniser is part of every name in `metrics`."""

    tokeniser: str
    bleu: Bleu
    rouge_l: float
    cider: float
    item_rouge_l: tuple[float, ...]
    item_cider: tuple[float, ...]

    @property
    def metrics(self) -> dict[str, float]:
        """The scores of the set by their full names."""
        scores = {f"bleu_{order}": value for order, value in enumerate(self.bleu.corpus, start=1)}
        scores |= {"rouge_l": self.rouge_l, "cider": self.cider}
        return {f"{name}_{self.tokeniser}": value for name, value in scores.items()}


def caption_scores(tokeniser: str, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    """Scores of one caption a picture against one or more references; tokenisers: ptb, raw."""
    if tokeniser not in TOKENISERS:
        raise InputError(f"the tokeniser {tokeniser!r} is unknown here; known are {', '.join(TOKENISERS)}")
    _check(predictions, references)
    tokenise = TOKENISERS[tokeniser]
    said = [tokenise(prediction) for prediction in predictions]
    wanted = [[tokenise(caption) for caption in captions] for captions in references]
    # coco-caption's ROUGE splits at single blanks: an empty caption is one empty word there, and none for the others.
    rouge = tuple(rouge_l(text.split(" "), [caption.split(" ") for caption in captions])
                  for text, captions in zip(said, wanted, strict=True))
    hypotheses = [text.split() for text in said]
    corpus = [[caption.split() for caption in captions] for captions in wanted]
    consensus = tuple(cider(hypotheses, corpus))
    return CaptionScores(tokeniser, bleu(hypotheses, corpus), sum(rouge) / len(rouge),
                         sum(consensus) / len(consensus), rouge, consensus)


def _check(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(predictions) != len(references) or not predictions:
        raise InputError(f"{len(predictions)} predictions and references for {len(references)} pictures; expected one "
                         "prediction for every picture, and at least one picture")
    for number, captions in enumerate(references, start=1):
        if not captions:
            raise InputError(f"picture {number} has no reference caption; the script stops there, so leave it out")
    if not any(caption.split() for captions in references for caption in captions):
        raise InputError("all reference captions are empty; the script stops there, so see how they were read")


# --- files of COCO ----------------------------------------------------------------------------------------------

COCO = ("Get COCO captions from https://cocodataset.org/#download: a folder with annotations/captions_val2014.json and "
        "the pictures in val2014/ (val2017 alike)")


@dataclass(frozen=True)
class CaptionItem:
    """A picture and what people wrote under it."""

    id: str
    image: Path
    references: tuple[str, ...]


def load_coco_captions(folder: Path, split: str = "val2014") -> tuple[CaptionItem, ...]:
    """The pictures of a split that have captions, in the order of the file."""
    path = folder / "annotations" / f"captions_{split}.json"
    captions = _captions(path)
    images = field(read_json(path, COCO), "images", list, path.name)
    named = [(id_field(image, "id", place), field(image, "file_name", str, place))
             for place, image in numbered(images, path.name)]
    return tuple(CaptionItem(str(key), picture(folder / split / name, COCO), tuple(captions[key]))
                 for key, name in named if key in captions)


def coco_caption_scores(results: Path, annotations: Path, tokeniser: str = "ptb") -> CaptionScores:
    """Scores of a results file [{image_id, caption}] against an annotations file of COCO.

    Only the pictures of the results count, as in coco-caption's demo; each must be in the set, and once."""
    captions = _captions(annotations)
    said = _results(results)
    unknown = [key for key in said if key not in captions]
    if unknown:
        raise InputError(f"{results.name}: {len(unknown)} pictures have no caption in {annotations.name} (first: "
                         f"{unknown[0]!r}); take the annotations of the same split")
    return caption_scores(tokeniser, list(said.values()), [captions[key] for key in said])


def _captions(path: Path) -> dict[Id, list[str]]:
    captions: dict[Id, list[str]] = {}
    for place, note in numbered(field(read_json(path, COCO), "annotations", list, path.name), path.name):
        captions.setdefault(id_field(note, "image_id", place), []).append(field(note, "caption", str, place))
    return captions


def _results(path: Path) -> dict[Id, str]:
    rows = read_json(path, "expected a JSON list of {image_id, caption}")
    if not isinstance(rows, list):
        raise InputError(f"{path.name} holds a JSON {type(rows).__name__}; expected a list of {{image_id, caption}}")
    said: dict[Id, str] = {}
    for place, row in numbered(rows, path.name):
        key = id_field(row, "image_id", place)
        if key in said:
            raise InputError(f"{place}: a second caption for picture {key!r}; expected one for each")
        said[key] = field(row, "caption", str, place)
    return said
