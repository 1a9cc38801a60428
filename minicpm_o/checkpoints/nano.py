"""The parts of nano and its trained connectors to a bundle in the cache, without torch.

Knows where each part's tensors go; how files are found is `pull`, how graphs are drawn is `graphs`. Assembly is done
once per set of parts, connectors, settings and builder, of which the folder's name carries a digest, and appears as a
whole by one rename.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.resources
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..errors import CheckpointError
from ..model.config import Config, NanoConfig
from . import parts as table
from .bundle import Bundle, PartEntry, describe_files
from .ctranslate2 import read_variables, whisper_config, whisper_tensors
from .embeddings import FILE_NAME as EMBEDDINGS_FILE
from .embeddings import quantise_rows
from .gguf import MEDIA_TOKENS, GGUFFile
from .lexicon import build_lexicon
from .parts import NANO_PARTS, Part
from .progress import ProgressReport
from .pull import GivenParts, PartStore, check_given
from .sizes import has_prompt_graph
from .storage import check_room, home_lock, replace_folder, sha256_of, work_folder, write_atomic, writing_to
from .torch_legacy import read_state_dict

VOICE_SHAPE = (510, 256)
LEXICON_FILE = "lexicon_en.txt.gz"
_GROWTH = 1.5
"""A bundle is at most this much larger than its parts."""
_EYES = "vision-"
"""Names of the vision parts begin so; the variant follows."""


@dataclass(frozen=True)
class NanoSettings:
    """How the graphs are quantised. Bits are 4, 8 or None (float32)."""

    layer_bits: int | None = 8
    head_bits: int | None = 8
    language_block_size: int = 64
    """Numbers of the language part that share one scale: with 8 bits as much memory as ggml's Q8_0 takes."""
    prompts: bool | None = None
    """With a graph for prompts; None for one where layers have 4 bits (`sizes.has_prompt_graph`)."""
    block_size: int = 32
    """The same of the other parts."""
    vision_bits: int | None = None
    hearing_bits: int | None = None
    recogniser_bits: int | None = 8


@dataclass(frozen=True)
class Recipe:
    """What nano is made of."""

    parts: tuple[Part, ...] = NANO_PARTS
    config: NanoConfig = field(default_factory=NanoConfig)
    connectors: Path | None = None
    """The trained tensors; None takes those that come with this package."""
    words: Path | None = None
    """The counted words of own ears; None takes those that come with this package."""

    def needed(self) -> tuple[Part, ...]:
        """The parts without which nothing can be assembled; which eyes, the config says."""
        eyes = table.find_part(eyes_of(self.config), self.parts)
        others = (part for part in self.parts if part.required and not part.name.startswith(_EYES))
        return (eyes, *others)

    def connectors_path(self) -> Path:
        """The connectors file. Raises CheckpointError when the installation lacks it."""
        return _packaged("connectors.safetensors", self.connectors)

    def words_path(self) -> Path:
        """The file of counted words. Raises CheckpointError when the installation lacks it."""
        return _packaged("words_en.txt.gz", self.words)


def _packaged(name: str, given: Path | None) -> Path:
    path = given or Path(str(importlib.resources.files("minicpm_o") / "assets" / "nano" / name))
    if not path.is_file():
        raise CheckpointError(f"{path}, which was trained for nano, is missing; install minicpm-o again")
    return path


FoundParts = Mapping[str, Mapping[str, Path]]
"""Part name to file name to checked path."""


@dataclass(frozen=True)
class Sources:
    """Everything that a bundle is built from."""

    found: FoundParts
    connectors: Mapping[str, np.ndarray]
    words: Path
    config: NanoConfig
    settings: NanoSettings

    def only(self, part: str) -> Path:
        """The file of a part that has one."""
        (path,) = self.found[part].values()
        return path


def assemble(
    home: Path,
    *,
    parts: GivenParts | None = None,
    progress: bool = True,
    settings: NanoSettings = NanoSettings(),
    recipe: Recipe | None = None,
) -> Path:
    """Folder of the nano bundle under `home`, built if it is not there or damaged.

    Two processes at once build it once. Raises PartMissingError, HashError, DiskFullError or CheckpointError; whatever
    happens, nothing half-written is left.
    """
    recipe = recipe or Recipe()
    check_given(parts, recipe.parts)
    target = bundle_folder(home, settings, recipe)
    if _is_whole(target):
        return target
    with ProgressReport(progress) as report, home_lock(home, report.say), writing_to(home):
        if not _is_whole(target):  # another process may have built it while this one waited
            if target.exists():
                report.say(f"{target} is damaged; building it again")
            _assemble_locked(home, target, PartStore(home, parts, report), settings, recipe)
    return target


