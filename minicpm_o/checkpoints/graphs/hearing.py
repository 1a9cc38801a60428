"""Whisper's weights to five graphs: encoder, projector to audio tokens, ears for words, two halves of the recogniser.

Letters: M mel bins, F mel frames, F2 = F / 2 encoder frames, E encoder width, D language width, L decoder layers,
H heads, K head width, T text tokens, P text tokens already read, V vocabulary, C classes of letters. Knows no sound
files and no words. Batch is 1.

hearing_encoder    log_mel (1, M, F), F even; attention_bias (F2, F2) -> encoder_out (1, F2, E)
hearing_projector  encoder_out (1, F2, E), F2 a multiple of 5 -> tokens (1, F2 / 5, D)
hearing_ears       encoder_out (1, F2, E), F2 a multiple of 50 -> logits (1, F2, C)
recogniser_cross   encoder_out (1, F2, E) -> cross_k, cross_v (L, 1, H, F2, K)
recogniser         ids (1, T) int64, past_k, past_v (L, 1, H, P, K), cross_k, cross_v -> logits (1, V) of the last
                   token, present_k, present_v (L, 1, H, P + T, K)

All but projector and ears keep their tensors in a .data file beside the graph, from which a runtime can map them.

A zero attention_bias is Whisper as published. Under a block-causal bias (large negative numbers right of each block)
nothing that comes later changes a block, save the one mel frame after it, which the first convolution sees: a stream
waits for that frame, and what it has encoded then stays as it is.

Source: Whisper (arXiv:2212.04356) with the tensor names of transformers' WhisperForConditionalGeneration;
MultiHeadAttention as onnxruntime's ContribOperators.md defines it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...errors import OptionError
from ...model.config import HearingConfig, NanoConfig, WhisperEncoderConfig, WordEarsConfig
from ...model.letters import NUM_CLASSES
from ...rates import AUDIO_POOL
from .builder import FLOAT, INT64, MICROSOFT, GraphBuilder, check_bits, pack_nbits, take

EncoderShape = HearingConfig | WhisperEncoderConfig
"""Whose encoder: nano's or the official models'; what they share is shared below (and in `whisper`)."""
LayerShape = EncoderShape | WordEarsConfig
"""Whose layers: an encoder's, or those of nano's ears for words."""


def build_encoder(weights: Mapping[str, np.ndarray], config: NanoConfig, path: Path, *, bits: int | None = None,
                  block_size: int = 32) -> None:
    """Write the encoder's graph. bits 8 or 4 quantise its matrices (not its convolutions), None keeps float32.

    Raises CheckpointError if a tensor is absent or misshapen, OptionError for bits that cannot be run.
    """
    check_bits(bits, block_size)
    shape = config.hearing
    graph = GraphBuilder("hearing_encoder")
    graph.input("log_mel", FLOAT, [1, shape.mel_bins, "mel_frames"])
    graph.input("attention_bias", FLOAT, ["frames", "frames"])
    graph.output("encoder_out", FLOAT, [1, "frames", shape.width])
    bias = graph.node("Unsqueeze", ["attention_bias", graph.integers("first_axes", 0, 1)], "attention_bias_4d")
    x = add_positions(graph, weights, shape, convolutions(graph, weights, shape))
    for layer in range(shape.encoder_layers):
        x = encoder_layer(graph, weights, shape, f"model.encoder.layers.{layer}", x, bias, bits=bits,
                          block_size=block_size)
    layer_norm(graph, weights, shape.width, "model.encoder.layer_norm", x, out="encoder_out")
    graph.save(path, external=True)


def build_projector(connector: Mapping[str, np.ndarray], config: NanoConfig, path: Path, *, bits: int | None = None,
                    block_size: int = 32) -> None:
    """Write the graph of `model.encoders.projector`: norm, five frames side by side, two layers.

    Raises CheckpointError if a tensor is absent or misshapen, OptionError for bits that cannot be run.
    """
    check_bits(bits, block_size)
    graph = GraphBuilder("hearing_projector")
    graph.input("encoder_out", FLOAT, [1, "frames", config.hearing.width])
    graph.output("tokens", FLOAT, [1, "audio_tokens", config.language.width])
    width, hidden = config.hearing.width, config.hearing.projector_hidden
    x = layer_norm(graph, connector, width, "projector.norm", "encoder_out")
    x = graph.node("Reshape", [x, graph.integers("pooled_shape", 1, -1, AUDIO_POOL * width)], "pooled")
    for name, rows, columns in (("hidden", hidden, AUDIO_POOL * width), ("out", config.language.width, hidden)):
        last = "tokens" if name == "out" else None
        x = dense(graph, connector, f"projector.{name}", (rows, columns), x, bits, block_size, out=last)
        x = graph.node("Gelu", [x], "projector.gelu") if name == "hidden" else x
    graph.save(path)


def build_ears(connector: Mapping[str, np.ndarray], config: NanoConfig, path: Path, *, bits: int | None = None,
               block_size: int = 32) -> None:
    """Write the graph of `model.encoders.word_ears`. The config has ears.

    Raises CheckpointError if a tensor is absent or misshapen, OptionError for bits that cannot be run.
    """
    check_bits(bits, block_size)
    width, shape = config.hearing.width, config.hearing.words
    assert shape is not None
    graph = GraphBuilder("hearing_ears")
    graph.input("encoder_out", FLOAT, [1, "frames", width])
    graph.output("logits", FLOAT, [1, "frames", NUM_CLASSES])
    stack = shape.stack
    x = layer_norm(graph, connector, width, "ears.norm", "encoder_out")
    x = graph.node("Reshape", [x, graph.integers("stacked_shape", 1, -1, stack * width)], "stacked")
    x = dense(graph, connector, "ears.inward", (shape.width, stack * width), x, bits, block_size)
    x = with_look_back(graph, shape, x)
    length = shape.look_back + shape.steps
    place = graph.constant("ears.position", take(connector, "ears.position", [length, shape.width]))
    x = graph.node("Add", [x, place], "ears.placed")
    for layer in range(shape.layers):
        x = encoder_layer(graph, connector, shape, f"ears.layers.{layer}", x, "", bits=bits, block_size=block_size)
    own = graph.node("Slice", [x, graph.integers("own_from", shape.look_back), graph.integers("own_to", length),
                               graph.integers("steps_axis", 1)], "own_steps")  # (S, 25, W)
    x = layer_norm(graph, connector, shape.width, "ears.last_norm", own)
    x = dense(graph, connector, "ears.letters", (stack * NUM_CLASSES, shape.width), x, bits, block_size)
    graph.node("Reshape", [x, graph.integers("logits_shape", 1, -1, NUM_CLASSES)], "end_to_end", out="logits")
    graph.save(path)


def with_look_back(graph: GraphBuilder, shape: WordEarsConfig, x: str) -> str:
    """(1, F2 / 2, W) -> (S, look back + 25, W): every second behind the end of the one before."""
    steps = shape.steps
    seconds = graph.node("Reshape", [x, graph.integers("seconds_shape", -1, steps, shape.width)], "seconds")
    silence = graph.constant("no_second", np.zeros((1, steps, shape.width), dtype=np.float32))
    from_start = graph.node("Concat", [silence, seconds], "seconds_from_nothing", axis=0)  # (S + 1, 25, W)
    start, stop = graph.integers("first_second", 0), graph.integers("but_last", -1)
    earlier = graph.node("Slice", [from_start, start, stop, graph.integers("seconds_axis", 0)], "earlier")
    before = graph.node("Slice", [earlier, graph.integers("look_back_from", steps - shape.look_back),
                                  graph.integers("second_end", steps), graph.integers("steps_axis", 1)], "before")
    return graph.node("Concat", [before, seconds], "with_look_back", axis=1)


def build_cross(weights: Mapping[str, np.ndarray], config: NanoConfig, path: Path, *, bits: int | None = None,
                block_size: int = 32) -> None:
    """Write the graph that turns what was heard into keys and values of every decoder layer, once per window.

    Raises CheckpointError if a tensor is absent or misshapen, OptionError for bits that cannot be run.
    """
    check_bits(bits, block_size)
    shape = config.hearing
    graph = GraphBuilder("recogniser_cross")
    graph.input("encoder_out", FLOAT, [1, "frames", shape.width])
    split = graph.integers("split_shape", 1, -1, shape.decoder_layers, shape.heads, shape.width // shape.heads)
    for part, out in (("k", "cross_k"), ("v", "cross_v")):
        graph.output(out, FLOAT, [shape.decoder_layers, 1, shape.heads, "frames", shape.width // shape.heads])
        names = [f"model.decoder.layers.{i}.encoder_attn.{part}_proj" for i in range(shape.decoder_layers)]
        matrix = np.concatenate([take(weights, f"{name}.weight", [shape.width, shape.width]) for name in names])
        bias = np.concatenate([projection_bias(weights, name, shape.width) for name in names])
        x = graph.linear("encoder_out", matrix, bias if bias.any() else None, f"{part}_proj", bits=bits,
                         block_size=block_size)
        x = graph.node("Reshape", [x, split], f"{part}_split")  # (1, F2, L * E) -> (1, F2, L, H, K)
        graph.node("Transpose", [x], f"{part}_by_layer", out=out, perm=[2, 0, 3, 1, 4])
    graph.save(path, external=True)


def build_recogniser(weights: Mapping[str, np.ndarray], config: NanoConfig, path: Path, *, bits: int | None = None,
                     block_size: int = 32) -> None:
    """Write the decoder's graph. bits 8 quantises its matrices and shares the word table with the head.

    Raises CheckpointError if a tensor is absent or misshapen, OptionError for other bits than 8 and None.
    """
    if bits not in (None, 8):
        raise OptionError(f"the recogniser can have 8 bits (or None for float32), not {bits}")
    check_bits(bits, block_size)
    shape = config.hearing
    graph = GraphBuilder("recogniser")
    declare_recogniser(graph, shape)
    table = word_table(graph, weights, shape, bits=bits, block_size=block_size)
    x = read_words(graph, weights, shape, table)
    presents: dict[str, list[str]] = {"k": [], "v": []}
    for layer in range(shape.decoder_layers):
        x = recogniser_layer(graph, weights, shape, layer, x, presents, bits=bits, block_size=block_size)
    for part, names in presents.items():
        graph.node("Concat", names, f"present_{part}", axis=0)
    x = layer_norm(graph, weights, shape.width, "model.decoder.layer_norm", x)
    last = graph.node("Gather", [x, graph.constant("last", np.array(-1, dtype=np.int64))], "last_hidden_state", axis=1)
    write_logits(graph, shape, table, last)
    graph.save(path, external=True)


def convolutions(graph: GraphBuilder, weights: Mapping[str, np.ndarray], shape: EncoderShape,
                 prefix: str = "model.encoder.") -> str:
    """log_mel (1, M, F) -> (1, E, F2): the second of the two convolutions goes two frames at a time."""
    x = "log_mel"
    for number, channels in ((1, shape.mel_bins), (2, shape.width)):
        name = f"{prefix}conv{number}"
        kernel = graph.constant(f"{name}.weight", take(weights, f"{name}.weight", [shape.width, channels, 3]))
        bias = graph.constant(f"{name}.bias", take(weights, f"{name}.bias", [shape.width]))
        x = graph.node("Conv", [x, kernel, bias], name, kernel_shape=[3], pads=[1, 1], strides=[number])
        x = graph.node("Gelu", [x], f"{name}.gelu")
    return x


def add_positions(graph: GraphBuilder, weights: Mapping[str, np.ndarray], shape: HearingConfig, x: str) -> str:
    """(1, E, F2) -> (1, F2, E) with the learned place of each frame added."""
    name = "model.encoder.embed_positions.weight"
    table = graph.constant(name, take(weights, name, [shape.max_encoder_frames, shape.width]))
    x = graph.node("Transpose", [x], "frames_first", perm=[0, 2, 1])
    zero, length = graph.integers("zero", 0), graph.node("Shape", [x], "encoder_frames", start=1, end=2)
    places = graph.node("Slice", [table, zero, length, zero], "places")
    return graph.node("Add", [x, places], "placed")


def encoder_layer(graph: GraphBuilder, weights: Mapping[str, np.ndarray], shape: LayerShape, name: str, x: str,
                  bias: str, *, bits: int | None, block_size: int) -> str:
    """Self-attention under the bias ("": none), then feed-forward, each behind its norm and added to its input."""
    normed = layer_norm(graph, weights, shape.width, f"{name}.self_attn_layer_norm", x)
    projected = [projection(graph, weights, shape, f"{name}.self_attn.{part}_proj", normed, bits, block_size)
                 for part in "qkv"]
    attended = graph.node("MultiHeadAttention", [*projected, "", "", bias], f"{name}.self_attn.attend",
                          domain=MICROSOFT, num_heads=shape.heads)
    out = projection(graph, weights, shape, f"{name}.self_attn.out_proj", attended, bits, block_size)
    x = graph.node("Add", [x, out], f"{name}.attended")
    return feed_forward(graph, weights, shape, name, x, bits, block_size)


def feed_forward(graph: GraphBuilder, weights: Mapping[str, np.ndarray], shape: LayerShape, name: str, x: str,
                 bits: int | None, block_size: int) -> str:
    """Norm, widen, GELU, narrow, add."""
    h = layer_norm(graph, weights, shape.width, f"{name}.final_layer_norm", x)
    for part, rows, columns in (("fc1", shape.ffn, shape.width), ("fc2", shape.width, shape.ffn)):
        h = dense(graph, weights, f"{name}.{part}", (rows, columns), h, bits, block_size)
        h = graph.node("Gelu", [h], f"{name}.gelu") if part == "fc1" else h
    return graph.node("Add", [x, h], f"{name}.fed")


def dense(graph: GraphBuilder, weights: Mapping[str, np.ndarray], name: str, size: tuple[int, int], x: str,
          bits: int | None, block_size: int, *, out: str | None = None) -> str:
    """The layer whose matrix of `size` (rows, columns) and shift are `name`.weight and .bias."""
    matrix, shift = take(weights, f"{name}.weight", list(size)), take(weights, f"{name}.bias", [size[0]])
    return graph.linear(x, matrix, shift, name, bits=bits, block_size=block_size, out=out)


def layer_norm(graph: GraphBuilder, weights: Mapping[str, np.ndarray], width: int, name: str, x: str, *,
               out: str | None = None) -> str:
    """The LayerNorm whose tensors are `name`.weight and .bias."""
    gain, shift = (take(weights, f"{name}.{part}", [width]) for part in ("weight", "bias"))
    return graph.layer_norm(x, gain, shift, name, out=out)


def projection(graph: GraphBuilder, weights: Mapping[str, np.ndarray], shape: LayerShape, name: str, x: str,
               bits: int | None, block_size: int) -> str:
    """One square matrix of an attention with its bias, which Whisper's keys do not have."""
    matrix = take(weights, f"{name}.weight", [shape.width, shape.width])
    bias = None if name.endswith("k_proj") else projection_bias(weights, name, shape.width)
    return graph.linear(x, matrix, bias, name, bits=bits, block_size=block_size)


