"""The plug-in of lmms-eval: its translations alone, and lmms-eval itself run over tasks that are written here."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image, ImageDraw

from minicpm_o import AudioPart, ImagePart, Message, MiniCPMO, TextPart, VideoPart
from minicpm_o.errors import MessageError, OptionError
from minicpm_o.evaluation import lmms_eval_plugin as plugin
from minicpm_o.runtime.losses import TextLoss

# --- translations -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "expected"), [
    ({}, {"temperature": 0.0, "num_beams": 1, "stop": ()}),
    ({"max_new_tokens": 8, "temperature": 0, "do_sample": False, "num_beams": 1, "top_p": None, "until": ["\n\n"]},
     {"max_tokens": 8, "temperature": 0.0, "num_beams": 1, "stop": ("\n\n",)}),
    ({"temperature": 0.0, "top_p": 0, "top_k": 5, "until": "END"},
     {"temperature": 0.0, "num_beams": 1, "stop": ("END",)}),
    ({"temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 3, "num_beams": 3, "until": ["", "x"]},
     {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 3, "num_beams": 3, "stop": ("x",)}),
    ({"do_sample": True, "repetition_penalty": 1.1},
     {"temperature": 1.0, "repetition_penalty": 1.1, "num_beams": 1, "stop": ()}),
])
def test_options_are_translated(given: dict[str, Any], expected: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plugin.answer_options(given) == expected


def test_options_without_effect_are_named() -> None:
    with pytest.warns(UserWarning, match="image_aspect_ratio = 'pad' has no effect"):
        plugin.answer_options({"image_aspect_ratio": "pad"})
    with pytest.warns(UserWarning, match="temperature = 0.7 has no effect with do_sample = False"):
        assert plugin.answer_options({"temperature": 0.7, "do_sample": False})["temperature"] == 0.0


def test_media_are_told_apart() -> None:
    picture = Image.new("RGB", (8, 8))
    samples = np.zeros(160, np.float32)
    decoder = SimpleNamespace(get_all_samples=lambda: SimpleNamespace(data=samples[None], sample_rate=8000))
    expected: list[tuple[Any, str | None, type, Any]] = [
        (picture, None, ImagePart, picture), ("a.PNG", None, ImagePart, "a.PNG"), ("a.wav", None, AudioPart, "a.wav"),
        ("a.mp4", None, VideoPart, "a.mp4"), ("a.gif", "video", VideoPart, "a.gif"),
        ({"bytes": b"RIFF", "path": "a.wav"}, None, AudioPart, b"RIFF"), ({"bytes": None, "path": "b.flac"}, None,
                                                                          AudioPart, "b.flac"),
        ({"type": "video", "url": "clip"}, None, VideoPart, "clip"), ({"type": "image", "url": picture}, None,
                                                                      ImagePart, picture),
    ]
    for item, kind, part, source in expected:
        found = plugin.media_part(item, kind)
        assert type(found) is part and found.source is source, item
    for item in ({"array": samples.tolist(), "sampling_rate": 8000}, decoder,
                 {"type": "video", "url": {"array": samples, "sampling_rate": 8000}}):  # so lmms-eval hands on a sound
        sound = plugin.media_part(item)
        assert isinstance(sound, AudioPart) and sound.rate_hz == 8000 and np.size(sound.source) == 160


@pytest.mark.parametrize(("item", "window"), [
    ({"video_start": 1.5, "video_end": 4}, (1.5, 4.0)), ({"start_time": 2.0}, (2.0, np.inf)),
    ({"end_time": 3.0}, (0.0, 3.0)),
])
def test_a_part_of_a_video_is_cut_out(item: dict[str, float], window: tuple[float, float],
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "cut_video", lambda path, *seconds: repr((path, seconds)).encode())
    assert plugin.media_part({"type": "video", "url": "a.mp4", **item}) == VideoPart(repr(("a.mp4", window)).encode())
    assert plugin.media_part({"type": "video", "url": "a.mp4", "video_start": None}) == VideoPart("a.mp4")


@pytest.mark.parametrize(("item", "words"), [
    (3, "a medium of type int; expected a PIL picture"),
    ({"frames": 3}, "a medium with 'frames'; expected"),
    ({"array": [0.0], "sampling_rate": 8000, "start_time": 2.0}, r"wants a part of a medium \(start_time\)"),
    ({"bytes": b"RIFF", "end_time": 2.0}, r"wants a part of a medium \(end_time\)"),
    ({"type": "audio", "url": "a.wav", "video_start": 0}, r"wants a part of a medium \(video_start\)"),
    ({"type": "smell", "url": "a"}, "a medium of kind 'smell'"),
])
def test_media_that_cannot_be_taken_are_named(item: Any, words: str) -> None:
    with pytest.raises(MessageError, match=words):
        plugin.media_part(item)


def test_messages_keep_their_order() -> None:
    picture = Image.new("RGB", (8, 8))
    assert plugin.simple_messages("Why?", [[picture], None, ["a.mp4"]]) == [
        Message("user", (ImagePart(picture), VideoPart("a.mp4"), TextPart("Why?")))]
    assert plugin.simple_messages("Why?", None) == [Message("user", (TextPart("Why?"),))]
    turns = [{"role": "system", "content": [{"type": "text", "text": "Be short."}]},
             {"role": "user", "content": [{"type": "text", "text": "Look:"}, {"type": "image", "url": picture}]}]
    assert plugin.chat_messages(turns) == [Message("system", (TextPart("Be short."),)),
                                           Message("user", (TextPart("Look:"), ImagePart(picture)))]
    with pytest.raises(MessageError, match="unknown role"):
        plugin.chat_messages([{"role": "judge", "content": [{"type": "text", "text": "x"}]}])


class Ranker:
    """Gives each text its length as the loss, and remembers what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[Message], list[str]]] = []

    def losses(self, messages: list[Message], texts: list[str], *, transcript: bool) -> list[TextLoss]:
        self.asked.append((messages, texts))
        return [TextLoss(float(len(text)), 2, False) for text in texts]


