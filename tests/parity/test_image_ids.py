"""A picture's place in the prompt, token for token as the reference lays it: numbers, thumbnail, rows of slices."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest

from minicpm_o.inputs.official_layout import OfficialDraft, lay_picture
from minicpm_o.inputs.official_tokenizer import OfficialTokenizer
from oracle import oracle_cases, oracle_root, read_json

KEY = "ids_with_id_runs"


@pytest.mark.parametrize("case", oracle_cases("_02_image_pipeline"))
def test_ids_of_pictures(case: Path) -> None:
    entries = [entry for entry in read_json(case / "outputs.json") if KEY in entry]
    if not entries:
        pytest.skip(f"{case.name} tells no ids")
    folder = oracle_root() / "tokenizer-4.5"
    if not (folder / "vocab.json").is_file():
        pytest.skip(f"no tokenizer-4.5 beside the cases in {oracle_root().name}")
    tokenizer = OfficialTokenizer.from_folder(folder)
    for entry in entries:
        draft = OfficialDraft(tokenizer)
        text = entry["placeholder_without_id"]
        spans = lay_picture(draft, entry["grid_cols_rows"], number=entry["image"],
                            queries=text.count("<unk>") // (text.count("<image>") + text.count("<slice>")))
        ids = draft.finish().tolist()
        where = f"picture {entry['image']}, at most {entry['max_slice_nums']} slices"
        assert [[token_id, len(list(run))] for token_id, run in groupby(ids)] == entry[KEY], where
        assert tokenizer.encode(entry["placeholder_with_id"], markup=True) == ids, where
        assert len(spans) == entry["n_pieces"], where
        assert draft.counts["image"] == len(ids), where
