"""A recipe: everything that decides what a run learns, in one YAML file; strict, so that a typing error is heard.

    stage: sft
    model: {name: tiny-4.5, lora: {rank: 8}}
    data: {sources: [{name: chat, kind: jsonl, path: chat.jsonl}]}
    optim: {lr: 1e-3}
    run: {steps: 100, batch_size: 8}

`key=value` on the command line changes a field: `optim.lr=3e-4 run.steps=20`.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from ..errors import OptionError
from .align import AlignConfig
from .data.mixture import MixtureConfig
from .lora import LoraConfig
from .pretrain import PretrainConfig
from .sft import SftConfig

Stage = Literal["pretrain", "sft", "align"]
Parallel = Literal["none", "ddp", "fsdp2"]
Precision = Literal["fp32", "bf16"]
FREE_FIELDS = ("log_every", "save_every", "keep", "threads", "tensorboard", "wandb", "max_bad_steps", "recompute",
               "compile")
"""Fields of `run` that may differ when a run is resumed: they do not change what is learned."""


class Section(BaseModel, frozen=True, extra="forbid"):
    """Base of a recipe's parts: frozen, and no field that it does not know."""


class ModelSection(Section):
    """Which model learns, and which of its parts."""

    name: str = "tiny-4.5"
    """nano, tiny-2.6, tiny-4.5, an official name or the folder of a checkpoint."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights that learn; bfloat16 halves them, but small steps are then rounded away."""
    train: tuple[str, ...] = ("all",)
    """Parts that learn: all, language, vision, hearing, connectors, resampler, projector, markers, talker, chattts.
    With `lora` the language model's own weights rest and its adapter learns."""
    lora: LoraConfig | None = None
    start: Path | None = None
    """What an earlier stage exported without merging, or nano's connectors, to begin with."""


class OptimSection(Section):
    """AdamW (arXiv:1711.05101), a linear warm-up, then a cosine."""

    lr: float = Field(default=1e-4, gt=0)
    group_lr: dict[str, float] = {}
    """Beginning of parameters' names -> a rate of their own: {"model.connectors.": 1e-3}. The longest counts."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(default=0.01, ge=0)
    """Of matrices; vectors do not decay."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of all gradients together."""
    warmup_steps: int = Field(default=10, ge=0)
    final_share: float = Field(default=0.05, ge=0, le=1)
    """Share of the peak rate at which the cosine ends."""


class RunSection(Section):
    """How long, how much at once, on what."""

    steps: int = Field(default=100, ge=1)
    batch_size: int = Field(default=8, ge=1)
    """Samples of a step, of all ranks."""
    micro_batch_size: int = Field(default=8, ge=1)
    """Samples that one rank computes at once; the rest of its share is accumulated."""
    seed: int = 0
    save_every: int = Field(default=50, ge=1)
    """Steps between checkpoints: as many are lost at most when a run is killed."""
    keep: int = Field(default=2, ge=1)
    """Checkpoints that are kept."""
    log_every: int = Field(default=1, ge=1)
    precision: Precision = "fp32"
    """What is computed in; weights and the optimiser keep model.dtype."""
    parallel: Parallel = "none"
    """none on one device; ddp copies the model to every rank; fsdp2 shards it over them."""
    recompute: bool = False
    """Compute activations again on the way back instead of keeping them: less memory, a third more time."""
    compile: bool = False
    """Compile the layers; pays on a GPU."""
    threads: int | None = Field(default=None, ge=1)
    max_bad_steps: int = Field(default=5, ge=1)
    """Steps in a row whose loss or gradient is not a number, each left out and counted, before the run stops."""
    tensorboard: bool = True
    wandb: str | None = None
    """Name of a project there; None sends nothing anywhere."""


class Recipe(Section):
    """One run."""

    stage: Stage
    model: ModelSection = ModelSection()
    data: MixtureConfig
    pretrain: PretrainConfig | None = None
    sft: SftConfig | None = None
    align: AlignConfig | None = None
    optim: OptimSection = OptimSection()
    run: RunSection = RunSection()

    @model_validator(mode="after")
    def _only_its_own_stage(self) -> Recipe:
        strangers = [name for name in get_args(Stage) if name != self.stage and getattr(self, name) is not None]
        if strangers:
            raise ValueError(f"the stage is {self.stage}, so the section {strangers[0]} would be ignored; leave it out")
        return self

    def section(self) -> PretrainConfig | SftConfig | AlignConfig:
        """The stage's own section, with its defaults where the recipe has none."""
        kinds = {"pretrain": PretrainConfig, "sft": SftConfig, "align": AlignConfig}
        return getattr(self, self.stage) or kinds[self.stage]()

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        values = self.model_dump(mode="json")
        values["run"] = {key: value for key, value in values["run"].items() if key not in FREE_FIELDS}
        return values

    def fingerprint(self) -> str:
        """Digest of `identity`."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]

    def to_yaml(self) -> str:
        """The recipe with every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def packaged_recipes() -> dict[str, Path]:
    """Name -> file of the recipes that come with the package."""
    folder = Path(str(importlib.resources.files("minicpm_o") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe of the package by name, or a file; overrides are `key=value` with dotted keys and YAML values.

    Raises OptionError for a file that is missing or malformed, an unknown field (with the nearest known one) or a
    value out of range.
    """
    path = packaged_recipes().get(name_or_path, Path(name_or_path).expanduser())
    if not path.is_file():
        near = difflib.get_close_matches(name_or_path, packaged_recipes(), 1)
        raise OptionError(f"there is no recipe {name_or_path!r}; give a YAML file, or one of "
                          f"{', '.join(packaged_recipes())}" + (f" (did you mean {near[0]}?)" if near else ""))
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise OptionError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise OptionError(f"{path} holds {type(values).__name__}; a recipe is a table that begins with `stage:`")
    for override in overrides:
        _apply(values, override)
    return parse_recipe(values, str(path))


def parse_recipe(values: Mapping[str, Any], where: str = "the recipe") -> Recipe:
    """A recipe of plain values. Raises OptionError that names every field that is wrong."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise OptionError(f"{where}: " + "; ".join(_complaint(item) for item in error.errors())) from error


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise OptionError(f"{override!r} changes nothing; write key=value, such as optim.lr=1e-4")
    *tables, field = key.split(".")
    table = values
    for name in tables:
        table = table.setdefault(name, {}) if isinstance(table, dict) else table
        if not isinstance(table, dict):
            raise OptionError(f"{override!r}: {name} is no table")
    table[field] = _value(text)


def _value(text: str) -> Any:
    """YAML, with 1e-4 as the number that people mean."""
    value = yaml.safe_load(text)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _complaint(error: Mapping[str, Any]) -> str:
    """One of pydantic's errors as a sentence."""
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(error["loc"][-1]), _fields_at(error["loc"][:-1]), 1, 0.5)
        return f"{place} is unknown" + (f"; did you mean {near[0]}?" if near else "")
    message = error["msg"].removeprefix("Value error, ")
    return f"{place or 'recipe'}: {message}, not {error['input']!r}" if error["type"] != "value_error" else message


def _fields_at(place: Sequence[Any]) -> list[str]:
    """Names of the fields of the section at a place of the recipe."""
    model: Any = Recipe
    for name in place:
        field = getattr(model, "model_fields", {}).get(name)
        kinds = [] if field is None else [field.annotation, *get_args(field.annotation)]
        kinds += [inner for kind in kinds for inner in get_args(kind)]
        model = next((kind for kind in kinds if hasattr(kind, "model_fields")), model)
    return list(getattr(model, "model_fields", {}))
