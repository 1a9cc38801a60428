"""VQA accuracy (TextVQA, VQAv2), ANLS (DocVQA) and relaxed accuracy (ChartQA), as the official scripts count them.

VQA accuracy: mean over the leave-one-out subsets of the human answers of min(1, matches / 3), after a normalisation
of both sides. The same answers get different numbers from different scripts, so every score names its parser:
- m4c: `llava/eval/m4c_evaluator.py` of LLaVA c121f04 (TextVQA). lmms_eval: EvalAIAnswerProcessor of lmms-eval
  75571cfe; the same rule. It sets "'s" apart, so "it's" becomes "it 's".
- vlmevalkit: `dataset/utils/vqa_eval.py` of VLMEvalKit e8e78f05. Commas between words become blanks, a full stop
  after a digit stays.
- lavis: LAVIS's copy of the VQA v2 tool. It normalises the prediction in full but only the punctuation of the human
  answers, and that only where they differ; so a human "two" is never met.
Papers: TextVQA arXiv:1904.08920, VQA v2 arXiv:1612.00837, DocVQA arXiv:2007.00398, ChartQA arXiv:2203.10244.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from minicpm_o.errors import InputError
from minicpm_o.evaluation.metrics import edit_distance
from minicpm_o.evaluation.official.files import (
    Id,
    field,
    id_field,
    json_object,
    needed_id,
    needed_text,
    numbered,
    picture,
    read_json,
    read_records,
    shown,
    texts,
)

T = TypeVar("T")
Normalise = Callable[[str], str]

SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
"""What LLaVA and lmms-eval put after the question."""

ANLS_THRESHOLD = 0.5
RELAXED_TOLERANCE = 0.05


@dataclass(frozen=True)
class ItemScores:
    """A mean and what it is the mean of, as fractions; the name ends in the parser."""

    name: str
    value: float
    items: tuple[float, ...]


# --- normalising answers ----------------------------------------------------------------------------------------

_MARKS = ";/[]\"{}()=+\\_-><@`,?!"
_DIGIT_COMMA = re.compile(r"\d,\d")
_STOP = re.compile(r"\.(?!\d)")
LONE_STOP = re.compile(r"(?<!\d)\.(?!\d)")
_STOPS_REMOVED = 32
"""The scripts hand over re.UNICODE, which is 32, where `sub` expects how many to remove; so a 33rd full stop stays."""

_NUMBERS = {word: str(value) for value, word in
            enumerate("zero one two three four five six seven eight nine ten".split())} | {"none": "0"}
_ARTICLES = frozenset({"a", "an", "the"})
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def m4c_answer(answer: str) -> str:
    """An answer as LLaVA's m4c evaluator and lmms-eval compare it."""
    plain = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _plain_words(without_marks(_one_line(plain), _STOP))


def vlmevalkit_answer(answer: str) -> str:
    """An answer as VLMEvalKit compares it."""
    return _plain_words(without_marks(_one_line(answer), LONE_STOP))


def lavis_answer(answer: str) -> str:
    """A prediction as LAVIS's VQA tool compares it."""
    return _plain_words(lavis_reference(_one_line(answer)))


def lavis_reference(answer: str) -> str:
    """A human answer as LAVIS's VQA tool compares it: without punctuation, otherwise as it stands."""
    return without_marks(answer, _STOP)


PARSERS: Mapping[str, Normalise] = {
    "m4c": m4c_answer, "lmms_eval": m4c_answer, "vlmevalkit": vlmevalkit_answer,
}  # fmt: skip


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def without_marks(text: str, stop: re.Pattern[str]) -> str:
    """A mark beside a blank vanishes, one within a word becomes a blank; with a comma in a number all vanish."""
    in_number = _DIGIT_COMMA.search(text) is not None
    plain = text
    for mark in _MARKS:
        vanishes = in_number or f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if vanishes else " ")
    return stop.sub("", plain, count=_STOPS_REMOVED)


