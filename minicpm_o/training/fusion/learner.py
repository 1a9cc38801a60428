"""An optimiser with its schedule, which a run that goes on takes along: of a variant, and of its eye's lesson."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from ...checkpoints.storage import write_atomic
from ..mixture import read_rows


class Learner:
    """A model with its optimiser and schedule: a tenth of the steps lead up to the rate, a cosine leads down."""

    def __init__(self, model: nn.Module, rate: float, steps: int, weight_decay: float = 0.01,
                 clip: float = 1.0) -> None:
        self.model, self.clip = model, clip
        self.optimizer = torch.optim.AdamW(model.parameters(), rate, (0.9, 0.98), weight_decay=weight_decay)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, rate, steps, pct_start=0.1,
                                                            cycle_momentum=False)

    def step(self, loss: Tensor) -> float:
        """Learn from a loss; its value."""
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        return loss.item()

    def save(self, folder: Path, step: int, seconds: float) -> None:
        parts = {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "schedule")}
        torch.save({**parts, "step": step, "seconds": seconds}, folder / "checkpoint.tmp")
        (folder / "checkpoint.tmp").replace(folder / "checkpoint.pt")

    def resume(self, folder: Path) -> tuple[int, float]:
        """Steps done and seconds spent; what was noted after the checkpoint is forgotten, for it comes again."""
        if not (folder / "checkpoint.pt").exists():
            (folder / "metrics.jsonl").unlink(missing_ok=True)
            return 0, 0.0
        state = torch.load(folder / "checkpoint.pt", weights_only=True)
        for name in ("model", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        kept = [row for row in read_rows(folder / "metrics.jsonl") if row["step"] <= state["step"]]
        write_atomic(folder / "metrics.jsonl", ["".join(json.dumps(row) + "\n" for row in kept).encode()])
        return state["step"], state["seconds"]