@pytest.fixture
def simple(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes the simple class without lmms-eval's base, over a model that is made up."""
    made = {"lmms_eval": {}, "lmms_eval.api": {}, "lmms_eval.api.instance": {
        "GenerationResult": lambda text, token_counts=None: text, "TokenCounts": lambda *counts: counts}}
    if importlib.util.find_spec("lmms_eval") is None:
        for name, members in made.items():
            monkeypatch.setitem(sys.modules, name, SimpleNamespace(**members))  # type: ignore[arg-type]

    def make(**options: Any) -> Any:
        monkeypatch.setattr(plugin.MiniCPMO, "from_pretrained", lambda name, **loading: Ranker())
        answers = plugin.SimpleAnswers(**options)
        answers.task_dict = {"task": {"test": [{"a": 1}, {"a": 2}]}}
        return answers

    return make


def pair(result: Any) -> Any:
    return getattr(result, "text", result)


def test_a_prompt_is_read_once_for_its_answers(simple: Callable[..., Any]) -> None:
    asks = [("Which?", f" {text}", lambda doc: None, doc_id, "task", "test")
            for doc_id in (0, 1) for text in ("yes", "never")]
    answers = simple()
    found = answers.loglikelihood([SimpleNamespace(args=ask) for ask in asks])
    assert list(map(pair, found)) == [(1.5, False), (2.5, False)] * 2
    assert answers.model.asked == [(plugin.simple_messages("Which?", None), ["yes", "never"])] * 2
    summed = simple(choice_loss="sum").loglikelihood([SimpleNamespace(args=asks[0])])
    assert pair(summed[0]) == (3.0, False)


def test_what_is_not_done_is_refused(simple: Callable[..., Any]) -> None:
    with pytest.raises(OptionError, match="acc_mutual_info"):
        simple().loglikelihood([SimpleNamespace(args=("", "yes"))])
    with pytest.raises(OptionError, match="add --force_simple"):
        plugin.ChatAnswers.loglikelihood(simple(), [])
    with pytest.raises(NotImplementedError, match="several rounds"):
        simple().generate_until_multi_round([])
    with pytest.raises(OptionError, match='choice_loss is \'max\''):
        simple(choice_loss="max")
    with pytest.warns(UserWarning, match="batch_size = 8 has no effect"):
        simple(batch_size="8")


# --- lmms-eval itself ---------------------------------------------------------------------------------------------

TASK = """
task: {name}
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: {output_type}
doc_to_visual: !function utils.media
doc_to_text: question
{more}
"""
SAY = """
doc_to_target: answer
generation_kwargs: {max_new_tokens: 10, temperature: 0, do_sample: false, until: ["\\n\\n"]}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
TURNS = SAY + "doc_to_messages: !function utils.turns\n"
RANK = """
doc_to_choice: choices
doc_to_target: right
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
UTILS = '''
import io

from PIL import Image


def media(doc):
    if doc["kind"] == "image":
        return [Image.open(io.BytesIO(doc["data"])).convert("RGB")]
    return [{"array": doc["samples"], "sampling_rate": doc["rate"]} if doc["kind"] == "audio" else doc["path"]]


def turns(doc):
    item = media(doc)[0]
    kind = {"type": doc["kind"], "url": item}
    return [{"role": "system", "content": [{"type": "text", "text": "Answer in a few words."}]},
            {"role": "user", "content": [{"type": "text", "text": "Here it is:"}, kind,
                                         {"type": "text", "text": doc["question"]}]}]
'''
CHOICES = ["red", "green", "blue", "a small grey cat"]


@dataclass(frozen=True)
class Run:
    """What lmms-eval wrote."""

    documents: list[dict[str, Any]]
    samples: dict[str, list[dict[str, Any]]]
    """By mode and task, in the order of the documents."""
    accuracy: float
    said: str


def write_video(path: Path) -> Path:
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(4):
            frame = np.full((48, 64, 3), 40 * number, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    return path


def png(colour: str) -> bytes:
    picture = Image.new("RGB", (96, 96), "white")
    ImageDraw.Draw(picture).ellipse((16, 16, 80, 80), fill=colour)
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def make_documents(samples: Path, folder: Path) -> list[dict[str, Any]]:
    waveform, rate = soundfile.read(samples / "speech.wav", dtype="float32")
    empty = {"data": b"", "samples": [0.0], "rate": 0, "path": "", "choices": CHOICES, "right": 0, "answer": "red"}
    circle = {"kind": "image", "question": "What colour is the circle?"}
    return [empty | more for more in (
        circle | {"data": png("red")}, circle | {"data": png("blue"), "right": 2, "answer": "blue"},
        {"kind": "image", "data": (samples / "photo.jpg").read_bytes(), "question": "What is in the picture?"},
        {"kind": "audio", "samples": waveform.tolist(), "rate": rate, "question": "What is said?"},
        {"kind": "video", "path": str(write_video(folder / "clip.mp4")), "question": "What is shown?"})]


def write_tasks(folder: Path, documents: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    for name, rows in {"all": documents, "two": documents[:2]}.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    (folder / "utils.py").write_text(UTILS)
    for name, rows_of, kind, more in (("say", "all", "generate_until", SAY), ("turns", "all", "generate_until", TURNS),
                                      ("rank", "two", "multiple_choice", RANK)):
        text = TASK.format(name=f"made_{name}", rows=folder / f"{rows_of}.parquet", output_type=kind, more=more)
        (folder / f"made_{name}.yaml").write_text(text)


def read_samples(folder: Path) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for path in folder.rglob("*_samples_made_*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        found[path.stem.rpartition("made_")[2]] = sorted(lines, key=lambda line: line["doc_id"])
    return found


@pytest.fixture(scope="module")
def run(nano: Path, samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`python -m lmms_eval`, offline: turns with messages, then the simple mode with a ranking, in one process."""
    if importlib.util.find_spec("lmms_eval") is None and not os.environ.get("CI"):
        pytest.skip("lmms-eval is not installed (requirements/lmms.txt); make .venv/.dev")
    folder = tmp_path_factory.mktemp("lmms")
    documents = make_documents(samples, folder)
    write_tasks(folder / "tasks", documents)
    common = {"model": plugin.MODEL_ID, "model_args": f"pretrained={nano}", "include_path": str(folder / "tasks"),
              "batch_size": "1", "log_samples": True}
    both = [common | {"tasks": "made_say,made_turns", "output_path": str(folder / "chat")},
            common | {"tasks": "made_say,made_rank", "output_path": str(folder / "simple"), "force_simple": True}]
    (folder / "runs.yaml").write_text(json.dumps(both))
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf"),
                                "CUDA_VISIBLE_DEVICES": "", "NO_COLOR": "1"}
    done = subprocess.run([sys.executable, "-m", "lmms_eval", "--config", str(folder / "runs.yaml")], cwd=folder,
                          env=environment, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "Traceback" not in said, said[-6000:]
    lines = {f"{mode} {task}": lines for mode in ("chat", "simple")
             for task, lines in read_samples(folder / mode).items()}
    results = next((folder / "simple").rglob("*_results.json"))
    accuracy = json.loads(results.read_text())["results"]["made_rank"]["acc,none"]
    return Run(documents, lines, accuracy, said)


def part_of(document: dict[str, Any]) -> Any:
    """The medium as a user of the package would give it."""
    if document["kind"] == "audio":
        return AudioPart(np.array(document["samples"]), document["rate"])
    return VideoPart(document["path"]) if document["kind"] == "video" else ImagePart(document["data"])


def test_lmms_eval_hears_the_answers_of_chat(run: Run, model: MiniCPMO) -> None:
    for number, document in enumerate(run.documents):
        medium, question = part_of(document), TextPart(document["question"])
        plain = model.chat([Message("user", (medium, question))], max_tokens=10, stop=("\n\n",))
        system = Message("system", (TextPart("Answer in a few words."),))
        turns = model.chat([system, Message("user", (TextPart("Here it is:"), medium, question))], max_tokens=10,
                           stop=("\n\n",))
        said = {name: lines[number]["filtered_resps"] for name, lines in run.samples.items() if "rank" not in name}
        assert said == {"chat say": plain.text, "simple say": plain.text, "chat turns": turns.text}
        counts = run.samples["chat say"][number]["token_counts"][0]
        assert counts == {"input_tokens": plain.usage.prompt, "output_tokens": plain.usage.output}


def test_lmms_eval_ranks_by_the_losses(run: Run, model: MiniCPMO) -> None:
    right = 0
    for number, line in enumerate(run.samples["simple rank"]):
        document = run.documents[number]
        losses = model.losses([Message("user", (part_of(document), TextPart(document["question"])))], CHOICES)
        assert line["filtered_resps"] == [[str(loss.mean), str(loss.is_greedy)] for loss in losses]
        right += int(np.argmin([loss.mean for loss in losses])) == document["right"]
    assert run.accuracy == right / 2


def test_nothing_was_left_out_silently(run: Run) -> None:
    assert "has no effect" not in run.said and "Failed to load model entry-point" not in run.said
