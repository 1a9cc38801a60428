"""token2wav's flow.pt to two graphs: the encoder of speech tokens and the decoder that says where the mel flows.

Letters: T tokens of a call, C tokens before, F mel frames of a call, S frames remembered, M mel bins, W width, H heads,
K head width, L layers, U layers after the doubling. One graph each serves a whole sound and a piece of a stream: memory
without tokens (C or S = 0) and zeros for the convolutions' past are the beginning.

flow_encoder  tokens (T,) int64 · speaker (speaker_width,) · padding (1,) int64 = look-ahead tokens that are missing and
              count as zeros · lookahead (1, 2, W) · upsampled (1, 2 * factor, W) · token_kv (L, H, C, 2K) · frame_kv
              (U, H, factor * C, 2K) -> mu (F, M) · voice (M,) · new_lookahead · new_upsampled · new_token_kv
              (L, H, F / factor, 2K) · new_frame_kv (U, H, F, 2K)
flow_decoder  x, mu, cond (B, M, F) · t (B,) · voice (B, M) · conv (L, 2, B, 2, W) · kv (L, B, H, S, 2K) ->
              velocity (B, M, F) · new_conv · new_kv (L, B, H, F, 2K)

Keys and values come back for the call's own tokens alone; who remembers them decides what to keep. A convolution is
written as a matrix over neighbouring frames side by side, so that it is rounded as the other matrices are.

Source: the torch modules of `model.outputs.flow`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...model.config import FlowConfig, FlowDecoderConfig, FlowEncoderConfig
from ...model.flow_memory import CONV_PAST, LOOKAHEAD_PAST
from .builder import FLOAT, INT64, GraphBuilder, check_bits, take

FILE_NAMES = ("flow_encoder.onnx", "flow_decoder.onnx")

LAYER_NORM_EPS = 1e-12
MODULATION_EPS = 1e-6
TIME_FEATURES = 256
TIME_SCALE = 1000.0
MODULATION_BITS = 8
"""Least bits of the matrices whose outputs scale and gate every frame alike."""

LAST_FRAME = np.iinfo(np.int64).max
"""As the end of a slice: up to the last."""


@dataclass(frozen=True)
class Draft:
    """A graph in the making, and how its matrices are to be rounded."""

    graph: GraphBuilder
    weights: Mapping[str, np.ndarray]
    bits: int | None
    block_size: int

    def linear(self, x: str, name: str, columns: int, rows: int, *, bias: bool = True, rounded: bool = True,
               least_bits: int = 4) -> str:
        """x (..., columns) through the matrix `name`; rounded False keeps a small one as float32."""
        matrix = take(self.weights, f"{name}.weight", [rows, columns])
        shift = take(self.weights, f"{name}.bias", [rows]) if bias else None
        return self.matrix(x, matrix, shift, name, rounded=rounded, least_bits=least_bits)

    def matrix(self, x: str, matrix: np.ndarray, bias: np.ndarray | None, name: str, *, rounded: bool = True,
               least_bits: int = 4) -> str:
        bits = max(self.bits, least_bits) if self.bits and rounded else None
        return self.graph.linear(x, matrix, bias, name, bits=bits, block_size=self.block_size)

    def norm(self, x: str, name: str, width: int, eps: float = 1e-5) -> str:
        """The LayerNorm whose tensors are `name`.weight and .bias."""
        gain, shift = (take(self.weights, f"{name}.{part}", [width]) for part in ("weight", "bias"))
        return self.graph.layer_norm(x, gain, shift, name, eps=eps)

    def convolution(self, x: str, name: str, width: int, kernel: int) -> str:
        """x (B, F + kernel - 1, width) -> (B, F, width): output f sees inputs f to f + kernel - 1."""
        frames = [self.frames(x, start, start - kernel + 1 or LAST_FRAME, f"{name}.from_{start}")
                  for start in range(kernel)]
        beside = self.graph.node("Concat", frames, f"{name}.beside", axis=-1)
        matrix = take(self.weights, f"{name}.weight", [width, width, kernel])
        flat = np.ascontiguousarray(matrix.transpose(0, 2, 1).reshape(width, kernel * width))
        return self.matrix(beside, flat, take(self.weights, f"{name}.bias", [width]), name)

    def frames(self, x: str, start: int, stop: int, name: str) -> str:
        """Frames of x (B, F, width); both ends may count from the last, as in Python."""
        graph = self.graph
        return graph.node("Slice", [x, graph.integers(f"at_{start}", start), graph.integers(f"at_{stop}", stop),
                                    graph.integers("axis_1", 1)], name)

    def swish(self, x: str, name: str) -> str:
        return self.graph.node("Mul", [x, self.graph.node("Sigmoid", [x], f"{name}.sigmoid")], f"{name}.swish")

    def item(self, x: str, index: int, name: str) -> str:
        """x[index]."""
        place = self.graph.constant(f"item_{index}", np.array(index, np.int64))
        return self.graph.node("Gather", [x, place], name, axis=0)

    def stack(self, parts: Sequence[str], name: str, *, out: str | None = None) -> str:
        """Tensors of one shape along a new first axis."""
        axis = self.graph.integers("axis_0", 0)
        rows = [self.graph.node("Unsqueeze", [part, axis], f"{part}.row") for part in parts]
        return self.graph.node("Concat", rows, name, out=out, axis=0)

    def keys_and_values(self, first: str, second: str, name: str, axis: int) -> tuple[str, str]:
        """Two memories one after the other (along the axis of tokens), split into keys and values."""
        both = self.graph.node("Concat", [first, second], f"{name}.kv_all", axis=axis)
        keys, values = self.graph.nodes("Split", [both], f"{name}.kv_split", outs=[f"{name}.keys", f"{name}.values"],
                                        axis=-1, num_outputs=2)
        return keys, values


def build_flow(weights: Mapping[str, np.ndarray], config: FlowConfig, *, bits: int | None, block_size: int,
               folder: Path) -> None:
    """Write flow_encoder.onnx and flow_decoder.onnx, each with its .data file, into `folder`.

    weights: the names of flow.pt. bits 8 or 4 round the matrices of layers and convolutions, None keeps float32.
    Raises CheckpointError if a tensor is absent or misshapen, OptionError for bits that cannot be run.
    """
    check_bits(bits, block_size)
    encoder, decoder = FILE_NAMES
    with GraphBuilder.streaming("flow_encoder", folder / encoder) as graph:
        write_encoder(Draft(graph, weights, bits, block_size), config)
    with GraphBuilder.streaming("flow_decoder", folder / decoder) as graph:
        write_decoder(Draft(graph, weights, bits, block_size), config)


def write_encoder(draft: Draft, config: FlowConfig) -> None:
    """The graph of `Flow.encode`."""
    graph, shape = draft.graph, config.encoder
    declare_encoder(graph, config)
    voice = normed_speaker(graph)
    voice = draft.linear(voice, "spk_embed_affine_layer", config.speaker_width, config.mel_bins, rounded=False)
    graph.node("Squeeze", [voice, graph.integers("axis_0", 0)], "voice")
    table = graph.constant("input_embedding.weight",
                           take(draft.weights, "input_embedding.weight", [config.vocab_size, shape.width]))
    x = graph.node("Unsqueeze", [graph.node("Gather", [table, "tokens"], "embedded"), graph.integers("axis_0", 0)],
                   "embedded_batch")
    x = pad_frames(graph, embed(draft, x, "encoder.embed", shape.width), shape.width)
    x = look_ahead(draft, x, shape)
    x = conform(draft, x, "encoder.encoders", shape.layers, shape, "token_kv")
    x = upsample(draft, x, shape)
    x = embed(draft, x, "encoder.up_embed", shape.width)
    x = conform(draft, x, "encoder.up_encoders", shape.up_layers, shape, "frame_kv")
    x = draft.norm(x, "encoder.after_norm", shape.width)
    mu = draft.linear(x, "encoder_proj", shape.width, config.mel_bins, rounded=False)
    graph.node("Squeeze", [mu, graph.integers("axis_0", 0)], "mu")


def declare_encoder(graph: GraphBuilder, config: FlowConfig) -> None:
    shape, factor = config.encoder, config.encoder.up_factor
    packed = 2 * (shape.width // shape.heads)
    graph.input("tokens", INT64, ["tokens_now"])
    graph.input("speaker", FLOAT, [config.speaker_width])
    graph.input("padding", INT64, [1])
    graph.output("mu", FLOAT, ["frames", config.mel_bins])
    graph.output("voice", FLOAT, [config.mel_bins])
    for name, size in (("lookahead", [1, LOOKAHEAD_PAST, shape.width]), ("upsampled", [1, 2 * factor, shape.width])):
        graph.input(name, FLOAT, size)
        graph.output(f"new_{name}", FLOAT, size)
    for name, layers in (("token_kv", shape.layers), ("frame_kv", shape.up_layers)):
        graph.input(name, FLOAT, [layers, shape.heads, f"{name}_past", packed])
        graph.output(f"new_{name}", FLOAT, [layers, shape.heads, f"{name}_now", packed])


def normed_speaker(graph: GraphBuilder) -> str:
    """speaker (width,) -> (1, width) of length 1; a vector of zeros stays one."""
    axis = graph.integers("axis_0", 0)
    length = graph.node("ReduceL2", ["speaker", axis], "speaker_length", keepdims=1)
    length = graph.node("Max", [length, graph.scalar("smallest_length", 1e-12)], "speaker_length_or_more")
    unit = graph.node("Div", ["speaker", length], "speaker_unit")
    return graph.node("Unsqueeze", [unit, axis], "speaker_batch")


def embed(draft: Draft, x: str, name: str, width: int) -> str:
    """Linear, norm, and the square root of the width."""
    x = draft.linear(x, f"{name}.out.0", width, width)
    x = draft.norm(x, f"{name}.out.1", width)
    return draft.graph.node("Mul", [x, draft.graph.scalar("root_width", math.sqrt(width))], f"{name}.scaled")


def pad_frames(graph: GraphBuilder, x: str, width: int) -> str:
    """As many frames of zeros as `padding` says, after those of x."""
    ends = graph.integers("one", 1), graph.integers("width", width)
    shape = graph.node("Concat", [ends[0], "padding", ends[1]], "padding_shape", axis=0)
    zeros = graph.node("ConstantOfShape", [shape], "padding_zeros")
    return graph.node("Concat", [x, zeros], "padded", axis=1)


def look_ahead(draft: Draft, x: str, shape: FlowEncoderConfig) -> str:
    """x (1, T + look-ahead, W) -> (1, T, W): a convolution over what comes, one over what was, and what is."""
    graph, name, ahead = draft.graph, "encoder.pre_lookahead_layer", shape.lookahead_tokens
    y = draft.convolution(x, f"{name}.conv1", shape.width, ahead + 1)
    y = graph.node("LeakyRelu", [y], f"{name}.leaky", alpha=0.01)
    y = graph.node("Concat", ["lookahead", y], f"{name}.with_past", axis=1)
    graph.node("Identity", [draft.frames(y, -LOOKAHEAD_PAST, LAST_FRAME, f"{name}.past")], "new_lookahead")
    y = draft.convolution(y, f"{name}.conv2", shape.width, LOOKAHEAD_PAST + 1)
    here = draft.frames(x, 0, -ahead if ahead else LAST_FRAME, f"{name}.here")
    return graph.node("Add", [y, here], f"{name}.out")


def upsample(draft: Draft, x: str, shape: FlowEncoderConfig) -> str:
    """x (1, T, W) -> (1, factor * T, W): every frame several times, and a convolution over them and those before."""
    graph, name, factor = draft.graph, "encoder.up_layer", shape.up_factor
    apart = graph.node("Unsqueeze", [x, graph.integers("axis_2", 2)], f"{name}.apart")  # (1, T, 1, W)
    copies = graph.node("Concat", [apart] * factor, f"{name}.copies", axis=2)
    x = graph.node("Reshape", [copies, graph.integers("joined_shape", 1, -1, shape.width)], f"{name}.joined")
    x = graph.node("Concat", ["upsampled", x], f"{name}.with_past", axis=1)
    graph.node("Identity", [draft.frames(x, -2 * factor, LAST_FRAME, f"{name}.past")], "new_upsampled")
    return draft.convolution(x, f"{name}.conv", shape.width, 2 * factor + 1)


def conform(draft: Draft, x: str, name: str, layers: int, shape: FlowEncoderConfig, memory: str) -> str:
    """A stack of conformer layers over x (1, T, W) and what `memory` holds of before."""
    positions = relative_positions(draft.graph, x, memory, shape.width)
    new = []
    for layer in range(layers):
        prefix = f"{name}.{layer}"
        normed = draft.norm(x, f"{prefix}.norm_mha", shape.width, LAYER_NORM_EPS)
        past = draft.item(memory, layer, f"{prefix}.past")
        attended, kv = relative_attention(draft, normed, f"{prefix}.self_attn", shape, positions, past)
        new.append(kv)
        x = draft.graph.node("Add", [x, attended], f"{prefix}.attended")
        h = draft.norm(x, f"{prefix}.norm_ff", shape.width, LAYER_NORM_EPS)
        h = draft.linear(h, f"{prefix}.feed_forward.w_1", shape.width, shape.ffn)
        h = draft.linear(draft.swish(h, f"{prefix}.feed_forward"), f"{prefix}.feed_forward.w_2", shape.ffn, shape.width)
        x = draft.graph.node("Add", [x, h], f"{prefix}.fed")
    draft.stack(new, f"{name}.new", out=f"new_{memory}")
    return x


def relative_positions(graph: GraphBuilder, x: str, memory: str, width: int) -> str:
    """Sines and cosines (2S - 1, W), interleaved, of the distances S - 1 down to 1 - S, S being past and present."""
    name = f"{memory}.positions"
    size = graph.node("Add", [graph.node("Shape", [memory], f"{name}.past", start=2, end=3),
                              graph.node("Shape", [x], f"{name}.now", start=1, end=2)], f"{name}.size")
    size = graph.node("Squeeze", [size, graph.integers("axis_0", 0)], f"{name}.scalar")
    one = graph.constant("one_scalar", np.array(1, np.int64))
    first = graph.node("Sub", [size, one], f"{name}.first")
    stop = graph.node("Neg", [size], f"{name}.stop")
    steps = graph.node("Range", [first, stop, graph.constant("minus_one", np.array(-1, np.int64))], f"{name}.range")
    steps = graph.node("Cast", [steps], f"{name}.float", to=FLOAT)
    column = graph.node("Unsqueeze", [steps, graph.integers("axis_1", 1)], f"{name}.column")
    angles = graph.node("Mul", [column, graph.constant(f"{name}.rates", frequencies(width // 2))], f"{name}.angles")
    waves = [graph.node("Unsqueeze", [graph.node(op, [angles], f"{name}.{op}"), graph.integers("axis_2", 2)],
                        f"{name}.{op}.apart") for op in ("Sin", "Cos")]
    pairs = graph.node("Concat", waves, f"{name}.pairs", axis=2)  # (2S - 1, W / 2, 2)
    return graph.node("Reshape", [pairs, graph.integers("position_shape", -1, width)], name)


def frequencies(count: int) -> np.ndarray:
    """(count,) from 1 down to near 1 / 10000. Exponents in float32 as the reference has them: the angle of a moment is
    up to 1000 times a frequency, so the last bit counts."""
    exponents = np.arange(count, dtype=np.float32) * np.float32(-math.log(10_000.0)) / np.float32(count)
    return np.exp(exponents.astype(np.float64)).astype(np.float32)


def relative_attention(draft: Draft, x: str, name: str, shape: FlowEncoderConfig, positions: str,
                       past: str) -> tuple[str, str]:
    """Attention by content and by distance; x (1, T, W) -> (1, T, W), keys and values of x (H, T, 2K)."""
    graph, width = draft.graph, shape.width
    query, key, value = (encoder_heads(draft, draft.linear(x, f"{name}.linear_{part}", width, width), shape,
                                       f"{name}.{part}") for part in "qkv")
    kv = graph.node("Concat", [key, value], f"{name}.kv", axis=-1)
    keys, values = draft.keys_and_values(past, kv, name, axis=1)
    distances = draft.linear(positions, f"{name}.linear_pos", width, width, bias=False)
    distances = encoder_heads(draft, distances, shape, f"{name}.distances")  # (H, 2S - 1, K)
    by_content = biased_scores(draft, query, keys, f"{name}.pos_bias_u", shape)
    by_distance = shift_to_keys(graph, biased_scores(draft, query, distances, f"{name}.pos_bias_v", shape), name, shape)
    scores = graph.node("Add", [by_content, by_distance], f"{name}.scores")
    scale = graph.scalar("score_scale", 1 / math.sqrt(width // shape.heads))
    shares = graph.node("Softmax", [graph.node("Mul", [scores, scale], f"{name}.scaled")], f"{name}.shares", axis=-1)
    mixed = graph.node("MatMul", [shares, values], f"{name}.mixed")
    mixed = graph.node("Transpose", [mixed], f"{name}.mixed_frames", perm=[1, 0, 2])
    mixed = graph.node("Reshape", [mixed, graph.integers("joined_shape", 1, -1, width)], f"{name}.mixed_joined")
    return draft.linear(mixed, f"{name}.linear_out", width, width), kv


def encoder_heads(draft: Draft, x: str, shape: FlowEncoderConfig, name: str) -> str:
    """(1, T, W) or (T, W) -> (H, T, K)."""
    apart = draft.graph.integers("head_shape", -1, shape.heads, shape.width // shape.heads)
    x = draft.graph.node("Reshape", [x, apart], f"{name}.apart")
    return draft.graph.node("Transpose", [x], f"{name}.heads", perm=[1, 0, 2])


def biased_scores(draft: Draft, query: str, keys: str, bias: str, shape: FlowEncoderConfig) -> str:
    """(query + bias) times keys transposed; query (H, T, K), keys (H, any, K) -> (H, T, any)."""
    shift = take(draft.weights, bias, [shape.heads, shape.width // shape.heads])[:, None]
    shifted = draft.graph.node("Add", [query, draft.graph.constant(bias, shift)], f"{bias}.query")
    turned = draft.graph.node("Transpose", [keys], f"{bias}.keys", perm=[0, 2, 1])
    return draft.graph.node("MatMul", [shifted, turned], f"{bias}.scores")


def shift_to_keys(graph: GraphBuilder, scores: str, name: str, shape: FlowEncoderConfig) -> str:
    """(H, T, 2S - 1) scores of distances -> (H, T, S) scores of keys, by a look at the same numbers one row apart; see
    the torch module."""
    name = f"{name}.shift"
    none_before = graph.integers(f"{shape.heads}_pads", 0, 0, 1, 0, 0, 0)
    padded = graph.node("Pad", [scores, none_before], f"{name}.padded")  # (H, T, 2S)
    size = graph.node("Shape", [scores], f"{name}.size")
    queries = graph.node("Shape", [scores], f"{name}.queries", start=1, end=2)
    rows = graph.node("Concat", [graph.integers("heads", shape.heads), graph.integers("rest", -1), queries],
                      f"{name}.rows", axis=0)
    turned = graph.node("Reshape", [padded, rows], f"{name}.turned")  # (H, 2S, T)
    later = graph.node("Slice", [turned, graph.integers("at_1", 1), graph.integers(f"at_{LAST_FRAME}", LAST_FRAME),
                                 graph.integers("axis_1", 1)], f"{name}.later")
    moved = graph.node("Reshape", [later, size], f"{name}.moved")
    distances = graph.node("Shape", [scores], f"{name}.distances", start=2, end=3)
    half = graph.node("Div", [distances, graph.integers("two", 2)], f"{name}.half")
    keys = graph.node("Add", [half, graph.integers("one", 1)], f"{name}.keys")
    return graph.node("Slice", [moved, graph.integers("at_0", 0), keys, graph.integers("axis_2", 2)], name)


def write_decoder(draft: Draft, config: FlowConfig) -> None:
    """The graph of `Flow.estimate`."""
    graph, shape, mel = draft.graph, config.decoder, config.mel_bins
    declare_decoder(graph, config)
    graph.constant("ones", np.ones(shape.width, np.float32))
    graph.constant("zeros", np.zeros(shape.width, np.float32))
    moment = time_embedding(draft, shape.width)
    tiled = graph.node("Expand", [graph.node("Unsqueeze", ["voice", graph.integers("axis_2", 2)], "voice_column"),
                                  graph.node("Shape", ["x"], "x_shape")], "voice_tiled")
    x = graph.node("Concat", ["x", "mu", tiled, "cond"], "together", axis=1)
    x = graph.node("Transpose", [x], "frames_first", perm=[0, 2, 1])  # (B, 4M, F) -> (B, F, 4M)
    x = draft.linear(x, "decoder.estimator.in_proj", 4 * mel, shape.width, rounded=False)
    convs, kvs = [], []
    for layer in range(shape.layers):
        x, conv, kv = dit_block(draft, x, moment, f"decoder.estimator.blocks.{layer}", layer, shape)
        convs.append(conv)
        kvs.append(kv)
    draft.stack(convs, "convs", out="new_conv")
    draft.stack(kvs, "kvs", out="new_kv")
    name = "decoder.estimator.final_layer"
    shift, scale = modulation(draft, moment, name, 2, shape.width)
    x = modulate(graph, x, shift, scale, f"{name}.norm")
    x = draft.linear(x, f"{name}.linear", shape.width, mel, rounded=False)
    graph.node("Transpose", [x], "mel_first", out="velocity", perm=[0, 2, 1])


def declare_decoder(graph: GraphBuilder, config: FlowConfig) -> None:
    shape, mel = config.decoder, config.mel_bins
    for name in ("x", "mu", "cond"):
        graph.input(name, FLOAT, ["batch", mel, "frames"])
    graph.input("t", FLOAT, ["batch"])
    graph.input("voice", FLOAT, ["batch", mel])
    graph.output("velocity", FLOAT, ["batch", mel, "frames"])
    conv: list[int | str] = [shape.layers, 2, "batch", CONV_PAST, shape.width]
    graph.input("conv", FLOAT, conv)
    graph.output("new_conv", FLOAT, conv)
    for name, length in (("kv", "past"), ("new_kv", "frames")):
        declare = graph.input if name == "kv" else graph.output
        declare(name, FLOAT, [shape.layers, "batch", shape.heads, length, 2 * shape.head_width])


def time_embedding(draft: Draft, width: int) -> str:
    """t (B,) -> SiLU of its embedding (B, 1, W), as every modulation takes it."""
    graph, name, half = draft.graph, "decoder.estimator.t_embedder", TIME_FEATURES // 2
    rates = frequencies(half)
    scaled = graph.node("Mul", ["t", graph.scalar("time_scale", TIME_SCALE)], f"{name}.scaled")
    column = graph.node("Unsqueeze", [scaled, graph.integers("axes_1_2", 1, 2)], f"{name}.column")
    angles = graph.node("Mul", [column, graph.constant(f"{name}.rates", rates)], f"{name}.angles")
    waves = [graph.node(op, [angles], f"{name}.{op}") for op in ("Cos", "Sin")]
    x = graph.node("Concat", waves, f"{name}.waves", axis=-1)
    x = draft.linear(x, f"{name}.mlp.0", TIME_FEATURES, width, rounded=False)
    x = draft.linear(draft.swish(x, f"{name}.mlp.0"), f"{name}.mlp.2", width, width, rounded=False)
    return draft.swish(x, name)


def dit_block(draft: Draft, x: str, moment: str, name: str, layer: int,
              shape: FlowDecoderConfig) -> tuple[str, str, str]:
    """Attention, convolution, feed-forward; each modulated and gated. Also the convolutions' past, keys and values."""
    graph, width = draft.graph, shape.width
    parts = modulation(draft, moment, name, 9, width)
    attn, mlp, conv = parts[:3], parts[3:6], parts[6:]
    h = modulate(graph, x, attn[0], attn[1], f"{name}.norm1")
    h, kv = frame_attention(draft, h, f"{name}.attn", shape, draft.item("kv", layer, f"{name}.past"))
    x = gated(graph, x, attn[2], h, f"{name}.attended")
    h = modulate(graph, x, conv[0], conv[1], f"{name}.norm3")
    h, past = conv_block(draft, h, f"{name}.conv.block", width, draft.item("conv", layer, f"{name}.conv_past"))
    x = gated(graph, x, conv[2], h, f"{name}.convolved")
    h = modulate(graph, x, mlp[0], mlp[1], f"{name}.norm2")
    hidden = int(width * shape.mlp_ratio)
    h = draft.linear(h, f"{name}.mlp.fc1", width, hidden)
    h = graph.node("Gelu", [h], f"{name}.mlp.gelu", approximate="tanh")
    return gated(graph, x, mlp[2], draft.linear(h, f"{name}.mlp.fc2", hidden, width), f"{name}.fed"), past, kv


