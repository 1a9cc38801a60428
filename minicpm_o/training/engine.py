"""The engine: one loop for a laptop, a GPU and many hosts. Knows an Objective and a Feed, no model and no data.

    feed ─ micro-batches ─> objective ─ terms ─> loss = sum of weight * (totals / counts of all ranks) ─> AdamW

    python -m minicpm_o train RECIPE                           one process
    torchrun --nproc-per-node 8 -m minicpm_o train RECIPE      several; run.parallel says how they share

A step depends on seed, step and rank alone, and a checkpoint holds everything else: a run that was killed goes on with
the losses that it would have had. Counts are summed over all ranks before anything is divided, so that the loss does
not depend on how many ranks share a step.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn

from ..checkpoints.storage import check_room, write_atomic, writing_to
from ..errors import CheckpointError, OptionError, TrainingError
from .recipe import OptimSection, Recipe
from .terms import Feed, Objective, Term, seed_of

STATE_FILE = "state.json"
_SPARE_BYTES = 10_000_000
_WAIT = timedelta(minutes=30)
"""A rank that hears nothing of another for this long gives up, so that the launcher can start all again."""


@dataclass(frozen=True)
class World:
    """Who takes part, and on what this rank computes."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        return self.rank == 0


@contextmanager
def join_world() -> Iterator[World]:
    """The ranks that torchrun started, or one; NCCL between GPUs, gloo between CPUs."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if "RANK" not in os.environ:
        yield World(device=device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_WAIT)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True)
class StepReport:
    """What one step did, summed over all ranks."""

    step: int
    """Counted from 1."""
    loss: float
    terms: Mapping[str, float]
    """Mean of each term."""
    parts: Mapping[str, float]
    """Mean by task, where a term serves several: "next_token/caption"."""
    tokens: int
    grad_norm: float
    lr: float
    is_bad: bool = False
    """The loss or a gradient was no number: nothing was learned."""
    extra: Mapping[str, float] = field(default_factory=dict)


def train(objective: Objective, feed: Feed, recipe: Recipe, folder: Path, world: World,
          report: Callable[[StepReport], None]) -> int:
    """Train to recipe.run.steps, from the newest checkpoint in `folder` where there is one; returns the last step.

    Ctrl-C ends after a checkpoint. Raises TrainingError when steps stay without a number or memory runs out,
    CheckpointError when the folder holds another recipe's run, DiskFullError before a checkpoint that would not fit.
    """
    network = distribute(objective, recipe, world)
    optimizer = make_optimizer(objective, recipe.optim)
    keeper = Checkpoints(folder, recipe, world)
    step = keeper.load_newest(objective, optimizer, feed)
    bad = 0
    try:
        while step < recipe.run.steps:
            with _memory_told(recipe):
                done = one_step(network, objective, optimizer, feed, recipe, world, step)
            bad = bad + 1 if done.is_bad else 0
            step += 1
            report(done)
            if bad >= recipe.run.max_bad_steps:
                raise TrainingError(_no_numbers(done, bad))
            if step % recipe.run.save_every == 0 or step == recipe.run.steps:
                keeper.save(objective, optimizer, feed, step)
    except KeyboardInterrupt:
        keeper.save(objective, optimizer, feed, step)
        raise
    return step


def one_step(network: nn.Module, objective: Objective, optimizer: torch.optim.Optimizer, feed: Feed, recipe: Recipe,
             world: World, step: int) -> StepReport:
    """Forward and backward over this rank's micro-batches, one update; step counts from 0."""
    torch.manual_seed(seed_of(recipe.run.seed, step, world.rank))
    share = rate(step, recipe.run.steps, recipe.optim)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * share
    micros = [objective.to_micro(micro, world.device) for micro in feed.step(step)]
    counts = _total_counts(objective, micros, world)
    ledger = _Ledger(objective.weights, counts)
    for number, micro in enumerate(micros):
        with _unsynced(network, is_last=number + 1 == len(micros)), _autocast(recipe, world):
            terms = network(micro)
        with _unsynced(network, is_last=number + 1 == len(micros)):
            (ledger.loss(terms) * world.size).backward()  # reduction takes the mean over ranks
        ledger.add(terms, objective.num_tokens(micro))
    _rest(objective, step, recipe.run.steps)
    norm = clip_gradients(objective, recipe.optim.clip)
    summed = ledger.summed(world)
    is_bad = not (math.isfinite(summed.loss) and math.isfinite(norm))
    if not is_bad:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    extra = objective.after_step(step)
    return StepReport(step + 1, summed.loss, summed.terms, summed.parts, summed.tokens, norm,
                      recipe.optim.lr * share, is_bad, extra)