def projection_bias(weights: Mapping[str, np.ndarray], name: str, width: int) -> np.ndarray:
    """The bias of an attention's matrix; zeros for keys."""
    return np.zeros(width, dtype=np.float32) if name.endswith("k_proj") else take(weights, f"{name}.bias", [width])


def declare_recogniser(graph: GraphBuilder, shape: HearingConfig) -> None:
    """Inputs and outputs of the decoder's graph."""
    head_width = shape.width // shape.heads
    graph.input("ids", INT64, [1, "tokens"])
    for name, length in (("past_k", "past"), ("past_v", "past"), ("cross_k", "frames"), ("cross_v", "frames")):
        graph.input(name, FLOAT, [shape.decoder_layers, 1, shape.heads, length, head_width])
    graph.output("logits", FLOAT, [1, shape.vocab_size])
    for name in ("present_k", "present_v"):
        graph.output(name, FLOAT, [shape.decoder_layers, 1, shape.heads, "present", head_width])


def word_table(graph: GraphBuilder, weights: Mapping[str, np.ndarray], shape: HearingConfig, *, bits: int | None,
               block_size: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The word embeddings, (V, E) float32 or packed with scales: read by `read_words`, multiplied by `write_logits`."""
    table = take(weights, "model.decoder.embed_tokens.weight", [shape.vocab_size, shape.width])
    packed, scales = (table, None) if bits is None else pack_nbits(table, bits, block_size)[:2]
    graph.constant("proj_out.packed" if bits else "proj_out.weight", packed)
    if scales is not None:
        graph.constant("proj_out.scales", scales)
    return packed, scales


def read_words(graph: GraphBuilder, weights: Mapping[str, np.ndarray], shape: HearingConfig,
               table: tuple[np.ndarray, np.ndarray | None]) -> str:
    """ids (1, T) -> (1, T, E): their rows of the table, and the learned places P .. P + T - 1 added."""
    rows = graph.node("Gather", ["proj_out.weight", "ids"], "words") if table[1] is None else packed_rows(graph, shape)
    name = "model.decoder.embed_positions.weight"
    places = graph.constant(name, take(weights, name, [shape.max_text_tokens, shape.width]))
    start = graph.node("Shape", ["past_k"], "tokens_before", start=3, end=4)
    stop = graph.node("Add", [start, graph.node("Shape", ["ids"], "tokens_now", start=1, end=2)], "tokens_after")
    placed = graph.node("Slice", [places, start, stop, graph.integers("zero", 0)], "places")
    return graph.node("Add", [rows, placed], "read")


def packed_rows(graph: GraphBuilder, shape: HearingConfig) -> str:
    """Rows of the 8-bit table: (level - 128) * scale, block by block."""
    levels = graph.node("Cast", [graph.node("Gather", ["proj_out.packed", "ids"], "levels")], "levels_float", to=FLOAT)
    centred = graph.node("Sub", [levels, graph.scalar("middle", 128.0)], "centred")
    scales = graph.node("Gather", ["proj_out.scales", "ids"], "row_scales")
    scales = graph.node("Unsqueeze", [scales, graph.integers("last_axis", -1)], "block_scales")
    blocks = graph.node("Mul", [centred, scales], "word_blocks")  # (1, T, blocks, block_size)
    padded = graph.node("Reshape", [blocks, graph.integers("word_shape", 1, 0, -1)], "words_padded")
    return graph.node("Slice", [padded, graph.integers("zero", 0), graph.integers("width", shape.width),
                                graph.integers("last_axis", -1)], "words")


def recogniser_layer(graph: GraphBuilder, weights: Mapping[str, np.ndarray], shape: HearingConfig, layer: int, x: str,
                     presents: dict[str, list[str]], *, bits: int | None, block_size: int) -> str:
    """Attention over the words so far, attention over what was heard, feed-forward."""
    name = f"model.decoder.layers.{layer}"
    place = graph.constant(f"layer_{layer}", np.array(layer, dtype=np.int64))
    of_layer = {part: graph.node("Gather", [part, place], f"{name}.{part}", axis=0)
                for part in ("past_k", "past_v", "cross_k", "cross_v")}
    h = layer_norm(graph, weights, shape.width, f"{name}.self_attn_layer_norm", x)
    projected = [projection(graph, weights, shape, f"{name}.self_attn.{part}_proj", h, bits, block_size)
                 for part in "qkv"]
    outs = [f"{name}.self_attn.attend", f"{name}.present_k", f"{name}.present_v"]
    graph.nodes("MultiHeadAttention", [*projected, "", "", "", of_layer["past_k"], of_layer["past_v"]], outs[0],
                outs=outs, domain=MICROSOFT, num_heads=shape.heads, unidirectional=1)
    for part, present in zip("kv", outs[1:], strict=True):
        presents[part].append(graph.node("Unsqueeze", [present, graph.integers("zero", 0)], f"{present}.row"))
    x = graph.node("Add", [x, projection(graph, weights, shape, f"{name}.self_attn.out_proj", outs[0], bits,
                                         block_size)], f"{name}.remembered")
    h = layer_norm(graph, weights, shape.width, f"{name}.encoder_attn_layer_norm", x)
    query = projection(graph, weights, shape, f"{name}.encoder_attn.q_proj", h, bits, block_size)
    heard = graph.node("MultiHeadAttention", [query, of_layer["cross_k"], of_layer["cross_v"]],
                       f"{name}.encoder_attn.attend", domain=MICROSOFT, num_heads=shape.heads)
    x = graph.node("Add", [x, projection(graph, weights, shape, f"{name}.encoder_attn.out_proj", heard, bits,
                                         block_size)], f"{name}.heard")
    return feed_forward(graph, weights, shape, name, x, bits, block_size)


def write_logits(graph: GraphBuilder, shape: HearingConfig, table: tuple[np.ndarray, np.ndarray | None],
                 last: str) -> None:
    """(1, E) times the word table."""
    packed, scales = table
    if scales is None:
        graph.node("Gemm", [last, "proj_out.weight"], "proj_out", out="logits", transB=1)
        return
    graph.matmul_nbits(last, packed, scales, None, None, "proj_out", bits=8, columns=shape.width, out="logits")
