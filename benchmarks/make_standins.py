"""Makes small sets in the format of MME, POPE, SEED-Bench, StreamingBench and VoiceBench, where the published pictures,
videos and sounds are not had.

    python benchmarks/make_standins.py --out DIR [--pictures 30]
    minicpm-o eval all --data DIR --report out/

Balls, cubes, cylinders and cones on a floor, from the generator that training uses, in draws that training has not.
Questions of this project (benchmarks/texts) are read aloud by flite, which must be installed for them.
What comes out is named mme_format, pope_format, seed_bench_format, streamingbench_format and voicebench_format, and is
no score of those benchmarks. Of StreamingBench there are `real` and `proactive`, in silent videos in which one scene
follows another.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minicpm_o.training.prepare.scenes import COLOURS, SIDE_PX, SOLIDS, Solid, draw_solids, solids_picture
from minicpm_o.training.prepare.work import draws

ASK = " Please answer yes or no."
Ask = Callable[[Sequence[Solid], np.random.Generator], tuple[str, str, list[str]] | None]
"""Things in a scene to a question, its answer, and what it might be; None where nothing can be asked."""
NAMES = [f"{colour} {kind}" for colour in list(COLOURS)[:9] for kind in SOLIDS]


def scene(kind: str, number: int, path: Path) -> tuple[list[Solid], np.random.Generator]:
    """Scene `number` of a kind, its picture saved."""
    rng = draws(0, "stand-in", kind, number)
    solids = draw_solids(rng)
    path.parent.mkdir(parents=True, exist_ok=True)
    solids_picture(solids, rng)[0].convert("RGB").save(path, quality=92)
    return solids, rng


def names_of(solids: Sequence[Solid]) -> list[str]:
    return sorted({f"{solid.colour} {solid.kind}" for solid in solids})


def absent_of(solids: Sequence[Solid]) -> list[str]:
    return [name for name in NAMES if name not in names_of(solids)]


# --- MME --------------------------------------------------------------------------------------------------------


def existence(solids: Sequence[Solid], rng: np.random.Generator) -> tuple[str, str]:
    return (f"Is there a {rng.choice(names_of(solids))} in this image?",
            f"Is there a {rng.choice(absent_of(solids))} in this image?")


def count(solids: Sequence[Solid], rng: np.random.Generator) -> tuple[str, str]:
    total = len(solids)
    wrong = total + int(rng.choice([-1, 1])) if total > 1 else total + 1
    return f"Are there {total} shapes in total in this image?", f"Are there {wrong} shapes in total in this image?"


def position(solids: Sequence[Solid], rng: np.random.Generator) -> tuple[str, str] | None:
    names = Counter(f"{solid.colour} {solid.kind}" for solid in solids)
    once = [solid for solid in solids if names[f"{solid.colour} {solid.kind}"] == 1]
    pairs = [(a, b) for a in once for b in once if a.x + 0.15 < b.x]
    if not pairs:
        return None
    left, right = pairs[rng.integers(len(pairs))]
    a, b = f"{left.colour} {left.kind}", f"{right.colour} {right.kind}"
    return f"Is the {a} on the left of the {b}?", f"Is the {a} on the right of the {b}?"


def color(solids: Sequence[Solid], rng: np.random.Generator) -> tuple[str, str] | None:
    kinds = Counter(solid.kind for solid in solids)
    once = [solid for solid in solids if kinds[solid.kind] == 1]
    if not once:
        return None
    solid = once[rng.integers(len(once))]
    other = rng.choice([name for name in list(COLOURS)[:9] if name != solid.colour])
    return f"Is the {solid.kind} {solid.colour}?", f"Is the {solid.kind} {other}?"


def make_mme(out: Path, pictures: int) -> None:
    """Four of the fourteen subtasks."""
    for subtask in (existence, count, position, color):
        folder, done, number = out / "MME_Benchmark_release_version" / subtask.__name__, 0, 0
        while done < pictures:
            path = folder / f"{done:04d}.jpg"
            asked = subtask(*scene(f"mme {subtask.__name__}", number, path))
            number += 1
            if asked is not None:
                path.with_suffix(".txt").write_text(f"{asked[0]}{ASK}\tYes\n{asked[1]}{ASK}\tNo\n", encoding="utf-8")
                done += 1


# --- POPE -------------------------------------------------------------------------------------------------------


def make_pope(out: Path, pictures: int) -> None:
    """Three splits on the same pictures: absent things at random, the commonest, and the most like what is there."""
    made = []
    for number in range(pictures):
        name = f"{number:04d}.jpg"
        made.append((name, *scene("pope", number, out / "pope" / "val2014" / name)))
    common = Counter(name for _, solids, _ in made for name in names_of(solids))
    for split in ("random", "popular", "adversarial"):
        rows = [row for name, solids, rng in made for row in _pope_rows(name, solids, rng, split, common)]
        lines = [json.dumps({"question_id": place, **row}) for place, row in enumerate(rows, start=1)]
        (out / "pope" / f"scenes_pope_{split}.json").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _pope_rows(image: str, solids: Sequence[Solid], rng: np.random.Generator, split: str, common: Counter[str]
               ) -> Iterator[dict[str, str]]:
    present, absent = names_of(solids)[:3], absent_of(solids)
    order = [absent[place] for place in rng.permutation(len(absent))]
    if split == "popular":
        order.sort(key=lambda name: -common[name])
    if split == "adversarial":
        words = {word for name in present for word in name.split()}
        order.sort(key=lambda name: -sum(word in words for word in name.split()))
    for yes, no in zip(present, order, strict=False):
        for name, label in ((yes, "yes"), (no, "no")):
            yield {"image": image, "text": f"Is there a {name} in the image?", "label": label}


# --- SEED-Bench -------------------------------------------------------------------------------------------------


def attributes(solids: Sequence[Solid], rng: np.random.Generator) -> tuple[str, str, list[str]] | None:
    kinds = Counter(solid.kind for solid in solids)
    once = [solid for solid in solids if kinds[solid.kind] == 1]
    if not once:
        return None
    solid = once[rng.integers(len(once))]
    return f"What is the color of the {solid.kind}?", solid.colour.capitalize(), [x.capitalize() for x in COLOURS][:9]


def counting(solids: Sequence[Solid], rng: np.random.Generator) -> tuple[str, str, list[str]]:
    words = "One Two Three Four Five Six Seven Eight Nine".split()
    return "How many shapes are there in the image?", words[len(solids) - 1], words


def location(solids: Sequence[Solid], rng: np.random.Generator) -> tuple[str, str, list[str]] | None:
    once = [solid for solid in solids if sum(other.kind == solid.kind for other in solids) == 1]
    clear = [solid for solid in once if abs(solid.x - 0.5) > 0.15 and abs(solid.y - 0.55) > 0.1]
    if not clear:
        return None
    solid = clear[rng.integers(len(clear))]
    corner = f"{'Top' if solid.y < 0.55 else 'Bottom'} {'left' if solid.x < 0.5 else 'right'}"
    return f"Where is the {solid.kind} in the image?", corner, ["Top left", "Top right", "Bottom left", "Bottom right"]


def relation(solids: Sequence[Solid], rng: np.random.Generator) -> tuple[str, str, list[str]] | None:
    kinds = Counter(solid.kind for solid in solids)
    once = [solid for solid in solids if kinds[solid.kind] == 1]
    pairs = [(a, b) for a in once for b in once if a.x + 0.2 < b.x and abs(a.y - b.y) < 0.15]
    if not pairs:
        return None
    left, right = pairs[rng.integers(len(pairs))]
    sides = ["On the left", "On the right", "On top", "Inside"]
    return f"Where is the {left.kind} in relation to the {right.kind}?", sides[0], sides


DIMENSIONS = {3: attributes, 4: location, 5: counting, 6: relation}


def make_seed(out: Path, pictures: int) -> None:
    """Four of the twelve dimensions."""
    questions: list[dict[str, Any]] = []
    for dimension, ask in DIMENSIONS.items():
        done, number = 0, 0
        while done < pictures:
            name = f"{dimension}_{done:04d}.jpg"
            solids, rng = scene(f"seed {dimension}", number, out / "SEED-Bench-image" / name)
            number += 1
            asked = ask(solids, rng)
            if asked is not None:
                questions.append(_seed_question(f"{dimension}_{done}", dimension, name, asked, rng))
                done += 1
    types = {"Instance Attributes": 3, "Instance Location": 4, "Instance Counting": 5, "Spatial Relation": 6}
    text = json.dumps({"question_type": types, "questions": questions}, indent=1)
    (out / "SEED-Bench.json").write_text(text, encoding="utf-8")


def _seed_question(identity: str, dimension: int, image: str, asked: tuple[str, str, list[str]],
                   rng: np.random.Generator) -> dict[str, Any]:
    question, right, pool = asked
    choices = _choices(right, pool, rng)
    letters = dict(zip(("choice_a", "choice_b", "choice_c", "choice_d"), choices, strict=True))
    return {"question_id": identity, "question_type_id": dimension, "data_type": "image", "data_id": image,
            "question": question, "answer": "ABCD"[choices.index(right)], **letters}


def _choices(right: str, pool: Sequence[str], rng: np.random.Generator) -> list[str]:
    """The right text and three others, in a drawn order."""
    others = [text for text in pool if text != right]
    choices = [right, *(others[place] for place in rng.permutation(len(others))[:3])]
    return [choices[place] for place in rng.permutation(4)]


# --- VoiceBench -------------------------------------------------------------------------------------------------

TEXTS = Path(__file__).parent / "texts"
VOICE = "slt"
QUESTIONS = 24
"""Of the everyday questions, in the place of sd-qa."""


def make_voicebench(out: Path) -> None:
    """Seven of the nine subsets: rows with the fields of the published ones, in jsonl with sound files."""
    subsets: dict[str, list[dict[str, Any]]] = {}
    for row in read_texts("spoken_questions.jsonl"):
        subsets.setdefault(row.pop("subset"), []).append(row)
    subsets["sd-qa"] = [{"prompt": row["question"], "reference": row["answers"][0]}
                        for row in read_texts("questions.jsonl")[:QUESTIONS]]
    (out / "voicebench" / "audio").mkdir(parents=True, exist_ok=True)
    for subset, rows in subsets.items():
        lines = [json.dumps({"audio": spoken(out, f"{subset}_{number:03d}.wav", row["prompt"]), **row})
                 for number, row in enumerate(rows)]
        (out / "voicebench" / f"{subset}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_texts(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (TEXTS / name).read_text(encoding="utf-8").splitlines()]


def spoken(out: Path, name: str, text: str) -> str:
    """A text read aloud into a file of that name."""
    path = out / "voicebench" / "audio" / name
    subprocess.run(["flite", "-voice", VOICE, "-t", text, "-o", str(path)], check=True)
    return name
# --- StreamingBench ---------------------------------------------------------------------------------------------

SCENE_S = 4
"""How long each scene of a video is shown."""
VIDEO_FPS = 4
AFTER_S = 6
"""How long a scene that was waited for stays."""
REAL = {"Attribute Recognition": attributes, "Counting": counting}


def make_streaming(out: Path, videos: int) -> None:
    """As many videos for each of two kinds of question of `real`, and for `proactive`."""
    folder = out / "StreamingBench"
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    real = [video for place, (task_type, ask) in enumerate(REAL.items())
            for video in _now_videos(folder, task_type, ask, range(place * videos, (place + 1) * videos))]
    waited = [_waiting_video(folder, number) for number in range(videos)]
    for task, rows in (("real", real), ("proactive", waited)):
        text = json.dumps(rows, indent=1)
        (folder / f"questions_{task}.json").write_text(text, encoding="utf-8")


def _now_videos(folder: Path, task_type: str, ask: Ask, numbers: range) -> Iterator[dict[str, Any]]:
    """Three scenes one after the other; the question is asked at the end of the second or the third, about that one."""
    for number in numbers:
        rng = draws(0, "stand-in", "streaming", task_type, number)
        scenes, asked = [draw_solids(rng) for _ in range(3)], None
        shown = int(rng.integers(1, 3))
        while asked is None:
            scenes[shown] = draw_solids(rng)
            asked = ask(scenes[shown], rng)
        name = f"sample_{number + 1}_real.mp4"
        _save_video(folder / "videos" / name, [(solids, SCENE_S) for solids in scenes], rng)
        question, right, pool = asked
        letters, answer = _options(right, pool, rng)
        yield {"video_path": f"./videos/{name}", "questions": [
            {"task_type": task_type, "question": f"{question.replace(' in the image', '')[:-1]} right now?",
             "time_stamp": _stamp((shown + 1) * SCENE_S), "options": letters, "answer": answer}]}


def _waiting_video(folder: Path, number: int) -> dict[str, Any]:
    """A scene without a thing, then one with it."""
    rng = draws(0, "stand-in", "streaming", "proactive", number)
    before, after = draw_solids(rng), draw_solids(rng)
    while not (new := sorted(set(names_of(after)) - set(names_of(before)))):
        after = draw_solids(rng)
    wanted, due_s = str(rng.choice(new)), int(rng.integers(SCENE_S, 4 * SCENE_S))
    name = f"sample_{number + 1}_proactive.mp4"
    _save_video(folder / "videos" / name, [(before, due_s), (after, AFTER_S)], rng)
    return {"video_path": f"./videos/{name}", "questions": [
        {"task_type": "Proactive Output", "question": f'When a {wanted} appears, output "{wanted}".',
         "time_stamp": _stamp(0), "ground_truth_time_stamp": _stamp(due_s), "ground_truth_output": wanted}]}


def _options(right: str, pool: Sequence[str], rng: np.random.Generator) -> tuple[list[str], str]:
    """Four options with letters, in a drawn order, and the right one's letter."""
    texts = _choices(right, pool, rng)
    return [f"{letter}. {text}" for letter, text in zip("ABCD", texts, strict=True)], "ABCD"[texts.index(right)]


def _save_video(path: Path, scenes: Sequence[tuple[Sequence[Solid], int]], rng: np.random.Generator) -> None:
    """Scenes, each for so many seconds."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=VIDEO_FPS, width=SIDE_PX, height=SIDE_PX, pix_fmt="yuv420p",
                                      options={"crf": "18", "threads": "1"})
        for solids, seconds in scenes:
            picture = np.asarray(solids_picture(list(solids), rng)[0].convert("RGB"))
            for _ in range(seconds * VIDEO_FPS):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _stamp(seconds: int) -> str:
    return f"00:{seconds // 60:02d}:{seconds % 60:02d}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=30, help="for each subtask, split and dimension")
    parser.add_argument("--videos", type=int, default=20, help="for each kind of question")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    make_mme(options.out, options.pictures)
    make_pope(options.out, options.pictures)
    make_seed(options.out, options.pictures)
    make_streaming(options.out, options.videos)
    if shutil.which("flite"):
        make_voicebench(options.out)
    else:
        print("flite is not installed: no set in the format of VoiceBench")
    told = "rendered solids, and questions of this project read aloud by a synthetic voice\n"
    (options.out / "STAND_IN").write_text(told, encoding="utf-8")


if __name__ == "__main__":
    main()
