"""Preparing the training: the layout that the training reads, kept-out rows left alone, the same files after a stop."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("transformers")

from minicpm_o.errors import InputError, MissingExtraError, OptionError, PartMissingError
from minicpm_o.inputs.audio import log_mel, write_wav
from minicpm_o.model.config import HearingConfig, VisionConfig
from minicpm_o.rates import AUDIO_RATE_HZ, UNIT_ENCODER_FRAMES, UNIT_MEL_FRAMES, UNIT_SAMPLES
from minicpm_o.training import prepare
from minicpm_o.training.features import AudioCache, FeatureStore, ImageCache
from minicpm_o.training.mixture import gather
from minicpm_o.training.prepare import __main__ as command
from minicpm_o.training.prepare import speech as speaking
from minicpm_o.training.prepare.chat import AnswerConfig, prepare_chat, tidy_answer
from minicpm_o.training.prepare.colours import prepare_colours, thing_and_ground
from minicpm_o.training.prepare.disturb import disturb
from minicpm_o.training.prepare.hearing import batches_of, lay_frames, prepare_hearing, windows_of
from minicpm_o.training.prepare.images import PICTURE_SETS, look, plan_views, prepare_images
from minicpm_o.training.prepare.questions import all_questions
from minicpm_o.training.prepare.speech import SoundPlan, plan_speech, prepare_speech, recorded
from minicpm_o.training.prepare.texts import Text, TextConfig, prepare_texts, read_texts
from minicpm_o.training.prepare.work import Marker, draws, find_files
from minicpm_o.training.samples import Sample
from minicpm_o.training.splits import is_validation

VISION = VisionConfig(image_px=32, grid=2, width=8, num_classes=6)
HEARING = HearingConfig(width=4)
PER_SET = 14
"""Pictures per set: enough that every set has some on both sides of the split."""


def write_rows(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def names_of(set_name: str, pattern: str, count: int = PER_SET) -> list[str]:
    """The first names of a pattern, the last two of them kept out."""
    names = [pattern.format(i) for i in range(400)]
    kept = [name for name in names if is_validation(set_name, name)]
    return [name for name in names if name not in kept][: count - 2] + kept[:2]


def content_of(set_name: str, number: int) -> dict:
    return {
        "flickr8k": {"en": [f"A dog number {number} runs over the grass ."]},
        "coco": {"captions": [f"A cat number {number} is asleep ."], "boxes_cxcywh": [["cat", 0.5, 0.5, 1, 1]]},
        "daquar": {"qa": [[f"what is behind the chair in the image{number} ?", "wall"]]},
        "scenes": {"en": ["A red ball."], "qa": [["What colour is it?", "Red."]], "present": ["ball"], "absent": []},
    }.get(set_name, {"label": "chair"})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny training set of every kind; the pictures of `imagenet1000` are blue all over, the others are noise."""
    folder, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    for one in PICTURE_SETS:
        names = names_of(one.name, "p{}.png")
        write_rows(folder / one.name / one.rows,
                   [{"image": name, **content_of(one.name, i)} for i, name in enumerate(names)])
        for name in names:
            noise = Image.fromarray(rng.integers(0, 255, (30, 40, 3), np.uint8))
            picture = Image.new("RGB", (40, 30), (40, 70, 200)) if one.name == "imagenet1000" else noise
            picture.save(folder / one.name / name)
    digits = names_of("fsdd", "{}.wav", 6)
    write_rows(folder / "fsdd/labels.jsonl", [{"audio": name, "text": "two"} for name in digits])
    for name in digits:
        write_wav(folder / "fsdd" / name, np.sin(np.arange(3000) / 20).astype(np.float32) / 2, 8000)
    return folder


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    (tmp_path / "wordnet").mkdir()
    glosses = [f'0 n 0 word | a thing; "the {word} stood in the empty corner"' for word in ("lamp", "desk", "coat")]
    (tmp_path / "wordnet/data.noun").write_text("  1 a licence\n" + "\n".join(glosses) + "\n")
    return tmp_path / "wordnet"


