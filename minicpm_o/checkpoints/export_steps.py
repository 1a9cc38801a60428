"""The parts of an official checkpoint, each with the function that writes its files of a bundle.

    language          language.onnx                            words          embeddings.safetensors
    prompts           language_prompts.onnx, where it is wanted
    vision            vision.onnx                              hearing        hearing.onnx
    talker, flow and hift of 4.5; chattts, dvae and vocos of 2.6: a graph of that name (flow and hift: several)
    text              the tokenizers' files                    voices         networks and sounds for voice cloning

Knows where a part's tensors come from; what its graphs hold is the affair of `graphs/`, in which order and where the
files are written that of `export`. The language model takes the bits that were asked for. What sees, hears and speaks
takes 8 at least: it is a tenth of the model, and what it gets wrong no later part can mend.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..model.config import OfficialConfig
from . import embeddings
from .official import Checkpoint
from .official_config import read_values
from .official_layout import LANGUAGE, RESAMPLER, SPEECH, VISION
from .sizes import has_prompt_graph, parameters, part_bits, tensors_by_part
from .voice_files import open_flow, open_vocoder, open_vocos

TEXT_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json",
              "special_tokens_map.json", "generation_config.json", "preprocessor_config.json")
VOCABULARY = ("vocab.json", "merges.txt")
"""What older checkpoints have instead of tokenizer.json."""
MARKS = ("<|im_start|>", "<|im_end|>", "<image>", "<unit>", "<|audio_start|>", "<|tts_bos|>")
"""Added tokens that no other model has all of; the rest is looked for when a bundle is opened."""
CLONING_FILES = ("assets/token2wav/speech_tokenizer_v2_25hz.onnx", "assets/token2wav/campplus.onnx")
"""Networks that are graphs already; a checkpoint may lack them, and then no voice can be cloned."""
CHATTTS_TOKENIZER = "assets/chattts_tokenizer"
DVAE = f"{SPEECH}dvae."


@dataclass(frozen=True)
class ExportSettings:
    """How a bundle is made of a checkpoint."""

    bits: int | None = 4
    """Of the language model's matrices: 4, 8, or None for float32."""
    block_size: int = 128
    """Weights that share a scale."""
    vision: bool = True
    hearing: bool = True
    speech: bool = True
    prompts: bool | None = None
    """With a graph for prompts, which reads them more quickly and takes a byte per weight; None for one where it is
    small (`sizes.has_prompt_graph`)."""


@dataclass(frozen=True)
class Step:
    """One part of the bundle; `build` writes its files into an empty folder."""

    name: str
    build: Callable[[Path], None]
    numbers: int = 0
    """Weights that it rounds or copies, for a bar that shows how far it is."""


def steps(checkpoint: Checkpoint, config: OfficialConfig, settings: ExportSettings) -> list[Step]:
    """What is to be built, in order. config is the checkpoint's, with the shapes of its voice files."""
    return [*_language(checkpoint, config, settings), *_senses(checkpoint, config, settings),
            *_speech_45(checkpoint, config, settings), *_speech_26(checkpoint, config, settings),
            Step("text", lambda folder: _copy_text(checkpoint.folder, folder)),
            *([Step("voices", lambda folder: _copy_voices(checkpoint.folder, folder))] if _speaks(config) else [])]


def check_text(folder: Path, config: OfficialConfig) -> None:
    """Raises CheckpointError when the tokenizers that a bundle needs are missing, damaged or another model's."""
    path = folder / "tokenizer.json"
    if path.is_file():
        added = read_values(folder, path.name).get("added_tokens") or []
        ids: dict[str, Any] = {str(token.get("content")): token.get("id") for token in added if isinstance(token, dict)}
        missing = [mark for mark in MARKS if mark not in ids]
        if missing:
            raise CheckpointError(f"{path} has no token {missing[0]!r}: it is of another model; take the tokenizer of "
                                  f"the checkpoint")
        above = [mark for mark in MARKS if not isinstance(ids[mark], int) or ids[mark] >= config.language.vocab_size]
        if above:
            raise CheckpointError(f"{path} gives {above[0]!r} the id {ids[above[0]]!r}, but the model has "
                                  f"{config.language.vocab_size} words; take both from one checkpoint")
    elif not all((folder / name).is_file() for name in VOCABULARY):
        raise CheckpointError(f"{folder} has neither tokenizer.json nor {' and '.join(VOCABULARY)}, without which a "
                              f"bundle cannot read; download the whole checkpoint")
    if (folder / "tokenizer_config.json").is_file():
        read_values(folder, "tokenizer_config.json")
    if config.chattts:
        voice = folder / CHATTTS_TOKENIZER
        if (voice / "tokenizer.json").is_file():
            read_values(voice, "tokenizer.json")
        elif not (voice / "vocab.txt").is_file():
            raise CheckpointError(f"{folder} lacks {CHATTTS_TOKENIZER}/tokenizer.json, speech needs it; download the "
                                  f"whole checkpoint, or export it without speech")