# Loss


class _Ledger:
    """Sums of a step on this rank."""

    def __init__(self, weights: Mapping[str, float], counts: Mapping[str, float]) -> None:
        self.weights, self.counts = weights, counts
        self._totals: dict[str, float] = {}
        self._parts: dict[str, tuple[float, float]] = {}
        self._tokens = 0

    def loss(self, terms: Mapping[str, Term]) -> Tensor:
        """This micro-batch's share of the step's loss."""
        shares = [self.weights.get(name, 1.0) * term.total / max(self.counts[name], 1.0)
                  for name, term in terms.items()]
        return torch.stack([share.float() for share in shares]).sum()

    def add(self, terms: Mapping[str, Term], num_tokens: int) -> None:
        self._tokens += num_tokens
        for name, term in terms.items():
            self._totals[name] = self._totals.get(name, 0.0) + float(term.total.detach())
            for part, (total, count) in term.parts.items():
                before = self._parts.get(f"{name}/{part}", (0.0, 0.0))
                self._parts[f"{name}/{part}"] = (before[0] + total, before[1] + count)

    def summed(self, world: World) -> _Summed:
        held = [self._totals, self._parts, self._tokens]
        everyone = [held]
        if world.size > 1:
            everyone = [None] * world.size  # type: ignore[list-item]
            dist.all_gather_object(everyone, held)
        totals: dict[str, float] = {}
        parts: dict[str, tuple[float, float]] = {}
        for own_totals, own_parts, _ in everyone:
            for name, total in own_totals.items():
                totals[name] = totals.get(name, 0.0) + total
            for name, (total, count) in own_parts.items():
                before = parts.get(name, (0.0, 0.0))
                parts[name] = (before[0] + total, before[1] + count)
        terms = {name: total / max(self.counts[name], 1.0) for name, total in sorted(totals.items())}
        loss = sum(self.weights.get(name, 1.0) * value for name, value in terms.items())
        return _Summed(loss, terms, {name: total / count for name, (total, count) in sorted(parts.items()) if count},
                       sum(tokens for _, _, tokens in everyone))


@dataclass(frozen=True)
class _Summed:
    loss: float
    terms: Mapping[str, float]
    parts: Mapping[str, float]
    tokens: int


def _total_counts(objective: Objective, micros: Sequence[Any], world: World) -> dict[str, float]:
    """What each term is divided by: counts of all micro-batches of all ranks."""
    own: dict[str, float] = {}
    for micro in micros:
        for name, count in objective.counts(micro).items():
            own[name] = own.get(name, 0.0) + count
    if world.size == 1:
        return own
    everyone: list[Any] = [None] * world.size
    dist.all_gather_object(everyone, own)
    return {name: sum(counts.get(name, 0.0) for counts in everyone) for name in sorted({*own, *(
        name for counts in everyone for name in counts)})}


def _no_numbers(done: StepReport, bad: int) -> str:
    broken = [name for name, value in done.terms.items() if not math.isfinite(value)]
    what = f"the loss of {', '.join(broken)}" if broken else "the gradient"
    return (f"{what} is not a number in step {done.step}, for the {bad}th step in a row; nothing was learned in these. "
            f"Lower optim.lr or optim.clip, compute in fp32, or look at the samples of that step with `minicpm-o data "
            f"inspect`")


# Weights


