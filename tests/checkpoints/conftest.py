"""Small files of every format that the readers read, and a recipe of tiny parts."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from minicpm_o.checkpoints.parts import Package, Part, PartFile, Piece

SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>", "<filename>",
    "<gh_stars>", "<issue_start>", "<issue_comment>",
]  # fmt: skip


def byte_letters() -> list[str]:
    """The 256 letters of byte-level BPE."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


@pytest.fixture
def vocabulary() -> tuple[list[str], list[str]]:
    """Tokens and merges of a byte-level BPE that knows ten special tokens and the words `he` and `Ġhe`."""
    return [*SPECIAL, *byte_letters(), "he", "Ġhe"], ["h e", "Ġ he"]


@pytest.fixture
def write_ct2() -> Callable[..., Path]:
    """Writes a CTranslate2 model.bin out of variables."""
    kinds = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}

    def text(word: str) -> bytes:
        return struct.pack("<H", len(word) + 1) + word.encode() + b"\0"

    def write(path: Path, variables: Mapping[str, np.ndarray], aliases: Mapping[str, str], version: int = 6) -> Path:
        out = struct.pack("<I", version) + text("WhisperSpec") + struct.pack("<II", 3, len(variables))
        for name, values in variables.items():
            shape = struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape)
            out += text(name) + shape + struct.pack("<BI", kinds[values.dtype.name], values.nbytes) + values.tobytes()
        out += struct.pack("<I", len(aliases))
        path.write_bytes(out + b"".join(text(alias) + text(name) for alias, name in aliases.items()))
        return path

    return write


