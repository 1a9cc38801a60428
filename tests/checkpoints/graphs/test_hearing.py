from __future__ import annotations

import numpy as np
import pytest

from minicpm_o.checkpoints.graphs.builder import pack_nbits, unpack_nbits
from minicpm_o.checkpoints.graphs.hearing import (
    build_cross,
    build_ears,
    build_encoder,
    build_projector,
    build_recogniser,
)
from minicpm_o.errors import CheckpointError, OptionError
from minicpm_o.rates import AUDIO_POOL, UNIT_ENCODER_FRAMES

BLOCK = 16
FRAMES = 30
BLOCK_FRAMES = 10
"""Encoder frames in a block of these tests; the real one has fifty."""


@pytest.fixture(scope="module")
def files(tmp_path_factory, whisper_weights, omni):
    """encoder, cross and recogniser as float32 and as 8-bit graphs."""
    files = {}
    for bits in (None, 8):
        folder = tmp_path_factory.mktemp(f"hearing_{bits}")
        for name, build in (("encoder", build_encoder), ("cross", build_cross), ("recogniser", build_recogniser)):
            files[name, bits] = folder / f"{name}.onnx"
            build(whisper_weights, omni, files[name, bits], bits=bits, block_size=BLOCK)
    return files


@pytest.fixture
def log_mel(rng, omni):
    return rng.normal(size=(1, omni.hearing.mel_bins, 2 * FRAMES)).astype(np.float32)


def block_causal(frames):
    block = np.arange(frames) // BLOCK_FRAMES
    return np.where(block[None, :] > block[:, None], -1e9, 0).astype(np.float32)


def open_bias(frames):
    return np.zeros((frames, frames), dtype=np.float32)


def assert_close(got, expected, bound, what):
    error = np.abs(got - expected)
    assert error.max() <= bound, f"{what}: max {error.max():.2e}, mean {error.mean():.2e}, bound {bound:.0e}"


def encode_reference(whisper, log_mel):
    """Whisper's own encoder: it insists on 30 s, which the last axis of its positions is cut to."""
    torch = pytest.importorskip("torch")
    encoder = whisper.model.encoder
    with torch.no_grad():
        x = torch.nn.functional.gelu(encoder.conv1(torch.from_numpy(log_mel)))
        x = torch.nn.functional.gelu(encoder.conv2(x)).transpose(1, 2)
        x = x + encoder.embed_positions.weight[: x.shape[1]]
        for layer in encoder.layers:
            x = layer(x, attention_mask=None)
            x = x[0] if isinstance(x, tuple) else x
        return encoder.layer_norm(x).numpy()


def rounded(module):
    """A copy of the module with its matrices as 8 bits keep them."""
    torch = pytest.importorskip("torch")
    copy = type(module)(module.config).eval()
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith(("proj.weight", "fc1.weight", "fc2.weight", "embed_tokens.weight", "proj_out.weight")):
                matrix = unpack_nbits(*pack_nbits(tensor.numpy(), 8, BLOCK), 8, tensor.shape[1])
                tensor = torch.from_numpy(np.ascontiguousarray(matrix))
            copy.state_dict()[name].copy_(tensor)
    return copy


def test_open_bias_is_whispers_encoder(files, open_graph, whisper, log_mel):
    run = open_graph(files["encoder", None])
    got = run({"log_mel": log_mel, "attention_bias": open_bias(FRAMES)})["encoder_out"]
    assert_close(got, encode_reference(whisper, log_mel), 5e-5, "encoder")


def test_thirty_seconds_are_transformers_forward(files, open_graph, whisper, omni, rng):
    torch = pytest.importorskip("torch")
    frames = omni.hearing.max_encoder_frames
    log_mel = rng.normal(size=(1, omni.hearing.mel_bins, 2 * frames)).astype(np.float32)
    with torch.no_grad():
        expected = whisper.model.encoder(torch.from_numpy(log_mel)).last_hidden_state.numpy()
    got = open_graph(files["encoder", None])({"log_mel": log_mel, "attention_bias": open_bias(frames)})["encoder_out"]
    assert_close(got, expected, 5e-5, "encoder, 30 s")


