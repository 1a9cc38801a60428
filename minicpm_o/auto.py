"""MiniCPM-o 2.6 and 4.5 behind transformers' Auto classes: importing this module registers them.

    import minicpm_o.auto
    model = AutoModelForCausalLM.from_pretrained("openbmb/MiniCPM-o-4_5", dtype="auto", device_map="auto")
    processor = AutoProcessor.from_pretrained("openbmb/MiniCPM-o-4_5")
    inputs = processor([{"role": "user", "content": [{"type": "image", "image": "a.jpg"}, {"type": "text", ...}]}])
    print(processor.batch_decode(model.generate(**inputs, max_new_tokens=64)))

The checkpoints name code of their own (`auto_map`); it is neither run nor asked about. For speech, sessions and streams
use `minicpm_o.MiniCPMO`. Letters: B prompts, T tokens, D language width, V vocabulary.
"""

from __future__ import annotations

import copy
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    BatchFeature,
    GenerationConfig,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2TokenizerFast,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from .checkpoints.hub import fetch, is_checkpoint, official_name
from .checkpoints.official import Checkpoint, copy_companions
from .checkpoints.official_config import MODEL_TYPE, config_from_official, official_values, read_config
from .checkpoints.torch_loader import FLOATS, KEPT_WHOLE, MAX_SHARD_BYTES, DeviceMap, load_official, save_official
from .errors import OptionError, UnknownModelError
from .inputs.messages import Message, messages_from_openai
from .inputs.official_layout import batch_inputs
from .inputs.official_processor import OfficialProcessor, PromptOptions
from .inputs.official_tokenizer import OfficialTokenizer
from .model.config import OfficialConfig
from .model.omni import OmniModel, RawMedia
from .runtime.torch_parts import raw_media

Messages = Sequence[Mapping[str, Any] | Message]

_TRANSFORMERS_OWN = ("attn_implementation", "experts_implementation", "name_or_path", "transformers_version",
                     "output_attentions", "output_hidden_states", "return_dict")
"""Keys of a config that are not the checkpoint's."""
_HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
"""Options of from_pretrained that say how a repository is fetched."""
_NEEDLESS = ("trust_remote_code", "_from_auto", "_commit_hash", "adapter_kwargs", "low_cpu_mem_usage",
             "use_safetensors", "code_revision")
"""Options of from_pretrained whose every value comes to the same here."""


class MiniCPMOConfig(PretrainedConfig):  # type: ignore[misc]  # transformers is not type-checked
    """config.json in the official layout: the language model's fields flat, the other parts' in tables of their own."""

    model_type = MODEL_TYPE

    def __init__(self, **values: Any) -> None:
        """values: the fields of config.json; without any, those of 4.5."""
        official = {key: copy.deepcopy(value) for key, value in values.items()
                    if not key.startswith("_") and key not in _TRANSFORMERS_OWN}
        official.pop("auto_map", None)  # names code that is not needed
        if not official.keys() - {"dtype", "torch_dtype"}:
            official = official_values(config_from_official({"model_type": MODEL_TYPE, "version": "4.5"})) | official
        official.setdefault("torch_dtype", official.pop("dtype", None) or "bfloat16")
        self._official = official
        super().__init__(**{key: value for key, value in values.items() if key != "auto_map"} | official)

    def to_dict(self) -> dict[str, Any]:
        """The official layout again, with what was changed since."""
        kept = {key: copy.deepcopy(getattr(self, key, value)) for key, value in self._official.items()
                if key != "torch_dtype"}
        dtype = str(self.dtype or self._official["torch_dtype"]).removeprefix("torch.")
        return {**kept, "model_type": MODEL_TYPE, "torch_dtype": dtype}

    def to_diff_dict(self) -> dict[str, Any]:
        """All of it: every field differs from what transformers takes for granted."""
        return self.to_dict()

    def official(self) -> OfficialConfig:
        """The shape of the model. Raises CheckpointError for a field that makes no sense."""
        return config_from_official(self.to_dict())


