"""A voice of 2.6 small enough for tests, with random weights, and a tokenizer for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minicpm_o.model.config import ChatTTSConfig, DvaeConfig, VocosConfig

DVAE = DvaeConfig(latent_width=24, width=32, bottleneck=16, layers=2, levels=(5, 3))
VOICE = ChatTTSConfig(llm_width=20, width=32, ffn=48, layers=2, heads=2, max_positions=700, num_text_tokens=90,
                      num_audio_tokens=16, mel_bins=12, speaker_token=2, audio_bos=4, text_eos=3,
                      text_reserved_tokens=40, audio_chunk_tokens=20, dvae=DVAE)
VOCOS = VocosConfig(mel_bins=12, width=32, ffn=48, layers=2, fft_samples=64, hop_samples=16)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["[PAD]", "[Stts]", "[spk_emb]", "[Etts]", "[Ptts]", "[UNK]", *LETTERS, *"0123456789.,!?*[]",
         *(f"##{letter}" for letter in LETTERS), "你", "好", "。"]


def random_module(make: Any, seed: int = 0) -> Any:
    """A module whose every tensor is drawn anew: none is zero or one, so that none can be left out unseen."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(seed)
    module = make()
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            gain = name.endswith("norm.weight") or name.split(".")[-1] in ("coef", "gamma", "original0")
            torch.nn.init.normal_(tensor, 1.0 if gain else 0.0, 0.2)
    return module.eval()


def voice_module(seed: int = 0) -> Any:
    pytest.importorskip("torch")
    from minicpm_o.model.outputs.chattts import ConditionalChatTTS

    return random_module(lambda: ConditionalChatTTS(VOICE), seed)


def vocos_module(seed: int = 0) -> Any:
    pytest.importorskip("torch")
    from minicpm_o.model.outputs.vocos import Vocos

    return random_module(lambda: Vocos(VOCOS), seed)


def arrays(module: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """A module's tensors under a prefix, which is cut off."""
    return {name.removeprefix(prefix): tensor.detach().numpy() for name, tensor in module.state_dict().items()
            if name.startswith(prefix)}


def write_vocabulary(folder: Path) -> Path:
    """A folder with vocab.txt alone."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}), encoding="utf-8")
    return folder
