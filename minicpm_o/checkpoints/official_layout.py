"""A config to the names and shapes of every tensor of its checkpoint, and those names to ours and back.

Holds no numbers of a checkpoint beyond those that its classes fix; knows no files.
D language width · E width of a part · V vocabulary.

Source: the state_dict of MiniCPM-o 2.6 (1599 tensors) and 4.5 (1414 tensors).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from ..model.config import (
    ChatTTSConfig,
    DvaeConfig,
    LanguageConfig,
    OfficialConfig,
    QueryResamplerConfig,
    SiglipConfig,
    TalkerConfig,
    WhisperEncoderConfig,
)

Shape = tuple[int, ...]
Entry = tuple[str, Shape]

VISION, RESAMPLER, HEARING = "vpm.", "resampler.", "apm."
PROJECTOR, LANGUAGE, SPEECH = "audio_projection_layer.", "llm.", "tts."
PREFIXES = (LANGUAGE, VISION, RESAMPLER, HEARING, PROJECTOR, SPEECH)
"""Every official name begins with one of these."""

UNUSED_WORDS = 32_000
"""Rows of the talker's table that its class makes by default and never reads."""
OPTIONAL = ("tts.model.embed_tokens.weight",)
"""Never read, so a checkpoint may lack it."""
HEAD, EMBEDDING = "llm.lm_head.weight", "llm.model.embed_tokens.weight"

_OURS: Mapping[str, str] = MappingProxyType({
    VISION: "vision.", RESAMPLER: "connectors.resampler.", HEARING: "hearing.", PROJECTOR: "connectors.projector.",
    LANGUAGE: "language.",
})


def _speech_part(version: str) -> str:
    return "talker." if version == "4.5" else "chattts."


def to_ours(name: str, version: str) -> str:
    """Official name to that of our module tree. Raises KeyError for a name with no official prefix."""
    table = {**_OURS, SPEECH: _speech_part(version)}
    prefix = next((prefix for prefix in table if name.startswith(prefix)), None)
    if prefix is None:
        raise KeyError(name)
    return table[prefix] + name.removeprefix(prefix)


def to_official(name: str, version: str) -> str:
    """Name in our module tree to the official one. Raises KeyError for a name of no official part."""
    table = {ours: official for official, ours in _OURS.items()} | {_speech_part(version): SPEECH}
    prefix = next((prefix for prefix in table if name.startswith(prefix)), None)
    if prefix is None:
        raise KeyError(name)
    return table[prefix] + name.removeprefix(prefix)


