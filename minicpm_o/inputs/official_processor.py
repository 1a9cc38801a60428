"""Messages to the inputs of MiniCPM-o 2.6 and 4.5: media are loaded and measured, the template filled, places noted.

The sounds of a message are heard end to end, in pieces of at most 30 s; each still has placeholders of its own. A video
is a row of units: a frame, the second of sound that goes with it, and, when frames are stacked, a picture of the frames
between. Letters: P patches, F mel frames, N samples.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from ..errors import ContextFullError, MessageError, OptionError
from ..model.config import OfficialConfig
from ..model.fusion.spans import Span
from ..rates import ENCODER_RATE_HZ
from .audio import load_audio, pad_to
from .image import load_image
from .mel import LEAST_CLIP_SAMPLES, audio_group_lengths, clip_log_mel, merge_clips, num_audio_tokens
from .messages import AudioPart, ImagePart, Message, Part, TextPart, VideoPart
from .official_layout import (
    ClipMedia,
    OfficialDraft,
    OfficialInputs,
    OfficialMedia,
    SlicedImageMedia,
    finish_inputs,
    lay_out,
    lay_picture,
    lay_sound,
)
from .official_tokenizer import OfficialTokenizer
from .processor import AudioMedia
from .session_prompt import PrefillPrompt, SessionPrompt, first_chunk, prefill_prompt
from .slices import SlicedImage, slice_picture
from .system_prompts import MarkupPart
from .templates import OfficialVersion, Origin, Segment, Slot, Tools, Turn, Words, chat_template
from .video_units import load_stills, video_units

Spans = tuple[Span, ...]


@dataclass(frozen=True)
class PromptOptions:
    """How messages become a prompt; None leaves it to the checkpoint or its version."""

    max_slice_nums: int | None = None
    """Slices of a picture at most; None: the checkpoint's, 9. A video's units are never cut."""
    use_image_id: bool | None = None
    """Number the pictures; None: the checkpoint's, yes. Frames of a video have no numbers."""
    omni_mode: bool | None = None
    """Join the parts of a message with nothing between them, instead of a new line; None: when a video has units."""
    stream_input: bool | None = None
    """Give each second of a sound a start and an end of its own; None: in 2.6. In 4.5 it joins as omni_mode does."""
    use_tts_template: bool = False
    """Have the answer spoken; so it is anyway when a message brings sound."""
    enable_thinking: bool = False
    """Let 4.5 think aloud before it answers."""
    max_inp_length: int | None = None
    """Tokens of the prompt at most; None: the caller sees to it."""
    stack_frames: int = 1
    """Frames a second of a video in 4.5; those beyond the first share a picture."""
    video_stills: bool = False
    """Look at a video as pictures alone, one a second, without its sound."""
    still_slices: int = 2
    """Slices of such a picture at most."""
    text_is_markup: bool = False
    """Let special tokens in the messages' words count, as the reference does; only for words of your own."""

    def __post_init__(self) -> None:
        for name in ("max_slice_nums", "max_inp_length", "stack_frames", "still_slices"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name} is {value}; it must be 1 or more")


@dataclass(frozen=True)
class SessionInputs:
    """A piece of a half-duplex session: what goes into the model next, and what the session has to see to."""

    inputs: OfficialInputs
    """Places count from the piece's own start."""
    prompt: PrefillPrompt


@dataclass(frozen=True)
class _Picture:
    image: SlicedImage
    origin: Origin
    is_numbered: bool


@dataclass(frozen=True)
class _Clip:
    waveform: np.ndarray
    origin: Origin
    message: int
    """Its message's place; the sounds of one message are heard as one."""


@dataclass
class _Found:
    """Media of the messages in order of appearance."""

    pictures: list[_Picture] = field(default_factory=list)
    clips: list[_Clip] = field(default_factory=list)


