"""VoiceBench as it is downloaded: `voicebench/SUBSET/*.parquet`, or the same rows as `voicebench/SUBSET.jsonl`.

A row of the parquet files has `audio`, a struct of `bytes` and `path`, and the fields that the subset's evaluator
reads: `prompt`; `reference` (sd-qa, mmsu, openbookqa, bbh); `id` (bbh); `key`, `instruction_id_list`, `kwargs`
(ifeval). A line of the jsonl has the same fields, and in `audio` the name of a sound beside it or in `audio/`.
Sounds stay in their file until they are asked about, for all of them take some gigabytes.

Which rows are a column of the published table: all of a subset but for two. The alpacaeval column is
`alpacaeval_full`; sd-qa comes in eleven accents of the same questions and the column has as many rows as one of them,
which here is `usa`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from minicpm_o.errors import AudioError, InputError, MissingExtraError
from minicpm_o.evaluation.official.files import needed_text, read_records
from minicpm_o.evaluation.official.voicebench import COLUMNS, EVALUATORS, JUDGED, EvaluatorName
from minicpm_o.evaluation.rows import Media, Row

FOLDER = "voicebench"
WHERE = ("Get VoiceBench from the Hugging Face data set hlt-lab/voicebench (hf download --repo-type dataset "
         "hlt-lab/voicebench --local-dir DATA/voicebench; 11 GB, of which alpacaeval_speaker/ and mtbench/ are not "
         "read): a folder voicebench/ with a folder of parquet files for each subset (alpacaeval_full, commoneval, "
         "wildvoice, sd-qa, mmsu, openbookqa, bbh, ifeval, advbench), or voicebench/SUBSET.jsonl with the same rows "
         "and the name of a sound file in 'audio'")
FULL = {"alpacaeval": "alpacaeval_full"}
"""Column -> the subset that the published table takes for it."""
ACCENT = "usa"


@dataclass(frozen=True)
class SpokenQuestion:
    """A question that is heard, and its row without the sound."""

    id: str
    sound: Media
    row: Row
    split: str
    """The part of the subset: a domain of mmsu, else test."""


@dataclass(frozen=True)
class Subset:
    """The rows of one column."""

    column: str
    questions: tuple[SpokenQuestion, ...]
    notes: tuple[str, ...] = ()

    @property
    def evaluator(self) -> EvaluatorName:
        """What scores its answers."""
        return COLUMNS[self.column]


def sources(folder: Path) -> dict[str, Path]:
    """Column -> folder of parquet files, or else jsonl, of those that are there."""
    found = {}
    for column in COLUMNS:
        names = [name for name in (FULL.get(column), column) if name is not None]
        paths = [path for name in names for path in (folder / name, folder / f"{name}.jsonl")]
        if (path := next((path for path in paths if path.exists()), None)) is not None:
            found[column] = path
    return found


def load(column: str, source: Path) -> Subset:
    """The rows of a column. Raises InputError that names the first row that is wrong, MissingExtraError where parquet
    files are there and pyarrow is not."""
    rows = list(_lines(source) if source.suffix == ".jsonl" else _parquet_rows(source, column))
    if not rows:
        raise InputError(f"{source.name} holds no rows. {WHERE}")
    for question in rows:
        check(question.row, COLUMNS[column])
    return Subset(column, tuple(rows), tuple(_notes(column, source)))


def check(row: Row, evaluator: EvaluatorName) -> None:
    """Raises InputError where a row lacks what its evaluator (or the judge) reads."""
    if evaluator in JUDGED:
        needed_text(row, "prompt")
    if evaluator in ("qa", "mcq", "bbh"):
        needed_text(row, "reference")
    if evaluator not in JUDGED:
        EVALUATORS[evaluator].read([answered(row, "no")])


def answered(row: Row, response: str) -> Row:
    """A row as it stands in an answer file."""
    return Row(row.path, row.line, {**row.fields, "response": response})


def _notes(column: str, source: Path) -> Iterator[str]:
    name = source.stem
    if column in FULL and name != FULL[column]:
        yield f"rows of {name}; the published column takes {FULL[column]}"
    if source.is_dir() and (left := [path.name for path in _all_files(source) if path not in _files(source, column)]):
        yield f"only the accent {ACCENT!r}; {len(left)} files of others are left out"


# --- jsonl ------------------------------------------------------------------------------------------------------


def _lines(path: Path) -> Iterator[SpokenQuestion]:
    for number, row in enumerate(read_records(path, WHERE)):
        fields = {name: value for name, value in row.fields.items() if name != "audio"}
        try:
            sound = row.media("audio")
        except InputError as error:
            raise InputError(f"{row.place}: {error}") from error
        yield SpokenQuestion(f"test-{number}", sound, Row(path, row.line, fields), "test")


# --- parquet ----------------------------------------------------------------------------------------------------


def _all_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def _files(folder: Path, column: str) -> list[Path]:
    """Of several accents one."""
    files = _all_files(folder)
    return [path for path in files if column == "sd-qa" and _split(path) == ACCENT] or files


def _split(path: Path) -> str:
    """law-00000-of-00001.parquet -> law."""
    return path.stem.split("-")[0]


def _parquet_rows(folder: Path, column: str) -> Iterator[SpokenQuestion]:
    files = _files(folder, column)
    if not files:
        raise InputError(f"no parquet files in {folder.name}/. {WHERE}")
    counts: Counter[str] = Counter()
    for path in files:
        for fields, sound in _read(path):
            split, number = _split(path), counts[_split(path)]
            counts[split] += 1
            yield SpokenQuestion(f"{split}-{number}", Media("audio", sound, f"{split}-{number}.wav"),
                                 Row(path, number + 1, fields), split)


def _read(path: Path) -> Iterator[tuple[Mapping[str, Any], partial[bytes]]]:
    """The fields of every row, and what reads its sound."""
    file = _open(path)
    names = file.schema_arrow.names
    if "audio" not in names:
        raise InputError(f"{path.name} has no column 'audio'; it has {', '.join(names) or 'none'}. {WHERE}")
    others = [name for name in names if name != "audio"]
    for group in range(file.num_row_groups):
        for place, fields in enumerate(_read_group(file, path, group, others).to_pylist()):
            yield fields, partial(sound_of, path, group, place)


def sound_of(path: Path, group: int, place: int) -> bytes:
    """The sound of a row of a row group. Raises AudioError where it cannot be read."""
    try:
        value = _read_group(_open(path), path, group, ["audio"]).column("audio")[place].as_py()
    except InputError as error:
        raise AudioError(str(error)) from error
    sound = value.get("bytes") if isinstance(value, dict) else None
    if not isinstance(sound, bytes) or not sound:
        raise AudioError(f"row {place + 1} of group {group + 1} of {path.name} holds no bytes in 'audio'. {WHERE}")
    return sound


def _open(path: Path) -> Any:
    """A parquet file, its rows not read."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("VoiceBench's parquet files need pyarrow; pip install 'minicpm-o[eval]', or give "
                                "voicebench/SUBSET.jsonl and sound files instead") from error
    try:
        return parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path.name} is no parquet file that can be read ({error}). {WHERE}") from error


def _read_group(file: Any, path: Path, group: int, columns: Sequence[str]) -> Any:
    import pyarrow

    try:
        return file.read_row_group(group, columns=list(columns))
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path.name}: rows cannot be read ({error}). {WHERE}") from error
