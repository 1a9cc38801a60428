"""The shape of an official language part as a GGUF file of random Q4_0 matrices, for llama.cpp to be timed on.

    python benchmarks/random_gguf.py FILE --version 4.5

Every matrix is Q4_0, the word table and the head too (llama.cpp's own tool would give the head more bits, and make the
file slower). A tensor is made and written at a time.

Source: the GGUF specification and block_q4_0 of the ggml project; names of tensors by the gguf package's table.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

from minicpm_o.checkpoints.official_layout import expected_tensors
from minicpm_o.checkpoints.random_official import official_config
from minicpm_o.model.config import LanguageConfig, OfficialConfig

ARCHITECTURES = {"qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}
BLOCK, BLOCK_BYTES = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType.Q4_0]
LEVELS_SPREAD = math.sqrt((16**2 - 1) / 12)
"""Standard deviation of sixteen equally likely levels."""


def language_tensors(config: OfficialConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of the language part's tensors by llama.cpp's names."""
    arch = ARCHITECTURES[config.language.kind]
    names = gguf.get_tensor_name_map(arch, config.language.layers)
    found = {}
    for official, shape in expected_tensors(config).items():
        if official.startswith("llm."):
            name = names.get_name(official.removeprefix("llm."), try_suffixes=(".weight", ".bias"))
            if name is None:
                raise SystemExit(f"llama.cpp has no tensor for {official} in {gguf.MODEL_ARCH_NAMES[arch]}")
            found[name] = shape
    return found


def random_q4_0(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A matrix (out, in) of mean near 0 and deviation 1 / sqrt(in), as bytes (out, in / 32 * 18).

    A block is its scale as float16 and 32 levels, of which 8 is zero; scales of both signs even out the levels' mean.
    """
    rows, columns = shape
    blocks = rng.integers(0, 256, (rows, columns // BLOCK, BLOCK_BYTES), dtype=np.uint8)
    scale = 1 / (LEVELS_SPREAD * math.sqrt(columns))
    scales = np.where(blocks[..., :1] & 1, scale, -scale).astype("<f2")
    blocks[..., :2] = scales.view(np.uint8)
    return blocks.reshape(rows, -1)


def random_vector(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Gains near one, biases near zero."""
    mean = 0.0 if name.endswith("bias") else 1.0
    return rng.normal(mean, 0.02, shape).astype(np.float32)


def add_metadata(writer: gguf.GGUFWriter, config: LanguageConfig,
                 file_type: gguf.LlamaFileType = gguf.LlamaFileType.MOSTLY_Q4_0) -> None:
    """What llama.cpp must know of the model, but for its words."""
    writer.add_context_length(config.context_tokens)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.ffn)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_width)
    writer.add_value_length(config.head_width)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)


def no_words(writer: gguf.GGUFWriter) -> None:
    """No tokenizer: llama.cpp then takes token ids alone."""
    writer.add_tokenizer_model("none")


def write_random_gguf(path: Path, config: OfficialConfig, seed: int = 0,
                      add_words: Callable[[gguf.GGUFWriter], None] = no_words) -> None:
    """Write the file; memory holds the largest tensor once. add_words: writes a tokenizer."""
    tensors = language_tensors(config)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[ARCHITECTURES[config.language.kind]])
    add_metadata(writer, config.language)
    add_words(writer)
    for name, shape in tensors.items():
        if len(shape) == 2:
            num_bytes = math.prod(shape) // BLOCK * BLOCK_BYTES
            writer.add_tensor_info(name, shape, np.dtype(np.int8), num_bytes, gguf.GGMLQuantizationType.Q4_0)
        else:
            writer.add_tensor_info(name, shape, np.dtype(np.float32), 4 * math.prod(shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.Generator(np.random.SFC64(seed))
    for name, shape in tensors.items():
        writer.write_tensor_data(random_q4_0(rng, shape) if len(shape) == 2 else random_vector(rng, name, shape))
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--version", choices=["2.6", "4.5"], default="4.5")
    parser.add_argument("--layers", type=int, help="at most so many, for a trial of the true width")
    args = parser.parse_args()
    write_random_gguf(args.file, official_config(args.version, "full", args.layers))


if __name__ == "__main__":
    main()
