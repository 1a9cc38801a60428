"""Language models that `peers` races: one set of weights, written in the layout that each engine reads.

nano's own weights, or random ones of another model's shape. Our block layout, GGUF (Q4_0, Q8_0) and a Hugging Face
folder are made of the same numbers, so the engines compute the same model; only the 8 B shape is drawn twice, as blocks
of random bytes for GGUF, because rounding it would take a quarter of an hour. What was made is kept in the work folder
and made again when the code that makes it changes.

Source: the GGUF specification and block_q4_0, block_q8_0 of the ggml project; config.json of Qwen2.5-0.5B and of
Qwen3-8B.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import common
from minicpm_o.model.config import LanguageConfig, NanoConfig, OfficialConfig

QWEN_05B = LanguageConfig(kind="qwen2", vocab_size=151_936, width=896, layers=24, heads=14, kv_heads=2, head_width=64,
                          ffn=4864, norm_eps=1e-6, rope_theta=1e6, context_tokens=32_768, tied_head=True)
MAX_ROUNDED = 2_000_000_000
"""Larger models get random blocks in their GGUF file, and no Hugging Face folder."""
TORCH_BYTES = 2
"""Of a number in the Hugging Face folder: bfloat16."""
ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


class NotMadeError(Exception):
    """An engine's files cannot be made; says why."""


@dataclass(frozen=True)
class Shape:
    """A language model to race."""

    name: str
    config: LanguageConfig
    is_real: bool = False
    """nano's weights, instead of random ones."""

    @property
    def block_size(self) -> int:
        """Numbers that share a scale (and a zero point) of ours: what nano is assembled with, and what `export` gives
        official checkpoints. Scales are of single precision, so that 64 make 8.5 or 4.6 bits a number and 128 8.3 or
        4.3; Q8_0 and Q4_0 have 8.5 and 4.5, in blocks of 32 with scales in half precision."""
        from minicpm_o.checkpoints.export_steps import ExportSettings
        from minicpm_o.checkpoints.nano import NanoSettings

        return NanoSettings().language_block_size if self.is_real else ExportSettings().block_size

    @cached_property
    def tensors(self) -> Mapping[str, tuple[int, ...]]:
        """Every weight's shape by its Hugging Face name; a tied head has none of its own."""
        from minicpm_o.checkpoints.official_layout import expected_tensors

        found = expected_tensors(self.official)
        names = {name.removeprefix("llm."): shape for name, shape in found.items()}
        left_out = "lm_head.weight" if self.config.tied_head else ""
        return {name: shape for name, shape in names.items() if name != left_out}

    @property
    def official(self) -> OfficialConfig:
        """The config of a model that is this language part alone."""
        parts = ("vision", "resampler", "hearing", "talker", "chattts", "flow", "hift", "vocos")
        return OfficialConfig(version="4.5" if self.config.kind == "qwen3" else "2.6", language=self.config,
                              **dict.fromkeys(parts))

    @property
    def parameters(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.tensors.values())

    def weights(self) -> Mapping[str, np.ndarray]:
        """float32 (out, in) by Hugging Face name, made anew at each look."""
        return nano_weights() if self.is_real else RandomWeights(self.tensors)


def all_shapes() -> dict[str, Shape]:
    """What can be raced, by the names of the command line."""
    from minicpm_o.checkpoints.random_official import official_config

    return {"nano": Shape("nano", NanoConfig().language, is_real=True), "0.5b": Shape("0.5b", QWEN_05B),
            "8b": Shape("8b", official_config("4.5", "full").language)}


def default_work() -> Path:
    """Where the files are kept: beside nano's."""
    from minicpm_o.checkpoints.storage import default_home

    return default_home() / "bench"


class RandomWeights(Mapping[str, np.ndarray]):
    """Numbers that keep what passes through them of order one; drawn by a tensor's place in the list."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._shapes = shapes
        self._places = {name: place for place, name in enumerate(shapes)}

    def __getitem__(self, name: str) -> np.ndarray:
        shape = self._shapes[name]
        rng = np.random.Generator(np.random.SFC64(self._places[name]))
        drawn = rng.standard_normal(shape, dtype=np.float32)
        if len(shape) == 1:
            drawn *= 0.02
            return drawn if name.endswith("bias") else drawn + 1
        drawn *= 0.02 if "embed_tokens" in name else shape[1] ** -0.5
        return drawn

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def nano_weights() -> Mapping[str, np.ndarray]:
    """nano's language part: the published file with the trained updates."""
    from minicpm_o.checkpoints.gguf import GGUFFile
    from minicpm_o.checkpoints.nano import MergedWeights, Recipe, load_connectors

    return MergedWeights(GGUFFile(common.find_gguf()).tensors(), load_connectors(Recipe().connectors_path()))


