"""The drafter's training: its prompts, which answers are kept out, and that it learns what follows what."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from safetensors.numpy import save_file

from minicpm_o.checkpoints.bundle import Bundle
from minicpm_o.runtime.device import DevicePlan, plan_device
from minicpm_o.runtime.drafter import DraftNetwork, LearnedDrafter, read_drafter
from minicpm_o.runtime.parts import Parts
from minicpm_o.training.drafter import Batch, DrafterConfig, Trainer
from minicpm_o.training.drafter_answers import Answer, own_prompts, read_answers
from minicpm_o.training.drafter_prompts import TEMPLATES, common_nouns, draw_prompts

VOCABULARY, WIDTH = 40, 32
CONFIG = DrafterConfig(words=30, heads=2, kv_heads=1, ffn=64, batch_tokens=100, rate=3e-3, dropout=0.0, steps=250)


def cycling_answers() -> tuple[list[Answer], np.ndarray]:
    """Answers in which 3 follows 0, 6 follows 3 ... (mod 30), and states that say which word comes."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
    ids = [torch.from_numpy((start + 3 * np.arange(13)) % 30) for start in rng.integers(0, 30, 60)]
    return [Answer(torch.from_numpy(table[one[1:]].astype(np.float16)), one, 4) for one in ids], table


def test_prompts_are_filled_and_never_twice() -> None:
    prompts = list(islice(draw_prompts(["dog", "sea", "lamp"], 0), 600))
    assert len(set(prompts)) == 600 and not any("{" in prompt for prompt in prompts)
    assert prompts == list(islice(draw_prompts(["dog", "sea", "lamp"], 0), 600))
    assert prompts[0] not in islice(draw_prompts(["dog", "sea", "lamp"], 0, frozenset(prompts[:1])), 600)
    assert len(set(TEMPLATES)) == len(TEMPLATES)


def test_prompts_that_nano_thinks_of(nano: Path) -> None:
    parts = Parts(Bundle.open(nano), plan_device(threads=2))
    parts.share(2)
    first, second, third = islice(own_prompts(parts, 7, 2), 3)
    assert len({first, second, third}) == 3 and all(len(prompt) > 2 for prompt in (first, second, third))
    assert list(islice(own_prompts(parts, 7, 2, frozenset([second])), 2)) == [first, third]


def test_nouns_are_counted(tmp_path: Path) -> None:
    lines = ("dog%1:05:00:: 1 4", "sea%1:17:00:: 1 9", "run%2:38:00:: 1 99", "dog%1:18:01:: 3 6")
    (tmp_path / "cntlist.rev").write_text("\n".join(lines))
    assert common_nouns(tmp_path) == ["dog", "sea"]


def test_answers_are_read_as_they_were_written(tmp_path: Path) -> None:
    states, ids = np.arange(14, dtype=np.float16).reshape(7, 2), np.arange(9, dtype=np.int32)
    np.savez(tmp_path / "a.npz", states=states, ids=ids, lengths=[4, 5], asked=[2, 1])
    first, second = read_answers([tmp_path / "a.npz"])
    assert first.ids.tolist() == [0, 1, 2, 3] and first.states.tolist() == states[:3].tolist() and first.asked == 2
    assert second.ids.tolist() == [4, 5, 6, 7, 8] and second.states.tolist() == states[3:].tolist()


def test_a_pair_guesses_what_is_behind_its_token() -> None:
    answers = [Answer(torch.arange(2.0)[:, None].half(), torch.tensor([5, 6, 7]), 1),
               Answer(torch.arange(4.0)[:, None].half(), torch.tensor([1, 2, 3, 4, 9]), 2)]
    batch = Batch.of(answers)
    assert batch.said.tolist() == [[6, 0, 0], [2, 3, 4]] and batch.wanted.tolist() == [[7, -1, -1], [3, 4, 9]]
    assert batch.states[1, :, 0].tolist() == [0, 1, 2] and batch.next_states[1, :, 0].tolist() == [1, 2, 3]
    assert batch.begins.tolist() == [0, 1], "the answer's first token was chosen without a guess"


def test_a_guess_sees_what_it_will_see_at_run_time() -> None:
    """The second and third of three guesses, in one pass, as by reading true pairs and then the guessed ones."""
    answers, table = cycling_answers()
    trainer = Trainer(answers, table, CONFIG)
    net = trainer.net.eval()
    torch.nn.init.normal_(net.out.weight, std=0.2)
    rng = torch.Generator().manual_seed(1)
    states, said = (torch.randn(1, 6, WIDTH, generator=rng) for _ in range(2))
    with torch.no_grad():
        guesses = net(states, said, 3)
        for pair in range(2, 6):
            read = states[:, : pair - 1]
            for step in range(3):  # the true pairs up to pair - 2, then its own guesses
                (guessed,) = net(read, said[:, : read.shape[1]], 1)
                torch.testing.assert_close(guesses[step][:, pair - 2 + step], guessed[:, -1], atol=1e-5, rtol=1e-4)
                read = torch.cat([read, guessed[:, -1:]], 1)


def test_it_learns_what_follows_and_the_runtime_reads_it(tmp_path: Path) -> None:
    answers, table = cycling_answers()
    trainer = Trainer(answers, table, CONFIG)
    before = trainer.rates()[0]
    trainer.train()
    after = trainer.rates()
    assert before < 0.5 < 0.9 < after[0] and after[2] > 0.8
    save_file(trainer.tensors(), tmp_path / "drafter.safetensors")
    plan = DevicePlan(threads=1, provider="CPUExecutionProvider", memory_mb={}, reasons=())
    learned = read_drafter(tmp_path / "drafter.safetensors")
    assert Trainer(answers[:9], table, CONFIG, learned).rates()[0] > 0.9, "one goes on from it"
    network = DraftNetwork.open(learned, lambda ids: table[list(ids)], plan)
    guesses = LearnedDrafter(network).draft([0, 3, 6], [table[3], table[6]], 3)
    assert [guess.token_id for guess in guesses] == [9, 12, 15]
