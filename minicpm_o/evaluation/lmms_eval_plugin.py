"""This package's models in lmms-eval (0.7.3), under the name `minicpm_o_runtime`.

lmms-eval finds `manifest` by the entry point of the group `lmms_eval.models`, then takes one of the two classes, which
exist only where lmms-eval does:

    MiniCPMOChat      a task's `doc_to_messages`: turns with media where they stand; the default
    MiniCPMOSimple    a context and a list of media before it; --force_simple. Ranking of answers exists here alone

The name is not `minicpm_o`, for lmms-eval has a model of its own under that name (2.6 by its remote code), which ours
would silently replace. docs/evaluation_harnesses.md says how to run both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
from pathlib import PurePath
from typing import Any, Literal
from warnings import warn

import numpy as np
from PIL import Image

from minicpm_o.api import MiniCPMO, Reply
from minicpm_o.errors import ContextFullError, MessageError, OptionError
from minicpm_o.inputs.messages import AudioPart, ImagePart, Message, Part, TextPart, VideoPart
from minicpm_o.inputs.video import cut_video
from minicpm_o.runtime.losses import TextLoss

MODEL_ID = "minicpm_o_runtime"
IMAGE_SUFFIXES = frozenset(".jpg .jpeg .png .bmp .gif .tif .tiff .webp".split())
AUDIO_SUFFIXES = frozenset(".wav .mp3 .m4a .aac .flac .ogg .opus".split())
WINDOW_S = (("video_start", "start_time"), ("video_end", "end_time"))
"""What tasks call the seconds where the part of a video that they want begins and ends."""

ChoiceLoss = Literal["mean", "sum"]


def manifest() -> Any:
    """What lmms-eval's registry asks of an entry point."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(MODEL_ID, f"{__name__}.MiniCPMOSimple", f"{__name__}.MiniCPMOChat")


def __getattr__(name: str) -> Any:
    """The two classes, made when they are asked for: their base is lmms-eval's."""
    answers = {"MiniCPMOSimple": SimpleAnswers, "MiniCPMOChat": ChatAnswers}
    if name not in answers:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _model_class(name, answers[name])


@cache
def _model_class(name: str, answers: type[Answers]) -> type:
    from lmms_eval.api.model import lmms

    return type(name, (answers, lmms), {"__module__": __name__, "__doc__": answers.__doc__})


# --- what is asked ------------------------------------------------------------------------------------------------


def media_part(item: Any, kind: str | None = None) -> Part:
    """A picture, sound or video as lmms-eval hands it over.

    PIL pictures; paths, whose ending tells what they are; sounds {"array", "sampling_rate"}, encoded {"bytes"} or
    {"path"}, or a decoder of `datasets`; {"type", "url"}, of a video perhaps with the seconds where the part that is
    wanted begins and ends (`WINDOW_S`), which is cut out. kind: "image", "audio" or "video" where the task says so.
    Raises MessageError for anything else, VideoError where there is nothing to cut out.
    """
    if isinstance(item, Image.Image):
        return ImagePart(item)
    if isinstance(item, str | PurePath):
        return _file_part(str(item), kind)
    if isinstance(item, Mapping):
        return _described_part(item, kind)
    if hasattr(item, "get_all_samples"):
        samples = item.get_all_samples()
        return AudioPart(np.asarray(samples.data), int(samples.sample_rate))
    raise MessageError(f"lmms-eval gave a medium of type {type(item).__name__}; expected a PIL picture, a path, a "
                       'sound with "array" and "sampling_rate", or a dictionary with "url"')


def _file_part(path: str, kind: str | None) -> Part:
    suffix = PurePath(path).suffix.lower()
    told = kind or ("image" if suffix in IMAGE_SUFFIXES else "audio" if suffix in AUDIO_SUFFIXES else "video")
    makers: dict[str, Callable[[str], Part]] = {"image": ImagePart, "audio": AudioPart, "video": VideoPart}
    if told not in makers:
        raise MessageError(f"lmms-eval gave a medium of kind {told!r}; expected image, audio or video")
    return makers[told](path)


