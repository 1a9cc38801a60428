"""Everyday questions to the language model's own answers: chat.json; and its weights as torch reads them.

Self-distillation: what the model would have said before tuning is what it should still say after it.
Shapes: T tokens, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ...checkpoints.gguf import GGUFFile
from ...checkpoints.parts import find_part
from ...errors import CheckpointError
from ...inputs.text import Tokenizer
from ...model.config import LanguageConfig
from .texts import Text
from .work import Marker, bar, find_files, write_json

_LOG = logging.getLogger("minicpm_o")

Think = Callable[[Sequence[Sequence[int]]], list[list[int]]]
"""Prompts (T,) each -> the ids that follow each."""


@dataclass(frozen=True)
class AnswerConfig:
    """How the model is asked: greedily, under the system turn that it was published with."""

    system: str = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    max_tokens: int = 64
    repetition_penalty: float = 1.0
    """Any penalty makes a model of this size ramble: it may not say the words that the answer needs again."""
    batch_size: int = 48


def prepare_language(out: Path) -> tuple[Path, Path]:
    """Write language.safetensors (float32, transformers' names) and tokenizer.json; returns their paths.

    Raises PartMissingError when the part is not here.
    """
    from safetensors.numpy import save_file

    weights, tokenizer = out / "language.safetensors", out / "tokenizer.json"
    recipe = [file.sha256 for file in find_part("language").files]
    marker = Marker(out / "language.done.json", recipe, 1, (weights, tokenizer))
    if not marker.is_finished():
        (path,) = find_files("language").values()
        file = GGUFFile(path)
        out.mkdir(parents=True, exist_ok=True)
        save_file(dict(file.tensors()), weights)
        file.tokenizer().save(str(tokenizer))
        marker.reach(1)
    return weights, tokenizer


def prepare_chat(
    out: Path,
    texts: Sequence[Text],
    tokenizer: Tokenizer,
    open_mind: Callable[[], Think],
    config: AnswerConfig = AnswerConfig(),
) -> None:
    """Write chat.json: a list of {question, answer} for every text of the kind `chat`."""
    questions, path = [text.text for text in texts if text.kind == "chat"], out / "chat.json"
    marker = Marker(out / "chat.done.json", [questions, asdict(config)], len(questions), (path,))
    if marker.is_finished():
        _LOG.info("%s is there already", path)
        return
    prompts = {question: prompt_ids(tokenizer, question, config.system) for question in questions}
    ordered = sorted(questions, key=lambda question: len(prompts[question]))  # so that little is padded
    think, answers = open_mind(), {}
    for start in bar(range(0, len(ordered), config.batch_size), "chat"):
        asked = ordered[start : start + config.batch_size]
        said = think([prompts[question] for question in asked])
        answers |= {question: tidy_answer(tokenizer, ids) for question, ids in zip(asked, said, strict=True)}
    write_json(path, [{"question": question, "answer": answers[question]} for question in questions])
    marker.reach(len(questions))


def prompt_ids(tokenizer: Tokenizer, question: str, system: str) -> list[int]:
    """The chat template up to where the answer begins."""
    special, ids = tokenizer.special, []
    for role, words in (("system", system), ("user", question)):
        ids += [special.im_start, *tokenizer.encode(f"{role}\n{words}"), special.im_end, *tokenizer.encode("\n")]
    return [*ids, special.im_start, *tokenizer.encode("assistant\n")]


def tidy_answer(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The words up to the answer's end; an answer that was cut off ends with its last whole sentence, if it has one."""
    end = tokenizer.special.im_end
    if end in ids:
        return tokenizer.decode(list(ids[: list(ids).index(end)])).strip()
    text = tokenizer.decode(list(ids)).strip()
    return text[: text.rindex(".") + 1] if "." in text else text


def open_mind(weights: Path, tokenizer: Tokenizer, config: AnswerConfig = AnswerConfig()) -> Think:
    """The untuned language model in torch, answering greedily. Raises CheckpointError when weights are missing."""
    import torch
    from safetensors.torch import load_file

    from ...model.language.decoder import build_decoder

    model, end = build_decoder(LanguageConfig()).eval(), tokenizer.special.im_end
    lacking = set(model.load_state_dict(load_file(str(weights)), strict=False).missing_keys) - {"lm_head.weight"}
    if lacking:
        raise CheckpointError(f"{weights} lacks {sorted(lacking)[:3]}; delete it, it is made again from the part")
    model.tie_weights()

    def think(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        length = max(len(prompt) for prompt in prompts)
        ids = torch.tensor([[end] * (length - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        with torch.inference_mode():
            said = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=config.max_tokens,
                do_sample=False,
                eos_token_id=end,
                pad_token_id=end,
                repetition_penalty=config.repetition_penalty,
            )
        return said[:, length:].tolist()

    return think
