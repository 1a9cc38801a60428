"""All that a user needs: one class that sees, hears, answers and speaks.

Messages in, text or a waveform out; how it is computed lies in `runtime`. Parts of the model are opened when first
needed: looking at a picture opens no speech graph. Shapes: T fused tokens, N samples.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, cast, overload
from warnings import warn

import numpy as np

from .errors import ContextFullError, MessageError, OptionError
from .inputs.audio import load_audio, write_wav
from .inputs.messages import (
    AudioPart,
    ImagePart,
    Message,
    Part,
    TextPart,
    VideoPart,
    messages_from_history,
    messages_from_openai,
)
from .inputs.processor import ModelInputs, Usage
from .inputs.prompts import CAPTION, CAPTION_BEAMS
from .inputs.sources import Source, read_source
from .inputs.video import load_video
from .rates import AUDIO_RATE_HZ
from .runtime.beam import BeamConfig, search
from .runtime.conversation import Conversation, Pool, content_digest, prefill, prompt_keys
from .runtime.events import FinishReason, GenerationEnd, TextDelta
from .runtime.losses import TextLoss, sum_up, text_tokens, token_losses
from .runtime.parts import AnswerDefaults, Parts
from .runtime.prefix_store import Place, open_store
from .runtime.sampling import SamplingConfig
from .runtime.timing import Stopwatch, Timing

if TYPE_CHECKING:
    from .inputs.official_processor import PromptOptions
    from .runtime.constrain import Constraint
    from .runtime.device import DevicePlan
    from .runtime.engine import Step
    from .runtime.live.opening import AnySession
    from .runtime.live.session import LiveConfig, SessionEvent
    from .runtime.official_parts import OfficialParts
    from .runtime.speech import Speech, Voice
    from .runtime.transcribe import Transcript

ANSWER_RESERVE_TOKENS = 256
"""Room kept for the answer when the window is nearly full; at most a quarter of the window."""
READ_ALOUD_TEMPERATURE = 0.1
READ_ALOUD_TOKENS = 512
"""How an official checkpoint reads a text aloud: nearly greedily, as its documentation says."""
MAX_TRANSCRIPTS = 64
"""Sounds whose recognised text is remembered, so that a later turn does not recognise them again."""


@dataclass(frozen=True)
class ReplyUsage:
    """Tokens of one call: the prompt by what it came from, and the answer."""

    text: int = 0
    image: int = 0
    audio: int = 0
    video: int = 0
    cached: int = 0
    """Prompt tokens that were in the cache already and cost nothing; counted above too."""
    output: int = 0

    @property
    def prompt(self) -> int:
        return self.text + self.image + self.audio + self.video


@dataclass(frozen=True)
class Reply:
    """A whole answer; the last event of a streamed one."""

    text: str
    finish_reason: FinishReason
    usage: ReplyUsage
    timing: Timing
    model: str
    warnings: tuple[str, ...] = ()
    """What the caller should know, for example that the oldest turns did not fit the context window."""
    speech: Speech | None = field(default=None, compare=False)
    """The answer as sound, when it was asked for."""

    def __str__(self) -> str:
        return self.text


ModelParts: TypeAlias = "Parts | OfficialParts"
EventT = TypeVar("EventT")
Event: TypeAlias = TextDelta | Reply
Messages: TypeAlias = str | Sequence[Message | Mapping[str, Any]]


class MiniCPMO:
    """A model that takes text, pictures, sound and video, answers in text and speaks.

        model = MiniCPMO.from_pretrained("nano")
        model.describe_image("photo.jpg")
        for event in model.chat("Tell me a joke.", stream=True): ...

    Safe to use from several threads: answers are computed a token at a time in turn, each on a cache of its own. The
    cache of a conversation is kept, so that its next turn costs only what is new.
    """

    def __init__(
        self,
        name_or_path: str | os.PathLike[str] = "nano",
        *,
        threads: int | None = None,
        voice: str | None = None,
        progress: bool = True,
        parts: Mapping[str, str | os.PathLike[str]] | None = None,
        prefix_cache: Place = None,
        prefix_cache_mb: float | None = None,
        **loading: Any,
    ) -> None:
        """Open a model, assembling nano first when it is not on this machine yet.

        name_or_path: "nano", the folder of a bundle (as `minicpm-o export` writes it), or an official checkpoint, its
        folder or its name on the hub, which torch runs. threads: None takes the cores given to this process; voice:
        the one that `speak` uses when it is not told; progress: show a bar on stderr while assembling; parts: parts of
        nano at paths of the user. prefix_cache: a folder, or True for the usual one, in which the beginnings of prompts
        are kept, so that a later process neither encodes the same picture nor reads the same system prompt again; the
        answers are the same. What is kept was made of the user's pictures, sounds and words and lies there until it is
        removed or makes room; see `runtime.prefix_store`. It has no effect on a checkpoint that torch runs.
        prefix_cache_mb: what it may take, by default 256. loading: device, dtype, attention, vision, hearing, speech
        and check_memory of `runtime.opening.LoadOptions`, for checkpoints and exported bundles. Raises CheckpointError,
        or OptionError for what this kind of model does not heed.
        """
        from .runtime.opening import LoadOptions, open_parts

        if unknown := sorted(set(loading) - LoadOptions.names()):
            known = ', '.join(sorted(LoadOptions.names()))
            raise TypeError(f"MiniCPMO has no argument {unknown[0]!r}; it knows {known}")
        options = LoadOptions(threads=threads, progress=progress, parts=parts, **loading)
        self._begin(open_parts(name_or_path, options), voice, prefix_cache, prefix_cache_mb)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] = "nano",
        *,
        threads: int | None = None,
        voice: str | None = None,
        progress: bool = True,
        parts: Mapping[str, str | os.PathLike[str]] | None = None,
        prefix_cache: Place = None,
        prefix_cache_mb: float | None = None,
        **loading: Any,
    ) -> MiniCPMO:
        """The same as the constructor, under the name that model libraries use."""
        return cls(name_or_path, threads=threads, voice=voice, progress=progress, parts=parts,
                   prefix_cache=prefix_cache, prefix_cache_mb=prefix_cache_mb, **loading)

    @classmethod
    def from_parts(cls, parts: ModelParts, *, voice: str | None = None,
                   prefix_cache: Place = None,
                   prefix_cache_mb: float | None = None) -> MiniCPMO:
        """A model on parts that are open already; several models may share them."""
        model = cls.__new__(cls)
        model._begin(parts, voice, prefix_cache, prefix_cache_mb)
        return model

    def _begin(self, parts: ModelParts, voice: str | None, prefix_cache: Place,
               prefix_cache_mb: float | None) -> None:
        self.parts: Any = parts
        self.voice = voice
        self.speculate = True
        """Whether several tokens of an answer are read in one run where some can be guessed (`runtime.speculate`): the
        same answer, sooner. May be set at any time; off saves the guesses' few megabytes. torch has no such runs."""
        self._lock = threading.RLock()
        self._pool = Pool()
        self._prefixes = open_store(prefix_cache, parts, prefix_cache_mb)
        self._running: set[threading.Event] = set()
        self._heard: OrderedDict[tuple[bytes, bool], str | None] = OrderedDict()

    @property
    def name(self) -> str:
        name: str = self.parts.config.name
        return name

    @property
    def fingerprint(self) -> str:
        """Changes when any file of the model does."""
        fingerprint: str = self.parts.fingerprint
        return fingerprint

    @property
    def plan(self) -> DevicePlan:
        """Threads, provider and memory, with reasons."""
        plan: DevicePlan = self.parts.plan
        return plan

    # --- the three methods of the article -----------------------------------------------------------------------

    def describe_image(self, path: Source, prompt: str | None = None) -> str:
        """One sentence about a picture, or the answer to prompt about it. Raises ImageError.

        The sentence is the best of several tried side by side (`CAPTION_BEAMS`), the answer to a prompt is not.
        """
        num_beams = 1 if prompt else CAPTION_BEAMS
        return self._ask([ImagePart(path), TextPart(prompt or CAPTION)], num_beams=num_beams)

    def answer_audio_question(self, path: Source, question: str) -> str:
        """The answer to a written question about a sound. Raises AudioError."""
        return self._ask([AudioPart(path), TextPart(question)])

    def multimodal_chat(self, history: Sequence[Mapping[str, Any]]) -> str:
        """The next answer of a conversation.

        history: items {"type": "text" | "image" | "audio" | "video" | "assistant" | "system", "content": ...} in
        order; items up to the next "assistant" form one turn of the user. Raises MessageError.
        """
        return self.chat(messages_from_history(history)).text

    def _ask(self, parts: list[Part], num_beams: int = 1) -> str:
        return self.chat([Message("user", tuple(parts))], num_beams=num_beams).text

    # --- chat -----------------------------------------------------------------------------------------------------

    @overload
    def chat(self, messages: Messages, *, stream: Literal[False] = False, max_tokens: int | None = ...,
             temperature: float | None = ..., top_k: int | None = ..., top_p: float | None = ...,
             min_p: float | None = ..., repetition_penalty: float | None = ..., seed: int | None = ...,
             num_beams: int | None = ..., stop: Sequence[str] = ..., options: PromptOptions | None = ...,
             generate_audio: bool = ..., ref_audio: Source | None = ...,
             transcript: bool = ..., allow_urls: bool = ..., cancel: threading.Event | None = ...,
             form: Mapping[str, Any] | str | None = ..., keep_prefix: bool = ...) -> Reply: ...

    @overload
    def chat(self, messages: Messages, *, stream: Literal[True], max_tokens: int | None = ...,
             temperature: float | None = ..., top_k: int | None = ..., top_p: float | None = ...,
             min_p: float | None = ..., repetition_penalty: float | None = ..., seed: int | None = ...,
             num_beams: int | None = ..., stop: Sequence[str] = ..., options: PromptOptions | None = ...,
             generate_audio: bool = ..., ref_audio: Source | None = ...,
             transcript: bool = ..., allow_urls: bool = ...,
             cancel: threading.Event | None = ...,
             form: Mapping[str, Any] | str | None = ..., keep_prefix: bool = ...) -> Iterator[Event]: ...

    def chat(
        self,
        messages: Messages,
        *,
        stream: bool = False,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        num_beams: int | None = None,
        stop: Sequence[str] = (),
        options: PromptOptions | None = None,
        generate_audio: bool = False,
        ref_audio: Source | None = None,
        transcript: bool = True,
        allow_urls: bool = False,
        cancel: threading.Event | None = None,
        form: Mapping[str, Any] | str | None = None,
        keep_prefix: bool = True,
    ) -> Reply | Iterator[Event]:
        """Answer the last turn of a conversation.

        messages: a question, OpenAI-style dictionaries, or Message values. stream: give TextDelta events as words
        come, then the Reply. max_tokens, temperature, top_k, top_p, min_p, repetition_penalty and num_beams: None
        leaves them to the model: nano is greedy, the official checkpoints sample as they were published
        (`runtime.generation_defaults`); a temperature of 0 is greedy. num_beams: try so many answers side by side and
        give the best at once instead of word by word; with a temperature they are drawn. transcript: the
        recogniser says which words stand beside each sound (nano); off leaves that to the model's own ears. options:
        how an official checkpoint's prompt is laid out. generate_audio: speak the answer too, `Reply.speech`;
        ref_audio: a sound of the voice that 4.5 speaks in (an array is at 16 kHz), by default the first of the
        conversation. allow_urls: fetch http(s) media. cancel: set it, or call `cancel()`, to end the answer early with
        finish reason "cancelled". form: a JSON schema, or a Lark grammar as text, that the answer is held to, token by
        token (extra `serve`). keep_prefix: off writes nothing of this prompt into the prefix cache, where there is one.
        The oldest turns are left out, with a warning in the Reply, when the conversation outgrows the context window.
        Raises InputError for what cannot be read, ContextFullError when the last turn alone is too long.
        """
        given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
                 "repetition_penalty": repetition_penalty}
        sampling, beams, limit = self._choices(given, seed, num_beams, max_tokens, stream)
        if generate_audio and not isinstance(self.parts, Parts):  # nano speaks any answer afterwards
            options = spoken(options)
        if ref_audio is not None and (not generate_audio or isinstance(self.parts, Parts)):
            raise OptionError("ref_audio has no effect: it is the voice in which an official checkpoint speaks its "
                              "answer; set generate_audio on one of those, or leave it out")
        call = _Call(tuple(as_messages(messages)), sampling, beams, limit, tuple(stop), transcript, allow_urls,
                     cancel or threading.Event(), options, generate_audio, ref_audio, self._constraint(form, beams),
                     keep_prefix)
        events = self._answer(call)
        return events if stream else cast(Reply, deque(events, maxlen=1).pop())

    def _choices(self, given: Mapping[str, Any], seed: int | None, num_beams: int | None, max_tokens: int | None,
                 stream: bool) -> tuple[SamplingConfig, BeamConfig, int]:
        """How the answer is chosen: what was given, else what the model does by itself."""
        if max_tokens is not None and max_tokens < 1:
            raise OptionError(f"max_tokens is {max_tokens}; it must be 1 or more")
        defaults: AnswerDefaults = self.parts.defaults(drawn=given["temperature"] != 0, streamed=stream)
        said = {name: value for name, value in given.items() if value is not None}
        sampling = replace(defaults.sampling, seed=seed, **said)
        count = defaults.num_beams if num_beams is None else num_beams
        if count > 1 and sampling.min_p:
            raise OptionError(f"num_beams is {count}, and beams know no min_p; leave it out, or set num_beams to 1")
        beams = BeamConfig(count, defaults.length_penalty, sampling if count > 1 else SamplingConfig())
        return sampling, beams, defaults.max_tokens if max_tokens is None else max_tokens

    def _constraint(self, form: Mapping[str, Any] | str | None, beams: BeamConfig) -> Constraint | None:
        """A form as what generation asks. Raises OptionError for one that cannot be used."""
        from .runtime.constrain import Grammar, json_grammar, lark_grammar

        if form is None:
            return None
        if beams.num_beams > 1:
            raise OptionError(f"num_beams is {beams.num_beams}, and beams know no form; set num_beams to 1")
        grammar = lark_grammar(form) if isinstance(form, str) else json_grammar(form)
        return Grammar(self.parts.tokenizer_json, self.parts.eos_ids[0], grammar)

    def chat_many(self, conversations: Sequence[Messages], *, max_tokens: int | None = None,
                  temperature: float | None = None, seed: int | None = None, num_beams: int | None = None,
                  options: PromptOptions | None = None) -> list[Reply]:
        """One answer each to several conversations, whatever media they have; undrawn ones are the same as of `chat`.

        torch answers them side by side, which a GPU does in about the time of one; onnxruntime one after the other.
        """
        given = {"temperature": temperature, "top_k": None, "top_p": None, "min_p": None, "repetition_penalty": None}
        sampling, beams, limit = self._choices(given, seed, num_beams, max_tokens, stream=False)
        answer = self.parts.answer_many
        if answer is None:
            return [self.chat(messages, max_tokens=limit, temperature=temperature, seed=seed, num_beams=num_beams,
                              options=options) for messages in conversations]
        calls = [_Call(tuple(as_messages(messages)), sampling, beams, limit, stop=(), transcript=False,
                       allow_urls=False, cancel=threading.Event(), options=options) for messages in conversations]
        fitted = [self._fit(_settled_call(call)) for call in calls]
        watch, loaded_s = Stopwatch(), self.parts.load_s
        with self._lock:
            ends = answer([inputs for inputs, _ in fitted], sampling, beams, limit)
        timing = watch.timing(self.parts.load_s - loaded_s)
        return [Reply(end.text.strip(), end.finish_reason, _reply_usage(inputs.usage, 0, end.num_tokens), timing,
                      self.name, warnings) for end, (inputs, warnings) in zip(ends, fitted, strict=True)]

    def forget(self) -> None:
        """Drop the kept caches and transcripts of earlier conversations; frees their memory."""
        with self._lock:
            self._pool = Pool(most=self._pool.most)
            self._heard.clear()

    def share(self, slots: int = 2) -> bool:
        """Let several threads be answered at once, so many in one run of the language model; whether this model can.

        Costs the memory of the language part once more. What was read before is forgotten.
        """
        if not isinstance(self.parts, Parts):
            return False
        with self._lock:
            self.parts.share(slots)
            self.forget()
        return slots > 1

    def keep_conversations(self, count: int) -> None:
        """Keep the caches of so many conversations for their next turns; a server has more of them than one user."""
        self._pool.most = max(1, count)

    def read_ahead(self, messages: Messages, cancel: threading.Event | None = None) -> int:
        """Read what a later prompt will begin with, so that its answer comes sooner; returns the tokens that were new.

        What lies in the cache already is not read again. Raises as `chat`.
        """
        call = _settled_call(_Call(tuple(as_messages(messages)), SamplingConfig(), BeamConfig(1), 1, (), True, False,
                                   cancel or threading.Event()))
        inputs, _ = self._fit(call)
        with self._read(inputs, call.cancel) as (_, _, num_cached):
            return len(inputs.ids) - num_cached

    def losses(self, messages: Messages, texts: Sequence[str], *, transcript: bool = True) -> list[TextLoss]:
        """How likely each text is as the answer to the last turn: for tests that rank given answers.

        The prompt is read once, whatever the number of texts. A text is taken as it stands: a space before it counts,
        what ends an answer does not. No repetition penalty enters, also where a model answers with one. transcript: as
        of `chat`. Warns when the oldest turns are left out for want of room.
        Raises OptionError for texts that have no loss, and as `chat`.
        """
        ids = text_tokens(texts, self.parts.tokenizer)
        call = _settled_call(_Call(tuple(as_messages(messages)), SamplingConfig(), BeamConfig(1), max(map(len, ids)),
                                   (), transcript, False, threading.Event()))
        inputs, notes = self._fit(call)
        for note in notes:
            warn(note, stacklevel=2)
        with self._read(inputs, call.cancel) as (conversation, step, _):
            assert step is not None, "nobody else has this event, so nobody cancelled"
            tokens = token_losses(self.parts.engine, conversation.cache, step, ids, self.parts.banned_ids)
            return sum_up(self._locked(tokens))

    def cancel(self) -> None:
        """End every answer that is being given; each ends with finish reason "cancelled"."""
        for event in list(self._running):
            event.set()

    def _answer(self, call: _Call) -> Iterator[Event]:
        """Fit, prefill, generate; the lock is held for one step at a time, never while the caller has the turn."""
        watch, loaded_s = Stopwatch(), self.parts.load_s
        self._running.add(call.cancel)
        try:
            call = _settled_call(call)
            inputs, warnings = self._fit(call)
            if call.generate_audio and not isinstance(self.parts, Parts):
                with self._lock:
                    self.parts.check_voice(_voice_of(call))
            with self._read(inputs, call.cancel, keep_prefix=call.keep_prefix) as (conversation, step, num_cached):
                end = yield from self._generate(conversation, step, inputs.ids.tolist(), call, watch)
                usage = _reply_usage(inputs.usage, num_cached, end.num_tokens)
                speech = self._say(call, inputs, end, conversation) if call.generate_audio else None
            timing = watch.timing(self.parts.load_s - loaded_s)
            yield Reply(end.text.strip(), end.finish_reason, usage, timing, self.name, warnings, speech)
        finally:
            self._running.discard(call.cancel)

    @contextmanager
    def _read(self, inputs: ModelInputs, cancel: threading.Event, *,
              keep_prefix: bool = False) -> Iterator[tuple[Conversation, Step | None, int]]:
        """A prompt in the cache of a conversation of its own: the step at its end, None when cancelled, and the tokens
        that were there already, or on disk. Whatever becomes of the answer, what was read is kept; keep_prefix: on disk
        too, once there is an answer."""
        keys = prompt_keys(inputs)
        with self._lock:
            conversation = self._pool.take(keys, self.parts.engine)
        try:
            with self._lock:
                if self._prefixes:
                    self._prefixes.fill(conversation, keys)
                step, num_cached = prefill(conversation, inputs, keys, self.parts.engine, self.parts.encode, cancel)
            yield conversation, step, num_cached
            if self._prefixes and keep_prefix:  # not before: the first word waits for no disk
                self._prefixes.keep(conversation, inputs)
        finally:  # not before an answer is spoken, from the cache
            with self._lock:
                self._pool.give_back(conversation)

    def _say(self, call: _Call, inputs: ModelInputs, end: GenerationEnd, conversation: Conversation) -> Speech | None:
        """The answer as sound; nothing where nothing was said."""
        if end.finish_reason == "cancelled" or not end.text.strip():
            return None
        with self._lock:
            if isinstance(self.parts, Parts):
                return self.speak(end.text)
            speech: Speech = self.parts.say(inputs, _said(end, self.parts.tokenizer), conversation.cache,
                                            seed=call.sampling.seed, ref_audio=_voice_of(call))
            return speech if len(speech.waveform) else None

    def _generate(self, conversation: Conversation, step: Step | None, prompt_ids: Sequence[int], call: _Call,
                  watch: Stopwatch) -> Generator[TextDelta, None, GenerationEnd]:
        """The answer's words."""
        end = GenerationEnd("cancelled", (), "")
        for event in self._locked(self._events(conversation, step, prompt_ids, call)):
            if isinstance(event, GenerationEnd):
                end = event
                continue
            if event.token_id is not None:
                watch.token()
            if event.text:
                watch.word()
            yield event
        return end

    def _events(self, conversation: Conversation, step: Step | None, prompt_ids: Sequence[int],
                call: _Call) -> Iterator[TextDelta | GenerationEnd]:
        from .runtime.generate import generate

        if step is None:
            return iter(())
        parts = self.parts
        more: dict[str, Any] = {
            "max_tokens": call.max_tokens, "stop": call.stop, "eos_ids": parts.eos_ids,
            "banned_ids": parts.banned_ids, "cancel": call.cancel,
        }
        if call.beams.num_beams > 1:
            return search(parts.engine, conversation.cache, step, parts.tokenizer, call.beams, **more)
        engine = self._speculating(step, prompt_ids, call) if self.speculate else parts.engine
        return generate(engine, conversation.cache, step, parts.tokenizer, sampling=call.sampling,
                        constraint=call.constraint, **more)

    def _speculating(self, step: Step, prompt_ids: Sequence[int], call: _Call) -> Any:
        """The engine, or what reads ahead for it where it can check what was read."""
        from .runtime.speculate import speculator

        parts = self.parts
        if getattr(parts.engine, "is_exact", False) is False:
            return parts.engine
        return speculator(parts.engine, parts.drafters(), prompt_ids, step, call.max_tokens)

    def _locked(self, events: Iterator[EventT]) -> Iterator[EventT]:
        """Each step under the lock, so that answers of several threads take turns; not where they may go together."""
        may_share = getattr(self.parts.engine, "is_shared", False)
        while True:
            with nullcontext() if may_share else self._lock:
                event = next(events, None)
            if event is None:
                return
            yield event

    # --- what goes into the prompt --------------------------------------------------------------------------------

    def _fit(self, call: _Call) -> tuple[ModelInputs, tuple[str, ...]]:
        """The prompt of a settled call, without the oldest turns if it outgrows the window; and warnings that say so.
        """
        context_tokens = self.parts.config.language.context_tokens
        room = context_tokens - min(call.max_tokens, ANSWER_RESERVE_TOKENS, context_tokens // 4)
        turns = _turns(call.messages)
        for num_dropped in range(len(turns)):
            inputs = self._prepare(_without_turns(turns, num_dropped, self.parts.config.version), call)
            if len(inputs.ids) <= room:
                return inputs, _dropped_warning(num_dropped, len(turns), context_tokens)
        raise ContextFullError(f"the last turn alone takes {len(inputs.ids)} tokens, but the context window of "
                               f"{context_tokens} has room for {room} beside an answer; send less text, fewer pictures "
                               f"or a shorter sound")

    def _prepare(self, messages: Sequence[Message], call: _Call) -> ModelInputs:
        transcripts = self._transcripts(messages, by_recogniser=call.transcript) if self.parts.has_recogniser else None
        inputs: ModelInputs = self.parts.prepare(messages, transcripts=transcripts, options=call.options)
        return inputs

    def _transcripts(self, messages: Sequence[Message], *, by_recogniser: bool) -> list[str | None]:
        """What is written beside every sound in order; a video with sound counts as one."""
        waveforms = (_sound_of(part) for message in messages for part in message.parts)
        return [self._written(waveform, by_recogniser) for waveform in waveforms if waveform is not None]

    def written_down(self, waveform: np.ndarray, language: str | None = None) -> str | None:
        """What stands beside a sound (N,) at 16 kHz in a prompt, remembered for the prompt itself; None where the model
        hears without anybody writing down. language: as of `transcribe`."""
        if not self.parts.has_recogniser:
            return None
        if language is not None:
            text: str = self.parts.recogniser.transcribe(waveform, language=language).text
            self._remember((content_digest(waveform), True), text)
        return self._written(waveform, by_recogniser=True)

    def _written(self, waveform: np.ndarray, by_recogniser: bool) -> str | None:
        """Words of a waveform (N,) at 16 kHz by the recogniser or by own ears, remembered by content."""
        key = content_digest(waveform), by_recogniser
        if key not in self._heard:
            self._remember(key, self._recognise(waveform) if by_recogniser else self._hear(waveform))
        return self._heard[key]

    def _remember(self, key: tuple[bytes, bool], text: str | None) -> None:
        self._heard[key] = text
        while len(self._heard) > MAX_TRANSCRIPTS:
            self._heard.popitem(last=False)

    def _recognise(self, waveform: np.ndarray) -> str:
        text: str = self.parts.recogniser.transcribe(waveform).text
        return text

    def _hear(self, waveform: np.ndarray) -> str | None:
        """None: the model has no ears for words."""
        return self.parts.ears.sentence(self.parts.hearing.encode(waveform)) if self.parts.ears else None

    # --- ears and voice alone -------------------------------------------------------------------------------------

    def transcribe(self, source: Source, language: str | None = None, *, own_ears: bool = False,
                   rate_hz: int | None = None, allow_urls: bool = False) -> Transcript:
        """What is said in a sound, as written text; "" where nobody speaks.

        language: "en", "zh" ...; None listens which it is. own_ears: nano writes without its recogniser: English,
        quicker, with more words wrong; official checkpoints have no others. rate_hz: the rate of a waveform given as
        an array. Raises AudioError, and OptionError where own ears know no words, or not those of the language.
        """
        waveform = load_audio(source, rate_hz=rate_hz, allow_urls=allow_urls)
        if self.parts.has_recogniser:
            if own_ears:
                return self._write_by_own_ears(waveform, language)
            transcript: Transcript = self.parts.recogniser.transcribe(waveform, language=language)
            return transcript
        return self._write_down(waveform, language)

    def _write_by_own_ears(self, waveform: np.ndarray, language: str | None) -> Transcript:
        """What nano's ears for words write, as it stands beside the sound in a prompt."""
        from .runtime.transcribe import Transcript

        if language not in (None, "en"):
            raise OptionError(f'language is {language!r}; own ears know English ("en") alone; leave own_ears '
                              "out for the recogniser's languages")
        text = self._written(waveform, by_recogniser=False)
        if text is None:
            raise OptionError(f"{self.name} came without ears for words; leave own_ears out")
        return Transcript(text, "en" if text else None)

    def _write_down(self, waveform: np.ndarray, language: str | None) -> Transcript:
        """What an official checkpoint hears, asked for in the words that it was trained to be asked in."""
        from .inputs.system_prompts import TRANSCRIBE_EN, TRANSCRIBE_ZH
        from .runtime.transcribe import Transcript

        if language not in (None, "en", "zh"):
            raise OptionError(f"language is {language!r}; {self.name} was taught to write down \"en\" and \"zh\"; use "
                              f"one of them, or None")
        words = TRANSCRIBE_ZH if language == "zh" else TRANSCRIBE_EN
        turn = Message("user", (TextPart(f"{words}\n"), AudioPart(waveform, AUDIO_RATE_HZ)))
        return Transcript(self.chat([turn], temperature=0.0).text, language or "")

    def speak(self, text: str, path: str | os.PathLike[str] | None = None, voice: Source | None = None,
              speed: float = 1.0) -> Speech:
        """Text to a waveform (N,) float32 at 24 kHz; also written to path (.wav, .flac, .ogg or .mp3) when given.

        voice: nano's is a name from `voices()`, an official checkpoint's a sound of the voice to speak in. speed: 1 is
        the voice's own, 2 twice as fast (nano). Raises OptionError.
        """
        chosen = self.voice if voice is None else voice
        if isinstance(self.parts, Parts):
            speech: Speech = self.parts.speaker.speak(text, voice=_voice_name(chosen), speed=speed)
        else:
            speech = self._read_aloud(text, chosen, speed)
        if path is not None:
            write_wav(path, speech.waveform, speech.rate_hz)
        return speech

    def _read_aloud(self, text: str, voice: Source | None, speed: float) -> Speech:
        """An official checkpoint reads a text in the voice of a clip."""
        from .inputs.system_prompts import read_aloud

        if speed != 1.0:
            raise OptionError(f"speed is {speed}; {self.name} speaks at its voice's own, 1")
        if voice is None:
            raise OptionError(f"{self.name} speaks in the voice of a clip; pass one as voice")
        messages = read_aloud(self.parts.processor.version, text, voice)
        reply = self.chat(messages, temperature=READ_ALOUD_TEMPERATURE, max_tokens=READ_ALOUD_TOKENS,
                          generate_audio=True, ref_audio=voice)
        if reply.speech is None:
            raise OptionError(f"{self.name} answered nothing to {text!r}; give it words to read")
        return reply.speech

    def speak_stream(self, text: str, voice: Source | None = None, speed: float = 1.0) -> Iterator[Speech]:
        """As speak, clause by clause: the first sound comes while the rest is still being made."""
        if not isinstance(self.parts, Parts):
            return iter((self.speak(text, voice=voice, speed=speed),))
        chosen = _voice_name(self.voice if voice is None else voice)
        pieces: Iterator[Speech] = self.parts.speaker.stream(text, voice=chosen, speed=speed)
        return pieces

    def quick_voice(self, text: str) -> str | None:
        """The voice that costs least for a text, where one is installed that costs much less; None: the usual one."""
        from .runtime.speech.chinese import is_chinese
        from .runtime.speech.voices import QUICK

        known = {voice.name for voice in self.voices()}
        return next((name for name in QUICK if name in known), None) if not is_chinese(text) else None

    @property
    def has_live(self) -> bool:
        """Whether `live_session` can be had."""
        from .runtime.live.opening import can_be_live

        return can_be_live(self)

    def live_session(self, told: str, config: LiveConfig | None = None) -> tuple[AnySession, list[SessionEvent]]:
        """A session that was told something, perhaps what to watch for, and the work of answering that.

        Its caller feeds it sound and pictures and runs its work, see `runtime.live.session`. Raises OptionError for
        models that have none."""
        from .runtime.live.opening import open_told
        from .runtime.live.session import LiveConfig

        return open_told(self, told, config or LiveConfig())

    def voices(self) -> list[Voice]:
        """Voices that `speak` knows on this machine by name; an official checkpoint has none, it clones them."""
        return list(self.parts.speaker.voices()) if isinstance(self.parts, Parts) else []


MiniCPM_o_Model = MiniCPMO
"""The class under the article's name."""


@dataclass(frozen=True)
class _Call:
    """What one call of chat asks for."""

    messages: tuple[Message, ...]
    sampling: SamplingConfig
    beams: BeamConfig
    max_tokens: int
    stop: tuple[str, ...]
    transcript: bool
    allow_urls: bool
    cancel: threading.Event
    options: PromptOptions | None = None
    generate_audio: bool = False
    ref_audio: Source | None = None
    constraint: Constraint | None = None
    keep_prefix: bool = False


def spoken(options: PromptOptions | None) -> PromptOptions | None:
    """Prompt options for an answer that will be spoken."""
    from .inputs.official_processor import PromptOptions

    return replace(options or PromptOptions(), use_tts_template=True)


def _voice_name(voice: Source | None) -> str | None:
    """Raises OptionError for a clip: nano has voices of its own."""
    if voice is None or isinstance(voice, str):
        return voice
    raise OptionError(f"voice is a {type(voice).__name__}; nano takes the name of one of its voices, see `voices()`")


def _voice_of(call: _Call) -> Source | None:
    """The sound whose voice the answer is spoken in: the one given, else the conversation's first."""
    from .runtime.official_parts import first_voice

    part = first_voice(call.messages)
    return call.ref_audio if call.ref_audio is not None or part is None else part.source


def as_messages(messages: Messages) -> list[Message]:
    """A question, dictionaries or Message values to a list of Message that ends with the user. Raises MessageError."""
    if isinstance(messages, str):
        return [Message("user", (TextPart(messages),))]
    found = messages_from_openai(messages)
    if not any(message.role == "user" for message in found):
        raise MessageError("there is no message of the user to answer; add one with role 'user'")
    return found


def _said(end: GenerationEnd, tokenizer: Any) -> Sequence[int]:
    """The tokens of an answer's text: without the stop string that ended it, and what beams said after that."""
    if end.finish_reason != "stop_string":
        return end.token_ids
    count = bisect_right(range(len(end.token_ids) + 1), len(end.text),
                         key=lambda length: len(tokenizer.decode(end.token_ids[:length])))
    return end.token_ids[:max(0, count - 1)]


def _settled_call(call: _Call) -> _Call:
    """The call with all that can be read once only read, so that it may be looked at again."""
    messages = tuple(_settled(message, call.allow_urls) for message in call.messages)
    clip = call.ref_audio
    if clip is not None:
        rate_hz = AUDIO_RATE_HZ if isinstance(clip, np.ndarray) else None
        clip = load_audio(clip, rate_hz=rate_hz, allow_urls=call.allow_urls)
    return replace(call, messages=messages, ref_audio=clip)


def _settled(message: Message, allow_urls: bool) -> Message:
    """Sources that can be read once only (addresses, open files) are read, and sounds decoded."""
    return replace(message, parts=tuple(_settled_part(part, allow_urls) for part in message.parts))


def _settled_part(part: Part, allow_urls: bool) -> Part:
    if isinstance(part, AudioPart):
        return AudioPart(load_audio(part.source, rate_hz=part.rate_hz, allow_urls=allow_urls), AUDIO_RATE_HZ)
    if isinstance(part, TextPart) or not _is_fleeting(part.source):
        return part
    kind: Literal["image", "video"] = "image" if isinstance(part, ImagePart) else "video"
    return replace(part, source=read_source(part.source, kind=kind, allow_urls=allow_urls))


def _is_fleeting(source: Source) -> bool:
    return hasattr(source, "read") or (isinstance(source, str) and source.lower().startswith(("http:", "https:")))


def _sound_of(part: Part) -> np.ndarray | None:
    """The waveform (N,) at 16 kHz of a settled part, if it has one."""
    if isinstance(part, AudioPart):
        return cast("np.ndarray", part.source)
    return load_video(part.source, max_frames=1).waveform if isinstance(part, VideoPart) else None


def _turns(messages: Sequence[Message]) -> list[list[Message]]:
    """Messages up to and with the answer to them form a turn; the last one is still to be answered."""
    turns: list[list[Message]] = []
    for message in messages:
        is_answered = bool(turns) and any(earlier.role == "assistant" for earlier in turns[-1])
        if not turns or (message.role == "user" and is_answered):
            turns.append([])
        turns[-1].append(message)
    return turns


def _without_turns(turns: Sequence[Sequence[Message]], num_dropped: int, version: str = "nano") -> list[Message]:
    """All messages but those of the oldest turns. System messages stay, and what 2.6 has instead: a first message of
    the user that another one follows (see `system_prompts.system_role`)."""
    is_system = version == "2.6" and [message.role for message in turns[0][:2]] == ["user", "user"]
    first = turns[0][0] if is_system else None
    return [message for place, turn in enumerate(turns) for message in turn
            if place >= num_dropped or message.role == "system" or message is first]


def _dropped_warning(num_dropped: int, num_turns: int, context_tokens: int) -> tuple[str, ...]:
    if not num_dropped:
        return ()
    return (f"the conversation is longer than the context window of {context_tokens} tokens; "
            f"its oldest {num_dropped} of {num_turns} turns were left out",)


def _reply_usage(usage: Usage, num_cached: int, num_output: int) -> ReplyUsage:
    return ReplyUsage(usage.text, usage.image, usage.audio, usage.video, num_cached, num_output)
