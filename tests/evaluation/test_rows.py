from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from minicpm_o.evaluation.rows import Row, read_rows


def parse(row: Row) -> Iterable[str]:
    yield row.text("text", "transcript")


def test_bad_lines_are_named_and_the_rest_is_used(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_bytes(
        b'{"text": "one"}\n{broken\n\n[1, 2]\n{"transcript": "two"}\n{"other": 1}\n{"text": 5}\n{"text": "\xff"}\n'
    )
    good, bad = read_rows(path, parse)
    assert good == ["one", "two"]
    assert [row.line for row in bad] == [2, 4, 6, 7, 8]
    assert "not JSON" in bad[0].reason
    assert "expected an object" in bad[1].reason
    assert bad[2].reason == "no field 'text' or 'transcript'; the row has other"
    assert "expected a text" in bad[3].reason
    assert "UTF-8" in bad[4].reason
    assert bad[0].place == f"{tmp_path.name}/set.jsonl line 2"


def test_media_lie_beside_the_file_or_in_their_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"x")
    (tmp_path / "b.png").write_bytes(b"x")
    (tmp_path / "empty.png").write_bytes(b"")
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(f'{{"image": "{name}"}}' for name in ("a.png", "b.png", "empty.png", "c.png")))
    good, bad = read_rows(path, lambda row: [row.media("image").source])
    assert good == [tmp_path / "images" / "a.png", tmp_path / "b.png"]
    assert [row.reason for row in bad] == [
        "image file empty.png is empty",
        f"image file c.png is not in {tmp_path.name}/ nor in {tmp_path.name}/images/",
    ]