class MiniCPMOForConditionalGeneration(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """The whole network. What comes in are token ids and media, or embeddings; what goes out are words."""

    config_class = MiniCPMOConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _no_split_modules = list(KEPT_WHOLE)  # noqa: RUF012  # transformers' own kind

    def __init__(self, config: MiniCPMOConfig, omni: OmniModel | None = None) -> None:
        """omni: the network with its weights; None makes one with random weights."""
        super().__init__(config)
        self.omni = omni or OmniModel(config.official(), attention=config._attn_implementation or "sdpa")
        self.post_init()

    def init_weights(self) -> None:
        """Nothing: the weights are a checkpoint's, or those that the parts gave themselves."""

    # Loading and saving

    @classmethod
    def from_pretrained(  # type: ignore[override]  # one signature for what is heeded
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *model_args: Any,
        config: MiniCPMOConfig | None = None,
        dtype: str | torch.dtype | None = None,
        torch_dtype: str | torch.dtype | None = None,
        device_map: DeviceMap = None,
        attn_implementation: str | None = None,
        init_vision: bool = True,
        init_audio: bool = True,
        init_tts: bool = True,
        **options: Any,
    ) -> MiniCPMOForConditionalGeneration:
        """Load a folder or a repository of the hub.

        dtype: of the weights; None and "auto" are the checkpoint's. device_map: see torch_loader.load_official.
        init_...: whether the model has that part at all. Raises CheckpointError and its kinds.
        """
        _warn_of(model_args, options)
        folder = checkpoint_folder(pretrained_model_name_or_path, options)
        chosen = config
        checkpoint = Checkpoint.open(
            folder, vision=init_vision and getattr(chosen, "init_vision", True),
            hearing=init_audio and getattr(chosen, "init_audio", True),
            speech=init_tts and getattr(chosen, "init_tts", True))
        chosen = chosen or MiniCPMOConfig(**dict(checkpoint.values))
        shape = checkpoint.config
        chosen.init_vision, chosen.init_audio = shape.vision is not None, shape.hearing is not None
        chosen.init_tts = shape.talker is not None or shape.chattts is not None
        attention = attn_implementation or chosen._attn_implementation or "sdpa"
        chosen._attn_implementation = attention
        omni = load_official(checkpoint, dtype=_dtype(dtype or torch_dtype), device_map=device_map,
                             attention=attention)
        chosen.dtype = omni.language.dtype
        model = cls(chosen, omni)
        model.name_or_path = os.fspath(pretrained_model_name_or_path)
        model.generation_config = _generation_config(folder, chosen)
        return model.eval()

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        max_shard_size: int | str = MAX_SHARD_BYTES,
        **options: Any,
    ) -> None:
        """Write config.json, generation_config.json and the weights under their official names.

        The tokenizer and the voice's files are not the model's: see MiniCPMOProcessor.save_pretrained.
        """
        if not is_main_process:
            return
        _warn_of((), {key: value for key, value in options.items() if (key, value) != ("safe_serialization", True)})
        state = self.state_dict() if state_dict is None else state_dict
        folder = Path(save_directory)
        save_official({name.removeprefix("omni."): tensor for name, tensor in state.items()}, self.config.official(),
                      folder, values=self.config.to_dict(), max_shard_bytes=_bytes(max_shard_size))
        self.generation_config.save_pretrained(folder)

    # Embeddings

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.omni.language.get_input_embeddings()

    def set_input_embeddings(self, value: torch.nn.Module) -> None:
        self.omni.language.set_input_embeddings(value)

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.omni.language.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: torch.nn.Module) -> None:
        self.omni.language.set_output_embeddings(new_embeddings)

    def embed(self, input_ids: Tensor, media: Sequence[RawMedia] | None = None) -> Tensor:
        """input_ids (B, T) -> (B, T, D) with each prompt's media in their places. Raises OptionError."""
        if media is None:
            return self.omni.embed(input_ids)
        if len(media) != len(input_ids):
            raise OptionError(f"there are {len(input_ids)} prompts and media of {len(media)}; give one RawMedia for "
                              f"each prompt, as the processor does")
        return torch.stack(self.omni.fuse(list(input_ids), list(media)))

    # Computing

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        media: Sequence[RawMedia] | None = None,
        **options: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (B, T, V), and with labels (B, T) the loss (-100: not counted).

        Position ids follow the attention mask, so that prompts may be padded on the left.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise OptionError("give either input_ids (with media, if there are any) or inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed(input_ids, media)
        if position_ids is None and attention_mask is not None and attention_mask.dim() == 2:
            counted = attention_mask.long().cumsum(-1) - 1
            position_ids = counted.masked_fill(attention_mask == 0, 1)[:, -inputs_embeds.shape[1] :]
        return self.omni.language(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, position_ids=position_ids,
            past_key_values=past_key_values, labels=labels, use_cache=use_cache, **options)

    def generate(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        *,
        inputs: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        media: Sequence[RawMedia] | None = None,
        attention_mask: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        **options: Any,
    ) -> Any:
        """Token ids, of prompt and answer if input_ids were given, of the answer alone for inputs_embeds.

        options: as for any model of transformers.
        """
        input_ids = inputs if input_ids is None else input_ids
        if input_ids is None and inputs_embeds is None:
            raise OptionError("give input_ids (with media, if there are any) or inputs_embeds")
        if inputs_embeds is None and media is not None:
            with torch.no_grad():
                inputs_embeds = self.embed(input_ids, media)
        given = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "attention_mask": attention_mask}
        return self.omni.language.generate(
            **{key: value for key, value in given.items() if value is not None},
            generation_config=generation_config or self.generation_config, **options)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None,
                                      **options: Any) -> None:
        """Compute activations of eye and language model again on the way back instead of keeping them."""
        self._recompute(gradient_checkpointing_kwargs, options)

    def activation_checkpointing_enable(self, activation_checkpointing_kwargs: dict[str, Any] | None = None,
                                        **options: Any) -> None:
        """The newer name of gradient_checkpointing_enable."""
        self._recompute(activation_checkpointing_kwargs, options)

    def _recompute(self, arguments: dict[str, Any] | None, options: Mapping[str, Any]) -> None:
        language = self.omni.language
        if hasattr(language, "activation_checkpointing_enable"):
            language.activation_checkpointing_enable(activation_checkpointing_kwargs=arguments, **options)
        else:  # before transformers named it so
            language.gradient_checkpointing_enable(gradient_checkpointing_kwargs=arguments, **options)
        if self.omni.vision is not None:
            self.omni.vision.recompute = True

    def gradient_checkpointing_disable(self) -> None:
        """Keep activations again."""
        language = self.omni.language
        name = "activation" if hasattr(language, "activation_checkpointing_disable") else "gradient"
        getattr(language, f"{name}_checkpointing_disable")()
        if self.omni.vision is not None:
            self.omni.vision.recompute = False

    activation_checkpointing_disable = gradient_checkpointing_disable


