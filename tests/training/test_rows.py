"""Rows and batches: packed = alone, a tree's branches see their trunk alone, nothing looks at what it may not see."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from minicpm_o.errors import ContextFullError, OptionError  # noqa: E402
from minicpm_o.inputs.messages import messages_from_openai  # noqa: E402
from minicpm_o.model.omni import RawMedia  # noqa: E402
from minicpm_o.training.examples import Example  # noqa: E402
from minicpm_o.training.rows import (  # noqa: E402
    NOT_LEARNED,
    Row,
    attention_bias,
    collate,
    hidden_states,
    join_rows,
    pack,
)
from minicpm_o.training.trainee import open_trainee  # noqa: E402


def row_of(length: int, first: int = 0, name: str = "") -> Row:
    ids = np.arange(first, first + length)
    return Row(ids, np.where(ids % 2, ids, NOT_LEARNED), RawMedia(), name=name)


def picture_and_sound(question: str, answer: str) -> Example:
    rng = np.random.default_rng(len(question))
    picture = Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8))
    sound = rng.standard_normal(16_000).astype(np.float32) * 0.1
    return Example(tuple(messages_from_openai([
        {"role": "user", "content": [{"type": "image", "image": picture},
                                     {"type": "audio", "audio": sound, "rate_hz": 16_000},
                                     {"type": "text", "text": question}]},
        {"role": "assistant", "content": answer}])))


@pytest.fixture(scope="module")
def trainee(tmp_path_factory: pytest.TempPathFactory):
    return open_trainee("tiny-4.5", home=tmp_path_factory.mktemp("home"))


def test_packing_fills_up_and_cuts_nothing() -> None:
    packed = pack([row_of(6), row_of(5), row_of(4)], max_tokens=10)
    assert [len(row) for row in packed] == [10, 5]
    assert packed[0].positions.tolist() == [*range(6), *range(4)], "each begins at 0"
    assert packed[0].segments.tolist() == [0] * 6 + [1] * 4
    with pytest.raises(OptionError, match="takes 11 tokens and max_tokens is 10"):
        pack([row_of(11)], max_tokens=10)


def test_labels_of_a_batch_are_of_the_next_token() -> None:
    batch = collate([row_of(4), row_of(3, first=4)])
    assert batch.labels.tolist() == [[1, NOT_LEARNED, 3, NOT_LEARNED], [5, NOT_LEARNED, NOT_LEARNED, NOT_LEARNED]]
    assert (batch.num_labels, batch.num_tokens) == (3, 7)


def test_a_branch_sees_the_trunk_and_itself() -> None:
    tree = Row(np.arange(5), np.full(5, NOT_LEARNED), RawMedia(), ("", "a", "b"), np.array([0, 0, 1, 2, 2]),
               parents=(0, 0, 0), positions=np.array([0, 1, 2, 2, 3]))
    batch = collate([join_rows([row_of(2), tree])])
    seen = (attention_bias(batch)[0, 0] == 0).int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 0, 1, 0],
        [0, 0, 1, 1, 0, 1, 1],
    ]
    both_ways = (attention_bias(batch, is_causal=False)[0, 0] == 0).int().tolist()
    assert both_ways[0] == [1, 1, 0, 0, 0, 0, 0], "of its own segment it sees what follows too"


def test_packed_rows_with_media_think_what_they_think_alone(trainee) -> None:
    told = (("what is this?", "a dog"), ("and this one here?", "no"))
    rows = [trainee.row(picture_and_sound(*words)) for words in told]
    model = trainee.model.eval()
    with torch.inference_mode():
        alone = [hidden_states(model, collate([row]))[0] for row in rows]
        packed = hidden_states(model, collate(pack(rows, 4096)))[0]
        batched = hidden_states(model, collate(rows))
    first = len(rows[0])
    assert torch.allclose(packed[:first], alone[0], atol=1e-4) and torch.allclose(packed[first:], alone[1], atol=1e-4)
    assert torch.allclose(batched[1, : len(rows[1])], alone[1], atol=1e-4)
    assert not torch.allclose(packed[first - 1], packed[-1], atol=1e-2), "the two differ, so that a mix-up would show"


def test_sounds_of_another_length_in_the_batch_change_nothing(trainee) -> None:
    long = np.random.default_rng(1).standard_normal(40_000).astype(np.float32) * 0.1
    rows = [trainee.prompt(messages_from_openai([{"role": "user", "content": [
        {"type": "audio", "audio": sound, "rate_hz": 16_000}]}])) for sound in (long[:9_000], long)]
    with torch.inference_mode():
        model = trainee.model.eval()
        alone = hidden_states(model, collate(rows[:1]))[0]
        assert torch.allclose(hidden_states(model, collate(rows))[0, : len(rows[0])], alone, atol=1e-5)


def test_answers_with_their_ends_are_learned_and_nothing_else(trainee) -> None:
    messages = messages_from_openai([
        {"role": "user", "content": "one"}, {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"}, {"role": "assistant", "content": "four"}])
    row = trainee.row(Example(tuple(messages)))
    said = [trainee.tokenizer.decode(row.ids[span.start : span.stop], keep_special=True)
            for span in trainee.answers(row.ids)]
    assert said == ["two<|im_end|>", "four<|im_end|>"]
    learned = row.ids[row.labels != NOT_LEARNED]
    assert trainee.tokenizer.decode(learned, keep_special=True) == "two<|im_end|>four<|im_end|>"
    every_word = trainee.row(Example(tuple(messages)), learn="all")
    assert every_word.num_labels == len(row) - 1
    with pytest.raises(ContextFullError, match="more than 5"):
        trainee.row(Example(tuple(messages)), max_tokens=5)


def test_what_a_prompt_opens_with_is_what_an_answer_follows(trainee) -> None:
    """Training and runtime put the same tokens before an answer."""
    question = messages_from_openai([{"role": "user", "content": "one"}])
    answered = messages_from_openai([{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}])
    prompt, row = trainee.prompt(question), trainee.row(Example(tuple(answered)))
    (span,) = trainee.answers(row.ids)
    assert row.ids[: span.start].tolist() == prompt.ids.tolist()
