"""The kept-out rows of the training sets as a folder that `minicpm-o eval local --data` reads.

    python benchmarks/make_validation.py --data SETS --out FOLDER

Which rows are kept out is a rule on file names (minicpm_o/training/splits.py), the same that training obeys.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from minicpm_o.training.splits import is_validation

SETS = {
    "flickr8k": ("captions.jsonl", "image"),
    "coco": ("annotations.jsonl", "image"),
    "caltech101": ("labels.jsonl", "image"),
    "daquar": ("qa.jsonl", "image"),
    "fsdd": ("labels.jsonl", "audio"),
}


def copy_set(data: Path, out: Path, set_name: str, limit: int | None) -> int:
    """Copy the kept-out rows of one set with their media; returns how many."""
    file, key = SETS[set_name]
    source = data / set_name
    if not (source / file).is_file():
        raise SystemExit(f"{source / file} is missing; --data must be the folder of the unpacked training sets")
    rows = [json.loads(line) for line in (source / file).read_text(encoding="utf-8").splitlines() if line.strip()]
    kept = [row for row in rows if is_validation(set_name, row[key])][:limit]
    for row in kept:
        target = out / set_name / row[key]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / row[key], target)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
    (out / set_name / file).write_text(lines, encoding="utf-8")
    return len(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the unpacked training sets")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--limit", type=int, help="at most this many rows of each set")
    options = parser.parse_args()
    for set_name in SETS:
        print(f"{set_name}: {copy_set(options.data, options.out, set_name, options.limit)} rows kept out of training")


if __name__ == "__main__":
    main()