class MiniCPMOTokenizerFast(Qwen2TokenizerFast):  # type: ignore[misc]
    """The checkpoints' tokenizer for whoever wants it alone; they name its class, whose code is Qwen2's."""


class MiniCPMOProcessor:
    """Messages to the model's inputs, and token ids to text."""

    model_input_names = ("input_ids", "attention_mask", "media")

    def __init__(self, folder: Path) -> None:
        """folder: of a checkpoint; its config.json, tokenizer and preprocessor_config.json are read."""
        self.folder = folder
        self.tokenizer = OfficialTokenizer.from_folder(folder)
        self.processor = OfficialProcessor(read_config(folder), self.tokenizer)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **options: Any
                        ) -> MiniCPMOProcessor:
        """Of a folder or a repository of the hub. Raises CheckpointError and its kinds."""
        _warn_of((), options)
        return cls(checkpoint_folder(pretrained_model_name_or_path, options))

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> None:
        """Copy what was read, config.json too unless the model has written its own, and the voice's assets."""
        _warn_of((), options)
        copy_companions(self.folder, Path(save_directory))

    def __call__(self, messages: Messages | Sequence[Messages], *, add_generation_prompt: bool = True,
                 tools: Sequence[Any] = (), allow_urls: bool = False, return_tensors: str = "pt",
                 **options: Any) -> BatchFeature:
        """A conversation, or several side by side, padded on the left: input_ids and attention_mask (B, T), and media.

        options: fields of PromptOptions. Raises MessageError and the media's own errors.
        """
        if return_tensors != "pt":
            raise OptionError(f"return_tensors is {return_tensors!r}; this processor makes torch tensors, \"pt\"")
        try:
            prompt_options = PromptOptions(**options)
        except TypeError as error:
            known = sorted(PromptOptions.__annotations__)
            raise OptionError(f"{error}; the options of a prompt are {known}") from error
        several = bool(messages) and isinstance(messages[0], Sequence)
        conversations: list[Any] = list(messages) if several else [messages]
        prompts = [self.processor.prepare(messages_from_openai(conversation), options=prompt_options, tools=tools,
                                          add_generation_prompt=add_generation_prompt, allow_urls=allow_urls)
                   for conversation in conversations]
        batch = batch_inputs(prompts)
        return BatchFeature({
            "input_ids": torch.from_numpy(batch.ids),
            "attention_mask": torch.from_numpy(batch.attention_mask.astype(np.int64)),
            "media": [raw_media(row.media) for row in batch.rows],
        })

    def apply_chat_template(self, conversation: Messages | Sequence[Messages], *, tokenize: bool = True,
                            return_dict: bool = True, **options: Any) -> Any:
        """As calling the processor; without tokenize the prompt's text, without return_dict the ids alone."""
        if not tokenize:
            options.pop("return_tensors", None)
            return self._prompt_text(conversation, **options)
        inputs = self(conversation, **options)
        return inputs if return_dict else inputs["input_ids"]

    def _prompt_text(self, conversation: Any, *, add_generation_prompt: bool = True, tools: Sequence[Any] = (),
                     allow_urls: bool = False, **options: Any) -> str:
        return self.processor.prepare(
            messages_from_openai(conversation), options=PromptOptions(**options), tools=tools,
            add_generation_prompt=add_generation_prompt, allow_urls=allow_urls).prompt

    def decode(self, token_ids: Any, skip_special_tokens: bool = True, **_: Any) -> str:
        """Text of one row of ids."""
        return self.tokenizer.decode([int(token) for token in token_ids], keep_special=not skip_special_tokens)

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = True, **_: Any) -> list[str]:
        """Text of every row of ids."""
        return [self.decode(row, skip_special_tokens) for row in sequences]


