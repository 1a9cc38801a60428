"""How likely given texts are as an answer: against chat's own greedy answer, and against the sum token by token."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minicpm_o import ImagePart, Message, MiniCPMO, TextPart
from minicpm_o.errors import CheckpointError, ContextFullError, ImageError, MessageError, OptionError
from minicpm_o.runtime.conversation import embed, prompt_keys
from minicpm_o.runtime.engine import Step
from minicpm_o.runtime.losses import RUN_TOKENS, TextLoss, token_losses

CHOICES = ["A coffee cup on a table", "Two dogs in the snow", "A red bus", "cup"]


def question(samples: Path) -> list[Message]:
    return [Message("user", (ImagePart(samples / "photo.jpg"), TextPart("What is in the picture?")))]


@pytest.fixture(scope="module", params=["4.5", "2.6"])
def official(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MiniCPMO:
    """A tiny random official checkpoint on torch."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from minicpm_o.checkpoints.random_official import write_random_checkpoint

    folder = tmp_path_factory.mktemp("official") / "m"
    write_random_checkpoint(folder, request.param)
    return MiniCPMO.from_pretrained(folder, dtype="float32", threads=1, speech=False)


def token_by_token(model: MiniCPMO, messages: Sequence[Message], text: str) -> TextLoss:
    """The definition, without anything kept: a fresh cache, one token after the other."""
    parts: Any = model.parts
    inputs = parts.prepare(messages, **({"transcripts": []} if parts.has_recogniser else {}))
    cache = parts.engine.new_cache()
    step = parts.engine.prefill(embed(inputs, 0, parts.engine, parts.encode), cache)
    total, is_greedy = 0.0, True
    ids = parts.tokenizer.encode(text)
    for token_id in ids:
        logits = step.logits.astype(np.float64)
        logits[list(parts.banned_ids)] = -np.inf
        total -= logits[token_id] - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        is_greedy &= int(logits.argmax()) == token_id
        step = parts.engine.decode(token_id, cache)
    return TextLoss(total, len(ids), is_greedy)


def check_sum(model: MiniCPMO, messages: Sequence[Message], texts: Sequence[str], rtol: float) -> None:
    for text, found in zip(texts, model.losses(messages, texts), strict=True):
        expected = token_by_token(model, messages, text)
        np.testing.assert_allclose(found.loss, expected.loss, rtol=rtol, err_msg=f"loss of {text!r}")
        assert (found.num_tokens, found.is_greedy) == (expected.num_tokens, expected.is_greedy), text
        assert found.mean == found.loss / found.num_tokens


# --- nano ---------------------------------------------------------------------------------------------------------


def test_sum_is_that_of_the_tokens(model: MiniCPMO, samples: Path) -> None:
    check_sum(model, question(samples), CHOICES[:2], rtol=1e-9)


def test_alone_is_beside_others(model: MiniCPMO, samples: Path) -> None:
    together = model.losses(question(samples), CHOICES)
    assert [model.losses(question(samples), [text])[0] for text in CHOICES] == together
    model.forget()
    assert model.losses(question(samples), CHOICES[::-1]) == together[::-1]


def test_the_answer_of_chat_is_greedy_and_the_likeliest(model: MiniCPMO, samples: Path) -> None:
    answer = model.chat(question(samples), max_tokens=12)
    words = answer.text.split()
    changed = [" ".join([*words[:-1], "bananas"]), " ".join([words[0], "bananas", *words[2:]]), " " + answer.text]
    said, *others = model.losses(question(samples), [answer.text, *changed])
    assert said.is_greedy and said.num_tokens == answer.usage.output
    assert not any(other.is_greedy for other in others)
    assert said.loss < min(other.loss for other in others)


def test_the_prompt_is_read_once_and_kept_for_chat(model: MiniCPMO, samples: Path, monkeypatch: Any) -> None:
    model.forget()
    engine, read = type(model.parts.engine), []
    prefill_chunks = engine.prefill_chunks
    monkeypatch.setattr(engine, "prefill_chunks",
                        lambda self, embeds, cache: read.append(len(embeds)) or prefill_chunks(self, embeds, cache))
    before = model.losses(question(samples), CHOICES)
    assert len(read) == 1, f"the prompt was read {len(read)} times for {len(CHOICES)} texts"
    reply = model.chat(question(samples), max_tokens=4)
    assert reply.usage.cached >= reply.usage.prompt - 2, "chat read the prompt again"
    assert model.losses(question(samples), CHOICES) == before