def _described_part(item: Mapping[str, Any], kind: str | None) -> Part:
    inner = next((item[name] for name in ("url", "path") if item.get(name) is not None), None)
    if wanted := [name for names in WINDOW_S for name in names if item.get(name) is not None]:
        if not isinstance(inner, str | PurePath) or item.get("type", kind) not in ("video", None):
            raise MessageError(f"the task wants a part of a medium ({', '.join(wanted)}), which is cut out of video "
                               "files alone; cut it first")
        start_s, end_s = (next((float(item[name]) for name in names if name in wanted), otherwise)
                          for names, otherwise in zip(WINDOW_S, (0.0, math.inf), strict=True))
        return VideoPart(cut_video(inner, start_s, end_s))
    if "array" in item:
        return AudioPart(np.asarray(item["array"]), int(item["sampling_rate"]))
    if item.get("bytes") is not None:
        return ImagePart(item["bytes"]) if kind == "image" else AudioPart(item["bytes"])
    if inner is None:
        raise MessageError(f"lmms-eval gave a medium with {', '.join(map(repr, item)) or 'nothing'}; expected "
                           '"array", "bytes", "url" or "path"')
    return media_part(inner, item.get("type", kind))


def simple_messages(context: str, media: Any) -> list[Message]:
    """One turn: the media in order, then the words. media: a list, or lists in a list, or None."""
    return [Message("user", (*map(media_part, _flat(media)), TextPart(context)))]


def _flat(media: Any) -> Iterator[Any]:
    if media is None:
        return
    for item in media if isinstance(media, list | tuple) else [media]:
        if isinstance(item, list | tuple):
            yield from _flat(item)
        elif item is not None:
            yield item


def chat_messages(turns: Iterable[Mapping[str, Any]]) -> list[Message]:
    """The turns that a task's `doc_to_messages` gives. Raises MessageError."""
    return [Message(turn["role"], tuple(map(_content_part, turn["content"]))) for turn in turns]


def _content_part(item: Mapping[str, Any]) -> Part:
    return TextPart(item["text"]) if item.get("type") == "text" else _described_part(item, item.get("type"))


def answer_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """A task's `generation_kwargs` in the words of `MiniCPMO.chat`.

    Greedy with one beam unless the task says otherwise, as in lmms-eval's own models, also where a checkpoint was
    published to sample. What has no effect here is told in a warning, by its name.
    """
    names = {"max_new_tokens": "max_tokens", "repetition_penalty": "repetition_penalty", "seed": "seed"}
    options = {ours: given[theirs] for theirs, ours in names.items() if given.get(theirs) is not None}
    options |= {"num_beams": given.get("num_beams") or 1, "stop": _stops(given.get("until")), **_drawing(given)}
    known = {*names, "num_beams", "until", "temperature", "do_sample", "top_p", "top_k", "min_p"}
    for name in sorted(set(given) - known):
        warn(f"the task's generation option {name} = {given[name]!r} has no effect on {MODEL_ID}", stacklevel=2)
    return options


def _drawing(given: Mapping[str, Any]) -> dict[str, Any]:
    """Temperature and, where it is drawn, what is drawn from."""
    temperature, do_sample = given.get("temperature"), given.get("do_sample")
    if temperature is None:
        temperature = 1.0 if do_sample else 0.0  # transformers' temperature where only do_sample is said
    if temperature and do_sample is False:
        warn(f"the task's temperature = {temperature} has no effect with do_sample = False", stacklevel=3)
        temperature = 0.0
    if not temperature:
        return {"temperature": 0.0}
    drawn = {name: given[name] for name in ("top_p", "top_k", "min_p") if given.get(name) is not None}
    return {"temperature": float(temperature), **drawn}


def _stops(until: str | Sequence[str] | None) -> tuple[str, ...]:
    words = (until,) if isinstance(until, str) else until or ()
    return tuple(word for word in words if word)


# --- answering ----------------------------------------------------------------------------------------------------


