"""The API over parts that are small enough to look through: a language model that answers by what it was shown."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import tokenizers
from PIL import Image
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

import minicpm_o
from minicpm_o import api
from minicpm_o.api import MiniCPM_o_Model, MiniCPMO, Reply, as_messages
from minicpm_o.errors import AudioError, ContextFullError, ImageError, MessageError, OptionError
from minicpm_o.inputs.messages import AudioPart, ImagePart, Message, TextPart
from minicpm_o.inputs.processor import Processor
from minicpm_o.inputs.prompts import CAPTION, CAPTION_BEAMS
from minicpm_o.inputs.text import SPECIAL_STRINGS, Tokenizer
from minicpm_o.model.config import tiny
from minicpm_o.runtime.conversation import MIN_RUN_TOKENS
from minicpm_o.runtime.engine import Step
from minicpm_o.runtime.events import TextDelta
from minicpm_o.runtime.parts import Parts
from minicpm_o.runtime.speech.speaker import Speech
from minicpm_o.runtime.transcribe import Transcript

ANSWER_LETTERS = 12


def byte_tokenizer() -> Tokenizer:
    """One token per byte, and the special tokens."""
    vocabulary = {text: i for i, text in enumerate(SPECIAL_STRINGS.values())}
    for letter in sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[letter] = len(vocabulary)
    backend = Backend(BPE(vocabulary, merges=[]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIAL_STRINGS.values()))
    return Tokenizer(backend)


@dataclass
class RowCache:
    """A cache that keeps the embeddings themselves."""

    rows: list[np.ndarray] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.rows)

    def truncate(self, length: int) -> None:
        assert length <= len(self.rows)
        del self.rows[length:]

    def copy(self) -> RowCache:
        return RowCache(list(self.rows))

    def take_tail(self, other: RowCache, start: int) -> None:
        assert all(np.array_equal(*pair) for pair in zip(self.rows[:start], other.rows[:start], strict=True))
        self.rows = list(other.rows)


class LookingEngine:
    """Answers with letters made of everything before its turn, then ends: a wrong prefix gives a wrong answer."""

    def __init__(self, tokenizer: Tokenizer, width: int, context_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.width = width
        self.context_tokens = context_tokens
        self.num_read = 0
        self.num_vocab = tokenizer.vocab_size

    def new_cache(self, capacity: int = 512) -> RowCache:
        return RowCache()

    def embed(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        return np.sin(np.outer(np.asarray(ids, np.float64) + 1, np.arange(1, self.width + 1)))

    def prefill_chunks(self, embeds: np.ndarray, cache: RowCache) -> Iterator[Step]:
        for start in range(0, len(embeds), 16):
            yield self._read(embeds[start : start + 16], cache)

    def decode(self, token_id: int, cache: RowCache) -> Step:
        return self._read(self.embed([token_id]), cache)

    def _read(self, embeds: np.ndarray, cache: RowCache) -> Step:
        cache.rows.extend(embeds)
        self.num_read += len(embeds)
        logits = np.zeros(self.num_vocab, np.float32)
        logits[self._next(np.array(cache.rows))] = 10.0
        return Step(logits, embeds)

    def _next(self, rows: np.ndarray) -> int:
        """The letter at this place of the answer; the answer begins after the last im_start and "assistant\\n"."""
        special = self.tokenizer.special
        starts = np.flatnonzero(np.isclose(rows, self.embed([special.im_start])).all(axis=1))
        begin = min(len(rows), int(starts[-1]) + 1 + len(self.tokenizer.encode("assistant\n")))
        place = len(rows) - begin
        if place >= ANSWER_LETTERS:
            return special.im_end
        weights = np.arange(1, begin + 1)[:, None]
        seen = abs(float((rows[:begin] * weights).sum())) * 1000
        return self.tokenizer.encode(chr(ord("a") + int(seen / 7**place) % 26))[0]


class FakeParts(Parts):
    """Parts that count what is asked of them."""

    config = None  # a value here, not read from a bundle

    def __init__(self, context_tokens: int = 4096) -> None:
        self._tokenizer = byte_tokenizer()
        base = tiny()
        language = replace(base.language, vocab_size=self._tokenizer.vocab_size, context_tokens=context_tokens)
        self.config = replace(base, language=language)
        self.bundle = SimpleNamespace(fingerprint="1")
        self.plan = SimpleNamespace(threads=2)
        self.load_s = 0.0
        self.used: list[str] = []
        self.has_ears = True
        self._engine = LookingEngine(self._tokenizer, language.width, context_tokens)
        self._processor = Processor(self.config, self._tokenizer)

    @property
    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    @property
    def processor(self) -> Processor:
        return self._processor

    @property
    def engine(self) -> LookingEngine:
        return self._engine

    @property
    def vision(self) -> SimpleNamespace:
        self.used.append("vision")
        queries = self.config.resampler.num_tokens

        def encode(pixels: np.ndarray) -> np.ndarray:
            means = pixels.reshape(len(pixels), -1).mean(axis=1)
            return np.sin(means[:, None, None] * np.arange(1, queries * 32 + 1).reshape(queries, 32))

        return SimpleNamespace(encode=encode)

    @property
    def hearing(self) -> SimpleNamespace:
        self.used.append("hearing")
        return SimpleNamespace(tokens=lambda waveform: np.full((-(-len(waveform) // 16000) * 10, 32), waveform.std()),
                               encode=lambda waveform: waveform)

    @property
    def ears(self) -> SimpleNamespace | None:
        return SimpleNamespace(sentence=lambda encoded: "Helo.") if self.has_ears else None

    @property
    def recogniser(self) -> SimpleNamespace:
        self.used.append("recogniser")
        return SimpleNamespace(transcribe=lambda waveform, language=None: Transcript("hello there", language or "en"))

    @property
    def speaker(self) -> SimpleNamespace:
        self.used.append("speaker")
        return SimpleNamespace(speak=lambda text, voice=None, speed=1.0: Speech(np.zeros(2400, np.float32), f"{voice}"))


@pytest.fixture
def parts() -> FakeParts:
    return FakeParts()


@pytest.fixture
def fake(parts: FakeParts) -> MiniCPMO:
    return MiniCPMO.from_parts(parts)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def other_photo(tmp_path: Path) -> Path:
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "other.png")
    return tmp_path / "other.png"


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "sound.wav", 0.1 * np.sin(np.arange(24000) / 9), 16000)
    return tmp_path / "sound.wav"


def user(*parts: object) -> Message:
    return Message("user", tuple(TextPart(part) if isinstance(part, str) else part for part in parts))


def said(reply: Reply) -> Message:
    return Message("assistant", (TextPart(reply.text),))


# --- the article's methods -------------------------------------------------------------------------------------------


def test_article_name_is_the_same_class() -> None:
    assert MiniCPM_o_Model is MiniCPMO
    assert minicpm_o.MiniCPM_o_Model is MiniCPMO


def test_describe_image_asks_the_default_prompt(fake: MiniCPMO, photo: Path) -> None:
    expected = fake.chat([user(ImagePart(photo), CAPTION)]).text
    assert fake.describe_image(photo) == expected
    assert fake.describe_image(photo, "What colour is it?") != expected


def test_a_description_is_the_best_of_several_and_an_answer_is_not(
    fake: MiniCPMO, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def chat(*given, num_beams: int = 1, **more) -> Reply:
        asked.append(num_beams)
        return MiniCPMO.chat(fake, *given, num_beams=num_beams, **more)

    monkeypatch.setattr(fake, "chat", chat)
    fake.describe_image(photo)
    fake.describe_image(photo, "What colour is it?")
    assert asked == [CAPTION_BEAMS, 1]


def test_beams_give_the_text_at_once_and_the_next_turn_goes_on(fake: MiniCPMO, photo: Path) -> None:
    turn = user(ImagePart(photo), CAPTION)
    *words, reply = fake.chat([turn], stream=True, num_beams=3)
    assert [word.text for word in words if word.text] == [reply.text]
    assert reply == replace(fake.chat([turn]), timing=reply.timing, usage=reply.usage)
    assert reply.usage.output == ANSWER_LETTERS
    assert reply.timing.ttft_s > 0 and reply.timing.tokens_per_s > 0
    turns = [turn, Message("assistant", (TextPart(reply.text),)), user("Sure?")]
    after = fake.chat(turns)
    fake.forget()
    assert after.text == fake.chat(turns).text


def test_answer_audio_question_puts_the_sound_first(fake: MiniCPMO, sound: Path) -> None:
    assert fake.answer_audio_question(sound, "Who?") == fake.chat([user(AudioPart(sound), "Who?")]).text


def test_multimodal_chat_reads_a_flat_history(fake: MiniCPMO, photo: Path) -> None:
    history = [{"type": "image", "content": str(photo)}, {"type": "text", "content": "What is it?"},
               {"type": "assistant", "content": "A ramp."}, {"type": "text", "content": "Sure?"}]
    turns = [user(ImagePart(str(photo)), "What is it?"), Message("assistant", (TextPart("A ramp."),)), user("Sure?")]
    assert fake.multimodal_chat(history) == fake.chat(turns).text


def test_pictures_matter(fake: MiniCPMO, photo: Path, other_photo: Path) -> None:
    assert fake.describe_image(photo) != fake.describe_image(other_photo)


# --- streaming, usage, timing ----------------------------------------------------------------------------------------


def test_stream_gives_words_then_the_reply(fake: MiniCPMO) -> None:
    *words, reply = fake.chat("Hello", stream=True)
    assert isinstance(reply, Reply)
    assert all(isinstance(word, TextDelta) for word in words)
    assert "".join(word.text for word in words).strip() == reply.text
    assert len(reply.text) == ANSWER_LETTERS
    assert str(reply) == reply.text


def test_usage_counts_every_token_once(fake: MiniCPMO, parts: FakeParts, photo: Path, sound: Path) -> None:
    turn, parts.has_ears = user(ImagePart(photo), AudioPart(sound), "What?"), False
    usage = fake.chat([turn], transcript=False).usage
    assert usage.prompt == len(parts.processor.prepare([turn]).ids)
    assert usage.image >= parts.config.resampler.num_tokens
    assert usage.audio >= 20  # 1.5 s are two blocks of 10 tokens
    assert (usage.video, usage.output) == (0, ANSWER_LETTERS)


def test_timing_is_of_this_call(fake: MiniCPMO) -> None:
    timing = fake.chat("Hello").timing
    assert timing.load_s == 0.0
    assert 0 < timing.ttft_s <= timing.total_s
    assert timing.tokens_per_s > 0
    assert timing.peak_rss_mb is None or timing.peak_rss_mb > 10


def test_max_tokens_and_stop_end_the_answer(fake: MiniCPMO) -> None:
    whole = fake.chat("Hello").text
    assert fake.chat("Hello").finish_reason == "stop"
    short = fake.chat("Hello", max_tokens=3)
    assert (short.text, short.finish_reason) == (whole[:3], "length")
    stopped = fake.chat("Hello", stop=[whole[5:7]])
    assert (stopped.text, stopped.finish_reason) == (whole[: whole.index(whole[5:7])], "stop_string")


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"num_beams": 0},
                                   {"num_beams": 3, "min_p": 0.5}])
def test_wrong_options_are_told_at_the_call(fake: MiniCPMO, wrong: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        fake.chat("Hello", stream=True, **wrong)


# --- reuse of the cache ----------------------------------------------------------------------------------------------


def test_next_turn_costs_only_what_is_new(fake: MiniCPMO, parts: FakeParts, photo: Path) -> None:
    turn = user(ImagePart(photo), "What is it?")
    first = fake.chat([turn])
    looks, read = parts.used.count("vision"), parts.engine.num_read
    second = fake.chat([turn, said(first), user("Sure?")])
    assert parts.used.count("vision") == looks, "the picture was encoded again"
    assert second.usage.cached == first.usage.prompt
    assert parts.engine.num_read - read == second.usage.prompt - second.usage.cached + ANSWER_LETTERS
    assert second.text == MiniCPMO.from_parts(FakeParts()).chat([turn, said(first), user("Sure?")]).text


def test_another_picture_is_not_taken_for_the_first(fake: MiniCPMO, photo: Path, other_photo: Path) -> None:
    fake.describe_image(photo)
    fresh = MiniCPMO.from_parts(FakeParts())
    assert fake.describe_image(other_photo) == fresh.describe_image(other_photo)


def test_the_same_question_again_gives_the_same_answer(fake: MiniCPMO, sound: Path) -> None:
    first = fake.chat([user(AudioPart(sound), "Who?")])
    again = fake.chat([user(AudioPart(sound), "Who?")])
    assert again.text == first.text
    assert again.usage.cached == first.usage.prompt - MIN_RUN_TOKENS


def test_forget_drops_caches_and_transcripts(fake: MiniCPMO, parts: FakeParts, sound: Path) -> None:
    first = fake.chat([user(AudioPart(sound), "Who?")])
    fake.forget()
    again = fake.chat([user(AudioPart(sound), "Who?")])
    assert (again.text, again.usage.cached) == (first.text, 0)
    assert parts.used.count("recogniser") == 2


def test_interleaved_streams_do_not_mix(fake: MiniCPMO) -> None:
    alone = {word: MiniCPMO.from_parts(FakeParts()).chat(word).text for word in ("red", "blue")}
    streams = {word: fake.chat(word, stream=True) for word in alone}
    ends: dict[str, str] = {}
    while len(ends) < len(streams):
        for word, stream in streams.items():
            event = next(stream, None)
            if isinstance(event, Reply):
                ends[word] = event.text
    assert ends == alone


def test_answers_of_threads_do_not_mix(fake: MiniCPMO) -> None:
    words = [f"question {i}" for i in range(6)]
    alone = {word: MiniCPMO.from_parts(FakeParts()).chat(word).text for word in words}
    answers: dict[str, str] = {}
    threads = [threading.Thread(target=lambda word=word: answers.update({word: fake.chat(word).text}))
               for word in words]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == alone


def test_a_dropped_stream_leaves_a_sound_cache(fake: MiniCPMO) -> None:
    stream = fake.chat("Hello", stream=True)
    next(stream)
    stream.close()
    assert fake.chat("Hello").text == MiniCPMO.from_parts(FakeParts()).chat("Hello").text


# --- cancelling ------------------------------------------------------------------------------------------------------


def test_cancel_ends_the_answer_and_not_the_model(fake: MiniCPMO) -> None:
    whole = fake.chat("Hello").text
    stream = fake.chat("Hello", stream=True)
    next(stream)
    fake.cancel()
    *_, reply = stream
    assert reply.finish_reason == "cancelled"
    assert whole.startswith(reply.text)
    assert len(reply.text) < len(whole)
    assert fake.chat("Hello").text == whole


def test_cancel_event_of_the_caller_stops_the_reading_of_the_prompt(fake: MiniCPMO, parts: FakeParts) -> None:
    event = threading.Event()
    event.set()
    reply = fake.chat("word " * 100, cancel=event)
    assert (reply.text, reply.finish_reason, reply.usage.output) == ("", "cancelled", 0)
    assert reply.timing.ttft_s is None
    assert parts.engine.num_read <= 16, "only the chunk during which the event was seen"


# --- context window --------------------------------------------------------------------------------------------------


def test_oldest_turns_make_room_with_a_warning() -> None:
    model = MiniCPMO.from_parts(FakeParts(context_tokens=280))
    old = [user("old " * 30), Message("assistant", (TextPart("yes"),))]
    reply = model.chat([*old, *old, user("new")], max_tokens=20)
    assert "oldest 1 of 3 turns" in reply.warnings[0]
    assert reply.text == MiniCPMO.from_parts(FakeParts()).chat([*old, user("new")]).text
    assert model.chat([user("new")]).warnings == ()


def test_the_system_message_stays() -> None:
    model = MiniCPMO.from_parts(FakeParts(context_tokens=280))
    system = Message("system", (TextPart("Be brief."),))
    old = [user("old " * 30), Message("assistant", (TextPart("yes"),))] * 5
    reply = model.chat([system, *old, user("new")], max_tokens=20)
    assert reply.warnings
    kept = int(reply.warnings[0].split("oldest ")[1].split()[0])
    assert reply.text == MiniCPMO.from_parts(FakeParts()).chat([system, *old[2 * kept :], user("new")]).text


def test_turns_end_with_their_answer_and_system_messages_stay() -> None:
    rule, question, more, answer, last = (Message(role, (TextPart("x"),)) for role in
                                          ("system", "user", "user", "assistant", "user"))
    turns = api._turns([rule, question, more, answer, rule, last])
    assert [len(turn) for turn in turns] == [5, 1]
    assert api._without_turns(turns, 1) == [rule, rule, last]


def test_a_turn_that_never_fits_says_so() -> None:
    model = MiniCPMO.from_parts(FakeParts(context_tokens=128))
    with pytest.raises(ContextFullError, match="last turn alone takes .* tokens"):
        model.chat("word " * 100)


# --- ears ------------------------------------------------------------------------------------------------------------


def test_transcript_switch(fake: MiniCPMO, parts: FakeParts, sound: Path) -> None:
    with_text = fake.chat([user(AudioPart(sound), "Who?")])
    own_ears = fake.chat([user(AudioPart(sound), "Who?")], transcript=False)
    parts.has_ears = False
    unwritten = MiniCPMO.from_parts(parts).chat([user(AudioPart(sound), "Who?")], transcript=False)
    for reply, line in ((with_text, 'Heard: "hello there"\n'), (own_ears, 'Heard: "Helo."\n')):
        assert reply.usage.text - unwritten.usage.text == len(parts.tokenizer.encode(line))
    assert parts.used.count("recogniser") == 1


def test_a_sound_of_an_earlier_turn_is_not_recognised_again(fake: MiniCPMO, parts: FakeParts, sound: Path) -> None:
    turn = user(AudioPart(sound), "Who?")
    first = fake.chat([turn])
    fake.chat([turn, said(first), user("Sure?")])
    assert parts.used.count("recogniser") == 1


def test_looking_opens_neither_ears_nor_voice(fake: MiniCPMO, parts: FakeParts, photo: Path) -> None:
    fake.describe_image(photo)
    assert set(parts.used) == {"vision"}


def test_own_ears_transcribe_without_the_recogniser(fake: MiniCPMO, parts: FakeParts, sound: Path) -> None:
    heard = fake.transcribe(sound, own_ears=True)
    assert (heard.text, heard.language) == ("Helo.", "en")
    assert "recogniser" not in parts.used
    with pytest.raises(OptionError, match="own ears know English"):
        fake.transcribe(sound, "zh", own_ears=True)
    parts.has_ears = False
    with pytest.raises(OptionError, match="came without ears for words"):
        MiniCPMO.from_parts(parts).transcribe(sound, own_ears=True)


def test_transcribe_and_speak(fake: MiniCPMO, sound: Path, tmp_path: Path) -> None:
    assert fake.transcribe(sound).text == "hello there"
    speech = fake.speak("Hello.", tmp_path / "out.wav", voice="anna")
    samples, rate_hz = soundfile.read(tmp_path / "out.wav")
    assert (len(samples), rate_hz, speech.phonemes) == (2400, 24000, "anna")


def test_arrays_and_open_files_are_media_too(fake: MiniCPMO, photo: Path, sound: Path) -> None:
    waveform, rate_hz = soundfile.read(sound)
    from_array = fake.chat([user(AudioPart(waveform.astype(np.float32), rate_hz), "Who?")]).text
    assert from_array == fake.answer_audio_question(sound, "Who?")
    assert fake.describe_image(io.BytesIO(photo.read_bytes())) == fake.describe_image(photo)
    assert fake.describe_image(Image.open(photo)) == fake.describe_image(photo)


# --- what cannot be read ---------------------------------------------------------------------------------------------


def test_bad_input_names_itself(fake: MiniCPMO, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"nothing\.png"):
        fake.describe_image(tmp_path / "nothing.png")
    with pytest.raises(AudioError, match=r"nothing\.wav"):
        fake.answer_audio_question(tmp_path / "nothing.wav", "Who?")
    with pytest.raises(MessageError):
        fake.multimodal_chat([{"type": "smell", "content": "rose"}])


def test_addresses_are_fetched_only_when_asked(fake: MiniCPMO) -> None:
    with pytest.raises(ImageError, match="allow"):
        fake.describe_image("http://localhost:9/photo.jpg")


def test_there_must_be_a_question() -> None:
    with pytest.raises(MessageError, match="user"):
        as_messages([Message("system", (TextPart("Be brief."),))])
    with pytest.raises(MessageError):
        as_messages([])


def test_fingerprint_is_the_bundles(fake: MiniCPMO, parts: FakeParts) -> None:
    assert fake.fingerprint == parts.bundle.fingerprint


# --- the package -----------------------------------------------------------------------------------------------------


def test_public_names_are_sorted_and_there() -> None:
    assert minicpm_o.__all__ == sorted(minicpm_o.__all__)
    assert all(hasattr(minicpm_o, name) for name in minicpm_o.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        minicpm_o.nothing  # noqa: B018  looking it up is the test


# --- the assembled model ---------------------------------------------------------------------------------------------


def test_nano_sees_hears_and_speaks(model: MiniCPMO, samples: Path, tmp_path: Path) -> None:
    assert model.describe_image(samples / "photo.jpg")
    reply = model.chat([user(AudioPart(samples / "speech.wav"), "What was said?")])
    assert reply.text
    assert reply.usage.audio > 0
    model.speak("Good morning.", tmp_path / "out.wav")
    assert "morning" in model.transcribe(tmp_path / "out.wav").text.lower()


def test_nano_cached_answer_is_the_uncached_one(model: MiniCPMO, samples: Path) -> None:
    turn = user(ImagePart(samples / "photo.jpg"), CAPTION)
    first = model.chat([turn])
    turns = [turn, said(first), user("What colours do you see?")]
    cached = model.chat(turns)
    model.forget()
    fresh = model.chat(turns)
    assert cached.usage.cached > 0
    assert cached.text == fresh.text
