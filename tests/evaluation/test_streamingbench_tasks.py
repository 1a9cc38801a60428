"""Questions about streams: StreamingBench as it is given out, videos cut at a time, and live sessions that speak up."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, ImageDraw

from minicpm_o import MiniCPMO
from minicpm_o.errors import InputError, OptionError, VideoError
from minicpm_o.evaluation.asking import unable
from minicpm_o.evaluation.live import Unit, attend
from minicpm_o.evaluation.local import run_local
from minicpm_o.evaluation.moments import Utterance, utterances, written
from minicpm_o.evaluation.official import streamingbench as official
from minicpm_o.evaluation.report import Report
from minicpm_o.evaluation.tasks import load_tasks
from minicpm_o.inputs.video import cut_video, load_video
from minicpm_o.runtime.live.events import Listening, TextPiece, TurnEnded
from minicpm_o.runtime.live.session import LiveConfig, Work

FPS = 5
RATE_HZ = 16_000
COLOURS = {"red": (220, 20, 20), "green": (20, 160, 40), "blue": (30, 50, 220)}


def save_video(path: Path, seconds: Sequence[Any], *, tone: bool = True) -> None:
    """One colour (or picture) a second; second k sounds k + 1 tenths loud."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        width, height = seconds[0].size if isinstance(seconds[0], Image.Image) else (96, 96)
        stream = container.add_stream("libx264", rate=FPS, width=width, height=height, pix_fmt="yuv420p",
                                      options={"crf": "10"})
        sound = container.add_stream("aac", rate=RATE_HZ, layout="mono") if tone else None
        for shown in seconds:
            picture = shown if isinstance(shown, Image.Image) else Image.new("RGB", (96, 96), COLOURS[shown])
            for _ in range(FPS):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")))
        container.mux(stream.encode())
        if sound is not None:
            container.mux(sound.encode(loudness(len(seconds))))
            container.mux(sound.encode())


def loudness(seconds: int) -> av.AudioFrame:
    time_s = np.arange(seconds * RATE_HZ) / RATE_HZ
    waveform = (np.floor(time_s) + 1) / 10 * np.sin(2 * np.pi * 440 * time_s)
    frame = av.AudioFrame.from_ndarray(waveform[None].astype(np.float32), format="fltp", layout="mono")
    frame.rate, frame.pts = RATE_HZ, 0
    return frame


def colour_of(picture: Image.Image) -> str:
    mean = np.asarray(picture, float).mean(axis=(0, 1))
    return min(COLOURS, key=lambda name: float(np.abs(mean - COLOURS[name]).sum()))


# --- a stretch of a video ---------------------------------------------------------------------------------------


def test_a_stretch_holds_its_pictures_and_its_sound_and_nothing_after(tmp_path: Path) -> None:
    save_video(tmp_path / "v.mp4", ["red", "red", "green", "green", "blue", "blue"])
    video = load_video(cut_video(tmp_path / "v.mp4", 1, 4), frames_per_second=2)
    assert [colour_of(frame.image) for frame in video.frames] == ["red"] * 2 + ["green"] * 4
    assert video.seconds == pytest.approx(3.0, abs=0.1)
    peaks = [np.abs(video.waveform[k * RATE_HZ + 2000 : (k + 1) * RATE_HZ - 2000]).max() for k in range(3)]
    assert peaks == pytest.approx([0.2, 0.3, 0.4], abs=0.03)


def test_a_stretch_ends_where_the_video_does(tmp_path: Path) -> None:
    save_video(tmp_path / "v.mp4", ["red", "green"], tone=False)
    video = load_video(cut_video(tmp_path / "v.mp4", 1, 9))
    assert video.seconds == pytest.approx(1.0, abs=0.1) and video.waveform is None
    assert cut_video(tmp_path / "v.mp4", 0, 1) == cut_video(tmp_path / "v.mp4", 0, 1)
    with pytest.raises(VideoError, match="nothing of it lies between 5 and 6 s"):
        cut_video(tmp_path / "v.mp4", 5, 6)
    with pytest.raises(OptionError, match="start < end"):
        cut_video(tmp_path / "v.mp4", 2, 2)


# --- StreamingBench as it is given out --------------------------------------------------------------------------


