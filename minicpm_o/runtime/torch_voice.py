"""The voices of 2.6 and 4.5 on torch modules, with the assets that lie beside the weights. See `official_voice`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..checkpoints.hift_config import FOLDER
from ..checkpoints.voice_files import open_flow, open_vocoder, open_vocos
from ..errors import CheckpointError
from ..inputs.official_tokenizer import OfficialTokenizer
from ..model.omni import OmniModel
from ..model.outputs.chattts import TorchChatTTS
from ..model.outputs.flow import Flow, TorchFlow
from ..model.outputs.hift import Hift, TorchHift
from ..model.outputs.talker import TorchTalker
from ..model.outputs.vocos import TorchVocos, Vocos
from .chattts import ChatTTSVoice
from .chattts_text import ChatTTSText
from .device import DevicePlan
from .flow import make_noise
from .hift import Vocoder
from .official_voice import CHATTTS_TOKENIZER, NOISE_SEED, SpeakerVoice, TalkerVoice, Voice
from .token2wav import FlowMel, Token2Wav
from .voice_cloning import VoiceCloner


def torch_voice(model: OmniModel, folder: Path, plan: DevicePlan, tokenizer: OfficialTokenizer) -> Voice:
    """The voice of a loaded checkpoint. Raises CheckpointError when it was loaded without, or assets are missing."""
    if model.talker is not None:
        return _talker_voice(model, folder, plan)
    if model.chattts is not None:
        return _speaker_voice(model, folder, tokenizer)
    raise CheckpointError("the model was loaded without its speech; load it with speech=True")


def _talker_voice(model: OmniModel, folder: Path, plan: DevicePlan) -> Voice:
    device = model.talker.emb_text.weight.device
    flow_config, flow_weights = open_flow(folder)
    hift_config, hift_weights = open_vocoder(folder)
    flow = fill(Flow(flow_config), flow_weights).to(device)
    hift = fill(Hift(hift_config), hift_weights).to(device)
    mel = FlowMel(TorchFlow(flow), make_noise(flow_config, NOISE_SEED))
    token2wav = Token2Wav(mel, Vocoder(TorchHift(hift), hift_config), flow_config)
    return TalkerVoice(TorchTalker(model.talker), token2wav, lambda: VoiceCloner.from_folder(folder / FOLDER, plan))


def _speaker_voice(model: OmniModel, folder: Path, tokenizer: OfficialTokenizer) -> Voice:
    network = TorchChatTTS(model.chattts)
    text = ChatTTSText.from_folder(folder / CHATTTS_TOKENIZER)
    config, weights = open_vocos(folder)
    vocos = TorchVocos(fill(Vocos(config), weights).to(model.chattts.emb_text.weight.device))
    voice = ChatTTSVoice(network, network.mel, vocos, text.tokens, ends_sentence=text.ends_sentence)
    return SpeakerVoice(voice, text, tokenizer)


def fill(module: nn.Module, weights: Mapping[str, np.ndarray]) -> nn.Module:
    """Put tensors of an asset into their module. Raises CheckpointError that names what does not fit."""
    state = {name: torch.from_numpy(np.array(weights[name])) for name in weights}
    try:
        found = module.load_state_dict(state, strict=False)
    except RuntimeError as error:  # torch names every misshapen tensor on a line of its own
        raise CheckpointError(f"the asset is not a {type(module).__name__}: {str(error).splitlines()[-1].strip()}"
                              ) from error
    if found.missing_keys:
        raise CheckpointError(f"the asset is no whole {type(module).__name__}: it lacks {len(found.missing_keys)} "
                              f"tensors, such as {found.missing_keys[0]!r}; download it again")
    return module.eval()