def test_8_bit_encoder_is_the_reference_with_rounded_weights(files, open_graph, whisper, log_mel):
    got = open_graph(files["encoder", 8])({"log_mel": log_mel, "attention_bias": open_bias(FRAMES)})["encoder_out"]
    expected = encode_reference(rounded(whisper), log_mel)
    assert_close(got, expected, 0.1 * expected.std(), "8-bit encoder")
    assert_close(got, encode_reference(whisper, log_mel), 0.15 * expected.std(), "8-bit encoder, unrounded reference")


def test_a_bias_is_the_modules(files, open_graph, whisper, omni, log_mel):
    torch = pytest.importorskip("torch")
    from minicpm_o.model.encoders.hearing import HearingEncoder

    module = HearingEncoder(omni.hearing).eval()
    module.encoder.load_state_dict(whisper.model.encoder.state_dict())
    with torch.no_grad():
        expected = module(torch.from_numpy(log_mel), torch.from_numpy(block_causal(FRAMES))).numpy()
    got = open_graph(files["encoder", None])({"log_mel": log_mel, "attention_bias": block_causal(FRAMES)})
    assert_close(got["encoder_out"], expected, 5e-5, "block-causal encoder")


@pytest.mark.parametrize("bits", [None, 8])
def test_growing_input_never_changes_earlier_blocks(files, open_graph, log_mel, bits):
    """A block is final once the frame after it has come."""
    run = open_graph(files["encoder", bits])
    whole = run({"log_mel": log_mel, "attention_bias": block_causal(FRAMES)})["encoder_out"]
    for final in (BLOCK_FRAMES, 2 * BLOCK_FRAMES):
        for frames in (final + 1, final + 4):
            grown = run({"log_mel": log_mel[:, :, : 2 * frames], "attention_bias": block_causal(frames)})
            # equal but for the order of sums in matrix products of other sizes, and at 8 bits a level of rounding
            bound = 2e-5 if bits is None else 0.05 * whole.std()
            assert_close(grown["encoder_out"][:, :final], whole[:, :final], bound, f"{final} of {frames} frames")


def test_without_the_bias_the_future_is_heard(files, open_graph, log_mel):
    """The test above can fail: with an open bias the first block hears the second."""
    run = open_graph(files["encoder", None])
    whole = run({"log_mel": log_mel, "attention_bias": open_bias(FRAMES)})["encoder_out"]
    frames = BLOCK_FRAMES + 1
    first = run({"log_mel": log_mel[:, :, : 2 * frames], "attention_bias": open_bias(frames)})["encoder_out"]
    assert np.abs(first[:, :BLOCK_FRAMES] - whole[:, :BLOCK_FRAMES]).max() > 0.01


def test_later_sound_changes_no_earlier_block_and_every_later_one(files, open_graph, log_mel):
    run = open_graph(files["encoder", None])
    bias = block_causal(FRAMES)
    before = run({"log_mel": log_mel, "attention_bias": bias})["encoder_out"]
    changed = log_mel.copy()
    changed[:, :, 2 * BLOCK_FRAMES + 1] += 3.0  # the second mel frame of the second block
    after = run({"log_mel": changed, "attention_bias": bias})["encoder_out"]
    difference = np.abs(after - before).max(axis=(0, 2)).reshape(-1, BLOCK_FRAMES).max(axis=1)
    assert difference[0] == 0
    assert (difference[1:] > 1e-3).all()


def test_one_frame_alone_is_encoded(files, open_graph, whisper, log_mel):
    got = open_graph(files["encoder", None])({"log_mel": log_mel[:, :, :2], "attention_bias": open_bias(1)})
    assert_close(got["encoder_out"], encode_reference(whisper, log_mel[:, :, :2]), 5e-5, "one frame")


def connector_of(module, part):
    return {f"{part}.{name}": tensor.numpy() for name, tensor in module.state_dict().items()}


def apply(module, x):
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        return module(torch.from_numpy(x)).numpy()


def test_projector_is_the_module(tmp_path, open_graph, omni, rng):
    torch = pytest.importorskip("torch")
    from minicpm_o.model.encoders.projector import AudioProjector

    torch.manual_seed(0)
    module = AudioProjector(omni).eval()
    x = rng.normal(size=(1, 6 * AUDIO_POOL, omni.hearing.width)).astype(np.float32)
    expected = apply(module, x)
    for bits, bound in ((None, 1e-5), (8, 0.05 * expected.std())):
        build_projector(connector_of(module, "projector"), omni, tmp_path / "projector.onnx", bits=bits,
                        block_size=BLOCK)
        assert_close(open_graph(tmp_path / "projector.onnx")({"encoder_out": x})["tokens"], expected, bound, f"{bits}")