class OfficialProcessor:
    """Turns messages into inputs for one checkpoint."""

    def __init__(self, config: OfficialConfig, tokenizer: OfficialTokenizer) -> None:
        if config.version == "nano":
            raise OptionError("the config is nano's; its messages go through inputs.processor.Processor")
        self.config = config
        self.version: OfficialVersion = config.version
        self.tokenizer = tokenizer

    def prepare(
        self,
        messages: Sequence[Message],
        *,
        options: PromptOptions | None = None,
        tools: Tools = (),
        add_generation_prompt: bool = True,
        allow_urls: bool = False,
    ) -> OfficialInputs:
        """Load all media and lay out the prompt.

        tools: functions that the answer may call. add_generation_prompt: False ends the prompt with the last message,
        as when it is to be spoken as it stands. Raises the media's own InputError, MessageError for media of a part
        that was left out when loading, ContextFullError when the prompt is longer than options.max_inp_length.
        """
        options = self._resolved(options or PromptOptions(), messages)
        found = _Found()
        turns = [Turn(message.role, self._content(message, number, found, options, allow_urls))
                 for number, message in enumerate(messages)]
        segments = chat_template(
            self.version, turns, add_generation_prompt=add_generation_prompt, enable_thinking=options.enable_thinking,
            use_tts_template=options.use_tts_template or bool(found.clips), tools=tools)
        return self._lay(segments, found, options, self._heard_whole)

    def prefill(
        self,
        state: SessionPrompt,
        session_id: str,
        message: Message,
        *,
        options: PromptOptions | None = None,
        allow_urls: bool = False,
    ) -> tuple[SessionPrompt, SessionInputs]:
        """The next piece of a half-duplex session; see `session_prompt`. Pictures stay whole and have no numbers.

        A sound that the encoder hears as part of a stream comes as AudioMedia in 4.5: its mel goes on from before.
        """
        options = options or PromptOptions()
        options = self._resolved(replace(
            options, max_slice_nums=options.max_slice_nums or 1, use_image_id=False, omni_mode=True,
            stream_input=self.version == "2.6"), [message])
        found = _Found()
        content = self._content(message, 0, found, options, allow_urls)
        state, prompt = prefill_prompt(self.version, state, session_id, message.role, content,
                                       num_sounds=len(found.clips))
        if self.version == "4.5" and prompt.is_stream:
            found.clips = [replace(clip, waveform=first_chunk(clip.waveform, prompt.chunk_index))
                           for clip in found.clips]
            return state, SessionInputs(self._lay(prompt.segments, found, options, _heard_on), prompt)
        return state, SessionInputs(self._lay(prompt.segments, found, options, self._heard_whole), prompt)

    def _resolved(self, options: PromptOptions, messages: Sequence[Message]) -> PromptOptions:
        """The options with nothing left to the checkpoint."""
        slicing = self.config.slicing
        has_video = any(isinstance(part, VideoPart) for message in messages for part in message.parts)
        has_units = has_video and not options.video_stills
        if options.stack_frames > 1 and self.version == "2.6":
            warnings.warn("stack_frames has no effect: MiniCPM-o 2.6 looks at one frame a second", stacklevel=3)
        return replace(
            options,
            max_slice_nums=slicing.max_slices if options.max_slice_nums is None else options.max_slice_nums,
            use_image_id=slicing.use_image_id if options.use_image_id is None else options.use_image_id,
            omni_mode=has_units if options.omni_mode is None else options.omni_mode,
            stream_input=self.version == "2.6" if options.stream_input is None else options.stream_input)

    # Loading

    def _content(self, message: Message, number: int, found: _Found, options: PromptOptions,
                 allow_urls: bool) -> tuple[Segment, ...]:
        """The message's parts as segments, joined as the version joins them."""
        is_dense = options.omni_mode or (options.stream_input and self.version == "4.5")
        segments: list[Segment] = []
        for part in message.parts:
            for segment in self._part(part, number, found, options, allow_urls):
                segments += [segment] if is_dense or not segments else [Words("\n"), segment]
        return tuple(segments)

    def _part(self, part: Part, number: int, found: _Found, options: PromptOptions,
              allow_urls: bool) -> list[Segment]:
        if isinstance(part, TextPart):
            return [Words(part.text, is_markup=options.text_is_markup or isinstance(part, MarkupPart))]
        if isinstance(part, ImagePart):
            image = load_image(part.source, allow_urls=allow_urls)
            return [self._look(image, found, max_slices=options.max_slice_nums,
                               is_numbered=bool(options.use_image_id), origin="image")]
        if isinstance(part, AudioPart):
            waveform = load_audio(part.source, rate_hz=part.rate_hz, allow_urls=allow_urls)
            return [self._listen(waveform, found, message=number, origin="audio")]
        if isinstance(part, VideoPart):
            if options.video_stills:
                return [self._look(frame, found, max_slices=options.still_slices, is_numbered=False, origin="video")
                        for frame in load_stills(part.source, allow_urls=allow_urls)]
            return self._watch(part, number, found, options, allow_urls)
        raise MessageError(f"a message part of type {type(part).__name__} is not text, image, audio or video")

    def _look(self, image: Image.Image, found: _Found, *, max_slices: int | None, is_numbered: bool,
              origin: Origin) -> Slot:
        self._check_part(self.config.vision is not None, "vision", "a picture")
        sliced = slice_picture(image, self.config.slicing, max_slices=max_slices)
        found.pictures.append(_Picture(sliced, origin, is_numbered))
        return Slot("image", len(found.pictures) - 1)

    def _listen(self, waveform: np.ndarray, found: _Found, *, message: int, origin: Origin) -> Slot:
        """A sound too short for one token is followed by silence: the encoder would have nothing to say of it."""
        self._check_part(self.config.hearing is not None, "hearing", "a sound")
        if num_audio_tokens(len(waveform), self._pool_step) == 0:
            waveform = pad_to(waveform, LEAST_CLIP_SAMPLES)
        found.clips.append(_Clip(waveform, origin, message))
        return Slot("audio", len(found.clips) - 1)

    def _watch(self, part: VideoPart, number: int, found: _Found, options: PromptOptions,
               allow_urls: bool) -> list[Segment]:
        """2.6 marks each unit; 4.5 has the stacked frames after the sound."""
        stack_frames = options.stack_frames if self.version == "4.5" else 1
        segments: list[Segment] = []
        for unit in video_units(part.source, version=self.version, stack_frames=stack_frames, allow_urls=allow_urls):
            if self.version == "2.6":
                segments.append(Words("<unit>", is_markup=True, origin="video"))
            segments.append(self._look(unit.frame, found, max_slices=1, is_numbered=False, origin="video"))
            if unit.audio is not None:
                segments.append(self._listen(unit.audio, found, message=number, origin="video"))
            if unit.stacked is not None:
                segments.append(self._look(unit.stacked, found, max_slices=1, is_numbered=False, origin="video"))
        return segments

    def _check_part(self, is_here: bool, name: str, what: str) -> None:
        if not is_here:
            raise MessageError(f"the messages bring {what}, but the model was loaded without {name}; load it with "
                               f"{name}")

    @property
    def _pool_step(self) -> int:
        return 0 if self.config.hearing is None else self.config.hearing.pool_step

    # Laying out

    def _lay(self, segments: Sequence[Segment], found: _Found, options: PromptOptions,
             hear: Callable[[Sequence[_Clip], Sequence[Spans]], list[OfficialMedia]]) -> OfficialInputs:
        """hear: makes media of the sounds; only once the prompt is known to be short enough."""
        draft = OfficialDraft(self.tokenizer, drops_listen=self.version == "4.5")
        pictures: dict[int, Spans] = {}
        clips: dict[int, Spans] = {}

        def lay_slot(slot: Slot) -> None:
            if slot.kind == "image":
                pictures[slot.index] = self._lay_picture(draft, found.pictures[slot.index], slot.index)
            else:
                clips[slot.index] = self._lay_clip(draft, found.clips[slot.index], options)

        ids = lay_out(segments, draft, lay_slot)
        _check_length(ids, options.max_inp_length, found)
        media: list[OfficialMedia] = [
            SlicedImageMedia(found.pictures[index].image.pieces, found.pictures[index].image.grid_sizes, spans)
            for index, spans in pictures.items()]
        media += hear([found.clips[index] for index in clips], list(clips.values()))
        return finish_inputs(draft, segments, media, self.version)

    def _lay_picture(self, draft: OfficialDraft, picture: _Picture, index: int) -> Spans:
        resampler = self.config.resampler
        if resampler is None:
            raise MessageError("the model has eyes but no resampler, which tells how many tokens a picture takes")
        return lay_picture(draft, picture.image.grid, queries=resampler.queries,
                           number=index if picture.is_numbered else None, origin=picture.origin)

    def _lay_clip(self, draft: OfficialDraft, clip: _Clip, options: PromptOptions) -> Spans:
        samples = len(clip.waveform)
        lengths = audio_group_lengths(samples, self._pool_step) if options.stream_input else [
            num_audio_tokens(samples, self._pool_step)]
        return lay_sound(draft, lengths, origin=clip.origin)

    def _heard_whole(self, clips: Sequence[_Clip], spans: Sequence[Spans]) -> list[OfficialMedia]:
        """One ClipMedia for each message with sound."""
        media: list[ClipMedia] = []
        for message in sorted({clip.message for clip in clips}):
            its = [index for index, clip in enumerate(clips) if clip.message == message]
            places = tuple(span for index in its for span in spans[index])
            pieces = _pieces([clips[index].waveform for index in its], self._pool_step)
            media.append(ClipMedia(tuple(clip_log_mel(piece) for piece in pieces), places))
        longest = max((frames for item in media for frames in item.num_frames), default=0)
        return [replace(item, longest=self._filled_up(item, longest)) for item in media]

    def _filled_up(self, item: ClipMedia, longest: int) -> int:
        """As far as any filling can be heard: what is longer by more than a block changes nothing."""
        block_s = 0.0 if self.config.hearing is None else self.config.hearing.chunk_s
        block = 2 * int(block_s * ENCODER_RATE_HZ)  # two mel frames an encoder frame
        return min(longest, block * -(-max(item.num_frames) // block)) if block else longest


def _heard_on(clips: Sequence[_Clip], spans: Sequence[Spans]) -> list[OfficialMedia]:
    return [AudioMedia(clip.waveform, places) for clip, places in zip(clips, spans, strict=True)]


def _pieces(waveforms: Sequence[np.ndarray], pool_step: int) -> list[np.ndarray]:
    """Waveforms end to end, cut every 30 s. Where that loses tokens that the prompt has places for, each is heard by
    itself. A rest that is too short for a token is left out."""
    wanted = sum(num_audio_tokens(len(waveform), pool_step) for waveform in waveforms)
    pieces = merge_clips(waveforms)
    if sum(num_audio_tokens(len(piece), pool_step) for piece in pieces) < wanted:
        pieces = [piece for waveform in waveforms for piece in merge_clips([waveform])]
    return [piece for piece in pieces if num_audio_tokens(len(piece), pool_step)]


def _check_length(ids: np.ndarray, limit: int | None, found: _Found) -> None:
    if limit is not None and len(ids) > limit:
        raise ContextFullError(
            f"the prompt takes {len(ids)} tokens with {len(found.pictures)} pictures and {len(found.clips)} sounds, "
            f"more than max_inp_length = {limit}; send less, lower max_slice_nums, or raise the limit")