def test_a_text_is_read_in_few_runs(model: MiniCPMO, monkeypatch: Any) -> None:
    engine, runs = type(model.parts.engine), []
    verify = engine.verify
    monkeypatch.setattr(engine, "verify",
                        lambda self, ids, cache: runs.append(len(ids)) or verify(self, ids, cache))
    words = "The sea is a large body of salt water that covers most of the earth. " * 4
    (found,) = model.losses("What is the sea?", [words])
    assert sum(runs) == found.num_tokens - 1 and len(runs) <= 1 + found.num_tokens // RUN_TOKENS


def test_a_prompt_without_its_picture_has_other_losses(model: MiniCPMO, samples: Path) -> None:
    seeing = model.losses(question(samples), CHOICES[:1])
    assert model.losses("What is in the picture?", CHOICES[:1]) != seeing


def test_threads_take_turns(model: MiniCPMO, samples: Path) -> None:
    alone = model.losses(question(samples), CHOICES[:2])
    found: dict[int, list[TextLoss]] = {}
    threads = [threading.Thread(target=lambda n=n: found.update({n: model.losses(question(samples), CHOICES[:2])}))
               for n in range(2)]
    for thread in threads:
        thread.start()
    said = model.chat("Say hello.", max_tokens=6).text
    for thread in threads:
        thread.join()
    assert found == {0: alone, 1: alone}
    assert model.chat("Say hello.", max_tokens=6).text == said


@pytest.mark.parametrize(("texts", "words"), [
    ([], "texts is an empty list; give at least one"),
    ("yes", "texts is 'yes'; it must be a list"),
    (["yes", 3], "it must be a list of texts, each a string"),
    (["yes", ""], "text 1 of 2 is '', which has no tokens"),
])
def test_wrong_texts_are_refused(model: MiniCPMO, texts: Any, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        model.losses("Is it?", texts)


def test_wrong_messages_are_refused_as_by_chat(model: MiniCPMO, tmp_path: Path) -> None:
    with pytest.raises(MessageError, match="no message of the user"):
        model.losses([{"role": "system", "content": "Be short."}], ["yes"])
    with pytest.raises(ImageError):
        model.losses([Message("user", (ImagePart(tmp_path / "none.jpg"),))], ["yes"])


# --- official checkpoints -----------------------------------------------------------------------------------------


def test_official_sum_is_that_of_the_tokens(official: MiniCPMO, samples: Path) -> None:
    check_sum(official, question(samples), ["cup", "a red bus"], rtol=1e-5)


def test_official_alone_is_beside_others(official: MiniCPMO, samples: Path) -> None:
    together = official.losses(question(samples), CHOICES)
    for text, loss in zip(CHOICES, together, strict=True):
        alone = official.losses(question(samples), [text])[0]
        np.testing.assert_allclose(alone.loss, loss.loss, rtol=1e-5, err_msg=text)
        assert alone.num_tokens == loss.num_tokens


def test_a_text_longer_than_the_window_is_refused(official: MiniCPMO) -> None:
    with pytest.raises(ContextFullError, match="does not fit beside the prompt's"):
        official.losses("Is it?", ["yes", "word " * official.parts.engine.context_tokens])


def test_oldest_turns_left_out_are_told(official: MiniCPMO) -> None:
    words = "word " * (official.parts.engine.context_tokens // 9)
    turns = [Message("user", (TextPart(words),)), Message("assistant", (TextPart("yes"),)),
             Message("user", (TextPart(words),))]
    with pytest.warns(UserWarning, match="oldest 1 of 2 turns were left out"):
        official.losses(turns, ["yes"])


# --- the steps alone ----------------------------------------------------------------------------------------------


def test_logits_that_are_no_numbers_are_refused() -> None:
    engine: Any = SimpleNamespace(context_tokens=9)
    cache: Any = SimpleNamespace(length=3)
    step = Step(np.array([0.0, np.nan], np.float32), np.zeros((1, 1)))
    with pytest.raises(CheckpointError, match="without a finite maximum"):
        list(token_losses(engine, cache, step, [[0]]))


def test_keys_stay_those_of_the_prompt(model: MiniCPMO) -> None:
    model.forget()
    model.losses("Is it?", ["yes", "no"])
    kept = model._pool.idle[-1]
    inputs = model.parts.prepare([Message("user", (TextPart("Is it?"),))], transcripts=[])
    assert kept.keys.tolist() == prompt_keys(inputs).tolist() and kept.cache.length == len(inputs.ids)
