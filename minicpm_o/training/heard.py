"""What own ears write down of the cached sounds, for the language model to learn from what it will get.

    python -m minicpm_o.training.heard --features FEATURES --ears EARS.pt --words words_en.txt.gz

Writes audio/NAME_heard.json: the row of a sound -> words. The frames are disturbed a little, because
ears mishear less of the sounds that they were trained on than of others.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from ..model.encoders.word_ears import WordEars
from ..runtime.own_ears import written
from ..runtime.word_search import Heard, WordModel, WordSearch
from .ears import EarsTraining, disturbed, open_audio, open_ears
from .features import AudioCache, heard_path
from .prepare.work import bar

DISTURBED = 0.3
"""Share of the training's disturbance: as much is then misheard as of sounds that ears have never heard."""


def hear_rows(ears: WordEars, search: WordSearch, audio: AudioCache, rows: Iterable[int]) -> dict[int, str]:
    """Row -> what is written down of it."""
    settings, found = EarsTraining(), {}
    torch.manual_seed(settings.seed)
    for row in rows:
        frames = disturbed(audio.tensor(row), settings.noise * DISTURBED, settings.hidden_share * DISTURBED)
        with torch.inference_mode():
            log_probs = ears(frames[None])[0].log_softmax(-1).numpy()
        found[row] = written(search.words(search.listen(Heard(), log_probs)))
    return found


def chosen_rows(audio: AudioCache, most: int) -> list[int]:
    """At most so many of a kind, drawn."""
    rng = random.Random("heard")
    by_kind: dict[str, list[int]] = {}
    for row, entry in enumerate(audio.index):
        by_kind.setdefault(entry["kind"], []).append(row)
    return sorted(row for rows in by_kind.values() for row in rng.sample(rows, min(most, len(rows))))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m minicpm_o.training.heard", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, required=True, help="caches of minicpm_o.training.prepare")
    parser.add_argument("--ears", type=Path, required=True, help="what minicpm_o.training.ears has learned")
    parser.add_argument("--words", type=Path, required=True, help="what minicpm_o.training.words has counted")
    parser.add_argument("--most", type=int, default=1000, help="at most so many sounds of a kind")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    ears = open_ears(options.ears).eval()
    search = WordSearch(WordModel.from_file(options.words))
    folder = options.features / "audio"
    for stem in sorted(path.name.removesuffix("_frames.json") for path in folder.glob("*_frames.json")):
        audio = open_audio(options.features, [stem])
        found = hear_rows(ears, search, audio, bar(chosen_rows(audio, options.most), f"heard: {stem}"))
        heard_path(folder / stem).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