@dataclass
class Watcher:
    """Looks at the last picture and the length of what it is shown; answers by a rule. Counts what it is asked."""

    answer: Any
    name: str = "watcher"
    asked: list[tuple[float, str]] = field(default_factory=list)

    def chat(self, messages: list[dict[str, Any]], **_: Any) -> str:
        parts = messages[0]["content"]
        video = load_video(parts[0]["video"]) if parts[0]["type"] == "video" else None
        length_s = 0.0 if video is None else round(video.seconds, 1)
        self.asked.append((length_s, parts[-1]["text"]))
        return str(self.answer("" if video is None else colour_of(video.frames[-1].image), length_s,
                               parts[-1]["text"]))

    def transcribe(self, source: Any, **_: Any) -> str:
        return ""


OPTIONS = ["A. Red.", "B. Green.", "C. Blue.", "D. White."]


def choice(time_stamp: str, answer: str, task_type: str = "Attribute Recognition", options: Any = None
           ) -> dict[str, Any]:
    return {"task_type": task_type, "question": "Which color is it right now?", "time_stamp": time_stamp,
            "answer": answer, "options": options or OPTIONS, "required_ability": "working memory"}


def request(time_stamp: str, truth: str, output: str) -> dict[str, Any]:
    return {"task_type": "Proactive Output", "question": f'When it turns {output}, output "{output}".',
            "time_stamp": time_stamp, "ground_truth_time_stamp": truth, "ground_truth_output": output}


def entry(video: str, *questions: dict[str, Any]) -> dict[str, Any]:
    return {"time": "[0:00:00 - 0:00:10]", "questions": list(questions), "video_categories": "x",
            "video_path": f"./videos/{video}"}


def write(root: Path, task: str, entries: Any, where: str = "") -> None:
    path = root / "StreamingBench" / where / f"questions_{task}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries), encoding="utf-8")


def letter_of(colour: str, length_s: float, words: str) -> str:
    return {"red": "A", "green": "B", "blue": "C"}.get(colour, "D")


def real_folder(root: Path) -> Path:
    save_video(root / "StreamingBench/data/videos/sample_1_real.mp4", ["red"] * 3 + ["green"] * 3 + ["blue"] * 3)
    write(root, "real", [
        entry("sample_1_real.mp4", choice("00:00:03", "A"), choice("00:05", "B", "Counting")),
        entry("sample_1_real.mp4", choice("00:00:09", "D")),
        entry("sample_2_real.mp4", choice("00:00:09", "D"), choice("00:00:10", "D")),
    ], "src/data")
    return root


def test_each_question_sees_the_video_up_to_its_time(tmp_path: Path) -> None:
    model = Watcher(letter_of)
    report = run_local(model, real_folder(tmp_path), blind=True)
    line = report.task("streamingbench/real")
    assert line.headline == "accuracy_official" and line.n == 3 and line.score == pytest.approx(2 / 3)
    assert line.metrics["attribute_recognition_official"] == 0.5 and line.metrics["counting_official"] == 1.0
    assert [length for length, _ in model.asked[:3]] == [3.0, 5.0, 9.0]
    assert all("A. Red.\nB. Green." in words for _, words in model.asked)
    assert line.blind["accuracy_official"] == pytest.approx(1 / 3), "blind it answers D"
    assert line.chance == pytest.approx(1 / 3)
    assert any("1 videos of questions_real.json are not there, 2 questions about them are left out: "
               "./videos/sample_2_real.mp4" in note for note in report.notes)


def test_the_window_is_the_last_minute(tmp_path: Path) -> None:
    write(tmp_path, "real", [entry("sample_1_real.mp4", choice("00:01:30", "A"))])
    (tmp_path / "StreamingBench/real/sample_1").mkdir(parents=True)
    (tmp_path / "StreamingBench/real/sample_1/video.mp4").write_bytes(b"x")
    (task,) = load_tasks(tmp_path).tasks
    assert task.items[0].media[0].window == (30, 90)


