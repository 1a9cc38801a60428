"""A Llama-shaped GGUF file to named float32 tensors, config values and a tokenizer.

Knows nothing of connectors or graphs. Tensor names become those of Hugging Face's Llama checkpoints; the row order of
the query and key projections, which llama.cpp interleaves for its rotary embedding, is put back. Source: the GGUF
specification of the ggml project; the tensor-name table is `gguf.constants` of the gguf package.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CheckpointError
from ..model.config import LanguageConfig

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor
    from tokenizers import Tokenizer

MEDIA_TOKENS: Mapping[int, str] = {
    3: "<image>",
    4: "</image>",
    5: "<slice>",
    6: "</slice>",
    7: "<|audio_start|>",
    8: "<|audio_end|>",
    9: "<unk>",
}
"""Code-repository tokens that a chat never uses, renamed to mark media; id 9 is the placeholder of every media run."""

_TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER_PATTERN = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
_SPECIAL_TYPES = (3, 4)  # CONTROL and USER_DEFINED of gguf's token types
_DIGIT_PRETOKENIZERS = ("smollm",)


class GGUFFile:
    """One opened GGUF file. Raises CheckpointError when it is not a whole Llama-shaped GGUF file."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._reader = _open(self.path)
        architecture = self.value("general.architecture")
        if architecture != "llama":
            raise CheckpointError(f"{self.path} holds a {architecture!r} model; only llama-shaped ones can be read")

    def value(self, key: str) -> Any:
        """A metadata value. Raises CheckpointError when the file does not have it."""
        field = self._reader.get_field(key)
        if field is None:
            raise CheckpointError(f"{self.path} has no metadata {key!r}; it is not a complete language model")
        return field.contents()

    def config(self) -> LanguageConfig:
        """The model's shape, out of the metadata."""
        heads = int(self.value("llama.attention.head_count"))
        width = int(self.value("llama.embedding_length"))
        return LanguageConfig(
            vocab_size=len(self.value("tokenizer.ggml.tokens")),
            width=width,
            layers=int(self.value("llama.block_count")),
            heads=heads,
            kv_heads=int(self.value("llama.attention.head_count_kv")),
            head_width=width // heads,
            ffn=int(self.value("llama.feed_forward_length")),
            norm_eps=_plain_float(self.value("llama.attention.layer_norm_rms_epsilon")),
            rope_theta=_plain_float(self.value("llama.rope.freq_base")),
            context_tokens=int(self.value("llama.context_length")),
        )

    def tensors(self) -> Mapping[str, np.ndarray]:
        """Every weight as float32 (out, in) under its Hugging Face name, dequantised anew at each look.

        So the file never stands in memory as a whole; the caller owns the arrays.
        """
        return _Dequantised(self._reader.tensors, self.config())

    def tokenizer(self, renames: Mapping[int, str] | None = None) -> Tokenizer:
        """The byte-level BPE tokenizer; `renames` (default: MEDIA_TOKENS) gives unused special ids their new names."""
        pretokenizer = self.value("tokenizer.ggml.pre")
        if self.value("tokenizer.ggml.model") != "gpt2" or pretokenizer not in _DIGIT_PRETOKENIZERS:
            raise CheckpointError(
                f"{self.path} has a {pretokenizer!r} tokenizer; expected one of {list(_DIGIT_PRETOKENIZERS)}"
            )
        types = self.value("tokenizer.ggml.token_type")
        return build_tokenizer(
            tokens=self.value("tokenizer.ggml.tokens"),
            merges=self.value("tokenizer.ggml.merges"),
            special_ids=[i for i, kind in enumerate(types) if kind in _SPECIAL_TYPES],
            renames=MEDIA_TOKENS if renames is None else renames,
        )


class _Dequantised(Mapping[str, np.ndarray]):
    """Tensors of a GGUF file by Hugging Face name."""

    def __init__(self, tensors: Iterable[ReaderTensor], config: LanguageConfig) -> None:
        self._tensors = {hf_name(tensor.name): tensor for tensor in tensors}
        self._heads = {"q_proj": config.heads, "k_proj": config.kv_heads}

    def __getitem__(self, name: str) -> np.ndarray:
        from gguf import dequantize

        tensor = self._tensors[name]
        values = np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        heads = self._heads.get(name.split(".")[-2])
        return restore_rows(values, heads) if heads else values

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def hf_name(name: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`. Raises CheckpointError on an unknown name."""
    if name in _TOP_NAMES:
        return _TOP_NAMES[name]
    match = _LAYER_PATTERN.fullmatch(name)
    if match is None or match[2] not in _LAYER_NAMES:
        raise CheckpointError(f"a llama-shaped model has no tensor {name!r}")
    return f"model.layers.{match[1]}.{_LAYER_NAMES[match[2]]}.weight"


def restore_rows(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undo llama.cpp's interleaving of each head's two rotary halves. weight (heads * K, in) -> same shape."""
    pairs = weight.reshape(heads, weight.shape[0] // heads // 2, 2, weight.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(weight.shape))


def build_tokenizer(
    tokens: Sequence[str], merges: Sequence[str], special_ids: Sequence[int], renames: Mapping[int, str]
) -> Tokenizer:
    """Byte-level BPE that cuts every digit alone. Raises CheckpointError when a rename meets an ordinary token."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    ordinary = sorted(set(renames) - set(special_ids))
    if ordinary:
        raise CheckpointError(f"token ids {ordinary} are ordinary words; only special tokens can be renamed")
    vocab = {renames.get(i, token): i for i, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise CheckpointError("the vocabulary names a token twice; ids would be ambiguous")
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(renames.get(i, tokens[i]), special=True) for i in special_ids])
    return tokenizer


def _open(path: Path) -> GGUFReader:
    from gguf import GGUFReader

    try:
        return GGUFReader(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; give the path of a GGUF file") from error
    except (ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not a whole GGUF file ({error}); fetch it again") from error


def _plain_float(value: float) -> float:
    """The short decimal a float32 was written from: 9.9999997e-06 is 1e-05."""
    return float(np.format_float_positional(np.float32(value), unique=True, trim="0"))