def test_ears_are_the_module(tmp_path, open_graph, omni, rng):
    torch = pytest.importorskip("torch")
    from minicpm_o.model.encoders.word_ears import WordEars

    torch.manual_seed(0)
    module = WordEars(omni.hearing, omni.hearing.words).eval()
    x = rng.normal(size=(1, 3 * UNIT_ENCODER_FRAMES, omni.hearing.width)).astype(np.float32)
    expected = apply(module, x)
    for bits, bound in ((None, 1e-5), (8, 0.1 * expected.std())):
        build_ears(connector_of(module, "ears"), omni, tmp_path / "ears.onnx", bits=bits, block_size=BLOCK)
        assert_close(open_graph(tmp_path / "ears.onnx")({"encoder_out": x})["logits"], expected, bound, f"{bits}")


class Reader:
    """Feeds the recogniser word by word, passing the cache on."""

    def __init__(self, cross, recogniser, encoder_out, omni):
        shape = omni.hearing
        self.recogniser, self.cross = recogniser, cross({"encoder_out": encoder_out})
        empty = np.zeros((shape.decoder_layers, 1, shape.heads, 0, shape.width // shape.heads), dtype=np.float32)
        self.past = {"past_k": empty, "past_v": empty}

    def __call__(self, ids):
        outputs = self.recogniser({"ids": np.array([ids], dtype=np.int64), **self.past, **self.cross})
        self.past = {"past_k": outputs["present_k"], "past_v": outputs["present_v"]}
        return outputs["logits"]


def decode_reference(whisper, encoder_out, ids):
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        return whisper(encoder_outputs=(torch.from_numpy(encoder_out),),
                       decoder_input_ids=torch.tensor([ids])).logits[0].numpy()


@pytest.fixture
def heard(rng, omni):
    return rng.normal(size=(1, FRAMES, omni.hearing.width)).astype(np.float32)


IDS = [1, 40, 7, 95, 12, 3, 3, 60]


@pytest.mark.parametrize("sizes", [[8], [4, 1, 1, 1, 1], [1] * 8, [3, 5]])
@pytest.mark.parametrize("bits", [None, 8])
def test_recogniser_is_whispers_decoder_in_any_pieces(files, open_graph, whisper, omni, heard, bits, sizes):
    expected = decode_reference(whisper if bits is None else rounded(whisper), heard, IDS)
    reader = Reader(open_graph(files["cross", bits]), open_graph(files["recogniser", bits]), heard, omni)
    start = 0
    for size in sizes:
        got = reader(IDS[start:start + size])
        start += size
        assert got.shape == (1, omni.hearing.vocab_size)
        bound = 1e-4 if bits is None else 0.1 * expected.std()
        assert_close(got[0], expected[start - 1], bound, f"logits after {start} words, bits {bits}")


def test_a_truncated_past_is_as_if_the_rest_had_not_been(files, open_graph, omni, heard):
    cross, recogniser = open_graph(files["cross", 8]), open_graph(files["recogniser", 8])
    straight, detour = (Reader(cross, recogniser, heard, omni) for _ in range(2))
    straight(IDS[:4])
    detour(IDS[:4])
    detour([5, 6])
    detour.past = {name: np.ascontiguousarray(array[..., :4, :]) for name, array in detour.past.items()}
    assert (straight(IDS[4:]) == detour(IDS[4:])).all()


def test_what_cannot_be_built_is_refused(tmp_path, whisper_weights, omni):
    short = {name: array for name, array in whisper_weights.items() if not name.endswith("conv2.bias")}
    with pytest.raises(CheckpointError, match=r"model\.encoder\.conv2\.bias"):
        build_encoder(short, omni, tmp_path / "encoder.onnx")
    with pytest.raises(OptionError, match="8 bits"):
        build_recogniser(whisper_weights, omni, tmp_path / "recogniser.onnx", bits=4)
    with pytest.raises(CheckpointError, match=r"projector\.norm\.weight"):
        build_projector({}, omni, tmp_path / "projector.onnx")
    with pytest.raises(CheckpointError, match=r"ears\.norm\.weight"):
        build_ears({}, omni, tmp_path / "ears.onnx")
    assert not list(tmp_path.iterdir())
