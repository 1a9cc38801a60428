"""The drafter's training: its prompts, which answers are kept out, and that it learns what follows what."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from safetensors.numpy import save_file

from minicpm_o.runtime.device import DevicePlan
from minicpm_o.runtime.drafter import DraftNetwork, LearnedDrafter, read_drafter
from minicpm_o.training.drafter import Answers, DrafterConfig, Trainer
from minicpm_o.training.drafter_prompts import TEMPLATES, common_nouns, draw_prompts

VOCABULARY, WIDTH = 40, 32
CONFIG = DrafterConfig(words=30, width=64, batch=64, rate=3e-3, dropout=0.0, steps=150)


def cycling_answers() -> tuple[Answers, np.ndarray]:
    """Answers in which 3 follows 0, 6 follows 3 ... (mod 30), and states that say which word comes."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
    lengths = np.full(60, 12)
    ids = np.concatenate([(start + 3 * np.arange(12)) % 30 for start in rng.integers(0, 30, 60)])
    return Answers(torch.from_numpy(table[ids].astype(np.float16)), torch.from_numpy(ids), lengths), table


def test_prompts_are_filled_and_never_twice() -> None:
    prompts = list(islice(draw_prompts(["dog", "sea", "lamp"], 0), 600))
    assert len(set(prompts)) == 600 and not any("{" in prompt for prompt in prompts)
    assert prompts == list(islice(draw_prompts(["dog", "sea", "lamp"], 0), 600))
    assert prompts[0] not in islice(draw_prompts(["dog", "sea", "lamp"], 0, frozenset(prompts[:1])), 600)
    assert len(set(TEMPLATES)) == len(TEMPLATES)


def test_nouns_are_counted(tmp_path: Path) -> None:
    lines = ("dog%1:05:00:: 1 4", "sea%1:17:00:: 1 9", "run%2:38:00:: 1 99", "dog%1:18:01:: 3 6")
    (tmp_path / "cntlist.rev").write_text("\n".join(lines))
    assert common_nouns(tmp_path) == ["dog", "sea"]


def test_places_have_a_next_token_and_are_trained_on_or_kept_out() -> None:
    answers, _ = cycling_answers()
    trained, kept = answers.places(kept_out=False), answers.places(kept_out=True)
    assert len(kept) == 3 * 11 and len(trained) == 57 * 11
    assert not {int(place) for place in kept[:, 0]} & {int(place) for place in trained[:, 0]}
    assert all((int(place) + int(left)) % 12 == 11 for place, left in trained), "left counts to the answer's end"


def test_it_learns_what_follows_and_the_runtime_reads_it(tmp_path: Path) -> None:
    answers, table = cycling_answers()
    trainer = Trainer(answers, table, CONFIG)
    before = trainer.rates()[0]
    trainer.train()
    after = trainer.rates()
    assert before < 0.5 < 0.9 < after[0] and after[2] > 0.8
    save_file(trainer.tensors(), tmp_path / "drafter.safetensors")
    plan = DevicePlan(threads=1, provider="CPUExecutionProvider", memory_mb={}, reasons=())
    network = DraftNetwork.open(read_drafter(tmp_path / "drafter.safetensors"), lambda ids: table[list(ids)], plan)
    guesses = LearnedDrafter(network).draft([6], table[6], 3)
    assert [guess.token_id for guess in guesses] == [9, 12, 15]
