"""A config to the bytes that each part of its model takes, in an exported bundle or in torch, without any weights.

Counts the tensors that `official_layout` and `voice_layout` list. Which of them are rounded, kept as tables of bytes or
left away is what the graphs of `graphs/` do with them. Knows no machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from ..model.config import LanguageConfig, OfficialConfig
from .official_layout import OPTIONAL, Shape, expected_tensors
from .voice_layout import flow_tensors, hift_tensors, vocos_tensors

PARTS = {
    "language": ("llm.",), "vision": ("vpm.", "resampler."), "hearing": ("apm.", "audio_projection_layer."),
    "talker": ("tts.",), "voice": ("flow.", "hift.", "vocos."),
}
"""Part of a model to the prefixes of its tensors; flow, hift and vocos lie in files of their own beside the weights."""

LANGUAGE_TABLE = "llm.model.embed_tokens.weight"
TABLES = (LANGUAGE_TABLE, "tts.emb_text.weight", "tts.emb_code.")
"""Looked up row by row: one byte per number and a 16-bit scale per row; in the voice of 2.6, 16 bits per number."""
HALVES = ("tts.projector.", "tts.projector_semantic.")
"""16 bits per number when anything is rounded: numpy multiplies with them."""
UNUSED = (*OPTIONAL, "tts.projector_spk.", "tts.dvae.encoder.", "tts.dvae.downsample_conv.")
"""Stored by the checkpoints and read by no graph."""
ROUNDED = ("llm.model.layers.", "llm.lm_head.", "vpm.encoder.", "resampler.", "apm.layers.", "audio_projection_layer.",
           "tts.model.layers.", "tts.dvae.decoder.decoder_block.", "flow.encoder.", "flow.decoder.",
           "vocos.backbone.convnext.")
"""Their matrices get the few bits; everything else stays float32."""
ROUNDED_CONVOLUTIONS = ("flow.",)
"""Elsewhere convolutions stay as they are."""
NOT_ROUNDED = ("resampler.query",)
FLOAT_BYTES = 4
HALF_BYTES = 2
LEAST_BITS = 8
"""Of the parts that see, hear and speak: they are a tenth of a model, and no later part can mend what they get wrong.
"""
MOST_PROMPT_BYTES = 1_000_000_000
"""A graph for prompts that takes no more than this is made unasked."""


def part_bits(part: str, bits: int | None) -> int | None:
    """Bits of a part's matrices in a bundle whose language model has `bits`."""
    return bits if bits is None or part == "language" else max(bits, LEAST_BITS)


def tensors_by_part(config: OfficialConfig) -> dict[str, dict[str, Shape]]:
    """Every tensor of the model by part; parts that the config leaves out are empty."""
    shapes: dict[str, Shape] = dict(expected_tensors(config))
    for prefix, found in (("flow.", flow_tensors(config.flow) if config.flow else {}),
                          ("hift.", hift_tensors(config.hift) if config.hift else {}),
                          ("vocos.", vocos_tensors(config.vocos) if config.vocos else {})):
        shapes |= {prefix + name: shape for name, shape in found.items()}
    return {part: {name: shape for name, shape in shapes.items() if name.startswith(prefixes)}
            for part, prefixes in PARTS.items()}


def parameters(shapes: Mapping[str, Shape]) -> int:
    """How many numbers the tensors hold."""
    return sum(math.prod(shape) for shape in shapes.values())


def has_prompt_graph(config: LanguageConfig, bits: int | None, wish: bool | None = None) -> bool:
    """Whether a language model of so many bits gets the graph of `graphs.prompts`: as wished, or else where 4 bits
    leave prompts slow and it takes no more than `MOST_PROMPT_BYTES`; never for float32."""
    if wish is not None:
        return wish and bits is not None
    return bits == 4 and prompt_graph_bytes(config) <= MOST_PROMPT_BYTES