# Files


@dataclass(frozen=True)
class Files:
    """Makes what an engine reads of a shape, in a folder where it stays."""

    shape: Shape
    work: Path

    def bundle(self, bits: int) -> Path:
        """Our folder, head and layers at the same bits."""
        name = f"ours-{bits}-{self.shape.block_size}-{_builder_digest()}"
        return self._kept(name, lambda folder: write_bundle(folder, self.shape, bits))

    def gguf(self, bits: int) -> Path:
        """llama.cpp's file, Q4_0 or Q8_0 throughout. Raises NotMadeError when rounding it would take too long."""
        name = f"{self.shape.name}.gguf"
        return self._kept(f"gguf-{bits}", lambda folder: write_gguf(folder / name, self.shape, bits)) / name

    def hugging_face(self) -> Path:
        """A folder that transformers reads. Raises NotMadeError when this machine's memory cannot hold the model."""
        self._check_memory(TORCH_BYTES, "in bfloat16")
        return self._kept("hf", lambda folder: write_hugging_face(folder, self.shape))

    def ort_genai(self, bits: int) -> Path:
        """The folder that onnxruntime-genai's builder makes of it. Raises NotMadeError with its last words."""
        self._check_memory(4, "in float32, as its builder needs it")
        source = self.hugging_face()
        block_size = self.shape.block_size
        return self._kept(f"ort-genai-{bits}-{block_size}",
                          lambda folder: build_ort_genai(source, folder, bits, block_size))

    def _check_memory(self, number_bytes: int, how: str) -> None:
        import psutil

        needed, free = number_bytes * self.shape.parameters, psutil.virtual_memory().available
        if needed > 0.8 * free:
            raise NotMadeError(f"{needed / 1e9:.1f} GB {how}, and {free / 1e9:.1f} GB of memory are free")

    def _kept(self, name: str, make: Callable[[Path], None]) -> Path:
        """The folder of that name, made whole or not at all."""
        folder = self.work / self.shape.name / name
        if not folder.is_dir():
            half = folder.with_name(f"{name}.part")
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir(parents=True)
            print(f"writing {self.shape.name}, {name}", file=sys.stderr)
            make(half)
            os.replace(half, folder)
        return folder


