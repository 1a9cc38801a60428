"""Cornell NLVR: is a sentence true of a picture? Precision over pictures and consistency over sentences.

Paper: Suhr et al., ACL 2017. Script: `nlvr/metrics_images.py` of lil-lab/nlvr (2026-11). Every example has six
pictures, its boxes in all orders; "precision" is what others call accuracy; a sentence is consistent when all pictures
of all its examples are right. Always answering "true" has a precision of .553 on dev and .562 on test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from minicpm_o.errors import InputError
from minicpm_o.evaluation.official.files import needed_text, picture, read_records, read_text

ORDERS = 6
"""Pictures of an example."""

NLVR = ("Get Cornell NLVR from https://github.com/lil-lab/nlvr (folder nlvr): a folder with dev/dev.json and "
        "dev/images/DIRECTORY/dev-IDENTIFIER-0.png to -5.png, the same for train and test")


@dataclass(frozen=True)
class NlvrExample:
    """A sentence and whether it is true of its six pictures."""

    identifier: str
    """Sentence and place, "12-3"."""
    sentence: str
    label: str
    """true or false, in any case."""
    pictures: tuple[Path, ...] = ()

    @property
    def group(self) -> str:
        """What the examples of one sentence share."""
        return self.identifier.split("-")[0]


@dataclass(frozen=True)
class NlvrScores:
    """Fractions, of pictures and of sentences."""

    name: str
    precision: float
    consistency: float


def nlvr_scores(predictions: Path, labels: Path) -> NlvrScores:
    """Scores of a file "dev-12-3-0.png,true" a line against a file of the set, as metrics_images.py counts them."""
    return score_examples(read_predictions(predictions), read_examples(labels))


def score_examples(predictions: Mapping[str, str], examples: Sequence[NlvrExample]) -> NlvrScores:
    """Scores of what was said of each picture ("12-3-0" -> "true"); anything but the label counts as wrong."""
    _all_there(predictions, examples)
    right = {key: said.lower() for key, said in predictions.items()}
    hits = [[right[key] == example.label.lower() for key in _keys(example)] for example in examples]
    sentences: dict[str, bool] = {}
    for example, found in zip(examples, hits, strict=True):
        sentences[example.group] = sentences.get(example.group, True) and all(found)
    precision = sum(map(sum, hits)) / (ORDERS * len(examples))
    return NlvrScores("nlvr_official", precision, sum(sentences.values()) / len(sentences))


def _keys(example: NlvrExample) -> list[str]:
    return [f"{example.identifier}-{order}" for order in range(ORDERS)]


def _all_there(predictions: Mapping[str, str], examples: Sequence[NlvrExample]) -> None:
    """The script gives no number unless there is one prediction for every picture and no other."""
    if not examples:
        raise InputError("no labelled examples; expected the JSON file of a split, an example a line")
    expected = [key for example in examples for key in _keys(example)]
    missing = [key for key in expected if key not in predictions]
    if not missing and len(predictions) == len(expected):
        return
    unknown = sorted(set(predictions) - set(expected))
    raise InputError(
        f"{len(predictions)} predictions for {len(expected)} pictures: {len(missing)} are missing ({_first(missing)}), "
        f"{len(unknown)} are of other pictures ({_first(unknown)}); the script gives no number then. Give "
        "one for every picture of the split"
    )


def _first(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) or "none"


def read_predictions(path: Path) -> dict[str, str]:
    """Identifier of each picture -> what was said; of two lines for one picture the last counts."""
    source = "expected a file with a line SPLIT-IDENTIFIER-ORDER.png,true or ...,false for each picture"
    predictions = {}
    for number, line in enumerate(read_text(path, source).removesuffix("\n").split("\n"), start=1):
        cells = line.strip().split(",")
        if len(cells) < 2:
            raise InputError(f"{path.name} line {number} is {line!r}; expected a picture, a comma and true or false, "
                             "such as dev-12-3-0.png,true; the script stops at blank lines too")
        predictions["-".join(cells[0].split(".")[0].split("-")[1:])] = cells[1]
    return predictions


def read_examples(path: Path) -> tuple[NlvrExample, ...]:
    """The sentences and labels of a split, without pictures."""
    return tuple(
        NlvrExample(needed_text(row, "identifier"), needed_text(row, "sentence"), needed_text(row, "label"))
        for row in read_records(path, NLVR)
    )


def load_nlvr(folder: Path, split: str = "dev") -> tuple[NlvrExample, ...]:
    """The sentences, labels and pictures of a split."""
    path = folder / split / f"{split}.json"
    directories = [needed_text(row, "directory") for row in read_records(path, NLVR)]
    return tuple(
        NlvrExample(example.identifier, example.sentence, example.label, tuple(
            picture(folder / split / "images" / directory / f"{split}-{key}.png", NLVR) for key in _keys(example)))
        for example, directory in zip(read_examples(path), directories, strict=True)
    )
