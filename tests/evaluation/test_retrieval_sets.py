"""Retrieval splits of BLIP and Karpathy from made-up files to the report."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from minicpm_o.errors import InputError
from minicpm_o.evaluation.local import run_local
from minicpm_o.evaluation.tasks.retrieval import MOST_MEDIA


class Seeing:
    """Finds the caption likeliest that names the picture."""

    name = "seeing"

    def losses(self, messages: Any, texts: list[str], *, transcript: bool = True) -> list[Any]:
        (picture,) = [Path(part["image"]).stem for part in messages[0]["content"] if part["type"] == "image"] or ["?"]
        return [SimpleNamespace(loss=0.0 if f"number {picture} " in text else 1.0, num_tokens=1) for text in texts]

    def chat(self, messages: Any, **_: Any) -> str:
        return ""

    def transcribe(self, source: Any, **_: Any) -> str:
        return ""


def captions(number: int) -> list[str]:
    return [f"picture number {number} is this", f"another text of {number}"]


def blip(data: Any, count: int, file: str = "flickr30k_test.json", folder: str = "flickr30k-images") -> Path:
    data.images(f"retrieval/{folder}", *(f"{number}.jpg" for number in range(count)))
    path = Path(data.root) / "retrieval" / file
    path.write_text(json.dumps([{"image": f"{folder}/{number}.jpg", "caption": captions(number)}
                                for number in range(count)]), encoding="utf-8")
    return path


def test_the_first_pictures_are_a_part_and_say_so(data: Any) -> None:
    blip(data, MOST_MEDIA + 2)
    report = run_local(Seeing(), data.root, blind=True)
    line = report.task("retrieval_part/flickr30k/retrieval")
    assert line.n == MOST_MEDIA and line.metrics["text_r1"] == line.metrics["medium_r1"] == 1.0
    assert line.chance == pytest.approx(1 / MOST_MEDIA) and line.blind["r_mean"] < 0.5
    assert report.task("retrieval_part/flickr30k/matching").score == 1.0
    assert any(f"the first {MOST_MEDIA} of {MOST_MEDIA + 2} pictures" in note and "no score of the benchmark" in note
               for note in report.notes)


def test_karpathys_files_are_read_alike(data: Any) -> None:
    blip(data, 3)
    for file, folder in (("dataset_flickr30k.json", None), ("dataset_coco.json", "val2014")):
        data.images("retrieval/val2014", *(f"{number}.jpg" for number in range(3)))
        rows = [{"filename": f"{number}.jpg", "split": split, "sentences": [{"raw": text} for text in captions(number)],
                 **({"filepath": folder} if folder else {})} for number, split in enumerate(("test", "train", "test"))]
        (data.root / "retrieval" / file).write_text(json.dumps({"images": rows}), encoding="utf-8")
    report = run_local(Seeing(), data.root)
    assert report.task("retrieval_part/flickr30k/retrieval").n == 3, "BLIP's file stands first"
    assert report.task("retrieval_part/coco/retrieval").n == 2
    (data.root / "retrieval" / "flickr30k_test.json").unlink()
    assert run_local(Seeing(), data.root).task("retrieval_part/flickr30k/retrieval").n == 2


def test_a_broken_set_is_named_and_the_other_goes_on(data: Any) -> None:
    blip(data, 3).write_text('[{"image": "flickr30k-images/0.jpg"}]', encoding="utf-8")
    blip(data, 3, "coco_karpathy_test.json", "val2014")
    report = run_local(Seeing(), data.root)
    assert "flickr30k_test.json item 1 has no field 'caption'" in report.bad_rows[0].reason
    assert report.task("retrieval_part/coco/matching").n == 3
    (data.root / "retrieval" / "val2014" / "2.jpg").unlink()
    with pytest.raises(InputError, match="Get the Karpathy splits .* put the file and the pictures into a folder"):
        run_local(Seeing(), data.root, tasks=["retrieval_part/coco/retrieval"])


def test_other_pictures_have_another_name(data: Any) -> None:
    blip(data, 2)
    (data.root / "STAND_IN").write_text("made up", encoding="utf-8")
    assert run_local(Seeing(), data.root).task("retrieval_part_format/flickr30k/retrieval").n == 2