def _builder_digest() -> str:
    """Changes with the code that draws our graphs."""
    import minicpm_o.checkpoints.graphs as graphs

    digest = hashlib.sha256()
    for path in sorted(Path(graphs.__path__[0]).glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def write_bundle(folder: Path, shape: Shape, bits: int) -> None:
    """The language part of a bundle and its record."""
    from minicpm_o.checkpoints.bundle import Bundle, describe_files
    from minicpm_o.checkpoints.embeddings import FILE_NAME, write_embeddings
    from minicpm_o.checkpoints.graphs.language import build_language
    from minicpm_o.checkpoints.graphs.prompts import build_prompts
    from minicpm_o.checkpoints.sizes import has_prompt_graph

    config, weights, block_size = shape.config, shape.weights(), shape.block_size
    build_language(weights, config, layer_bits=bits, head_bits=bits, block_size=block_size, folder=folder)
    if has_prompt_graph(config, bits):
        build_prompts(weights, config, bits=bits, block_size=block_size, folder=folder)
    write_embeddings(weights, "model.embed_tokens.weight", (config.vocab_size, config.width), folder / FILE_NAME)
    settings = {"layer_bits": bits, "head_bits": bits, "block_size": block_size}
    whole = NanoConfig(name=shape.name, language=config)
    Bundle(folder, shape.name, whole, settings, describe_files(folder), parts={}).write()


def write_hugging_face(folder: Path, shape: Shape) -> None:
    """config.json, bfloat16 weights and a tokenizer."""
    from minicpm_o.checkpoints.safetensors_file import Pending, float32_to_bfloat16, write_shards

    weights, config = shape.weights(), shape.config
    tensors = [Pending(name, "BF16", size, lambda name=name: (float32_to_bfloat16(weights[name]),))
               for name, size in shape.tensors.items()]
    write_shards(folder, tensors, 5_000_000_000)
    values = {
        "architectures": [ARCHITECTURES[config.kind]], "model_type": config.kind, "hidden_act": "silu",
        "vocab_size": config.vocab_size, "hidden_size": config.width, "intermediate_size": config.ffn,
        "num_hidden_layers": config.layers, "num_attention_heads": config.heads, "head_dim": config.head_width,
        "num_key_value_heads": config.kv_heads, "rms_norm_eps": config.norm_eps, "rope_theta": config.rope_theta,
        "max_position_embeddings": config.context_tokens, "tie_word_embeddings": config.tied_head,
        "torch_dtype": "bfloat16", "attention_bias": config.kind == "qwen2", "bos_token_id": 1, "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    write_tokenizer(folder, shape)


def write_tokenizer(folder: Path, shape: Shape) -> None:
    """tokenizer.json and its config: nano's, or invented words."""
    from minicpm_o.checkpoints.gguf import GGUFFile
    from minicpm_o.checkpoints.random_tokenizer import write_tokenizer as write_random

    if not shape.is_real:
        write_random(folder, shape.official.version, shape.config.vocab_size)
        return
    text = GGUFFile(common.find_gguf()).tokenizer().to_str()
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def build_ort_genai(source: Path, target: Path, bits: int, block_size: int) -> None:
    """Let onnxruntime-genai's own tool round the model, in blocks and with sums of int8 as ours."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(source), "-o", str(target),
               "-p", f"int{bits}", "-e", "cpu", "-c", str(target / "cache"),
               "--extra_options", f"block_size={block_size}", "accuracy_level=4"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NotMadeError(f"onnxruntime-genai's builder ended with: {common.last_words(done.stderr)}")


# GGUF


def write_gguf(path: Path, shape: Shape, bits: int) -> None:
    """All matrices at the same bits, the word table and the head too. Raises NotMadeError for 8 bits of a model that
    is too large to be rounded here."""
    import gguf

    from random_gguf import ARCHITECTURES as KNOWN
    from random_gguf import add_metadata, write_random_gguf

    if shape.parameters > MAX_ROUNDED:
        if bits != 4:
            raise NotMadeError("random blocks of this size are made for 4 bits alone")
        write_random_gguf(path, shape.official, add_words=lambda writer: add_tokenizer(writer, path.parent, shape))
        return
    arch = KNOWN.get(shape.config.kind, gguf.MODEL_ARCH.LLAMA)
    file_type = gguf.LlamaFileType.MOSTLY_Q4_0 if bits == 4 else gguf.LlamaFileType.MOSTLY_Q8_0
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    add_metadata(writer, shape.config, file_type)
    add_tokenizer(writer, path.parent, shape)
    add_tensors(writer, arch, shape, gguf.GGMLQuantizationType.Q4_0 if bits == 4 else gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tensors(writer: Any, arch: Any, shape: Shape, kind: Any) -> None:
    """Every weight, rounded where it is a matrix. source: gguf's own rounding, which is llama.cpp's."""
    import gguf

    config, weights = shape.config, shape.weights()
    heads = {"q_proj": config.heads, "k_proj": config.kv_heads} if config.kind == "llama" else {}
    names = gguf.get_tensor_name_map(arch, config.layers)
    for name in shape.tensors:
        values = weights[name]
        turned = heads.get(name.split(".")[-2])
        values = interleave_rows(values, turned) if turned and values.ndim == 2 else values
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if values.ndim == 2:
            writer.add_tensor(target, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(target, values)


def interleave_rows(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order of a llama's queries and keys: the two rotary halves of a head in turns. (heads * K, in)."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def add_tokenizer(writer: Any, folder: Path, shape: Shape) -> None:
    """The words of tokenizer.json as GGUF has them: OpenVINO GenAI refuses a file without."""
    import gguf

    write_tokenizer(folder, shape)
    values = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    words = {place: word for word, place in values["model"]["vocab"].items()}
    special = {entry["id"]: entry["content"] for entry in values["added_tokens"]}
    words |= special
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in values["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm" if shape.is_real else "qwen2")
    writer.add_token_list([words[place] for place in range(shape.config.vocab_size)])
    writer.add_token_types([gguf.TokenType.CONTROL if place in special else gguf.TokenType.NORMAL
                            for place in range(shape.config.vocab_size)])
    writer.add_token_merges(merges)
    places = {word: place for place, word in special.items()}
    writer.add_bos_token_id(places["<|im_start|>"])
    writer.add_eos_token_id(places["<|im_end|>"])
    writer.add_pad_token_id(places["<|im_end|>"])
