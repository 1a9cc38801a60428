"""Every shape of row becomes the conversation that it means; what is none says what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from minicpm_o.errors import InputError, MessageError
from minicpm_o.inputs.messages import AudioPart, ImagePart, TextPart
from minicpm_o.training.data.formats import example_of, read_rows

HERE = Path("sets")


def read(row: object, task: str | None = None):
    return example_of(row, HERE, name="row 1", task=task)  # type: ignore[arg-type]


def parts(row: object):
    return [(message.role, part) for message in read(row).messages for part in message.parts]


def test_openai_messages_with_what_is_known_beside_them() -> None:
    found = read({"messages": [{"role": "user", "content": [{"type": "image", "image": "a.jpg"},
                                                            {"type": "text", "text": "what?"}]},
                               {"role": "assistant", "content": "a dog"}],
                  "rejected": "a cat", "facts": {"answer": "dog"}, "task": "vqa", "speech_codes": [[1, 2]]})
    assert found.messages[0].parts == (ImagePart(str(HERE / "a.jpg")), TextPart("what?"))
    assert (found.rejected, found.facts["answer"], found.task) == ("a cat", "dog", "vqa")
    assert found.speech_codes[0].tolist() == [1, 2]
    assert read({"messages": [{"role": "user", "content": "hi"}]}, task="mine").task == "mine"


def test_official_rows_put_pictures_where_placeholders_stand() -> None:
    row = {"id": "0", "image": {"<image_00>": "a.jpg", "<image_01>": "b.jpg"}, "conversations": [
        {"role": "user", "content": "first <image_00>\nthen <image_01>\nwhich?"},
        {"role": "assistant", "content": "b"}]}
    assert [part for _, part in parts(row)] == [
        TextPart("first "), ImagePart(str(HERE / "a.jpg")), TextPart("then "), ImagePart(str(HERE / "b.jpg")),
        TextPart("which?"), TextPart("b")]


def test_a_picture_without_a_placeholder_comes_first() -> None:
    row = {"image": "a.jpg", "audio": "s.wav", "conversations": [
        {"from": "human", "value": "what?"}, {"from": "gpt", "value": "a dog"}]}
    assert parts(row) == [("user", ImagePart(str(HERE / "a.jpg"))), ("user", AudioPart(str(HERE / "s.wav"))),
                          ("user", TextPart("what?")), ("assistant", TextPart("a dog"))]


def test_pairs_questions_preferences_documents_and_sessions() -> None:
    caption = read({"image": "a.jpg", "captions": ["a dog", "one dog"]})
    assert (caption.task, caption.facts["references"]) == ("caption", ["a dog", "one dog"])
    question = read({"image": "a.jpg", "question": "what?", "answer": 3})
    assert question.facts["answer"] == "3" and question.messages[-1].parts == (TextPart("3"),)
    preference = read({"images": ["a.jpg"], "prompt": [{"role": "user", "content": [{"type": "image"}, {
        "type": "text", "text": "what?"}]}], "chosen": [{"role": "assistant", "content": "dog"}], "rejected": "cat"})
    assert preference.rejected == "cat" and preference.messages[0].parts[1] == TextPart("what?")
    document = read({"document": [{"text": "look:"}, {"image": "a.jpg"}, {"text": "a dog"}]})
    assert len(document.messages[0].parts) == 3 and document.task == "document"
    live = read({"units": [{"audio": "1.wav"}, {"text": "hi", "says": "hello", "ends_turn": True}]})
    assert [unit.says for unit in live.facts["units"]] == [None, "hello"]


@pytest.mark.parametrize(("row", "words"), [
    ({"foo": 1}, r"row 1 has the keys \['foo'\].*known are messages"),
    ("text", "row 1 is str"),
    ({"image": "a.jpg", "text": " "}, "row 1: the text is ' '"),
    ({"prompt": "q", "chosen": "a", "rejected": "a"}, "two answers that differ"),
    ({"conversations": [{"role": "user", "content": "<image_07> what?"}], "image": {"<image_00>": "a"}}, "image_07"),
    ({"conversations": [{"role": "cat", "content": "miaow"}]}, "role 'cat'"),
    ({"document": [{"smell": "x"}]}, "item 0 of 'document'"),
    ({"units": [{"sound": "x"}]}, "unit 0"),
    ({"messages": [{"role": "user", "content": "x"}], "facts": 3}, "'facts' is int"),
])
def test_what_is_wrong_is_named(row: object, words: str) -> None:
    with pytest.raises((InputError, MessageError), match=words):
        read(row)


def test_files_of_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n')
    (tmp_path / "b.json").write_text('[{"a": 1}]')
    assert len(read_rows(tmp_path / "a.jsonl")) == 2 and len(read_rows(tmp_path / "b.json")) == 1
    (tmp_path / "c.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(InputError, match="line 2 is not JSON"):
        read_rows(tmp_path / "c.jsonl")
    (tmp_path / "d.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match="expected a list"):
        read_rows(tmp_path / "d.json")
