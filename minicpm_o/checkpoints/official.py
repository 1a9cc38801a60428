"""A folder of official weights (one file or shards, ordinary or int4), checked against its config and read by name.

Nothing but headers is read on opening. Every tensor of the files is accounted for: it is one that the config asks for,
or one that is known to be left out; anything missing, unknown or of another shape is named. Knows no network.

    checkpoint = Checkpoint.open(folder)
    weights = checkpoint.part("vpm.")          # a mapping; each look-up reads one tensor from disk
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..model.config import OfficialConfig
from .int4 import SUFFIXES, Quantisation, dequantise, quantisation_of, quantised_shape
from .official_config import config_from_official, read_values
from .official_layout import EMBEDDING, HEAD, OPTIONAL, PREFIXES, SPEECH, VISION, Shape, expected_tensors
from .safetensors_file import SafetensorsFile, TensorInfo, is_finite, to_numbers

INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
FLOATS = ("F64", "F32", "F16", "BF16")
_NAMED = 3
"""How many tensors an error names before it only counts."""


COMPANIONS = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json",
              "tokenizer_config.json", "preprocessor_config.json", "chat_template.jinja")
"""Small files of a checkpoint beside its weights and config.json."""


@dataclass(frozen=True)
class Stored:
    """Where the numbers of a tensor are."""

    shape: Shape
    """Of the tensor as it is used."""
    source: str
    """Name in the files: the tensor's own, that of the one it shares, or of a quantised matrix without its suffix."""
    quantised: bool = False


class Checkpoint:
    """An opened checkpoint; `tensors` holds what the config asks for and the files have, by official name."""

    def __init__(self, folder: Path, config: OfficialConfig, values: Mapping[str, Any], tensors: Mapping[str, Stored],
                 files: Mapping[str, SafetensorsFile], quantisation: Quantisation | None) -> None:
        self.folder = folder
        self.config = config
        self.values = values
        """config.json as it is."""
        self.tensors = tensors
        self.quantisation = quantisation
        self._files = files

    @classmethod
    def open(cls, folder: Path, *, vision: bool = True, hearing: bool = True, speech: bool = True) -> Checkpoint:
        """Read config.json and the headers of the weights; a part that is switched off is left out, not looked for.

        Raises CheckpointError for another model, a missing or damaged file, and tensors that are not the config's.
        """
        values = read_values(folder)
        where = str(folder / "config.json")
        config = _without(config_from_official(values, where=where), vision, hearing, speech)
        quantisation = quantisation_of(values, where=where)
        files = _open_files(folder)
        found = {name: file.infos[name] for name, file in files.items()}
        stored = _stored(found, config, quantisation)
        complaint = _complaint(stored, config, values)
        if complaint:
            raise CheckpointError(f"the weights in {folder} are not a whole {config.name}: {complaint}")
        tensors = {name: stored[name] for name in expected_tensors(config) if name in stored}
        whole = [name for name, tensor in tensors.items() if not tensor.quantised
                 and found[tensor.source].dtype not in FLOATS]
        if whole:
            raise CheckpointError(f"the weights in {folder} have {len(whole)} tensors of whole numbers where "
                                  f"{config.name} has fractions ({_some(whole)}); it looks like an unknown "
                                  f"quantisation, use the release with ordinary weights")
        return cls(folder, config, values, tensors, files, quantisation)

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """A tensor's numbers, float32 unless they are whole; or those of some rows (a slice of step 1), read alone.

        A quantised matrix is made ordinary. Raises CheckpointError for a name that the checkpoint does not have.
        """
        stored = self._stored(name)
        if stored.quantised and self.quantisation is not None:
            index = f"{stored.source}.g_idx" in self._files
            weight = dequantise(lambda suffix: self._numbers(f"{stored.source}.{suffix}"), self.quantisation,
                                has_index=index)
            return weight if rows is None else weight[rows]
        return self._numbers(stored.source, rows)

    def bits(self, name: str) -> tuple[str, np.ndarray] | None:
        """A tensor as it is stored: its kind (safetensors' word, as "BF16") and its bits; None if it is quantised."""
        stored = self._stored(name)
        if stored.quantised:
            return None
        return self._files[stored.source].infos[stored.source].dtype, self._raw(stored.source)

    def part(self, prefix: str) -> Part:
        """The tensors whose official names begin with prefix, by the rest of their names."""
        return Part(self, prefix)

    def num_bytes(self, itemsize: int | None = None) -> int:
        """Size of all tensors: as they are stored, or at so many bytes a number (int4 matrices are 2 as stored)."""
        return sum(math.prod(stored.shape) * (itemsize or self._itemsize(stored)) for stored in
                   self.tensors.values())

    def _itemsize(self, stored: Stored) -> int:
        if stored.quantised:
            return 2
        info = self._files[stored.source].infos[stored.source]
        return info.num_bytes // max(math.prod(info.shape), 1)

    def _stored(self, name: str) -> Stored:
        if name not in self.tensors:
            raise CheckpointError(f"the checkpoint in {self.folder} has no tensor {name!r}")
        return self.tensors[name]

    def _numbers(self, source: str, rows: slice | None = None) -> np.ndarray:
        return to_numbers(self._raw(source, rows), self._files[source].infos[source].dtype)

    def _raw(self, source: str, rows: slice | None = None) -> np.ndarray:
        """Bits of a tensor, which are finite numbers unless nobody reads them."""
        file = self._files[source]
        raw = file.raw(source, rows)
        if source not in OPTIONAL and not is_finite(raw, file.infos[source].dtype):
            raise CheckpointError(f"{source} in {file.path} holds numbers that are not finite (NaN or infinity); the "
                                  f"file is damaged or its training went astray, download it again")
        return raw