def test_answers_score_as_the_official_statistics_say(tmp_path: Path) -> None:
    said = iter(["A", "The answer is B", "(C)", "d", "C"])
    letters = ["A", "B", "C", "D", "C"]
    save_video(tmp_path / "StreamingBench/sample_1_omni.mp4", ["red"] * 6)
    questions = [choice(f"00:00:0{place + 1}", letter, f"Type {place % 2}") for place, letter in enumerate(letters)]
    write(tmp_path, "omni", [entry("sample_1_omni.mp4", *questions)])
    line = run_local(Watcher(lambda *_: next(said)), tmp_path).task("streamingbench/omni")
    for question, answer in zip(questions, ["A", "The answer is B", "(C)", "d", "C"], strict=True):
        question["model"] = answer
    write(tmp_path / "answers", "omni", [entry("sample_1_omni.mp4", *questions)])
    stats = official.statistics(tmp_path / "answers/StreamingBench/questions_omni.json", "omni", "model").stats
    assert line.score == stats["total"]["accuracy"] == pytest.approx(0.4)
    assert line.metrics["type_0_official"] == stats["Type 0"]["accuracy"] == pytest.approx(2 / 3)
    assert line.metrics["type_1_official"] == stats["Type 1"]["accuracy"] == 0.0
    assert line.metrics["unparsed_official"] == pytest.approx(3 / 5)


def test_questions_in_sequence_are_told_the_right_answers_before_them(tmp_path: Path) -> None:
    save_video(tmp_path / "StreamingBench/sqa/sample_4/video.mp4", ["red", "green", "blue"])
    bare = ["Red.", "Green.", "Blue.", "White."]
    write(tmp_path, "sqa", [[entry("sample_4_sqa.mp4", choice("00:00:01", "A", options=bare)),
                             entry("sample_4_sqa.mp4", choice("00:00:02", "B", options=bare))],
                            [entry("sample_4_sqa.mp4", choice("00:00:03", "C", options=bare))]])
    model = Watcher(letter_of)
    assert run_local(model, tmp_path).task("streamingbench/sqa").score == 1.0
    first, second, other = (words for _, words in model.asked)
    assert "At 00:00:01" not in first and "At 00:00:01" not in other, "another entry is another conversation"
    assert "At 00:00:01: Which color is it right now? Options: A. Red., B. Green." in second
    assert "D. White. Answer: A\n" in second
    assert first.count("A. Red.") == 1


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")


def row(question_id: str, question: dict[str, Any]) -> dict[str, Any]:
    return {"question_id": question_id, **{name: value if isinstance(value, str) else repr(value)
                                           for name, value in question.items()}}


def test_tables_of_the_data_set_and_folders_of_its_zips(tmp_path: Path) -> None:
    root = tmp_path / "StreamingBench"
    save_video(root / "Real-Time Visual Understanding_1-50/sample_7/video.mp4", ["red", "green"])
    save_video(root / "Misleading Context Understanding/sample_2/video.mp4", ["blue"] * 2)
    save_video(root / "Emotion Recognition/sample_2/video.mp4", ["green"] * 2)
    save_video(root / "Proactive Output_1-25/sample_3/Active Output_3.mp4", ["red"] * 2 + ["green"] * 6)
    save_video(root / "Proactive Output_1-25/__MACOSX/sample_3/video.mp4", ["blue"])
    tables = root / "StreamingBench"
    write_table(tables / "Real_Time_Visual_Understanding.csv", [
        row("Real-Time Visual Understanding_sample_7_1", choice("00:00:02", "B"))])
    write_table(tables / "Omni_Source_Understanding.csv", [
        row("Emotion Recognition_sample_2_1", choice("00:00:02", "B"))])
    write_table(tables / "Contextual_Understanding.csv", [
        row("Misleading Context Recognition_sample_2_1", choice("00:00:02", "C")),
        row("Anomaly Context Understanding_sample_9_1", choice("00:00:02", "C"))])
    write_table(tables / "Proactive_Output.csv", [
        row("Active Output_sample_3_1", request("00:00:00", "00:00:02", "green"))])
    model = Watcher(lambda colour, length_s, words: (
        letter_of(colour, length_s, words) if "Options:" in words else
        "Yes." if "right time" in words and colour == "green" else "No." if "right time" in words else colour))
    report = run_local(model, tmp_path)
    assert {line.name: (line.n, line.score) for line in report.tasks} == {
        "streamingbench/real": (1, 1.0), "streamingbench/omni": (2, 1.0), "streamingbench/proactive": (1, 1.0)}
    assert any("sample_9_Anomaly_Context_Understanding.mp4" in note for note in report.notes)