def checkpoint_folder(name_or_path: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> Path:
    """Folder of a checkpoint, fetched from the hub if it is a repository's name. Raises CheckpointError."""
    name = os.fspath(name_or_path)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not is_checkpoint(folder):
            read_config(folder)  # says what it is instead
        return folder
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise UnknownModelError(f"there is no folder {name!r}, and it is no name of the hub; use "
                                f"\"openbmb/MiniCPM-o-4_5\" or the folder of a checkpoint")
    wanted = {key: value for key in _HUB_OPTIONS if (value := (options or {}).get(key)) is not None}
    return fetch(official_name(name) or name, **wanted)


def _dtype(word: str | torch.dtype | None) -> torch.dtype | None:
    """None where the checkpoint is to decide."""
    if word is None or word == "auto":
        return None
    dtype = getattr(torch, word.removeprefix("torch."), None) if isinstance(word, str) else word
    if dtype not in FLOATS:
        raise OptionError(f"dtype is {word!r}; use \"auto\", \"bfloat16\", \"float16\" or \"float32\"")
    return dtype


def _bytes(size: int | str) -> int:
    """A size as transformers writes it: 5000000000 or "5GB"."""
    if isinstance(size, int):
        return size
    found = re.fullmatch(r"(\d+)\s*([KMGT]?)(I?)B", size.strip().upper())
    if not found:
        raise OptionError(f"max_shard_size is {size!r}; give bytes or a text like \"5GB\"")
    number, unit, binary = found.groups()
    return int(number) * (1024 if binary else 1000) ** " KMGT".index(unit or " ")


def _generation_config(folder: Path, config: MiniCPMOConfig) -> GenerationConfig:
    """The checkpoint's own, or one that ends at the tokens that its config.json names."""
    if (folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(folder)
    fields = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {field: value for field in fields if (value := getattr(config, field, None)) is not None}
    if isinstance(ids.get("bos_token_id"), int) and isinstance(ids.get("eos_token_id"), int):
        ids.setdefault("pad_token_id", ids["bos_token_id"])
        ids["eos_token_id"] = [ids["eos_token_id"], ids["bos_token_id"]]  # <|im_end|> and <|endoftext|>, as in 4.5
    return GenerationConfig(**ids)


def _warn_of(arguments: Sequence[Any], options: Mapping[str, Any]) -> None:
    ignored = [*(repr(argument) for argument in arguments),
               *(key for key, value in options.items()
                 if key not in (*_NEEDLESS, *_HUB_OPTIONS) and value is not None)]
    if ignored:
        warnings.warn(f"these options have no effect for MiniCPM-o: {', '.join(ignored)}", stacklevel=3)


def register() -> None:
    """Make the Auto classes know `minicpmo`. Importing this module does it; once more does no harm."""
    AutoConfig.register(MODEL_TYPE, MiniCPMOConfig, exist_ok=True)
    for auto in (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText):
        auto.register(MiniCPMOConfig, MiniCPMOForConditionalGeneration, exist_ok=True)
    AutoTokenizer.register(MiniCPMOConfig, fast_tokenizer_class=MiniCPMOTokenizerFast, exist_ok=True)
    AutoProcessor.register(MiniCPMOConfig, MiniCPMOProcessor, exist_ok=True)


register()