def find(home: Path, settings: NanoSettings = NanoSettings(), recipe: Recipe | None = None) -> Path | None:
    """Folder of the nano bundle if it is there and whole; builds nothing."""
    target = bundle_folder(home, settings, recipe or Recipe())
    return target if _is_whole(target) else None


def bundle_folder(home: Path, settings: NanoSettings, recipe: Recipe) -> Path:
    """Where the bundle of these parts, connectors, settings and builder belongs."""
    ingredients = {
        "builder": _builder_sha256(),
        "parts": {part.name: [file.sha256 for file in part.files] for part in recipe.needed()},
        "connectors": sha256_of(recipe.connectors_path()),
        "words": sha256_of(recipe.words_path()),
        "settings": dataclasses.asdict(settings),
        "config": recipe.config.to_dict(),
    }
    digest = hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()
    return home / f"{recipe.config.name}-{digest[:12]}"


def add_optional(
    home: Path,
    names: tuple[str, ...] = (table.VOICES.name,),
    *,
    parts: GivenParts | None = None,
    progress: bool = True,
    settings: NanoSettings = NanoSettings(),
    recipe: Recipe | None = None,
) -> Path:
    """Fetch optional parts (more voices) and put them into the assembled bundle; returns its folder.

    Raises PartMissingError when they cannot be had; the bundle is then as it was.
    """
    recipe = recipe or Recipe()
    target = assemble(home, parts=parts, progress=progress, settings=settings, recipe=recipe)
    with ProgressReport(progress) as report, home_lock(home, report.say), writing_to(home):
        store = PartStore(home, parts, report)
        chosen = [table.find_part(name, recipe.parts) for name in names]
        found = {part.name: store.get(part) for part in chosen}
        _add_speech_extras(found, target)
        bundle = Bundle.open(target)
        credits = {**bundle.parts, **_credits(recipe, found)}
        replace(bundle, files=describe_files(target), parts=credits).write()
    return target


def build_bundle(
    folder: Path, found: FoundParts, settings: NanoSettings, recipe: Recipe, report: ProgressReport
) -> None:
    """Write every file of the bundle but its manifest into `folder`."""
    sources = open_sources(found, settings, recipe)
    for what, build in (
        ("language", _build_language),
        ("vision", build_vision_part),
        ("hearing", build_hearing_part),
        ("speech", _build_speech),
    ):
        report.begin(f"building {what}")
        build(folder, sources)
        report.finish()


def open_sources(found: FoundParts, settings: NanoSettings, recipe: Recipe) -> Sources:
    """Everything that a bundle is built from, the trained tensors read. Raises CheckpointError."""
    return Sources(found, load_connectors(recipe.connectors_path()), recipe.words_path(), recipe.config, settings)


def eyes_of(config: NanoConfig) -> str:
    """Name of the vision part that the connectors were trained for."""
    return _EYES + config.vision.variant