def copied_bytes(folder: Path, config: OfficialConfig) -> int:
    """Size of the files of a checkpoint that a bundle takes as they are."""
    names = [folder / name for name in TEXT_FILES] + (list(_voice_files(folder)) if _speaks(config) else [])
    return sum(path.stat().st_size for path in names if path.is_file())


def _speaks(config: OfficialConfig) -> bool:
    return config.talker is not None or config.chattts is not None


def _language(checkpoint: Checkpoint, config: OfficialConfig, settings: ExportSettings) -> Iterator[Step]:
    from .graphs.language import build_language
    from .graphs.prompts import build_prompts

    weights, language = checkpoint.part(LANGUAGE), config.language
    bits, block = settings.bits, settings.block_size
    table = (language.vocab_size, language.width)
    yield Step("language", lambda folder: build_language(
        weights, language, layer_bits=bits, head_bits=bits, block_size=block, folder=folder),
        _numbers(config, "language"))
    if bits is not None and has_prompt_graph(language, bits, settings.prompts):
        yield Step("prompts", lambda folder: build_prompts(
            weights, language, bits=bits, block_size=block, folder=folder), _numbers(config, "language"))
    yield Step("words", lambda folder: embeddings.write_embeddings(
        weights, "model.embed_tokens.weight", table, folder / embeddings.FILE_NAME))


def _senses(checkpoint: Checkpoint, config: OfficialConfig, settings: ExportSettings) -> Iterator[Step]:
    from .graphs.siglip import build_siglip
    from .graphs.whisper import build_hearing

    block = settings.block_size
    if config.vision:
        tower, resampler = checkpoint.part(VISION), checkpoint.part(RESAMPLER)
        bits = part_bits("vision", settings.bits)
        yield Step("vision", lambda folder: build_siglip(
            tower, resampler, config, bits=bits, block_size=block, folder=folder), _numbers(config, "vision"))
    if (ears := config.hearing) is not None:
        weights = checkpoint.part("")  # the encoder and its projection, by their full names
        yield Step("hearing", lambda folder: build_hearing(
            weights, ears, config.language.width, folder, bits=part_bits("hearing", settings.bits), block_size=block),
            _numbers(config, "hearing"))


def _speech_45(checkpoint: Checkpoint, config: OfficialConfig, settings: ExportSettings) -> Iterator[Step]:
    from .graphs.flow import build_flow
    from .graphs.hift import build_hift
    from .graphs.talker import build_talker

    block, bits = settings.block_size, part_bits("talker", settings.bits)
    if (talker := config.talker) is not None:
        yield Step("talker", lambda folder: build_talker(
            checkpoint.part(SPEECH), talker, bits=bits, block_size=block, folder=folder), _numbers(config, "talker"))
    if (flow := config.flow) is not None:
        yield Step("flow", lambda folder: build_flow(
            open_flow(checkpoint.folder)[1], flow, bits=bits, block_size=block, folder=folder))
    if (hift := config.hift) is not None:
        yield Step("hift", lambda folder: build_hift(
            open_vocoder(checkpoint.folder)[1], hift, bits=bits, block_size=block, folder=folder))


def _speech_26(checkpoint: Checkpoint, config: OfficialConfig, settings: ExportSettings) -> Iterator[Step]:
    from .graphs.chattts import build_chattts
    from .graphs.dvae import build_dvae
    from .graphs.vocos import build_vocos

    block, bits = settings.block_size, part_bits("talker", settings.bits)
    if (voice := config.chattts) is not None:
        yield Step("chattts", lambda folder: build_chattts(
            checkpoint.part(SPEECH), voice, bits=bits, block_size=block, folder=folder), _numbers(config, "talker"))
        yield Step("dvae", lambda folder: build_dvae(
            checkpoint.part(DVAE), voice, bits=bits, block_size=block, folder=folder))
    if (vocos := config.vocos) is not None:
        yield Step("vocos", lambda folder: build_vocos(
            open_vocos(checkpoint.folder)[1], vocos, bits=bits, block_size=block, folder=folder))


def _numbers(config: OfficialConfig, part: str) -> int:
    return parameters(tensors_by_part(config)[part])


def _copy_text(source: Path, folder: Path) -> None:
    for path in (source / name for name in TEXT_FILES):
        if path.is_file():
            shutil.copyfile(path, folder / path.name)


def _copy_voices(source: Path, folder: Path) -> None:
    """The networks beside the graphs, everything else as it lies in the checkpoint."""
    for path in _voice_files(source):
        is_network = path.suffix == ".onnx"
        target = folder / (path.name if is_network else path.relative_to(source))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _voice_files(source: Path) -> Iterator[Path]:
    yield from (source / name for name in CLONING_FILES if (source / name).is_file())
    yield from sorted((source / "assets").glob("*.wav"))
    yield from sorted(path for path in (source / CHATTTS_TOKENIZER).glob("*") if path.is_file())