class Answers:
    """What both classes do; lmms-eval's base, which comes after this one, brings `task_dict`."""

    is_simple: bool
    task_dict: dict[str, Any]

    def __init__(self, pretrained: str = "nano", *, transcript: bool = True, choice_loss: ChoiceLoss = "mean",
                 device: str | None = None, batch_size: int | str = 1, max_batch_size: int | None = None,
                 **loading: Any) -> None:
        """The words of --model_args.

        pretrained: as of `MiniCPMO`, and so are loading's threads, dtype, attention and so on. transcript: the
        recogniser writes beside each sound (nano). choice_loss: what answers are ranked by, the loss a token ("mean",
        as lmms-eval's other models) or of the whole text ("sum"). Raises OptionError, CheckpointError.
        """
        super().__init__()
        if choice_loss not in ("mean", "sum"):
            raise OptionError(f'choice_loss is {choice_loss!r}; it must be "mean" (loss a token) or "sum"')
        if str(batch_size) != "1" or max_batch_size is not None:
            warn(f"batch_size = {batch_size} has no effect on {MODEL_ID}: questions are answered one after the other",
                 stacklevel=2)
        self.batch_size_per_gpu = 1
        self.transcript = transcript
        self.choice_loss = choice_loss
        if device not in (None, "cpu"):
            loading["device"] = device
        self.model = MiniCPMO.from_pretrained(pretrained, **loading)

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """An answer to each request, with its tokens counted. What does not fit the window is answered with ""."""
        from tqdm import tqdm

        return [self._answer(*self._asked(request.args)) for request in tqdm(requests, desc="answers")]

    def _asked(self, arguments: tuple[Any, ...]) -> tuple[list[Message], Mapping[str, Any]]:
        """The turns and the `generation_kwargs` of a request."""
        raise NotImplementedError

    def _answer(self, messages: list[Message], given: Mapping[str, Any]) -> Any:
        from lmms_eval.api.instance import GenerationResult, TokenCounts

        try:
            reply: Reply = self.model.chat(messages, transcript=self.transcript, **answer_options(given))
        except ContextFullError as error:
            warn(f"a question is answered with nothing: {error}", stacklevel=2)
            return GenerationResult("")
        for note in reply.warnings:
            warn(note, stacklevel=2)
        return GenerationResult(reply.text, TokenCounts(reply.usage.prompt, reply.usage.output))

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """Refused: lmms-eval has no ranking of answers with messages."""
        raise OptionError(f"{MODEL_ID} ranks given answers in lmms-eval's simple mode alone; add --force_simple")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refused: rounds of one question are not put together here."""
        raise NotImplementedError(f"{MODEL_ID} answers no questions of several rounds; leave such tasks out")

    def _document(self, doc_id: Any, task: str, split: str) -> Any:
        return self.task_dict[task][split][doc_id]


class ChatAnswers(Answers):
    """Answers to turns with media where they stand."""

    is_simple = False

    def _asked(self, arguments: tuple[Any, ...]) -> tuple[list[Message], Mapping[str, Any]]:
        doc_to_messages, given, *place = arguments[-5:]  # 0.7.3 puts the context before them, other versions do not
        return chat_messages(doc_to_messages(self._document(*place))), given


class SimpleAnswers(Answers):
    """Answers to a context with its media before it, and the ranking of given answers."""

    is_simple = True

    def _asked(self, arguments: tuple[Any, ...]) -> tuple[list[Message], Mapping[str, Any]]:
        context, given, doc_to_visual, *place = arguments
        return simple_messages(context, doc_to_visual(self._document(*place))), given

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """(loss, is_greedy) for each given answer.

        The loss, not its negative that lmms-eval's base class speaks of: its `multiple_choice` takes the smallest, as
        all of its own models return losses. A prompt is read once for all answers to it. The space that lmms-eval puts
        before an answer is left out, as an answer in the chat template begins without one.
        """
        from lmms_eval.api.instance import GenerationResult
        from tqdm import tqdm

        found: list[Any] = []
        with tqdm(total=len(requests), desc="losses") as bar:
            for _, group in groupby(requests, key=_prompt_of):
                same = [request.args for request in group]
                # In a GenerationResult, 0.7.3 passes a pair on as it is; a bare one it would turn into a text.
                found += [GenerationResult((self._number(loss), loss.is_greedy)) for loss in self._losses(same)]
                bar.update(len(same))
        return found

    def _losses(self, same: Sequence[tuple[Any, ...]]) -> list[TextLoss]:
        """The losses of answers to one prompt."""
        context, _, doc_to_visual, *place = same[0]
        document = self._document(*place)
        texts = [target if isinstance(target, str) else str(target(document)) for _, target, *_ in same]
        return self.model.losses(simple_messages(context, doc_to_visual(document)), [text.lstrip() for text in texts],
                                 transcript=self.transcript)

    def _number(self, loss: TextLoss) -> float:
        return loss.mean if self.choice_loss == "mean" else loss.loss


def _prompt_of(request: Any) -> tuple[Any, ...]:
    """What requests share whose answers are given to one prompt. Raises OptionError for an answer without one."""
    if len(request.args) < 6:
        raise OptionError(f"{MODEL_ID} has no likelihood of an answer to nothing (acc_mutual_info); use acc or "
                          "acc_norm")
    context, _, _, doc_id, task, split = request.args
    return context, doc_id, task, split
