"""The engine: accumulated is whole, resumed is whole, ranks together are one, what goes wrong is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from torch import nn  # noqa: E402

from minicpm_o.errors import CheckpointError, DiskFullError, OptionError, TrainingError  # noqa: E402
from minicpm_o.training import engine  # noqa: E402
from minicpm_o.training.curves import curve_groups, draw_curves, smoothed  # noqa: E402
from minicpm_o.training.engine import Checkpoints, World, join_world, rate, train  # noqa: E402
from minicpm_o.training.recipe import Recipe, parse_recipe  # noqa: E402
from minicpm_o.training.terms import Objective, Term  # noqa: E402


class Lines(Objective):
    """Fits lines: two terms of different counts, a part that rests at first, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 8), nn.Linear(8, 1)
        self.dropout, self.weights = nn.Dropout(0.2), {"odd": 0.5}
        self.late: str | None = None

    def forward(self, micro: Any) -> dict[str, Term]:
        x, y = micro
        errors = (self.second(self.dropout(torch.tanh(self.first(x))))[:, 0] - y).square()
        odd = torch.arange(len(x)) % 2 == 1
        return {"all": Term(errors.sum(), len(x), {"part": (float(errors.sum().detach()), len(x))}),
                "odd": Term(errors[odd].sum(), int(odd.sum()))}

    def counts(self, micro: Any) -> dict[str, float]:
        return {"all": len(micro[0]), "odd": len(micro[0]) // 2}

    def num_tokens(self, micro: Any) -> int:
        return len(micro[0])

    def blocks(self) -> Sequence[nn.Module]:
        return [self.first]

    def trainable(self, step: int, steps: int) -> Sequence[str] | None:
        return [self.late] if self.late and step < 2 else None


class Numbers:
    """Batches that follow from the step; a rank takes its part of each micro-batch."""

    def __init__(self, recipe: Recipe, rank: int = 0, size: int = 1, bad: Sequence[int] = ()) -> None:
        self.recipe, self.rank, self.size, self.bad = recipe, rank, size, bad
        self.given = 0

    def step(self, step: int) -> list[Any]:
        self.given += 1
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(self.recipe.run.batch_size, 3, generator=generator)
        y = x.sum(1) * (float("nan") if step in self.bad else 1.0)
        whole = self.recipe.run.micro_batch_size * self.size
        parts = [range(start, start + whole) for start in range(0, len(x), whole)]
        own = [part[self.rank * whole // self.size : (self.rank + 1) * whole // self.size] for part in parts]
        return [(x[list(rows)], y[list(rows)]) for rows in own]

    def state(self) -> dict[str, Any]:
        return {"given": self.given}

    def load(self, state: Mapping[str, Any]) -> None:
        self.given = state["given"]

    def counts(self) -> dict[str, int]:
        return {"given": self.given}


def recipe(**run: Any) -> Recipe:
    values = {"steps": 6, "batch_size": 8, "micro_batch_size": 8, "save_every": 2, "tensorboard": False} | run
    return parse_recipe({"stage": "sft", "data": {"sources": [{"name": "x", "kind": "made", "path": "shapes"}]},
                         "optim": {"lr": 0.05, "warmup_steps": 2}, "run": values})


def losses(folder: Path, plan: Recipe, objective: Objective | None = None, bad: Sequence[int] = (),
           ) -> list[float]:
    found: list[float] = []
    train(objective or Lines(), Numbers(plan, bad=bad), plan, folder, World(),
          lambda report: found.append(report.loss))
    return found


def test_losses_fall_and_accumulated_is_whole(tmp_path: Path) -> None:
    calm = Lines()
    calm.dropout.p = 0.0
    pieces = Lines()
    pieces.dropout.p = 0.0
    whole = losses(tmp_path / "a", recipe(steps=30), calm)
    assert whole[-1] < 0.5 * whole[0]
    assert losses(tmp_path / "b", recipe(steps=30, micro_batch_size=2), pieces) == pytest.approx(whole, rel=1e-4)


def test_a_resumed_run_has_the_losses_of_a_whole_one(tmp_path: Path) -> None:
    whole = losses(tmp_path / "whole", recipe())
    with pytest.raises(ZeroDivisionError):
        train(Lines(), Numbers(recipe()), recipe(), tmp_path / "cut", World(), stop_after(5))
    assert Checkpoints(tmp_path / "cut", recipe(), World()).steps() == [2, 4]
    resumed = losses(tmp_path / "cut", recipe(log_every=3))
    assert resumed == whole[4:], "dropout, moments and rates too"


def stop_after(step: int):
    def report(done: Any) -> None:
        if done.step == step:
            raise ZeroDivisionError

    return report


def test_ctrl_c_leaves_a_checkpoint(tmp_path: Path) -> None:
    def interrupted(done: Any) -> None:
        if done.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Lines(), Numbers(recipe()), recipe(), tmp_path, World(), interrupted)
    assert Checkpoints(tmp_path, recipe(), World()).steps()[-1] == 3


def test_checkpoints_are_kept_as_told_and_halves_are_not_read(tmp_path: Path) -> None:
    losses(tmp_path, recipe(steps=8, keep=3))
    assert Checkpoints(tmp_path, recipe(), World()).steps() == [4, 6, 8]
    (tmp_path / "step-00000009.part").mkdir()
    (tmp_path / "step-00000010").mkdir()
    assert Checkpoints(tmp_path, recipe(), World()).steps()[-1] == 8


def test_another_recipe_is_refused(tmp_path: Path) -> None:
    losses(tmp_path, recipe())
    with pytest.raises(CheckpointError, match=r"run\.batch_size is 4, was 8; run\.seed is 5, was 0"):
        losses(tmp_path, recipe(batch_size=4, micro_batch_size=8, seed=5))


def test_a_loss_that_is_no_number_is_left_out_then_stops_the_run(tmp_path: Path) -> None:
    objective = Lines()
    found = losses(tmp_path / "one", recipe(), objective, bad=[2])
    assert [loss == loss for loss in found] == [True, True, False, True, True, True]
    assert all(torch.isfinite(parameter).all() for parameter in objective.parameters())
    with pytest.raises(TrainingError, match=r"loss of all, odd is not a number in step 5, for the 3th step in a row"):
        losses(tmp_path / "many", recipe(max_bad_steps=3), bad=[2, 3, 4])


def test_no_room_for_a_checkpoint_is_told_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, size: int) -> None:
        raise DiskFullError(f"{size} bytes are needed")

    monkeypatch.setattr(engine, "check_room", full)
    with pytest.raises(DiskFullError, match="bytes are needed"):
        losses(tmp_path, recipe())
    assert not list(tmp_path.glob("step-*"))


def test_parts_rest_in_their_phase(tmp_path: Path) -> None:
    objective = Lines()
    objective.late = "second."
    before = objective.first.weight.detach().clone()
    losses(tmp_path / "a", recipe(steps=2), objective)
    assert torch.equal(objective.first.weight, before), "nothing moves it, not even decay"
    whole = Lines()
    whole.late = "second."
    losses(tmp_path / "b", recipe(), whole)
    assert not torch.equal(whole.first.weight, before)


def test_the_rate_warms_up_and_ends_low() -> None:
    optim = recipe().optim
    shares = [rate(step, 100, optim) for step in range(100)]
    assert shares[0] == pytest.approx(0.5) and max(shares) <= 1 and shares[-1] == pytest.approx(0.05, abs=0.01)


def test_rates_by_name_and_their_typing_errors(tmp_path: Path) -> None:
    plan = recipe().model_copy(update={"optim": recipe().optim.model_copy(update={"group_lr": {"first.": 0.01}})})
    groups = engine.make_optimizer(Lines(), plan.optim).param_groups
    assert sorted({group["peak_lr"] for group in groups}) == [0.01, 0.05]
    wrong = plan.optim.model_copy(update={"group_lr": {"fist.": 0.01}})
    with pytest.raises(OptionError, match=r"begins with 'fist\.'; parameters are called like first\.weight"):
        engine.make_optimizer(Lines(), wrong)
    with pytest.raises(OptionError, match="no parameter learns"):
        engine.make_optimizer(Lines().requires_grad_(False), recipe().optim)


def test_several_ranks_need_a_way_to_share(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"2 ranks were started and run\.parallel is none"):
        engine.distribute(Lines(), recipe(), World(size=2))
    with pytest.raises(OptionError, match="torchrun"):
        engine.distribute(Lines(), recipe(parallel="fsdp2"), World())


def rank_main(rank: int, folder: str, parallel: str, port: int) -> None:
    """One of two processes; rank 0 writes down its losses."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port))
    torch.set_num_threads(1)
    plan = recipe(micro_batch_size=2, parallel=parallel)
    with join_world() as world:
        objective = Lines()
        objective.dropout.p = 0.0
        cut: list[float] = []
        train(objective, Numbers(plan, rank, 2), plan.model_copy(update={"run": plan.run.model_copy(
            update={"steps": 4})}), Path(folder), world, lambda done: cut.append(done.loss))
        again = Lines()
        again.dropout.p = 0.0
        with pytest.raises(CheckpointError, match=r"run\.steps"):
            train(again, Numbers(plan, rank, 2), plan, Path(folder), world, lambda done: None)
    if rank == 0:
        (Path(folder) / "losses.json").write_text(json.dumps(cut))


def free_port() -> int:
    import socket

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_ranks_have_the_losses_of_one(tmp_path: Path, parallel: str) -> None:
    import torch.multiprocessing as mp

    calm = Lines()
    calm.dropout.p = 0.0
    plan = recipe(micro_batch_size=4, steps=4)
    one = losses(tmp_path / "one", plan, calm)
    folder = tmp_path / "two"
    mp.spawn(rank_main, (str(folder), parallel, free_port()), nprocs=2)
    assert json.loads((folder / "losses.json").read_text()) == pytest.approx(one, rel=1e-4)
    if parallel == "fsdp2":  # what two ranks saved, one reads
        state = engine.state_of(calm, torch.optim.AdamW(calm.parameters()))
        engine._dcp_load(state, folder / "step-00000004")
        assert torch.isfinite(state["model/first.weight"]).all() and state["exp_avg/first.weight"].any()


def test_a_killed_run_loses_at_most_an_interval(tmp_path: Path) -> None:
    """A real SIGKILL in the middle of a step."""
    script = textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_engine as t, os, signal
        from pathlib import Path
        def report(done):
            print(done.loss, flush=True)
            if done.step == 5: os.kill(os.getpid(), signal.SIGKILL)
        t.train(t.Lines(), t.Numbers(t.recipe()), t.recipe(), Path({str(tmp_path / 'run')!r}), t.World(), report)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    whole = losses(tmp_path / "whole", recipe())
    assert [float(line) for line in done.stdout.split()] == whole[:5]
    assert losses(tmp_path / "run", recipe()) == whole[4:]


def test_curves_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [{"step": step, "loss": 1 / step, "a": 1 / step, "a/x": 1.0, "a/y": "nan", "lr": 0.1}
            for step in range(1, 40)]
    assert curve_groups(rows) == {"loss": ["loss"], "a": ["a"], "a, by part": ["a/x", "a/y"], "learning rate": ["lr"]}
    draw_curves(rows, tmp_path / "curves.png", "a run")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert smoothed([1, 3, 5], 2).tolist() == [1, 2, 4]
    draw_curves([], tmp_path / "none.png", "nothing")
    assert not (tmp_path / "none.png").exists()