class Part(Mapping[str, np.ndarray]):
    """The tensors of one part by the names that its network has; each look-up reads the disk."""

    def __init__(self, checkpoint: Checkpoint, prefix: str) -> None:
        self._checkpoint, self._prefix = checkpoint, prefix
        self._names = [name.removeprefix(prefix) for name in checkpoint.tensors if name.startswith(prefix)]
        self._known = frozenset(self._names)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._known:
            raise KeyError(name)
        return self._checkpoint.read(self._prefix + name)

    def __contains__(self, name: object) -> bool:
        return name in self._known  # the inherited test would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def rows(self, name: str, first: int, last: int) -> np.ndarray:
        """Rows first to last (exclusive) of a tensor, for tables that are too large to hold."""
        if name not in self._known:
            raise KeyError(name)
        return self._checkpoint.read(self._prefix + name, slice(first, last))

    def shape(self, name: str) -> Shape:
        """Shape of a tensor, without reading it."""
        return self._checkpoint.tensors[self._prefix + name].shape


def copy_companions(source: Path, target: Path) -> None:
    """Copy what a checkpoint has beside its weights: tokenizer, preprocessor, the voice's files, and config.json unless
    the target has one."""
    target.mkdir(parents=True, exist_ok=True)
    if target.resolve() == source.resolve():
        return
    for name in [*COMPANIONS, *([] if (target / "config.json").exists() else ["config.json"])]:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    if (source / "assets").is_dir():
        shutil.copytree(source / "assets", target / "assets", dirs_exist_ok=True)


def _without(config: OfficialConfig, vision: bool, hearing: bool, speech: bool) -> OfficialConfig:
    if not vision:
        config = replace(config, vision=None, resampler=None)
    if not hearing:
        config = replace(config, hearing=None)
    if not speech:
        config = replace(config, talker=None, chattts=None, flow=None, hift=None, vocos=None)
    return config


def _open_files(folder: Path) -> dict[str, SafetensorsFile]:
    """The file of every tensor, by the tensor's name."""
    index = folder / INDEX
    if index.is_file():
        return _open_shards(folder, _read_index(index))
    if (folder / _SINGLE).is_file():
        file = SafetensorsFile(folder / _SINGLE)
        return dict.fromkeys(file.infos, file)
    loose = sorted(folder.glob("*.safetensors"))
    if loose:
        raise CheckpointError(f"{folder} has {len(loose)} files of weights but no {INDEX} that says what is in them; "
                              f"download the checkpoint again")
    others = sorted(path.name for pattern in ("*.bin", "*.gguf", "*.pth") for path in folder.glob(pattern))
    hint = f"it has {', '.join(others[:_NAMED])}, and this reads safetensors alone" if others else (
        "download the checkpoint again")
    raise CheckpointError(f"{folder} has no weights: neither {_SINGLE} nor {INDEX}; {hint}")