@pytest.fixture
def whisper_variables() -> Callable[..., dict[str, np.ndarray]]:
    """Makes random variables of a Whisper, named and stacked as CTranslate2 does."""

    def make(*, width: int, ffn: int, vocab: int, mels: int, layers: int, frames: int, text_tokens: int
             ) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(1)

        def matrix(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype(np.float16)

        def linear(name: str, rows: int, columns: int) -> dict[str, np.ndarray]:
            return {f"{name}/weight": matrix(rows, columns), f"{name}/bias": matrix(rows)}

        def norm(name: str) -> dict[str, np.ndarray]:
            return {f"{name}/gamma": matrix(width), f"{name}/beta": matrix(width)}

        def block(layer: str) -> dict[str, np.ndarray]:
            attention = linear(f"{layer}/self_attention/linear_0", 3 * width, width)
            attention[f"{layer}/self_attention/linear_0/bias"][width : 2 * width] = 0  # keys have none
            attention |= linear(f"{layer}/self_attention/linear_1", width, width)
            feed = linear(f"{layer}/ffn/linear_0", ffn, width) | linear(f"{layer}/ffn/linear_1", width, ffn)
            return attention | feed | norm(f"{layer}/self_attention/layer_norm") | norm(f"{layer}/ffn/layer_norm")

        def cross(layer: str) -> dict[str, np.ndarray]:
            both = linear(f"{layer}/attention/linear_1", 2 * width, width)
            both[f"{layer}/attention/linear_1/bias"][:width] = 0
            both |= linear(f"{layer}/attention/linear_0", width, width)
            return both | linear(f"{layer}/attention/linear_2", width, width) | norm(f"{layer}/attention/layer_norm")

        variables = norm("encoder/layer_norm") | norm("decoder/layer_norm")
        for i in range(layers):
            variables |= block(f"encoder/layer_{i}") | block(f"decoder/layer_{i}") | cross(f"decoder/layer_{i}")
        return variables | {
            "decoder/embeddings/weight": matrix(vocab, width),
            "decoder/position_encodings/encodings": matrix(text_tokens, width),
            "encoder/position_encodings/encodings": matrix(frames, width),
            "encoder/conv1/weight": matrix(width, mels, 3),
            "encoder/conv1/bias": matrix(width),
            "encoder/conv2/weight": matrix(width, width, 3),
            "encoder/conv2/bias": matrix(width),
            "encoder/num_heads": np.array(2, dtype=np.int16),
            "decoder/pre_norm": np.array(1, dtype=np.int8),
        }

    return make


WIDTH, HEADS, KV_HEADS, FFN, LAYERS = 64, 4, 2, 96, 2
SHAPES = {
    "attn_norm": (WIDTH,),
    "attn_q": (WIDTH, WIDTH),
    "attn_k": (WIDTH // 2, WIDTH),
    "attn_v": (WIDTH // 2, WIDTH),
    "attn_output": (WIDTH, WIDTH),
    "ffn_norm": (WIDTH,),
    "ffn_gate": (FFN, WIDTH),
    "ffn_up": (FFN, WIDTH),
    "ffn_down": (WIDTH, FFN),
}


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to query and key rows: the two rotary halves become pairs."""
    out = np.empty_like(weight)
    width = weight.shape[0] // heads
    for head in range(heads):
        for i in range(width // 2):
            out[head * width + 2 * i] = weight[head * width + i]
            out[head * width + 2 * i + 1] = weight[head * width + width // 2 + i]
    return out


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {f"blk.{layer}.{name}.weight": shape for layer in range(LAYERS) for name, shape in SHAPES.items()}
    shapes |= {"token_embd.weight": (268, WIDTH), "output_norm.weight": (WIDTH,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def write_gguf(vocabulary: tuple[list[str], list[str]]) -> Callable[..., Path]:
    """Writes a tiny llama-shaped GGUF with that vocabulary; the gate is stored in 8 bits, the rest in float32."""

    def write(path: Path, weights: Mapping[str, np.ndarray], architecture: str = "llama", pre: str = "smollm") -> Path:
        from gguf import GGMLQuantizationType, GGUFWriter, quantize

        writer = GGUFWriter(path, architecture)
        writer.add_block_count(LAYERS)
        writer.add_context_length(128)
        writer.add_embedding_length(WIDTH)
        writer.add_feed_forward_length(FFN)
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(KV_HEADS)
        writer.add_rope_freq_base(100_000.0)
        writer.add_layer_norm_rms_eps(1e-5)
        tokens, merges = vocabulary
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types([3] * 10 + [1] * (len(tokens) - 10))
        writer.add_token_merges(merges)
        for name, values in weights.items():
            heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(name.split(".")[-2], 0)
            stored = interleave(values, heads) if heads else values
            if "ffn_gate" in name:
                writer.add_tensor(name, quantize(stored, GGMLQuantizationType.Q8_0),
                                  raw_dtype=GGMLQuantizationType.Q8_0)
            else:
                writer.add_tensor(name, stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def write_wheel(folder: Path, package: str, version: str, members: Mapping[str, bytes]) -> Path:
    """A wheel that pip accepts."""
    stem = f"{package.replace('-', '_')}-{version}"
    path = folder / f"{stem}-py3-none-any.whl"
    info = f"{stem}.dist-info"
    records = {
        **members,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n".encode()
        + b"Requires-Python: <3\nRequires-Dist: no-such-package-anywhere\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in [*records, f"{info}/RECORD"]))
    return path


HALVES = (b"the first half, " * 50, b"the second half" * 70)
NOTE = b"a note that lies beside"


def part_file(name: str, pieces: list[tuple[Package, str]], content: bytes) -> PartFile:
    """The table's row for a file of that content."""
    members = tuple(Piece(package, member) for package, member in pieces)
    return PartFile(name, members, len(content), sha256(content).hexdigest())


@pytest.fixture
def joined_part() -> Part:
    """A part of two files, one of them joined from two packages."""
    first, second = Package("mini-ears-part1", "1.0", 900), Package("mini-ears-part2", "1.0", 900)
    return Part(
        "ears",
        "a part for tests",
        (
            part_file(
                "model.bin",
                [(first, "mini_ears_part1/data/model.bin.part1"), (second, "mini_ears_part2/data/model.bin.part2")],
                b"".join(HALVES),
            ),
            part_file("note.txt", [(first, "mini_ears_part1/data/note.txt")], NOTE),
        ),
        "MIT",
    )


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder with the two wheels of `joined_part`."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    first = {"mini_ears_part1/data/model.bin.part1": HALVES[0], "mini_ears_part1/data/note.txt": NOTE}
    write_wheel(folder, "mini-ears-part1", "1.0", {"mini_ears_part1/__init__.py": b"1/0", **first})
    write_wheel(folder, "mini-ears-part2", "1.0", {"mini_ears_part2/data/model.bin.part2": HALVES[1]})
    return folder


@pytest.fixture
def only_wheels(monkeypatch: pytest.MonkeyPatch, wheels: Path) -> Path:
    """Package managers that see the folder of wheels and no network."""
    for manager in ("PIP", "UV"):
        monkeypatch.setenv(f"{manager}_NO_INDEX", "1")
        monkeypatch.setenv(f"{manager}_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return wheels