def modulation(draft: Draft, moment: str, name: str, count: int, width: int) -> list[str]:
    """moment (B, 1, W) to `count` shifts, scales and gates (B, 1, W)."""
    packed = draft.linear(moment, f"{name}.adaLN_modulation.1", width, count * width, least_bits=MODULATION_BITS)
    return draft.graph.nodes("Split", [packed], f"{name}.modulation", axis=-1, num_outputs=count,
                             outs=[f"{name}.modulation.{index}" for index in range(count)])


def modulate(graph: GraphBuilder, x: str, shift: str, scale: str, name: str) -> str:
    """The norm of x without weights of its own, times 1 + scale, plus shift."""
    normed = graph.node("LayerNormalization", [x, "ones", "zeros"], name, axis=-1, epsilon=MODULATION_EPS)
    factor = graph.node("Add", [scale, graph.scalar("one_float", 1.0)], f"{name}.factor")
    return graph.node("Add", [graph.node("Mul", [normed, factor], f"{name}.scaled"), shift], f"{name}.shifted")


def gated(graph: GraphBuilder, x: str, gate: str, h: str, name: str) -> str:
    return graph.node("Add", [x, graph.node("Mul", [gate, h], f"{name}.gated")], name)


def frame_attention(draft: Draft, x: str, name: str, shape: FlowDecoderConfig, past: str) -> tuple[str, str]:
    """Every frame sees every frame given and remembered; x (B, F, W), past (B, H, S, 2K)."""
    graph, inner = draft.graph, shape.heads * shape.head_width
    heads = graph.integers("head_shape", 0, -1, shape.heads, shape.head_width)
    query, key, value = (graph.node("Reshape", [draft.linear(x, f"{name}.to_{part}", shape.width, inner), heads],
                                    f"{name}.{part}_apart") for part in "qkv")
    query, key = draft.norm(query, f"{name}.q_norm", shape.head_width), draft.norm(key, f"{name}.k_norm",
                                                                                 shape.head_width)
    query, key, value = (graph.node("Transpose", [y], f"{y}.heads", perm=[0, 2, 1, 3]) for y in (query, key, value))
    kv = graph.node("Concat", [key, value], f"{name}.kv", axis=-1)
    keys, values = draft.keys_and_values(kv, past, name, axis=2)
    scale = graph.scalar("score_scale", 1 / math.sqrt(shape.head_width))
    turned = graph.node("Transpose", [keys], f"{name}.keys_turned", perm=[0, 1, 3, 2])
    scores = graph.node("MatMul", [graph.node("Mul", [query, scale], f"{name}.query"), turned], f"{name}.scores")
    mixed = graph.node("MatMul", [graph.node("Softmax", [scores], f"{name}.shares", axis=-1), values], f"{name}.mixed")
    mixed = graph.node("Transpose", [mixed], f"{name}.mixed_frames", perm=[0, 2, 1, 3])
    mixed = graph.node("Reshape", [mixed, graph.integers("joined_shape", 0, -1, inner)], f"{name}.mixed_joined")
    return draft.linear(mixed, f"{name}.proj", inner, shape.width), kv


def conv_block(draft: Draft, x: str, name: str, width: int, past: str) -> tuple[str, str]:
    """Two causal convolutions with a norm and Mish between; past (2, B, 2, W), and the next one."""
    graph, pasts = draft.graph, []
    for index, conv in enumerate(("1", "6")):
        before = draft.item(past, index, f"{name}.{conv}.past")
        x = graph.node("Concat", [before, x], f"{name}.{conv}.with_past", axis=1)
        pasts.append(draft.frames(x, -CONV_PAST, LAST_FRAME, f"{name}.{conv}.next_past"))
        x = draft.convolution(x, f"{name}.{conv}", width, CONV_PAST + 1)
        if conv == "1":
            x = draft.norm(x, f"{name}.3", width)
            soft = graph.node("Tanh", [graph.node("Softplus", [x], f"{name}.softplus")], f"{name}.tanh")
            x = graph.node("Mul", [x, soft], f"{name}.mish")
    return x, draft.stack(pasts, f"{name}.pasts")