def expected_tensors(config: OfficialConfig) -> dict[str, Shape]:
    """Every tensor that a checkpoint of this config has; parts that are None have none."""
    width = config.language.width
    parts: list[tuple[str, Iterator[Entry]]] = [(LANGUAGE, _language(config.language))]
    if config.vision:
        parts.append((VISION, _vision(config.vision)))
    if config.vision and config.resampler:
        parts.append((RESAMPLER, _resampler(config.resampler, width, config.vision.width)))
    if config.hearing:
        parts += [(HEARING, _hearing(config.hearing)), (PROJECTOR, _mlp(config.hearing.ffn // 4, width, width))]
    if config.talker:
        parts.append((SPEECH, _talker(config.talker)))
    if config.chattts:
        parts.append((SPEECH, _chattts(config.chattts)))
    return {prefix + name: shape for prefix, entries in parts for name, shape in entries}


def linear_entries(name: str, out: int, width: int, *, bias: bool = True) -> Iterator[Entry]:
    yield f"{name}.weight", (out, width)
    if bias:
        yield f"{name}.bias", (out,)


def conv_entries(name: str, out: int, channels: int, *kernel: int, bias: bool = True) -> Iterator[Entry]:
    yield f"{name}.weight", (out, channels, *kernel)
    if bias:
        yield f"{name}.bias", (out,)


def norm_entries(name: str, width: int) -> Iterator[Entry]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _mlp(width: int, hidden: int, out: int) -> Iterator[Entry]:
    yield from linear_entries("linear1", hidden, width)
    yield from linear_entries("linear2", out, hidden)


def _under(prefix: str, entries: Iterator[Entry]) -> Iterator[Entry]:
    return ((f"{prefix}.{name}", shape) for name, shape in entries)


def _language(config: LanguageConfig) -> Iterator[Entry]:
    yield "model.embed_tokens.weight", (config.vocab_size, config.width)
    for layer in range(config.layers):
        yield from _decoder_layer(f"model.layers.{layer}", config)
    yield "model.norm.weight", (config.width,)
    yield "lm_head.weight", (config.vocab_size, config.width)


def _decoder_layer(layer: str, config: LanguageConfig) -> Iterator[Entry]:
    """One layer of Llama's shape; qwen2 adds biases, qwen3 norms of the heads."""
    queries, keys = config.heads * config.head_width, config.kv_heads * config.head_width
    for name, out in (("q", queries), ("k", keys), ("v", keys)):
        yield from linear_entries(f"{layer}.self_attn.{name}_proj", out, config.width, bias=config.kind == "qwen2")
    yield from linear_entries(f"{layer}.self_attn.o_proj", config.width, queries, bias=False)
    if config.kind == "qwen3":
        yield f"{layer}.self_attn.q_norm.weight", (config.head_width,)
        yield f"{layer}.self_attn.k_norm.weight", (config.head_width,)
    yield from linear_entries(f"{layer}.mlp.gate_proj", config.ffn, config.width, bias=False)
    yield from linear_entries(f"{layer}.mlp.up_proj", config.ffn, config.width, bias=False)
    yield from linear_entries(f"{layer}.mlp.down_proj", config.width, config.ffn, bias=False)
    yield f"{layer}.input_layernorm.weight", (config.width,)
    yield f"{layer}.post_attention_layernorm.weight", (config.width,)


def _vision(config: SiglipConfig) -> Iterator[Entry]:
    patch = (config.patch_px, config.patch_px)
    yield from conv_entries("embeddings.patch_embedding", config.width, config.channels, *patch)
    yield "embeddings.position_embedding.weight", (config.grid**2, config.width)
    for index in range(config.layers):
        layer = f"encoder.layers.{index}"
        for name in "qkv":
            yield from linear_entries(f"{layer}.self_attn.{name}_proj", config.width, config.width)
        yield from linear_entries(f"{layer}.self_attn.out_proj", config.width, config.width)
        yield from norm_entries(f"{layer}.layer_norm1", config.width)
        yield from linear_entries(f"{layer}.mlp.fc1", config.ffn, config.width)
        yield from linear_entries(f"{layer}.mlp.fc2", config.width, config.ffn)
        yield from norm_entries(f"{layer}.layer_norm2", config.width)
    yield from norm_entries("post_layernorm", config.width)


def _resampler(config: QueryResamplerConfig, width: int, vision_width: int) -> Iterator[Entry]:
    yield "query", (config.queries, width)
    yield "proj", (width, width)
    yield from linear_entries("kv_proj", width, vision_width, bias=False)
    yield "attn.in_proj_weight", (3 * width, width)
    yield "attn.in_proj_bias", (3 * width,)
    yield from linear_entries("attn.out_proj", width, width)
    for name in ("ln_q", "ln_kv", "ln_post"):
        yield from norm_entries(name, width)


def _hearing(config: WhisperEncoderConfig) -> Iterator[Entry]:
    yield from conv_entries("conv1", config.width, config.mel_bins, 3)
    yield from conv_entries("conv2", config.width, config.width, 3)
    yield "embed_positions.weight", (config.max_frames, config.width)
    for index in range(config.layers):
        layer = f"layers.{index}"
        for name in "kvq":  # Whisper's keys have no bias
            yield from linear_entries(f"{layer}.self_attn.{name}_proj", config.width, config.width, bias=name != "k")
        yield from linear_entries(f"{layer}.self_attn.out_proj", config.width, config.width)
        yield from norm_entries(f"{layer}.self_attn_layer_norm", config.width)
        yield from linear_entries(f"{layer}.fc1", config.ffn, config.width)
        yield from linear_entries(f"{layer}.fc2", config.width, config.ffn)
        yield from norm_entries(f"{layer}.final_layer_norm", config.width)
    yield from norm_entries("layer_norm", config.width)


def _llama_body(width: int, ffn: int, layers: int, heads: int, kv_heads: int) -> Iterator[Entry]:
    """Both talkers' decoders, with the table that they never read."""
    shape = LanguageConfig(width=width, heads=heads, kv_heads=kv_heads, head_width=width // heads, ffn=ffn)
    yield "model.embed_tokens.weight", (UNUSED_WORDS, width)
    for layer in range(layers):
        yield from _decoder_layer(f"model.layers.{layer}", shape)
    yield "model.norm.weight", (width,)


def _codebook(index: int, codes: int, width: int) -> Iterator[Entry]:
    """A codebook's table and its head, whose matrix is stored as lengths and directions of its rows."""
    yield f"emb_code.{index}.weight", (codes, width)
    yield f"head_code.{index}.parametrizations.weight.original0", (codes, 1)
    yield f"head_code.{index}.parametrizations.weight.original1", (codes, width)


def _talker(config: TalkerConfig) -> Iterator[Entry]:
    yield "emb_text.weight", (config.num_text_tokens, config.width)
    yield from _llama_body(config.width, config.ffn, config.layers, config.heads, config.kv_heads)
    yield from _under("projector_spk", _mlp(config.llm_width, config.width, config.width))
    yield from _under("projector_semantic", _mlp(config.llm_width, config.width, config.width))
    yield from _codebook(0, config.num_audio_tokens, config.width)


def _chattts(config: ChatTTSConfig) -> Iterator[Entry]:
    yield from _under("projector", _mlp(config.llm_width, config.width, config.width))
    yield "emb_text.weight", (config.num_text_tokens, config.width)
    for index in range(config.num_codebooks):
        yield from _codebook(index, config.num_audio_tokens, config.width)
    yield from _llama_body(config.width, config.ffn, config.layers, config.heads, config.heads)
    yield from _under("dvae", _dvae(config.dvae, config.mel_bins))


def _dvae(config: DvaeConfig, mel_bins: int) -> Iterator[Entry]:
    """Both halves; the encoder, which made the codes that ChatTTS learned, is stored and not used."""
    latent, levels = config.latent_width, len(config.levels)
    yield "coef", (1, mel_bins, 1)
    yield from conv_entries("downsample_conv.0", latent, mel_bins, 3)
    yield from conv_entries("downsample_conv.2", latent, latent, 4)
    yield from _under("encoder", _dvae_half(config, latent, config.groups * latent))
    yield from _under("decoder", _dvae_half(config, latent, latent))
    yield from conv_entries("out_conv", mel_bins, latent, 3, bias=False)
    for group in range(config.groups):
        quantizer = f"vq_layer.quantizer.rvqs.{group}"
        yield from linear_entries(f"{quantizer}.project_in", levels, latent)
        yield from linear_entries(f"{quantizer}.project_out", latent, levels)


def _dvae_half(config: DvaeConfig, channels: int, out: int) -> Iterator[Entry]:
    width = config.width
    yield from conv_entries("conv_in.0", config.bottleneck, channels, 3)
    yield from conv_entries("conv_in.2", width, config.bottleneck, 3)
    for index in range(config.layers):
        block = f"decoder_block.{index}"
        yield f"{block}.coef", (width,)
        yield from conv_entries(f"{block}.dwconv", width, 1, 7)
        yield from norm_entries(f"{block}.norm", width)
        yield from linear_entries(f"{block}.pwconv1", 4 * width, width)
        yield from linear_entries(f"{block}.pwconv2", width, 4 * width)
    yield from conv_entries("conv_out", out, width, 1, bias=False)