def load_connectors(path: Path) -> dict[str, np.ndarray]:
    """The trained tensors as float32. Raises CheckpointError when the file is damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return {name: tensor.astype(np.float32) for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise CheckpointError(f"the connectors {path} are damaged ({error}); install minicpm-o again") from error


class MergedWeights(Mapping[str, np.ndarray]):
    """Language weights with the trained low-rank updates added: W' = W + b @ a. Merged anew at each look."""

    def __init__(self, weights: Mapping[str, np.ndarray], connectors: Mapping[str, np.ndarray]) -> None:
        self._weights = weights
        self._updates = lora_pairs(connectors)
        strangers = sorted(set(self._updates) - set(weights))
        if strangers:
            raise CheckpointError(f"the connectors update {strangers[:3]}, which the language model does not have")

    def __getitem__(self, name: str) -> np.ndarray:
        weight: np.ndarray = self._weights[name]
        if name not in self._updates:
            return weight
        a, b = self._updates[name]
        if b.shape[0] != weight.shape[0] or a.shape[1] != weight.shape[1] or a.shape[0] != b.shape[1]:
            raise CheckpointError(f"the update {b.shape} x {a.shape} does not fit {name} of shape {weight.shape}")
        return np.asarray(weight + b @ a, dtype=np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def replace_marker_rows(embeddings: np.ndarray, markers: np.ndarray | None) -> np.ndarray:
    """A copy of the word table (V, D) whose media rows are the trained ones (num_markers, D); None trains none."""
    if markers is None:
        return embeddings
    ids = sorted(MEDIA_TOKENS)
    if markers.shape != (len(ids), embeddings.shape[1]):
        raise CheckpointError(f"markers have shape {markers.shape}, expected {(len(ids), embeddings.shape[1])}")
    table_copy = embeddings.copy()
    table_copy[ids] = markers
    return table_copy


def _assemble_locked(home: Path, target: Path, store: PartStore, settings: NanoSettings, recipe: Recipe) -> None:
    found: dict[str, Mapping[str, Path]] = {part.name: store.get(part) for part in recipe.needed()}
    for part in recipe.parts:  # optional parts are taken along when they are here already
        if not part.required and part.name not in found and (files := store.find(part)):
            found[part.name] = files
    check_room(home, round(_GROWTH * sum(part.bytes for part in recipe.needed())))
    with work_folder(home) as work:
        folder = work / "bundle"
        folder.mkdir()
        build_bundle(folder, found, settings, recipe, store.report)
        Bundle(
            folder=folder,
            name=recipe.config.name,
            config=recipe.config,
            settings={**dataclasses.asdict(settings), "connectors_sha256": sha256_of(recipe.connectors_path())},
            files=describe_files(folder),
            parts=_credits(recipe, found),
        ).write()
        replace_folder(folder, target, work / "old")
    store.report.say(f"assembled {target}")


def _is_whole(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    try:
        return not Bundle.open(folder).damaged()
    except CheckpointError:  # a damaged manifest is one more way of not being whole
        return False


def _build_language(folder: Path, sources: Sources) -> None:
    from .graphs.language import build_language
    from .graphs.prompts import build_prompts

    settings, path = sources.settings, sources.only("language")
    file = GGUFFile(path)
    _check_shape(path, file.config(), sources.config.language)
    weights = MergedWeights(file.tensors(), sources.connectors)
    build_language(
        weights,
        sources.config.language,
        layer_bits=settings.layer_bits,
        head_bits=settings.head_bits,
        block_size=settings.language_block_size,
        folder=folder,
    )
    bits = settings.layer_bits
    if bits is not None and has_prompt_graph(sources.config.language, bits, settings.prompts):
        build_prompts(weights, sources.config.language, bits=bits, block_size=settings.language_block_size,
                      folder=folder)
    write_words(folder, file, sources)


def write_words(folder: Path, file: GGUFFile, sources: Sources) -> None:
    """The word table with the trained rows of media, and the tokenizer."""
    from safetensors.numpy import save

    table = file.tensors()["model.embed_tokens.weight"]
    words = replace_marker_rows(table, sources.connectors.get("markers.weight"))
    write_atomic(folder / EMBEDDINGS_FILE, [save(quantise_rows(words))])
    write_atomic(folder / "tokenizer.json", [file.tokenizer().to_str().encode()])


def build_vision_part(folder: Path, sources: Sources) -> None:
    from .graphs.vision import build_vision

    settings = sources.settings
    build_vision(
        read_state_dict(sources.only(eyes_of(sources.config))),
        sources.connectors,
        sources.config,
        folder / "vision.onnx",
        bits=settings.vision_bits,
        block_size=settings.block_size,
    )


def build_hearing_part(folder: Path, sources: Sources) -> None:
    from .graphs.hearing import build_cross, build_ears, build_encoder, build_projector, build_recogniser

    files, config, settings = sources.found["whisper"], sources.config, sources.settings
    variables = read_variables(files["model.bin"])
    own = {name: getattr(config.hearing, name) for name in ("projector_hidden", "words")}
    shape = replace(whisper_config(variables), **own)
    _check_shape(files["model.bin"], shape, config.hearing)
    weights, block = whisper_tensors(variables), settings.block_size
    build_encoder(weights, config, folder / "hearing_encoder.onnx", bits=settings.hearing_bits, block_size=block)
    build_projector(sources.connectors, config, folder / "hearing_projector.onnx")
    if config.hearing.words is not None:
        build_ears(sources.connectors, config, folder / "hearing_ears.onnx")
        shutil.copyfile(sources.words, folder / "words_en.txt.gz")
    build_cross(weights, config, folder / "recogniser_cross.onnx", bits=settings.recogniser_bits, block_size=block)
    build_recogniser(weights, config, folder / "recogniser.onnx", bits=settings.recogniser_bits, block_size=block)
    shutil.copyfile(files["tokenizer.json"], folder / "recogniser_tokenizer.json")
    shutil.copyfile(files["config.json"], folder / "recogniser_config.json")


def _build_speech(folder: Path, sources: Sources) -> None:
    shutil.copyfile(sources.only("vad"), folder / "vad.onnx")
    _write_speech_graph(sources.only("kokoro"), folder / "speech.onnx")
    lexicon = sources.found["lexicon"]
    build_lexicon(lexicon["us_gold.json"], lexicon["us_silver.json"], folder / LEXICON_FILE)
    with np.load(sources.only("kokoro-voices")) as voices:
        for name in voices.files:
            _write_voice(folder, name, voices[name])
    _add_speech_extras(sources.found, folder)


def _write_speech_graph(published: Path, target: Path) -> None:
    """The published graph with quicker convolutions: the same numbers in less time."""
    import onnx
    from google.protobuf.message import DecodeError

    from .graphs.convolutions import with_products

    try:
        model = onnx.load(str(published))
    except DecodeError as error:
        raise CheckpointError(f"{published} is no graph ({error}); fetch it again") from error
    with_products(model)
    write_atomic(target, [model.SerializeToString(deterministic=True)])


def _add_speech_extras(found: FoundParts, folder: Path) -> None:
    for name, path in found.get("voices", {}).items():
        _write_voice(folder, Path(name).stem, np.fromfile(path, dtype="<f4"))
    for name, path in found.get("piper", {}).items():
        (folder / "piper").mkdir(exist_ok=True)
        shutil.copyfile(path, folder / "piper" / name)


def _write_voice(folder: Path, name: str, values: np.ndarray) -> None:
    import io

    if values.size != VOICE_SHAPE[0] * VOICE_SHAPE[1]:
        raise CheckpointError(f"voice {name!r} has {values.size} numbers, expected {VOICE_SHAPE}; fetch it again")
    file = io.BytesIO()
    np.save(file, values.reshape(VOICE_SHAPE).astype(np.float32))
    write_atomic(folder / "voices" / f"{name}.npy", [file.getvalue()])


def _check_shape(path: Path, found: Config, expected: Config) -> None:
    if found != expected:
        raise CheckpointError(f"{path} has the shape {found}, but nano's connectors were trained for {expected}")


def lora_pairs(connectors: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """`lora.layers.3.q_proj.a|b` to the name of the weight they update and (a (r, in), b (out, r))."""
    stems = {name.rpartition(".")[0] for name in connectors if name.startswith("lora.")}
    pairs = {}
    for stem in stems:
        _, _, layer, projection = stem.split(".")
        block = "self_attn" if projection in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
        if f"{stem}.a" not in connectors or f"{stem}.b" not in connectors:
            raise CheckpointError(f"the connectors hold one half of {stem}; both a and b are needed")
        pairs[f"model.layers.{layer}.{block}.{projection}.weight"] = (connectors[f"{stem}.a"], connectors[f"{stem}.b"])
    return pairs


def _credits(recipe: Recipe, found: FoundParts) -> dict[str, PartEntry]:
    """Which pinned files went in: by part, or by part/file where a part has several."""
    credits = {}
    for part in recipe.parts:
        for file in part.files if part.name in found else ():
            packages = tuple(dict.fromkeys(piece.package for piece in file.pieces))
            credits[part.name if len(part.files) == 1 else f"{part.name}/{file.name}"] = PartEntry(
                package=" + ".join(package.name for package in packages),
                version=packages[0].version,
                sha256=file.sha256,
                licence=part.licence,
            )
    return credits


def _builder_sha256() -> str:
    """Digest of the code that decides what is in a bundle, so that no bundle outlives a change of its builder."""
    here = Path(__file__).parent
    files = [here / f"{name}.py" for name in ("nano", "embeddings", "gguf", "ctranslate2", "torch_legacy", "lexicon")]
    digest = hashlib.sha256()
    for file in [*files, *sorted((here / "graphs").glob("*.py"))]:
        digest.update(file.read_bytes())
    return digest.hexdigest()