def _read_index(path: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        return {str(name): str(shard) for name, shard in weight_map.items()}
    except (ValueError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged ({error!r}); download it again") from error


def _open_shards(folder: Path, weight_map: Mapping[str, str]) -> dict[str, SafetensorsFile]:
    names = sorted(set(weight_map.values()))
    absent = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if absent:
        raise CheckpointError(f"{folder} lacks {len(absent)} of its {len(names)} shards ({_some(absent)}), which "
                              f"{INDEX} names; finish the download")
    shards = {name: SafetensorsFile(folder / name) for name in names}
    lost = [name for name, shard in weight_map.items() if name not in shards[shard].infos]
    if lost:
        raise CheckpointError(f"{folder / INDEX} names {len(lost)} tensors that are not in their shards "
                              f"({_some(lost)}); its files are of different downloads, download it again")
    return {name: shard for shard in shards.values() for name in shard.infos}


def _stored(found: Mapping[str, TensorInfo], config: OfficialConfig, quantisation: Quantisation | None
            ) -> dict[str, Stored]:
    """Tensors as a network sees them: quantised matrices put together, a shared head found."""
    stored: dict[str, Stored] = {}
    shapes = {name: info.shape for name, info in found.items()}
    for name, shape in shapes.items():
        matrix, _, suffix = name.rpartition(".")
        if quantisation is None or suffix not in SUFFIXES:
            stored[name] = Stored(shape, name)
        elif suffix == "qweight":
            stored[f"{matrix}.weight"] = Stored(quantised_shape(shapes, matrix, quantisation), matrix, quantised=True)
        elif f"{matrix}.qweight" not in shapes:
            stored[name] = Stored(shape, name)  # nobody's zero levels: an unknown tensor, named as one
    if config.language.tied_head and HEAD not in stored and EMBEDDING in stored:
        stored[HEAD] = stored[EMBEDDING]
    return stored


def _complaint(stored: Mapping[str, Stored], config: OfficialConfig, values: Mapping[str, Any]) -> str:
    """What is wrong with the tensors in one sentence, or nothing."""
    expected = expected_tensors(config)
    missing = [name for name in expected if name not in stored and name not in OPTIONAL]
    unexpected = [name for name in stored if name not in expected and not _left_out(name, config, values)]
    misshapen = [name for name, shape in expected.items() if name in stored and stored[name].shape != shape]
    faults = []
    if missing:
        faults.append(f"{len(missing)} of {len(expected)} tensors are missing ({_some(missing)})")
    if unexpected:
        faults.append(f"{len(unexpected)} are not of this model ({_some(unexpected)})")
    if misshapen:
        first = misshapen[0]
        faults.append(f"{len(misshapen)} have another shape ({first} has {stored[first].shape}, expected "
                      f"{expected[first]})")
    return f"{', '.join(faults)}; {_likely(missing, unexpected, misshapen, config)}" if faults else ""


def _left_out(name: str, config: OfficialConfig, values: Mapping[str, Any]) -> bool:
    """Whether a tensor of the files is known and not wanted: of a part that is off, or of the eye's dropped layer."""
    parts = {VISION: config.vision, "resampler.": config.vision, "apm.": config.hearing,
             "audio_projection_layer.": config.hearing, SPEECH: config.talker or config.chattts}
    if any(part is None and name.startswith(prefix) for prefix, part in parts.items()):
        return True
    dropped = config.vision is not None and bool(values.get("drop_vision_last_layer", False))
    return dropped and config.vision is not None and name.startswith(f"vpm.encoder.layers.{config.vision.layers}.")


def _likely(missing: list[str], unexpected: list[str], misshapen: list[str], config: OfficialConfig) -> str:
    """What a person should think of first, and do."""
    other = "4.5" if config.version == "2.6" else "2.6"
    foreign = {"4.5": ("q_norm", "projector_semantic"), "2.6": ("q_proj.bias", "tts.dvae.")}[other]
    if any(word in name for name in unexpected for word in foreign):
        return f"it looks like the weights of {other} beside the config.json of {config.version}"
    if unexpected and not any(name.startswith(PREFIXES) for name in unexpected):
        return "it looks like the weights of another model; use the folder of a MiniCPM-o checkpoint"
    if any(name.rpartition(".")[2] in SUFFIXES for name in unexpected):
        return "it looks like an int4 release whose config.json lost its quantization_config"
    switches = {VISION: "vision=False", "apm.": "hearing=False", SPEECH: "speech=False"}
    gone = {name.split(".")[0] + "." for name in missing}
    if missing and not unexpected and not misshapen and gone <= {*PREFIXES[1:]} and len(gone) <= 2:
        switch = next((f", or open it with {switch}" for prefix, switch in switches.items() if prefix in gone), "")
        return f"it looks like a partial checkpoint; download the whole one{switch}"
    if misshapen and not missing and not unexpected:
        return "it looks like a config.json of another size; take both from one checkpoint"
    return "it looks like an incomplete or mixed download; download it again"


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:_NAMED]) + (", …" if len(listed) > _NAMED else "")