class _Anchored(nn.Module):
    """The objective with every parameter that learns taking part in each loss, as DDP must have it."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, micro: Any) -> dict[str, Term]:
        terms = self.objective(micro)
        anchor = sum(p.reshape(-1)[0] * 0.0 for p in self.objective.parameters() if p.requires_grad)
        name, term = next(iter(terms.items()))
        return {**terms, name: Term(term.total + anchor, term.count, term.parts)}


def distribute(objective: Objective, recipe: Recipe, world: World) -> nn.Module:
    """The objective on its device, recomputed, compiled and shared as the recipe says. Raises OptionError."""
    run = recipe.run
    if run.parallel == "none" and world.size > 1:
        raise OptionError(f"{world.size} ranks were started and run.parallel is none; set run.parallel=ddp, or fsdp2 "
                          f"for a model that does not fit on one device")
    objective.to(world.device)
    if run.recompute:
        _recompute(objective)
    if run.compile:
        for block in objective.blocks():
            block.compile()
    if run.parallel == "fsdp2":
        return _shard(objective, recipe, world)
    if run.parallel == "ddp" and world.size > 1:
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(_Anchored(objective))
    return objective


def _recompute(objective: Objective) -> None:
    """Blocks compute their activations again on the way back."""
    from torch.utils.checkpoint import checkpoint

    for block in objective.blocks():
        forward = block.forward

        def again(*args: Any, _forward: Callable[..., Any] = forward, **kwargs: Any) -> Any:
            return checkpoint(_forward, *args, use_reentrant=False, **kwargs)

        block.forward = again


def _shard(objective: Objective, recipe: Recipe, world: World) -> nn.Module:
    """FSDP2: each block a group of its own, the rest one."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if not dist.is_initialized():
        raise OptionError("run.parallel is fsdp2, which shares the model over ranks, and none were started; start with "
                          "torchrun, or set run.parallel=none")
    mesh = init_device_mesh(world.device.type, (world.size,))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    options = {"mp_policy": policy} if recipe.run.precision == "bf16" else {}
    for block in objective.blocks():
        fully_shard(block, mesh=mesh, **options)
    return fully_shard(objective, mesh=mesh, **options)


def _unsynced(network: nn.Module, *, is_last: bool) -> AbstractContextManager[Any]:
    """Ranks exchange gradients after the last micro-batch alone."""
    no_sync = getattr(network, "no_sync", None)
    return nullcontext() if is_last or no_sync is None else no_sync()


def _autocast(recipe: Recipe, world: World) -> AbstractContextManager[Any]:
    if recipe.run.precision == "fp32" or recipe.run.parallel == "fsdp2":
        return nullcontext()
    return torch.autocast(world.device.type, dtype=torch.bfloat16)


@contextmanager
def _memory_told(recipe: Recipe) -> Iterator[None]:
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise TrainingError(f"the GPU has no memory left ({str(error).split('.')[0]}); lower run.micro_batch_size (now "
                            f"{recipe.run.micro_batch_size}) or the longest sample, set run.recompute=true, or share "
                            f"the model over more ranks with run.parallel=fsdp2") from error


# Learning rates


def rate(step: int, steps: int, optim: OptimSection) -> float:
    """Share of the peak rate in step 0, 1, ...: linear warm-up, then a cosine to `final_share`."""
    warm = min(1.0, (step + 1) / max(1, optim.warmup_steps))
    progress = min(1.0, step / max(1, steps))
    return warm * (optim.final_share + (1 - optim.final_share) * 0.5 * (1 + math.cos(math.pi * progress)))


def make_optimizer(objective: Objective, optim: OptimSection) -> torch.optim.AdamW:
    """AdamW over what learns, grouped by rate and by whether it decays. Raises OptionError when nothing learns."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in learning(objective).items():
        prefix = max((key for key in optim.group_lr if name.startswith(key)), key=len, default=None)
        lr = optim.lr if prefix is None else optim.group_lr[prefix]
        decay = optim.weight_decay if parameter.dim() > 1 else 0.0
        groups.setdefault((lr, decay), []).append(parameter)
    unused = [key for key in optim.group_lr if not any(name.startswith(key) for name in learning(objective))]
    if unused or not groups:
        what = f"no parameter that learns begins with {unused[0]!r}" if unused else "no parameter learns"
        shown = ", ".join(list(dict(objective.named_parameters()))[:3])
        raise OptionError(f"{what}; parameters are called like {shown}")
    return torch.optim.AdamW([{"params": params, "lr": lr, "weight_decay": decay, "peak_lr": lr}
                              for (lr, decay), params in groups.items()], betas=optim.betas)


def learning(objective: Objective) -> dict[str, nn.Parameter]:
    """Name -> parameter of everything that may learn in this run."""
    return {name: parameter for name, parameter in objective.named_parameters() if parameter.requires_grad}


def _rest(objective: Objective, step: int, steps: int) -> None:
    """Parameters that are not of this step's phase lose their gradient, so that nothing moves them, not even decay."""
    prefixes = objective.trainable(step, steps)
    if prefixes is None:
        return
    for name, parameter in learning(objective).items():
        if not name.startswith(tuple(prefixes)):
            parameter.grad = None


