"""What learns: parts of a model by name, and LoRA (arXiv:2106.09685, peft) on its language model."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field

from ..errors import OptionError
from ..model.omni import OmniModel

PARTS = {
    "language": "language.", "vision": "vision.", "hearing": "hearing.", "connectors": "connectors.",
    "resampler": "connectors.resampler.", "projector": "connectors.projector.", "markers": "connectors.markers.",
    "talker": "talker.", "chattts": "chattts.",
}
"""Name in a recipe -> beginning of the parameters' names."""
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LoraConfig(BaseModel, frozen=True, extra="forbid"):
    """A low-rank change of the language model, whose own weights rest."""

    rank: int = Field(default=16, ge=1)
    alpha: float | None = Field(default=None, gt=0)
    """Scale of the change times rank; None: twice the rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] | str = LINEAR
    """Names of its matrices, or a pattern of their whole names; attention alone, as the official script has it:
    [q_proj, k_proj, v_proj, o_proj]."""


def add_lora(model: OmniModel, rank: int, dropout: float) -> None:
    """Freeze the language model and lay a LoRA over its linear layers."""
    lay_lora(model, LoraConfig(rank=rank, dropout=dropout))


def lay_lora(model: OmniModel, config: LoraConfig) -> None:
    """Freeze the language model and lay a LoRA over the matrices that the config names. Raises OptionError."""
    import peft

    targets = config.targets if isinstance(config.targets, str) else list(config.targets)
    shape = peft.LoraConfig(r=config.rank, lora_alpha=config.alpha or 2 * config.rank, lora_dropout=config.dropout,
                            target_modules=targets)
    try:
        model.language = peft.get_peft_model(model.language, shape)
    except ValueError as error:
        raise OptionError(f"lora.targets are {config.targets!r}: {str(error).split('.')[0]}") from error


def choose_parts(model: OmniModel, parts: Sequence[str], lora: LoraConfig | None) -> None:
    """Let the named parts learn and all others rest; with lora the language model's adapter learns for it.

    Raises OptionError for a name that is unknown or a part that the model does not have.
    """
    unknown = [part for part in parts if part not in PARTS and part != "all"]
    if unknown:
        raise OptionError(f"there is no part {unknown[0]!r} to train; parts are all, {', '.join(PARTS)}")
    names = [name for name, _ in model.named_parameters()]
    missing = [part for part in parts if part != "all" and not any(name.startswith(PARTS[part]) for name in names)]
    if missing:
        raise OptionError(f"the model has no {missing[0]}; leave it out of model.train")
    prefixes = tuple(PARTS.values()) if "all" in parts else tuple(PARTS[part] for part in parts)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(prefixes))
    if lora is not None:
        lay_lora(model, lora)


def counted_parts(model: OmniModel) -> dict[str, tuple[int, int]]:
    """Part -> parameters that learn, and all of them; connectors by their own parts."""
    found: dict[str, tuple[int, int]] = {}
    for name, parameter in model.named_parameters():
        part = next((part for part, prefix in PARTS.items() if part != "connectors" and name.startswith(prefix)),
                    "connectors")
        learning, whole = found.get(part, (0, 0))
        found[part] = learning + parameter.numel() * parameter.requires_grad, whole + parameter.numel()
    return found