def prompt_graph_bytes(config: LanguageConfig) -> int:
    """The layers in whole rows of 8 bits, as `graphs.prompts` makes them, and what the two graphs share."""
    packed, attended = (config.heads + 2 * config.kv_heads) * config.head_width, config.heads * config.head_width
    shapes = ((packed, config.width), (config.width, attended), (2 * config.ffn, config.width),
              (config.width, config.ffn))
    rows = sum(height * (width + FLOAT_BYTES) for height, width in shapes)
    return config.layers * (rows + FLOAT_BYTES * (2 * config.width + packed)) + rotary_bytes(config)


def bundle_part_bytes(config: OfficialConfig, bits: int | None, block_size: int, prompts: bool = False
                      ) -> dict[str, int]:
    """Bytes of each part that is there, in a bundle whose language model has 4 or 8 bits, or None for float32.

    prompts: with a graph for prompts beside the language model's.
    """
    sizes = {part: sum(_tensor_bytes(name, shape, part_bits(part, bits), block_size, config.version == "2.6")
                       for name, shape in shapes.items())
             for part, shapes in tensors_by_part(config).items() if shapes}
    sizes["language"] += rotary_bytes(config.language)
    if prompts:
        sizes["language"] += prompt_graph_bytes(config.language)
    if config.talker:
        sizes["talker"] += rotary_bytes(config.talker.as_language())
    if config.vocos:
        sizes["voice"] += FLOAT_BYTES * config.vocos.fft_samples * (config.vocos.fft_samples + 2)  # cosines and sines
    return sizes


def bundle_bytes(config: OfficialConfig, bits: int | None, block_size: int, prompts: bool = False) -> int:
    """Bytes of all tensors of a bundle."""
    return sum(bundle_part_bytes(config, bits, block_size, prompts).values())


def embedding_bytes(config: LanguageConfig) -> int:
    """The word table of a bundle."""
    return table_bytes((config.vocab_size, config.width))


def torch_part_bytes(config: OfficialConfig, number_bytes: int) -> dict[str, int]:
    """Bytes of each part that is there, in torch: every tensor of the checkpoint, in numbers of that many bytes."""
    return {part: number_bytes * parameters(shapes) for part, shapes in tensors_by_part(config).items() if shapes}


def table_bytes(shape: Shape) -> int:
    """A table of bytes with a 16-bit scale per row."""
    rows, columns = shape
    return rows * columns + 2 * rows


def rotary_bytes(config: LanguageConfig) -> int:
    """Cosines and sines of every position, which the language graph carries."""
    return FLOAT_BYTES * config.context_tokens * config.head_width


def _tensor_bytes(name: str, shape: Shape, bits: int | None, block_size: int, halves: bool) -> int:
    """Bytes of one tensor in a bundle; halves: tables of a voice have 16 bits per number."""
    numbers = math.prod(shape)
    if name.startswith(UNUSED):
        return 0
    if name == LANGUAGE_TABLE:
        return table_bytes(shape)
    if bits is None:
        return FLOAT_BYTES * numbers
    if name.startswith(HALVES) or (halves and name.startswith(TABLES)):
        return HALF_BYTES * numbers
    if name.startswith(TABLES):
        return table_bytes(shape)
    is_matrix = len(shape) == 2 or (len(shape) == 3 and name.startswith(ROUNDED_CONVOLUTIONS))
    if not is_matrix or not name.startswith(ROUNDED) or name.startswith(NOT_ROUNDED):
        return FLOAT_BYTES * numbers
    return sum(_packed_bytes((shape[0], numbers // shape[0]), bits, block_size))


def _packed_bytes(shape: Shape, bits: int, block_size: int) -> Iterator[int]:
    """Levels, scales, and zero points, which only 4 bits have; as `graphs.builder.pack_nbits` makes them."""
    rows, columns = shape
    blocks = -(-columns // block_size)
    yield rows * blocks * block_size * bits // 8
    yield rows * blocks * FLOAT_BYTES
    if bits == 4:
        yield rows * -(-blocks // 2)