def test_a_broken_file_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    real_folder(tmp_path)
    write(tmp_path, "proactive", [entry("sample_1_real.mp4", {"task_type": "x", "question": "?",
                                                              "time_stamp": "soon"})])
    found = load_tasks(tmp_path)
    assert [task.name for task in found.tasks] == ["streamingbench/real"]
    assert [bad.file for bad in found.bad_rows] == ["questions_proactive.json"]
    assert "soon" in found.bad_rows[0].reason and "HH:MM:SS" in found.bad_rows[0].reason


def test_where_it_is_had(tmp_path: Path) -> None:
    save_video(tmp_path / "StreamingBench/sample_1_real.mp4", ["red"])
    found = load_tasks(tmp_path)
    assert not found.tasks and "questions_real.json" in found.bad_rows[0].reason
    (tmp_path / "StreamingBench").rename(tmp_path / "Streaming")
    real_folder(tmp_path / "other")
    (tmp_path / "other/STAND_IN").write_text("plain colours", encoding="utf-8")
    assert [task.name for task in load_tasks(tmp_path / "other").tasks] == ["streamingbench_format/real"]
    with pytest.raises(InputError, match="mjuicem/StreamingBench"):
        run_local(Watcher(letter_of), images(tmp_path / "third"), tasks=["streamingbench"])


def images(root: Path) -> Path:
    (root / "images").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(root / "images/1.png")
    (root / "nlvr.jsonl").write_text('{"image": "1.png", "question": "?", "answers": ["no"]}\n', encoding="utf-8")
    return root


# --- polls ------------------------------------------------------------------------------------------------------


def proactive_folder(root: Path) -> Path:
    save_video(root / "StreamingBench/videos/sample_1_proactive.mp4", ["red"] * 6 + ["green"] * 8)
    write(root, "proactive", [
        entry("sample_1_proactive.mp4", request("00:00:02", "00:00:06", "green")),
        entry("sample_1_proactive.mp4", request("00:00:00", "00:00:02", "blue")),
    ])
    return root


def green_watcher(colour: str, length_s: float, words: str) -> str:
    if "right time" not in words:
        return f"It is {colour}."
    return "Yes" if colour == "green" and "green" in words else "no"


def test_polls_stop_at_the_first_yes_and_end_after_the_true_time(tmp_path: Path) -> None:
    model = Watcher(green_watcher)
    report = run_local(model, proactive_folder(tmp_path), report_path=tmp_path / "out/r.json")
    polls = [length for length, words in model.asked if "right time" in words]
    assert polls == [1, 2, 3, 4, 5, *range(1, 7)], "at 7 s it sees the green of second 6; the other ends at 2 + 4 s"
    line = report.task("streamingbench/proactive")
    assert line.headline == "answer_accuracy_official" and line.score == 0.5
    assert line.metrics["said_nothing_official"] == 0.5 and line.metrics["false_alarms_official"] == 0.0
    first, second = map(json.loads, (tmp_path / "out/r.answers.jsonl").read_text(encoding="utf-8").splitlines())
    assert utterances(first["answer"]) == (Utterance(7, "It is green."),) and utterances(second["answer"]) == ()
    assert first["measured"]["polls"] == 5 and first["media"] == ["StreamingBench/videos/sample_1_proactive.mp4#t=2,10"]


def test_blind_polls_are_asked_once(tmp_path: Path) -> None:
    model = Watcher(lambda colour, length_s, words: "yes" if not colour else "no")
    line = run_local(model, proactive_folder(tmp_path), blind=True).task("streamingbench/proactive")
    assert line.blind["time_accuracy_official"] == 0.5, "at once: 1 s for 2 s is near enough, 3 s for 6 s is not"
    assert line.metrics["time_accuracy_official"] == 0.0
    assert sum(length == 0 for length, _ in model.asked) == 4


