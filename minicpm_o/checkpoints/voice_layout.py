"""A config to the names and shapes of the voice files beside a checkpoint: token2wav's flow and vocoder, and Vocos.

Knows no files.

Source: the state_dict of flow.pt (605 tensors) and hift.pt (328) of 4.5's assets/token2wav, and of 2.6's Vocos.pt.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..model.config import (
    FlowConfig,
    FlowDecoderConfig,
    FlowEncoderConfig,
    HiftConfig,
    VocosConfig,
)
from .official_layout import Entry, Shape, conv_entries, linear_entries, norm_entries

TIME_WIDTH = 256
"""Sines and cosines that tell the flow's decoder how far the noise is gone."""
PITCH_CONVS = 5


def flow_tensors(config: FlowConfig) -> dict[str, Shape]:
    """Every tensor of flow.pt."""
    return dict(_flow(config))


def hift_tensors(config: HiftConfig) -> dict[str, Shape]:
    """Every tensor of hift.pt."""
    return dict(_hift(config))


def vocos_tensors(config: VocosConfig) -> dict[str, Shape]:
    """Every tensor of Vocos.pt that is used."""
    return dict(_vocos(config))


def _flow(config: FlowConfig) -> Iterator[Entry]:
    width = config.encoder.width
    yield "input_embedding.weight", (config.vocab_size, width)
    yield from linear_entries("spk_embed_affine_layer", config.mel_bins, config.speaker_width)
    yield from _flow_embed("encoder.embed", width)
    yield from norm_entries("encoder.after_norm", width)
    yield from conv_entries("encoder.pre_lookahead_layer.conv1", width, width, config.encoder.lookahead_tokens + 1)
    yield from conv_entries("encoder.pre_lookahead_layer.conv2", width, width, 3)
    for index in range(config.encoder.layers):
        yield from _conformer(f"encoder.encoders.{index}", config.encoder)
    yield from conv_entries("encoder.up_layer.conv", width, width, 2 * config.encoder.up_factor + 1)
    yield from _flow_embed("encoder.up_embed", width)
    for index in range(config.encoder.up_layers):
        yield from _conformer(f"encoder.up_encoders.{index}", config.encoder)
    yield from linear_entries("encoder_proj", config.mel_bins, width)
    yield from _flow_decoder(config.decoder, config.mel_bins)


def _flow_embed(name: str, width: int) -> Iterator[Entry]:
    yield from linear_entries(f"{name}.out.0", width, width)
    yield from norm_entries(f"{name}.out.1", width)


def _conformer(layer: str, config: FlowEncoderConfig) -> Iterator[Entry]:
    width, head_width = config.width, config.width // config.heads
    yield f"{layer}.self_attn.pos_bias_u", (config.heads, head_width)
    yield f"{layer}.self_attn.pos_bias_v", (config.heads, head_width)
    for name in ("q", "k", "v", "out"):
        yield from linear_entries(f"{layer}.self_attn.linear_{name}", width, width)
    yield from linear_entries(f"{layer}.self_attn.linear_pos", width, width, bias=False)
    yield from linear_entries(f"{layer}.feed_forward.w_1", config.ffn, width)
    yield from linear_entries(f"{layer}.feed_forward.w_2", width, config.ffn)
    yield from norm_entries(f"{layer}.norm_ff", width)
    yield from norm_entries(f"{layer}.norm_mha", width)