def eyes(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a picture is called here: its mean, in every cell and class."""
    mean = pixels.mean((1, 2, 3))
    return (np.broadcast_to(mean[:, None, None], (len(mean), VISION.grid**2, VISION.width)),
            np.broadcast_to(mean[:, None], (len(mean), VISION.num_classes)))


def ears(mel: np.ndarray) -> np.ndarray:
    """Every encoder frame says which second of its window it is, and the window's loudness."""
    frames = mel.shape[2] // 2
    heard = np.zeros((len(mel), frames, HEARING.width))
    heard[:, :, 0] = np.arange(frames) // UNIT_ENCODER_FRAMES
    heard[:, :, 3] = mel.mean((1, 2))[:, None]
    return heard


def say(text: Text, rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """A tone as long as its text, a tenth of a second per letter."""
    pitch = rng.uniform(0.02, 0.2)
    return "tone", np.sin(np.arange(len(text.text) * AUDIO_RATE_HZ // 10) * pitch).astype(np.float32) / 2


def plan_of(texts: list[Text], **changes) -> SoundPlan:
    return replace(SoundPlan("tone", tuple(texts), lambda: say, copies=2), **changes)


TEXTS = [Text("sentence", "One two three.", False), Text("chat", "What is it?", False), Text("caption", "A dog.", True)]


def test_the_training_reads_what_the_stages_write(data: Path, wordnet: Path, tmp_path: Path) -> None:
    out = tmp_path / "features"
    texts = prepare_texts(data, out, wordnet, limit=40)
    assert texts == read_texts(out)
    prepare_images(data, out, lambda: eyes, VISION)
    prepare_colours(data, out, lambda: np.ones((VISION.num_classes, VISION.width)))
    plans = plan_speech(texts, data, ["flite"], threads=1)
    for plan in plans:
        prepare_speech(out, replace(plan, open_voice=plan.open_voice if plan.name == "fsdd" else lambda: say))
        prepare_hearing(out, plan.name, lambda: ears, HEARING)
    prepare_chat(out, texts, Letters(), lambda: think)
    stems = [out / "audio" / plan.name for plan in plans]
    store = FeatureStore(ImageCache.open(out / "images"), AudioCache.open(stems))
    for validation in (False, True):
        sources = gather(data, store, out, validation=validation)
        empty = [name for name in vars(sources) if not getattr(sources, name)]
        assert set(empty) <= ({"spoken_picture"} if validation else set()), f"nothing to train on: {empty}"
        blue = {store.images.index[view]["set"] for view, (_, ground) in sources.colours.items() if ground == "blue"}
        assert blue == {"imagenet1000"}, "a plain picture has the colour of its ground, and no thing stands out"
    assert store.images.features.shape[1:] == (VISION.grid**2, VISION.width)
    row = next(i for i, entry in enumerate(store.audio.index) if entry["kind"] == "digit")
    sample = Sample(*[np.zeros(1)] * 4, tasks=(), image_rows=(0, 3), audio_rows=(row,))
    media = store.media(sample)
    assert media.features.shape == (2, VISION.grid**2, VISION.width)
    assert media.frames[0].shape == (store.audio.index[row]["units"] * UNIT_ENCODER_FRAMES, HEARING.width)


def test_kept_out_pictures_are_seen_once_as_they_are(data: Path) -> None:
    views = plan_views(data)
    for one in PICTURE_SETS:
        seen = {}
        for view in views:
            if view.set == one.name:
                seen.setdefault((view.image, view.val), []).append(view)
        assert {len(same) for (_, val), same in seen.items() if not val} == {one.views}
        kept = [same for (_, val), same in seen.items() if val]
        assert len(kept) == 2 and all(len(same) == 1 for same in kept)
        picture = Image.open(data / one.name / kept[0][0].image)
        assert look(picture, kept[0][0]) is picture


def test_the_thing_and_its_ground_have_their_own_colours() -> None:
    picture = Image.new("RGB", (80, 80), (250, 250, 250))
    picture.paste((200, 30, 30), (30, 30, 50, 50))
    activation = np.zeros((8, 8))
    activation[3:5, 3:5] = 1.0  # the classifier looks at the red square
    assert thing_and_ground(picture.crop((30, 30, 50, 50)), activation.ravel()) == ("red", "red")
    picture.paste((200, 30, 30), (20, 20, 60, 60))
    activation[2:6, 2:6] = 1.0
    assert thing_and_ground(picture, activation.ravel()) == ("red", "white")


def test_views_are_the_same_every_time_and_differ_from_each_other(data: Path) -> None:
    views = [view for view in plan_views(data) if view.set == "flickr8k" and not view.val][:8]
    assert views == plan_views(data, limit=1)[:8], "a view's draws do not depend on how many there are"
    picture = Image.open(data / "flickr8k" / views[0].image)
    seen = [look(picture, view).tobytes() for view in views]
    assert seen == [look(picture, view).tobytes() for view in views]
    assert len(set(seen)) == len(seen)
    flips = [view.flip for view in plan_views(data) if view.view]
    assert 0.3 < np.mean(flips) < 0.7


def test_a_view_keeps_most_of_the_picture(data: Path) -> None:
    picture = Image.new("RGB", (400, 300))
    for view in plan_views(data)[:60]:
        shown = look(picture, view)
        assert 0.5 < shown.width * shown.height / (400 * 300) <= 1


def test_images_go_on_after_a_stop_to_the_same_file(data: Path, tmp_path: Path) -> None:
    prepare_images(data, tmp_path / "whole", lambda: eyes, VISION, batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        prepare_images(data, tmp_path / "cut", lambda: stopping(eyes, 50), VISION, batch_size=2)
    assert not (tmp_path / "cut/images/index.json").exists(), "an index says that the cache is whole"
    calls = []
    prepare_images(data, tmp_path / "cut", lambda: counting(eyes, calls), VISION, batch_size=2)
    for name in ("features.npy", "logits.npy", "index.json"):
        assert (tmp_path / "whole/images" / name).read_bytes() == (tmp_path / "cut/images" / name).read_bytes()
    views = len(plan_views(data))
    assert len(calls) == -(-views // 2) - 40, "what was noted is not done again"
    prepare_images(data, tmp_path / "cut", refuse, VISION, batch_size=2)


def stopping(work, after: int):
    calls = []

    def stop(batch):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return work(batch)

    return stop


def counting(work, calls: list):
    return lambda batch: calls.append(1) or work(batch)


def refuse():
    raise AssertionError("finished work was opened again")


def test_another_recipe_is_not_taken_for_finished(data: Path, tmp_path: Path) -> None:
    prepare_images(data, tmp_path, lambda: eyes, VISION, limit=2)
    few = len(ImageCache.open(tmp_path / "images").index)
    prepare_images(data, tmp_path, lambda: eyes, VISION)
    cache = ImageCache.open(tmp_path / "images")
    assert few < len(cache.index) == len(cache.features) == len(cache.class_logits) == len(plan_views(data))


def test_speech_is_disturbed_unless_kept_out(tmp_path: Path) -> None:
    prepare_speech(tmp_path, plan_of(TEXTS))
    entries = json.loads((tmp_path / "audio/tone.json").read_text())
    assert [(entry["kind"], entry["val"]) for entry in entries] == [
        ("sentence", False), ("sentence", False), ("chat", False), ("chat", False), ("caption", True)]
    pcm = np.fromfile(tmp_path / "audio/tone.pcm", "<i2")
    sounds = [pcm[entry["start"] : entry["start"] + entry["n"]] for entry in entries]
    assert sum(map(len, sounds)) == len(pcm)
    clean = (say(TEXTS[2], draws(0, "tone", "A dog."))[1] * speaking.FULL_SCALE).astype(np.int16)
    np.testing.assert_array_equal(sounds[4], clean)
    assert len(sounds[0]) != len(sounds[1]) or (sounds[0] != sounds[1]).any()


def test_speech_is_the_same_by_seed_and_in_any_order(tmp_path: Path) -> None:
    for name, plan in (("a", plan_of(TEXTS)), ("b", plan_of(TEXTS[::-1], workers=2)), ("c", plan_of(TEXTS, seed=1))):
        prepare_speech(tmp_path / name, plan)
    a, b, c = (sounds_by_text(tmp_path / name) for name in "abc")
    assert a == b
    assert all(a[text] != c[text] for text in a)


def sounds_by_text(out: Path) -> dict[str, list[bytes]]:
    pcm, sounds = np.fromfile(out / "audio/tone.pcm", "<i2"), {}
    for entry in json.loads((out / "audio/tone.json").read_text()):
        sounds.setdefault(entry["text"], []).append(pcm[entry["start"] : entry["start"] + entry["n"]].tobytes())
    return sounds


def test_speech_goes_on_after_a_stop_to_the_same_file(tmp_path: Path) -> None:
    plan = plan_of([Text("chat", f"Say {number} again.", False) for number in range(45)])
    prepare_speech(tmp_path / "whole", plan)
    said = []

    def stop(text: Text, rng: np.random.Generator):
        said.append(text)
        if len(said) > 30:
            raise KeyboardInterrupt
        return say(text, rng)

    with pytest.raises(KeyboardInterrupt):
        prepare_speech(tmp_path / "cut", replace(plan, open_voice=lambda: stop))
    with pytest.raises(InputError, match="finish it"):
        prepare_hearing(tmp_path / "cut", "tone", lambda: ears, HEARING)
    with (tmp_path / "cut/audio/tone.pcm").open("ab") as file:
        file.write(b"half a sound")
    prepare_speech(tmp_path / "cut", plan)
    for name in ("tone.pcm", "tone.json"):
        assert (tmp_path / "whole/audio" / name).read_bytes() == (tmp_path / "cut/audio" / name).read_bytes()
    prepare_speech(tmp_path / "cut", replace(plan, open_voice=refuse))


def test_disturbed_sounds_can_be_used() -> None:
    clean = np.sin(np.arange(AUDIO_RATE_HZ) * 0.1).astype(np.float32) / 2
    lengths = set()
    for number in range(40):
        sound = disturb(clean, draws(0, number))
        assert sound.dtype == np.float32 and np.isfinite(sound).all()
        assert 0.1 < np.abs(sound).max() <= 1
        lengths.add(len(sound))
        np.testing.assert_array_equal(sound, disturb(clean, draws(0, number)))
    assert len(lengths) > 30
    assert min(lengths) > 0.85 * AUDIO_RATE_HZ and max(lengths) < 2 * AUDIO_RATE_HZ


@pytest.mark.parametrize(
    ("samples", "units", "windows"),
    [(1, 1, [1]), (UNIT_SAMPLES, 1, [1]), (UNIT_SAMPLES + 1, 2, [2]), (30 * UNIT_SAMPLES, 30, [30]),
     (31 * UNIT_SAMPLES + 1, 32, [30, 2])],
)
def test_sounds_fill_seconds_begun_in_windows_of_thirty(samples: int, units: int, windows: list[int]) -> None:
    before, entry = lay_frames([{"start": 0, "n": 1}, {"start": 1, "n": samples}])
    assert (before["frame"], before["units"]) == (0, 1)
    assert (entry["frame"], entry["units"]) == (UNIT_ENCODER_FRAMES, units)
    cut = list(windows_of(entry))
    assert [window.units for window in cut] == windows
    assert cut[0].start == 1 and cut[-1].stop == 1 + samples
    assert all(a.stop == b.start for a, b in pairwise(cut))
    assert [window.frame for window in cut] == [UNIT_ENCODER_FRAMES * (1 + 30 * i) for i in range(len(cut))]


def test_frames_lie_where_their_sounds_say(tmp_path: Path) -> None:
    long = Text("sentence", "a" * 325, True)  # 32.5 s
    texts = [long, *TEXTS]
    prepare_speech(tmp_path, plan_of(texts, copies=1, disturb=lambda waveform, rng: waveform))
    prepare_hearing(tmp_path, "tone", lambda: ears, HEARING)
    cache = AudioCache.open([tmp_path / "audio/tone"])
    pcm = np.fromfile(tmp_path / "audio/tone.pcm", "<i2")
    assert len(cache.frames[0]) == sum(entry["units"] for entry in cache.index) * UNIT_ENCODER_FRAMES
    for row, entry in enumerate(cache.index):
        frames = cache.read(row)
        assert len(frames) == entry["units"] * UNIT_ENCODER_FRAMES == -(-entry["n"] // UNIT_SAMPLES) * 50
        np.testing.assert_array_equal(frames[:, 0], np.arange(len(frames)) // UNIT_ENCODER_FRAMES % 30)
        sound = pcm[entry["start"] : entry["start"] + entry["n"]][: 30 * UNIT_SAMPLES].astype(np.float32)
        mel = log_mel(np.pad(sound / speaking.FULL_SCALE, (0, -len(sound) % UNIT_SAMPLES)))
        assert mel.shape[1] % UNIT_MEL_FRAMES == 0
        assert frames[0, 3] == pytest.approx(mel.mean(), abs=2e-3)


def test_hearing_goes_on_after_a_stop_and_notices_new_sounds(tmp_path: Path) -> None:
    texts = [Text("chat", "a" * (1 + number % 35 * 10), True) for number in range(90)]
    prepare_speech(tmp_path, plan_of(texts))
    total = len(batches_of([w for e in lay_frames(json.loads((tmp_path / "audio/tone.json").read_text()))
                            for w in windows_of(e)]))
    assert total > 25
    with pytest.raises(KeyboardInterrupt):
        prepare_hearing(tmp_path, "tone", lambda: stopping(ears, 23), HEARING)
    assert not (tmp_path / "audio/tone_frames.json").exists()
    calls = []
    prepare_hearing(tmp_path, "tone", lambda: counting(ears, calls), HEARING)
    assert len(calls) == total - 20
    first = AudioCache.open([tmp_path / "audio/tone"])
    assert all(np.array(first.read(row)).any() for row in range(len(first.index)))
    prepare_hearing(tmp_path, "tone", refuse, HEARING)
    prepare_speech(tmp_path, plan_of(texts[:3]))
    prepare_hearing(tmp_path, "tone", lambda: ears, HEARING)
    assert len(AudioCache.open([tmp_path / "audio/tone"]).index) == 3


def test_texts_leave_out_what_was_kept_out(data: Path, wordnet: Path, tmp_path: Path) -> None:
    texts = prepare_texts(data, tmp_path, wordnet, TextConfig(definition_share=0.0))
    by_kind = {}
    for text in texts:
        by_kind.setdefault(text.kind, []).append(text.text)
    assert len(by_kind["caption"]) == 2 * (PER_SET - 2)
    assert "A dog number 0 runs over the grass." in by_kind["caption"]
    assert by_kind["question"] == ["What is behind the chair in this picture?"], "as the training writes questions"
    assert sorted(by_kind["sentence"]) == [
        f"The {word} stood in the empty corner." for word in ("coat", "desk", "lamp")]
    assert by_kind["chat"] == all_questions()
    assert all(text.val == is_validation("speech", text.text) for text in texts)
    assert texts == prepare_texts(data, tmp_path, wordnet, TextConfig(definition_share=0.0))
    few = prepare_texts(data, tmp_path, wordnet, limit=2)
    assert [text.kind for text in few] == ["caption"] * 2 + ["question"] + ["sentence"] * 2 + ["chat"] * 2
    assert read_texts(tmp_path, 1) == [few[0], few[2], few[3], few[5]]


def test_texts_do_without_wordnet(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = prepare_texts(data, tmp_path, tmp_path / "nothing")
    assert "wordnet-base" in caplog.text
    assert "sentence" not in {text.kind for text in texts}


def test_questions_are_well_formed() -> None:
    questions = all_questions()
    assert len(set(questions)) == len(questions) == 406
    assert all(re.fullmatch(r"[A-Z][A-Za-z ,]+[.?]", question) for question in questions)
    assert not [question for question in questions if re.search(r"\ba [aeiou]", question)]


class Letters:
    """A tokenizer of letters: ids are code points, structure lies above them."""

    special = SimpleNamespace(im_start=200_001, im_end=200_002)

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(i) for i in ids)


def think(prompts) -> list[list[int]]:
    """Says the question's first two words again and ends."""
    tokenizer, said = Letters(), []
    for prompt in prompts:
        question = "".join(chr(i) for i in prompt if i < 200_000).split("user\n")[1].split("\nassistant\n")[0]
        said.append([*tokenizer.encode(" ".join(question.split()[:2])), tokenizer.special.im_end, 120, 120])
    return said


def test_answers_belong_to_their_questions(tmp_path: Path) -> None:
    questions = [Text("chat", text, False) for text in ("Why do cats purr?", "How so?", "Who can say it in words?")]
    prepare_chat(tmp_path, [*questions, TEXTS[0]], Letters(), lambda: think, AnswerConfig(batch_size=2))
    assert json.loads((tmp_path / "chat.json").read_text()) == [
        {"question": "Why do cats purr?", "answer": "Why do"},
        {"question": "How so?", "answer": "How so?"},
        {"question": "Who can say it in words?", "answer": "Who can"},
    ]
    prepare_chat(tmp_path, questions, Letters(), refuse, AnswerConfig(batch_size=2))


@pytest.mark.parametrize(
    ("said", "kept"),
    [("One. Two. Thr", "One. Two."), ("No end", "No end"), ("Whole, without a stop\0rest.", "Whole, without a stop")],
)
def test_an_answer_that_was_cut_off_ends_with_a_sentence(said: str, kept: str) -> None:
    ids = [Letters.special.im_end if letter == "\0" else ord(letter) for letter in said]
    assert tidy_answer(Letters(), ids) == kept


def test_kokoro_says_its_share_of_every_kind(data: Path) -> None:
    texts = [Text("chat", f"c{i}", False) for i in range(9)] + [Text("caption", f"o{i}", False) for i in range(9)]
    config = speaking.SpeechConfig(kokoro_chat=2, kokoro_others=4)
    kokoro, digits = plan_speech(texts, data, ["kokoro"], threads=1, config=config)
    assert sorted(text.kind for text in kokoro.texts) == ["caption"] * 4 + ["chat"] * 2
    assert kokoro.copies == 3
    assert kokoro.texts == plan_speech(texts, data, ["kokoro"], threads=2, config=config)[0].texts
    assert digits.name == "fsdd" and {text.kind for text in digits.texts} == {"digit"}
    voice, waveform = recorded(digits.texts[0], draws(0))
    assert voice == "fsdd" and len(waveform) == pytest.approx(6000, abs=2), "8 kHz becomes 16 kHz"


def test_marker_counts_only_its_own_recipe(tmp_path: Path) -> None:
    file = tmp_path / "made"
    marker = Marker(tmp_path / "done.json", ["recipe", (1, 2)], 3, (file,))
    marker.reach(2)
    assert marker.done() == 0, "the file is not there"
    file.touch()
    assert marker.done() == 2 and not marker.is_finished()
    marker.reach(3)
    assert marker.is_finished()
    assert replace(marker, recipe=["recipe", (1, 3)]).done() == 0


def test_errors_say_what_to_do(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"'flickr8k' is not there.*docs/training\.md"):
        prepare_texts(tmp_path, tmp_path)
    with pytest.raises(InputError, match="--only images"):
        prepare_colours(tmp_path, tmp_path, lambda: np.ones(1))
    with pytest.raises(InputError, match="--only texts"):
        read_texts(tmp_path)
    with pytest.raises(InputError, match="--only speech"):
        prepare_hearing(tmp_path, "flite", lambda: ears, HEARING)
    with pytest.raises(OptionError, match="flite and kokoro"):
        plan_speech([], data, ["espeak"], threads=1)
    monkeypatch.setattr("shutil.which", lambda program: None)
    with pytest.raises(MissingExtraError, match=r"apt-get install flite.*--voices kokoro"):
        speaking.open_flite()
    monkeypatch.setenv("MINICPM_O_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MINICPM_O_PART_KOKORO", raising=False)
    monkeypatch.setattr("minicpm_o.checkpoints.pull._installed_members", lambda file: None)
    with pytest.raises(PartMissingError, match="MINICPM_O_PART_KOKORO"):
        find_files("kokoro")


def test_the_command_runs_the_stages_asked_for(data: Path, wordnet: Path, tmp_path: Path,
                                               monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(command, "open_eyes", lambda vision, threads: real_size_eyes(vision))
    sets = ["--data", str(data), "--out", str(out)]
    command.main([*sets, "--only", "texts", "images", "--wordnet", str(wordnet), "--limit", "1", "--threads", "1"])
    assert sorted(path.name for path in out.iterdir()) == ["images", "texts.json"]
    assert ImageCache.open(out / "images").features.shape[1:] == (64, 1280)
    with pytest.raises(SystemExit) as ended:
        command.main([*sets, "--only", "speech", "--voices", "espeak"])
    assert ended.value.code == 2 and "no voice 'espeak'" in capsys.readouterr().err


def real_size_eyes(vision: VisionConfig):
    return lambda pixels: (np.zeros((len(pixels), vision.grid**2, vision.width)),
                           np.zeros((len(pixels), vision.num_classes)))


def test_of_the_runtime_only_voices_ears_sessions_and_the_networks_inputs_are_used() -> None:
    sources = "\n".join(path.read_text() for path in Path(prepare.__file__).parents[1].rglob("*.py"))
    assert set(re.findall(r"from \.+runtime\.?(\w*)", sources)) == {
        "cache", "device", "drafter", "duplex", "engine", "own_ears", "parts", "sampling", "speech", "torch_parts",
        "word_search"}