@pytest.mark.parametrize("said", [[(6, "green")], [(9, "green")], [(4, "It is green")], [(5, "red")], []])
def test_timed_answers_score_as_the_official_statistics_say(tmp_path: Path, said: list[tuple[int, str]]) -> None:
    task = load_tasks(proactive_folder(tmp_path)).tasks[0]
    item, answer = task.items[0], written(Utterance(*one) for one in said)
    scores = task.scorer.score([item], [answer]).metrics
    time, content = said[0] if said else (10, "No.")
    fields = request("00:00:02", "00:00:06", "green") | {
        "model": {"dialog_history": [{"role": "assistant", "time": time, "content": content}]}}
    write(tmp_path / "answers", "proactive", [entry("v.mp4", fields)])
    path = tmp_path / "answers/StreamingBench/questions_proactive.json"
    stats = official.statistics(path, "proactive", "model").stats["Proactive Output"]
    assert scores["time_accuracy_official"] == stats["time_accuracy"]
    assert scores["answer_accuracy_official"] == stats["answer_accuracy"]


def test_chance_of_a_moment_is_the_best_delay(tmp_path: Path) -> None:
    task = load_tasks(proactive_folder(tmp_path)).tasks[0]
    chance = task.scorer.chance(task.items)
    assert chance.value == 1.0 and "2 s after each request" in chance.rule, "4 s and 2 s: one delay suits both"


def test_texts_that_are_no_utterances_say_nothing() -> None:
    assert [utterances(text) for text in ("3", "yes", "[]", '{"said": 1}', '{"said": [{"time": "x"}]}')] == [()] * 5


# --- live -------------------------------------------------------------------------------------------------------


@dataclass
class Session:
    """Says so once when it has seen a colour; says something at the end of every second when it hears anything loud."""

    wanted: str
    pictures: list[str] = field(default_factory=list)
    loud: list[bool] = field(default_factory=list)
    has_spoken: bool = False

    def see(self, picture: Any) -> list[Any]:
        self.pictures.append(colour_of(picture))
        return []

    def hear(self, waveform: np.ndarray) -> list[Any]:
        assert len(waveform) == RATE_HZ
        self.loud.append(bool(np.abs(waveform).max() > 0.05))
        dropped = says("never shown")
        dropped.confirmed.clear()
        dropped.cancel.set()
        return [dropped]

    def tick(self) -> list[Any]:
        if self.has_spoken or self.pictures[-1:] != [self.wanted]:
            return []
        self.has_spoken = True
        return [says(f"It is {self.wanted}"), says(" now.")]


def says(text: str) -> Work:
    def run() -> Iterator[Any]:
        yield TextPiece(text[:3])
        yield TextPiece(text[3:])
        yield TurnEnded(text, "stop")

    work = Work(run)
    work.confirmed.set()
    return work


@dataclass
class Attending:
    """A model whose sessions are scripted."""

    name: str = "attending"
    has_live: bool = True
    sessions: list[Session] = field(default_factory=list)

    def chat(self, messages: Any, **_: Any) -> str:
        return "no"

    def transcribe(self, source: Any, **_: Any) -> str:
        return ""

    def live_session(self, told: str, config: LiveConfig) -> tuple[Session, list[Any]]:
        assert not config.speaks and config.temperature == 0.0
        self.sessions.append(Session(told.split()[-1].strip('."')))
        return self.sessions[-1], [says("All right.")]


def live_folder(root: Path) -> Path:
    save_video(root / "video/1.mp4", ["red"] * 3 + ["green"] * 4)
    rows = [{"id": colour, "type": "proactive", "question": f"Say {colour} when it is {colour}.",
             "ground_truth_time_stamp": "00:00:03", "ground_truth_output": colour} for colour in COLOURS]
    text = json.dumps({"video": "1.mp4", "qa": [*rows, {"id": "yn", "question": "A dog?", "answers": ["no"]}]})
    (root / "video_mine.jsonl").write_text(text + "\n", encoding="utf-8")
    return root