def _flow_decoder(config: FlowDecoderConfig, mel_bins: int) -> Iterator[Entry]:
    width, heads_width = config.width, config.heads * config.head_width
    ffn = round(width * config.mlp_ratio)
    root = "decoder.estimator"
    yield from linear_entries(f"{root}.t_embedder.mlp.0", width, TIME_WIDTH)
    yield from linear_entries(f"{root}.t_embedder.mlp.2", width, width)
    yield from linear_entries(f"{root}.in_proj", width, 4 * mel_bins)
    for index in range(config.layers):
        block = f"{root}.blocks.{index}"
        for name in "qkv":
            yield from linear_entries(f"{block}.attn.to_{name}", heads_width, width)
        yield from norm_entries(f"{block}.attn.q_norm", config.head_width)
        yield from norm_entries(f"{block}.attn.k_norm", config.head_width)
        yield from linear_entries(f"{block}.attn.proj", width, heads_width)
        yield from linear_entries(f"{block}.mlp.fc1", ffn, width)
        yield from linear_entries(f"{block}.mlp.fc2", width, ffn)
        yield from conv_entries(f"{block}.conv.block.1", width, width, 3)
        yield from norm_entries(f"{block}.conv.block.3", width)
        yield from conv_entries(f"{block}.conv.block.6", width, width, 3)
        yield from linear_entries(f"{block}.adaLN_modulation.1", 9 * width, width)
    yield from linear_entries(f"{root}.final_layer.adaLN_modulation.1", 2 * width, width)
    yield from linear_entries(f"{root}.final_layer.linear", mel_bins, width)


def _normed_conv(name: str, rows: int, columns: int, kernel: int, *, bias: int | None = None) -> Iterator[Entry]:
    """A convolution stored as lengths and directions; one that upsamples has its inputs as rows."""
    yield f"{name}.bias", (rows if bias is None else bias,)
    yield f"{name}.parametrizations.weight.original0", (rows, 1, 1)
    yield f"{name}.parametrizations.weight.original1", (rows, columns, kernel)


def _hift(config: HiftConfig) -> Iterator[Entry]:
    widths = [config.width >> (step + 1) for step in range(len(config.up_rates))]
    bands = config.fft_samples + 2
    yield from linear_entries("m_source.l_linear", 1, config.harmonics + 1)
    yield from _normed_conv("conv_pre", config.width, config.mel_bins, 7)
    for step, (width, kernel) in enumerate(zip(widths, config.up_kernels, strict=True)):
        yield from _normed_conv(f"ups.{step}", 2 * width, width, kernel, bias=width)
    for step, width in enumerate(widths):
        rate = 1  # of the source's frames to this step's: what the later steps still bring
        for later in config.up_rates[step + 1 :]:
            rate *= later
        yield from conv_entries(f"source_downs.{step}", width, bands, 1 if rate == 1 else 2 * rate)
    for step, width in enumerate(widths):
        yield from _snake_block(f"source_resblocks.{step}", width, config.source_kernels[step],
                                len(config.source_dilations[step]))
    kinds = list(zip(config.block_kernels, config.block_dilations, strict=True))
    for step, width in enumerate(widths):
        for kind, (kernel, dilations) in enumerate(kinds):
            yield from _snake_block(f"resblocks.{step * len(kinds) + kind}", width, kernel, len(dilations))
    yield from _normed_conv("conv_post", bands, widths[-1], 7)
    for index in range(PITCH_CONVS):
        channels = config.mel_bins if index == 0 else config.pitch_width
        yield from _normed_conv(f"f0_predictor.condnet.{2 * index}", config.pitch_width, channels, 3)
    yield from linear_entries("f0_predictor.classifier", 1, config.pitch_width)


def _snake_block(name: str, width: int, kernel: int, depth: int) -> Iterator[Entry]:
    for stack in ("convs1", "convs2"):
        for index in range(depth):
            yield from _normed_conv(f"{name}.{stack}.{index}", width, width, kernel)
    for stack in ("activations1", "activations2"):
        for index in range(depth):
            yield f"{name}.{stack}.{index}.alpha", (width,)


def _vocos(config: VocosConfig) -> Iterator[Entry]:
    width = config.width
    yield from conv_entries("backbone.embed", width, config.mel_bins, 7)
    yield from norm_entries("backbone.norm", width)
    for index in range(config.layers):
        block = f"backbone.convnext.{index}"
        yield f"{block}.gamma", (width,)
        yield from conv_entries(f"{block}.dwconv", width, 1, 7)
        yield from norm_entries(f"{block}.norm", width)
        yield from linear_entries(f"{block}.pwconv1", config.ffn, width)
        yield from linear_entries(f"{block}.pwconv2", width, config.ffn)
    yield from norm_entries("backbone.final_layer_norm", width)
    yield from linear_entries("head.out", config.fft_samples + 2, width)
    yield "head.istft.window", (config.fft_samples,)