def _plain_words(text: str) -> str:
    """Lower case, number words up to ten as digits, no articles, contractions with their apostrophes."""
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    contractions = _contractions()
    return " ".join(contractions.get(word, word) for word in words if word not in _ARTICLES)


@lru_cache(maxsize=1)
def _contractions() -> dict[str, str]:
    """Every contraction by each of its forms that lacks one apostrophe."""
    table = {form[:place] + form[place + 1 :]: form for form in _CONTRACTED.split()
             for place, character in enumerate(form) if character == "'"}
    return table | {"somebody'd": "somebodyd"}  # this one the official table has the wrong way round


# --- VQA accuracy -----------------------------------------------------------------------------------------------


def leave_one_out(answer: str, references: Sequence[str]) -> tuple[float, ...]:
    """min(1, matches / 3) against the human answers without the first, without the second, ..."""
    return tuple(
        min(1.0, sum(other == answer for at, other in enumerate(references) if at != left_out) / 3)
        for left_out in range(len(references))
    )


def vqa_accuracy(parser: str, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> ItemScores:
    """VQA accuracy of each prediction against the human answers, and the mean; parsers: see PARSERS."""
    normalise = _known(PARSERS, parser)
    items = tuple(
        _mean(leave_one_out(normalise(prediction), [normalise(answer) for answer in answers]), "human answers")
        for prediction, answers in _paired(predictions, references)
    )
    return ItemScores(f"vqa_accuracy_{parser}", _mean(items, "predictions"), items)


def textvqa_scores(answers: Path, annotations: Path, parser: str = "m4c") -> ItemScores:
    """Accuracy of a file {question_id, prompt, text} a line, as LLaVA's eval_textvqa.py pairs it with TextVQA's json.

    The mean is over the lines of the answers, not over the questions of the set."""
    rows = read_records(answers, "Expected the answers of a model, a line {question_id, prompt, text} each")
    known = {(item[0], item[1].lower()): item[2] for item in _textvqa_annotations(annotations)}
    predictions, references = [], []
    for row in rows:
        key = (needed_id(row, "question_id"), textvqa_question(needed_text(row, "prompt"), row.place))
        if key not in known:
            raise InputError(f"{row.place}: {annotations.name} has no question {key[1]!r} for image {key[0]!r}; "
                             "question_id must be the image_id, the prompt must begin with the question of the set")
        predictions.append(needed_text(row, "text"))
        references.append(_ten(known[key], row.place) if parser == "m4c" else known[key])
    return vqa_accuracy(parser, predictions, references)


def textvqa_question(prompt: str, place: str) -> str:
    """The question of a LLaVA prompt, in lower case, with or without the OCR tokens that it may hold."""
    lines = prompt.split("\n")
    question = None
    if prompt.startswith("OCR tokens: "):
        match = re.search(r"Question: (.*?) Short answer:", prompt, re.DOTALL)
        question = match.group(1) if match else None
    elif "Reference OCR token: " in prompt and len(lines) == 3:
        question = lines[1] if prompt.startswith("Reference OCR token:") else lines[0]
    elif len(lines) == 2:
        question = lines[0]
    if question is None:
        raise InputError(f"{place}: 'prompt' is {shown(prompt)}; expected the question, a line end and "
                         f"{SHORT_ANSWER.strip()!r}")
    return question.lower()


def _textvqa_annotations(path: Path) -> list[tuple[Id, str, tuple[str, ...]]]:
    data = field(read_json(path, TEXTVQA), "data", list, path.name)
    return [
        (id_field(item, "image_id", place), field(item, "question", str, place), _answers(item, place))
        for place, item in numbered(data, path.name)
    ]


def _answers(item: object, place: str) -> tuple[str, ...]:
    """The human answers; none in the file of the test set."""
    return texts(item, "answers", place) if "answers" in json_object(item, place) else ()


def _ten(answers: tuple[str, ...], place: str) -> tuple[str, ...]:
    if len(answers) != 10:
        raise InputError(f"{place}: its question has {len(answers)} human answers; the official rule is for 10. "
                         "Take the validation file: that of the test set has no answers")
    return answers


# --- VQA v2 -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VqaV2Scores:
    """Per cent, rounded to two places as the tool prints them."""

    name: str
    overall: float
    per_answer_type: Mapping[str, float]
    per_question_type: Mapping[str, float]
    per_question: Mapping[Id, float]


def vqa_v2_scores(results: Path, annotations: Path) -> VqaV2Scores:
    """Scores of a results file [{question_id, answer}] against an annotations file, as LAVIS's VQA tool counts them.

    The results must hold every question of the annotations and no other."""
    notes = field(read_json(annotations, VQA_V2), "annotations", list, annotations.name)
    known = {id_field(note, "question_id", place): (place, note)
             for place, note in numbered(notes, annotations.name)}
    said = _results(results)
    _same_questions(results.name, set(said), set(known))
    accuracies = {key: _lavis_accuracy(said[key], note, place) for key, (place, note) in known.items()}
    types = {name: _by_type(accuracies, known, name) for name in ("answer_type", "question_type")}
    return VqaV2Scores("vqa_v2_accuracy_lavis", _percent(list(accuracies.values())), types["answer_type"],
                       types["question_type"], {key: round(100 * value, 2) for key, value in accuracies.items()})


def _results(path: Path) -> dict[Id, str]:
    rows = read_json(path, "expected a JSON list of {question_id, answer}")
    if not isinstance(rows, list):
        raise InputError(f"{path.name} holds a JSON {type(rows).__name__}; expected a list of {{question_id, answer}}")
    return {id_field(row, "question_id", place): field(row, "answer", str, place)
            for place, row in numbered(rows, path.name)}


def _same_questions(name: str, said: set[Id], known: set[Id]) -> None:
    if said == known and known:
        return
    missing, unknown = sorted(map(str, known - said)), sorted(map(str, said - known))
    raise InputError(
        f"{name}: {len(missing)} questions of the annotations have no answer ({', '.join(missing[:3]) or 'none'}) and "
        f"{len(unknown)} answers are for no question there ({', '.join(unknown[:3]) or 'none'}); the tool expects one "
        "answer for every question"
    )


def _lavis_accuracy(prediction: str, note: object, place: str) -> float:
    answers = [dict(json_object(answer, place)) for answer in field(note, "answers", list, place)]
    said = [field(answer, "answer", str, place) for answer in answers]
    if len(set(said)) > 1:
        answers = [{**answer, "answer": lavis_reference(text)} for answer, text in zip(answers, said, strict=True)]
    wanted = lavis_answer(prediction)
    # The tool leaves out every answer that equals the one left out in all its fields, answer_id included.
    matches = [sum(other["answer"] == wanted for other in answers if other != left_out) for left_out in answers]
    return _mean([min(1.0, count / 3) for count in matches], f"human answers at {place}")


def _by_type(accuracies: Mapping[Id, float], known: Mapping[Id, tuple[str, object]],
             name: str) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for key, (place, note) in known.items():
        groups.setdefault(field(note, name, str, place), []).append(accuracies[key])
    return {group: _percent(values) for group, values in groups.items()}


def _percent(values: Sequence[float]) -> float:
    return round(100 * sum(values) / len(values), 2)


# --- ANLS and relaxed accuracy ----------------------------------------------------------------------------------


def normalised_levenshtein(prediction: str, reference: str, parser: str = "vlmevalkit") -> float:
    """Edit distance of two answers (lower case, single blanks) over the length of the longer; 0 means equal.

    vlmevalkit and lmms_eval divide by the length as the texts stand, paper by that of the texts compared."""
    first, second = (" ".join(text.lower().split()) for text in (prediction, reference))
    longest = max(len(first), len(second))
    if _known({"vlmevalkit": True, "lmms_eval": True, "paper": False}, parser):
        longest = max(len(prediction.upper()), len(reference.upper()))
    return edit_distance(first, second) / longest if longest else 0.0


def anls(prediction: str, references: Sequence[str], parser: str = "vlmevalkit") -> float:
    """Similarity of an answer to the nearest reference, 0 where less than half is alike.

    Exactly half counts for vlmevalkit and lmms_eval; for the paper it does not."""
    ((_, references),) = _paired([prediction], [references])
    similarity = 1 - min(normalised_levenshtein(prediction, reference, parser) for reference in references)
    half = similarity == ANLS_THRESHOLD and parser == "paper"
    return 0.0 if similarity < ANLS_THRESHOLD or half else similarity


def anls_scores(parser: str, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> ItemScores:
    """Mean ANLS; parsers: vlmevalkit, lmms_eval (they agree), paper."""
    items = tuple(anls(prediction, answers, parser) for prediction, answers in _paired(predictions, references))
    return ItemScores(f"anls_{parser}", _mean(items, "predictions"), items)


def relaxed_correct(prediction: str, reference: str) -> bool:
    """Numbers within 5 per cent of the reference, "50%" read as 0.5; anything else, and a reference of 0, as text.

    VLMEvalKit and lmms-eval agree here, but VLMEvalKit strips the prediction first."""
    said, wanted = _number(prediction), _number(reference)
    if said is not None and wanted:
        return abs(said - wanted) / abs(wanted) <= RELAXED_TOLERANCE
    return prediction.lower() == reference.lower()


def relaxed_scores(parser: str, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> ItemScores:
    """Relaxed accuracy, the best of several references; parsers: vlmevalkit, lmms_eval."""
    strip = _known({"vlmevalkit": True, "lmms_eval": False}, parser)
    items = tuple(
        float(any(relaxed_correct(prediction.strip() if strip else prediction, answer) for answer in answers))
        for prediction, answers in _paired(predictions, references)
    )
    return ItemScores(f"relaxed_accuracy_{parser}", _mean(items, "predictions"), items)


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _known(table: Mapping[str, T], parser: str) -> T:
    if parser not in table:
        raise InputError(f"the parser {parser!r} is unknown here; known are {', '.join(table)}")
    return table[parser]


def _paired(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[tuple[str, Sequence[str]]]:
    if len(predictions) != len(references):
        raise InputError(f"{len(predictions)} predictions but references for {len(references)} questions; expected one "
                         "prediction for every question, in the same order")
    for number, (prediction, answers) in enumerate(zip(predictions, references, strict=True), start=1):
        if not answers:
            raise InputError(f"prediction {number}, {shown(prediction)}, has no reference; leave it out")
    return list(zip(predictions, references, strict=True))


def _mean(values: Sequence[float], what: str) -> float:
    if not values:
        raise InputError(f"no {what} to take the mean of; the official script divides by zero there")
    return sum(values) / len(values)


# --- the sets ---------------------------------------------------------------------------------------------------

TEXTVQA = ("Get TextVQA from https://textvqa.org/dataset: a folder with TextVQA_0.5.1_val.json and train_images/ "
           "(the pictures of train and val; test_images/ for test)")
VQA_V2 = ("Get VQA v2 from https://visualqa.org/download.html: a folder with "
          "v2_OpenEnded_mscoco_val2014_questions.json, v2_mscoco_val2014_annotations.json and, of COCO, val2014/")
DOCVQA = ("Get DocVQA task 1 from https://rrc.cvc.uab.es/?ch=17: a folder with val_v1.0.json (or val_v1.0_withQT.json) "
          "and documents/")
CHARTQA = ("Get ChartQA from https://github.com/vis-nlp/ChartQA: a folder with test/test_human.json, "
           "test/test_augmented.json and test/png/")


@dataclass(frozen=True)
class VqaItem:
    """A question about a picture, with the answers that are accepted."""

    id: str
    image: Path
    question: str
    answers: tuple[str, ...]
    group: str = ""
    """Answer type of VQA v2; human or augmented of ChartQA."""

    @property
    def prompt(self) -> str:
        """The question as LLaVA and lmms-eval ask it."""
        return self.question + SHORT_ANSWER


def load_textvqa(folder: Path, split: str = "val") -> tuple[VqaItem, ...]:
    """The questions of TextVQA; ids are image ids, as LLaVA's answer files have them."""
    path = folder / f"TextVQA_0.5.1_{split}.json"
    pictures = folder / ("test_images" if split == "test" else "train_images")
    return tuple(
        VqaItem(str(image), picture(pictures / f"{image}.jpg", TEXTVQA), question, answers)
        for image, question, answers in _textvqa_annotations(path)
    )


def load_vqa_v2(folder: Path, split: str = "val2014") -> tuple[VqaItem, ...]:
    """The questions of VQA v2 with their human answers."""
    path = folder / f"v2_OpenEnded_mscoco_{split}_questions.json"
    questions = field(read_json(path, VQA_V2), "questions", list, path.name)
    notes_path = folder / f"v2_mscoco_{split}_annotations.json"
    notes = field(read_json(notes_path, VQA_V2), "annotations", list, notes_path.name)
    answered = {field(note, "question_id", int, place): (place, note)
                for place, note in numbered(notes, notes_path.name)}
    return tuple(_vqa_v2_item(folder / split, split, question, place, answered)
                 for place, question in numbered(questions, path.name))


def _vqa_v2_item(pictures: Path, split: str, question: object, place: str,
                 answered: Mapping[int, tuple[str, object]]) -> VqaItem:
    key = field(question, "question_id", int, place)
    if key not in answered:
        raise InputError(f"{place}: the annotations have no answer to question {key}; take both files of one split")
    note_place, note = answered[key]
    answers = tuple(field(answer, "answer", str, note_place) for answer in field(note, "answers", list, note_place))
    image = picture(pictures / f"COCO_{split}_{field(question, 'image_id', int, place):012d}.jpg", VQA_V2)
    group = field(note, "answer_type", str, note_place)
    return VqaItem(str(key), image, field(question, "question", str, place), answers, group)


def load_docvqa(folder: Path, split: str = "val") -> tuple[VqaItem, ...]:
    """The questions of DocVQA task 1."""
    path = folder / f"{split}_v1.0.json"
    path = path if path.is_file() else folder / f"{split}_v1.0_withQT.json"
    data = field(read_json(path, DOCVQA), "data", list, path.name)
    return tuple(
        VqaItem(str(id_field(item, "questionId", place)),
                picture(folder / field(item, "image", str, place), DOCVQA),
                field(item, "question", str, place), _answers(item, place))
        for place, item in numbered(data, path.name)
    )


def load_chartqa(folder: Path, split: str = "test") -> tuple[VqaItem, ...]:
    """The questions of ChartQA, written by people (human) and by a model (augmented)."""
    return tuple(item for group in ("human", "augmented") for item in _chartqa_items(folder / split, split, group))


def _chartqa_items(folder: Path, split: str, group: str) -> list[VqaItem]:
    path = folder / f"{split}_{group}.json"
    rows = read_json(path, CHARTQA)
    if not isinstance(rows, list):
        raise InputError(f"{path.name} holds a JSON {type(rows).__name__}; expected a list. {CHARTQA}")
    return [
        VqaItem(f"{group}-{number}", picture(folder / "png" / field(row, "imgname", str, place), CHARTQA),
                field(row, "query", str, place), (field(row, "label", str, place),), group)
        for number, (place, row) in enumerate(numbered(rows, path.name))
    ]