def answers_of(report_path: Path) -> dict[tuple[str, bool], tuple[Utterance, ...]]:
    lines = report_path.with_suffix(".answers.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return {(one["id"], one["blind"]): utterances(one["answer"]) for one in rows if one["task"].endswith("proactive")}


def test_what_a_live_session_says_is_kept_with_its_second(tmp_path: Path) -> None:
    model, path = Attending(), tmp_path / "out/r.json"
    report: Report = run_local(model, live_folder(tmp_path), blind=True, report_path=path)
    found = answers_of(path)
    assert found["green", False] == (Utterance(4, "It is green"), Utterance(4, "now."))
    assert found["red", False][0] == Utterance(1, "It is red") and found["blue", False] == ()
    assert model.sessions[0].pictures == ["red"] * 3 + ["green"] * 4 and all(model.sessions[0].loud)
    assert [session.pictures for session in model.sessions[3:]] == [[]] * 3
    assert not any(any(session.loud) for session in model.sessions[3:]), "blind runs hear silence"
    assert all(said == () for (_, blind), said in found.items() if blind)
    line = report.task("video_mine/proactive")
    assert line.score == pytest.approx(2 / 3), "red is said at 1 s, within 2 s of 3 s"
    assert line.metrics["too_early"] == pytest.approx(1 / 3) and line.metrics["said_nothing"] == pytest.approx(1 / 3)
    assert line.blind["said_nothing"] == 1.0 and line.metrics["false_alarms"] == 0.0
    assert line.details["measured"]["unit_s"]["n"] == 3


def test_requests_of_the_benchmark_in_a_live_session(tmp_path: Path) -> None:
    line = run_local(Attending(), proactive_folder(tmp_path), tasks=["streamingbench/proactive_live"],
                     report_path=tmp_path / "out/r.json").task("streamingbench/proactive_live")
    lines = (tmp_path / "out/r.answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert [utterances(json.loads(one)["answer"])[:1] for one in lines] == [(Utterance(7, 'It is green'),), ()]
    assert line.headline == "answer_accuracy_live" and line.score == 0.5


def test_words_of_one_turn_are_one_utterance_until_the_model_listens() -> None:
    """As full duplex tells it: a few words a second, its silence told as listening."""
    script: list[list[Any]] = [[TextPiece("It ")], [TextPiece("is red.")], [Listening(2)], [TextPiece("Now blue.")]]

    class Duplex(Session):
        def hear(self, waveform: np.ndarray) -> list[Any]:
            events = script.pop(0)
            work = Work(lambda: iter(events))
            work.confirmed.set()
            return [work]

    units = [Unit(number + 1.0, np.zeros(RATE_HZ, np.float32), None) for number in range(4)]
    assert attend(Duplex("red"), [], units).said == (Utterance(1, "It is red."), Utterance(4, "Now blue."))


def test_models_without_live_sessions_leave_it_out(tmp_path: Path) -> None:
    report = run_local(Watcher(lambda *_: "no"), live_folder(tmp_path))
    assert [line.name for line in report.tasks] == ["video_mine/yesno"]
    assert any("video_mine/proactive: left out, watcher has no live sessions" in note for note in report.notes)
    task = next(task for task in load_tasks(tmp_path).tasks if task.verb == "live")
    assert unable(Attending(has_live=False), task, "it") == "it has no live sessions"
    assert unable(Attending(), task, "it") is None


def test_nano_speaks_up_when_a_ball_appears(tmp_path: Path, model: MiniCPMO) -> None:
    """A ball, for that is what nano was taught to name; it looks twice before it speaks."""
    plain = Image.new("RGB", (256, 256), (165, 165, 165))
    ball = plain.copy()
    ImageDraw.Draw(ball).ellipse((60, 60, 196, 196), fill=COLOURS["red"])
    save_video(tmp_path / "video/1.mp4", [plain] * 3 + [ball] * 4, tone=False)
    request = {"id": "ball", "type": "proactive", "question": "Say ball when a red ball appears.",
               "ground_truth_time_stamp": "00:00:03", "ground_truth_output": "ball"}
    (tmp_path / "video_mine.jsonl").write_text(json.dumps({"video": "1.mp4", "qa": [request]}), encoding="utf-8")
    path = tmp_path / "out/r.json"
    assert model.has_live
    line = run_local(model, tmp_path, blind=True, report_path=path).task("video_mine/proactive")
    assert answers_of(path) == {("ball", False): (Utterance(5.0, "ball"),), ("ball", True): ()}
    assert line.score == 1.0 and line.metrics["too_early"] == 0.0 and line.blind["said_nothing"] == 1.0