def clip_gradients(objective: Objective, limit: float) -> float:
    """Scale all gradients so that their common norm is at most `limit`; returns the norm before."""
    parameters = [parameter for parameter in learning(objective).values() if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters])
    whole = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    if torch.isfinite(whole):
        nn.utils.clip_grads_with_norm_(parameters, limit, whole)
    return float(whole)


# Checkpoints


class Checkpoints:
    """The newest states of a run, each a folder that is whole or not there; any number of ranks can read them."""

    def __init__(self, folder: Path, recipe: Recipe, world: World) -> None:
        self.folder, self.recipe, self.world = folder, recipe, world

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints, oldest first."""
        found = (path for path in self.folder.glob("step-*") if (path / STATE_FILE).is_file())
        return sorted(int(path.name.removeprefix("step-")) for path in found if path.suffix != ".part")

    def save(self, objective: Objective, optimizer: torch.optim.Optimizer, feed: Feed, step: int) -> None:
        """Write a checkpoint, then forget the oldest beyond `keep`. Raises DiskFullError beforehand."""
        target, part = self.folder / f"step-{step:08}", self.folder / f"step-{step:08}.part"
        tensors = state_of(objective, optimizer)
        if (target / STATE_FILE).is_file():
            return
        if self.world.is_first:
            self.folder.mkdir(parents=True, exist_ok=True)
            check_room(self.folder, sum(_bytes(tensor) for tensor in tensors.values()) + _SPARE_BYTES)
            shutil.rmtree(part, ignore_errors=True)
        self._wait()
        with writing_to(self.folder):
            _dcp_save(tensors, part)
        if self.world.is_first:
            state = {"step": step, "feed": feed.state(), "recipe": self.recipe.identity(),
                     "fingerprint": self.recipe.fingerprint()}
            write_atomic(part / STATE_FILE, [json.dumps(state).encode()])
            part.replace(target)
            for old in self.steps()[: -self.recipe.run.keep]:
                shutil.rmtree(self.folder / f"step-{old:08}")
        self._wait()

    def load_newest(self, objective: Objective, optimizer: torch.optim.Optimizer, feed: Feed) -> int:
        """Go on from the newest checkpoint; returns its step, 0 where there is none.

        Raises CheckpointError, naming the fields that differ, when it is of another recipe.
        """
        steps = self.steps()
        if not steps:
            return 0
        folder = self.folder / f"step-{steps[-1]:08}"
        state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        check_same(state["recipe"], self.recipe.identity(), self.folder)
        tensors = state_of(objective, optimizer)
        _dcp_load(tensors, folder)
        put_state(objective, optimizer, tensors)
        feed.load(state["feed"])
        return int(state["step"])

    def _wait(self) -> None:
        if self.world.size > 1:
            dist.barrier()


def check_same(held: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    """Raises CheckpointError with the fields in which two recipes differ. More steps are allowed."""
    ours, theirs = (dict(_flat(values)) for values in (wanted, held))
    differ = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
    if differ:
        shown = "; ".join(f"{name} is {ours.get(name)!r}, was {theirs.get(name)!r}" for name in differ[:5])
        raise CheckpointError(f"{folder} holds a run of another recipe: {shown}; give the recipe that it was begun "
                              f"with, or another folder with --out")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def state_of(objective: Objective, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Everything that learns with its moments, by name; sharded tensors stay sharded."""
    state: dict[str, Any] = {}
    for name, parameter in learning(objective).items():
        held = optimizer.state.get(parameter) or {}
        state[f"model/{name}"] = parameter.detach()
        for key in ("exp_avg", "exp_avg_sq"):
            state[f"{key}/{name}"] = held.get(key, torch.zeros_like(parameter.detach()))
        state[f"step/{name}"] = held.get("step", torch.tensor(0.0))
    return state


def put_state(objective: Objective, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """The reverse of `state_of`; the parameters themselves were loaded in place."""
    for name, parameter in learning(objective).items():
        if float(state[f"step/{name}"]):  # else the parameter has never been moved
            optimizer.state[parameter] = {
                "step": state[f"step/{name}"].float(), **{key: state[f"{key}/{name}"] for key in ("exp_avg",
                                                                                                 "exp_avg_sq")}}


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _dcp_save(tensors: dict[str, Any], folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that one process saves alone is meant
        dcp.save(tensors, checkpoint_id=str(folder), no_dist=not dist.is_initialized())


def _dcp_load(tensors: dict[str, Any], folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # likewise
        dcp.load(tensors, checkpoint_id=str(folder), no_dist=not dist.is_initialized())
