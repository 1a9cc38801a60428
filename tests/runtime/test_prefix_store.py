"""Beginnings of prompts on disk: what is kept, what is found again, and what never is."""

from __future__ import annotations

import multiprocessing
import os
import stat
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from minicpm_o.checkpoints import storage
from minicpm_o.errors import OptionError
from minicpm_o.inputs.processor import ImageMedia, ModelInputs, Usage
from minicpm_o.model.config import LanguageConfig, tiny
from minicpm_o.model.fusion.spans import Span
from minicpm_o.runtime import prefix_store
from minicpm_o.runtime.cache import KVCache
from minicpm_o.runtime.conversation import MIN_RUN_TOKENS, Conversation, prefill, prompt_keys
from minicpm_o.runtime.device import DevicePlan
from minicpm_o.runtime.engine import Engine, Step
from minicpm_o.runtime.prefix_store import (
    MIN_SYSTEM_TOKENS,
    PrefixStore,
    clear,
    default_folder,
    kept,
    model_digest,
    open_store,
    stops,
    tidy,
)
from tests.runtime.test_speculate import tiny_engine

CONFIG = LanguageConfig(vocab_size=96, width=4, layers=2, heads=1, kv_heads=1, head_width=2, context_tokens=256)
PLAN = DevicePlan(threads=1, provider="CPUExecutionProvider", memory_mb={}, reasons=())
IM_START, IM_END, SYSTEM, PLACEHOLDER = 1, 2, 5, 9
TOKENIZER = SimpleNamespace(special=SimpleNamespace(im_start=IM_START, im_end=IM_END), encode=lambda text: [SYSTEM])


def parts(fingerprint: str = "nano", plan: DevicePlan = PLAN) -> SimpleNamespace:
    return SimpleNamespace(fingerprint=fingerprint, plan=plan, tokenizer=TOKENIZER)


def store(folder: Path, fingerprint: str = "nano", limit_mb: float = 1.0) -> PrefixStore:
    return PrefixStore(folder, parts(fingerprint), limit_mb)


def image(value: float, *spans: tuple[int, int]) -> ImageMedia:
    return ImageMedia(np.full((len(spans), 3, 2, 2), value, np.float32), tuple(Span(*span) for span in spans))


def prompt(*media: ImageMedia, num_tokens: int = 20, ends: Sequence[int] = (14,), first: int = 10) -> ModelInputs:
    """A turn of the user, with the ends of messages at those places; words of another prompt begin with `first`."""
    ids = first + np.arange(num_tokens)
    ids[0], ids[list(ends)] = IM_START, IM_END
    for item in media:
        for span in item.spans:
            ids[span.start : span.stop] = PLACEHOLDER
    return ModelInputs(ids, media, Usage(text=num_tokens))


PHOTO = prompt(image(0.5, (2, 8)))
STOP = 8


def read(inputs: ModelInputs, seed: int = 0) -> Conversation:
    """A conversation after its prompt was read, with numbers that stand for what the engine would have written."""
    cache, rng = KVCache.empty(CONFIG, 128), np.random.default_rng(seed)
    for array in cache.arrays:
        array[...] = rng.normal(size=array.shape)
    cache.length = len(inputs.ids)
    return Conversation(cache, prompt_keys(inputs))


def found(where: PrefixStore, inputs: ModelInputs, conversation: Conversation | None = None) -> Conversation:
    """A conversation after the store has put into it what it has of the prompt."""
    conversation = conversation or Conversation(KVCache.empty(CONFIG, 4))
    where.fill(conversation, prompt_keys(inputs))
    return conversation


def entries(folder: Path) -> list[str]:
    return [entry.path.name for entry in kept(folder)]


@pytest.fixture
def silent() -> Iterator[None]:
    """A warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_what_was_kept_comes_back_bit_by_bit(tmp_path: Path, silent: None) -> None:
    before = read(PHOTO)
    store(tmp_path).keep(before, PHOTO)
    after = found(store(tmp_path), PHOTO)
    assert after.cache.length == STOP and after.keys.tolist() == prompt_keys(PHOTO)[:STOP].tolist()
    for one, other in zip(before.cache.arrays, after.cache.arrays, strict=True):
        assert np.array_equal(one[:, :, :STOP], other[:, :, :STOP])


def test_another_question_about_the_same_picture_finds_it(tmp_path: Path) -> None:
    store(tmp_path).keep(read(PHOTO), PHOTO)
    other = prompt(image(0.5, (2, 8)), num_tokens=30, ends=(25,))
    other.ids[10:] = 70
    assert found(store(tmp_path), other).cache.length == STOP


@pytest.mark.parametrize("other", [prompt(image(0.25, (2, 8))), prompt(image(0.5, (2, 8)), first=11),
                                   prompt(image(0.5, (3, 9))), prompt()], ids=["picture", "words", "place", "none"])
def test_another_beginning_is_not_taken_for_it(tmp_path: Path, other: ModelInputs) -> None:
    store(tmp_path).keep(read(PHOTO), PHOTO)
    assert found(store(tmp_path), other).cache.length == 0


def test_another_model_or_machine_never_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(tmp_path).keep(read(PHOTO), PHOTO)
    assert found(store(tmp_path, "other"), PHOTO).cache.length == 0
    names = {model_digest(parts()), model_digest(parts("other")), model_digest(parts(plan=replace(PLAN, threads=2)))}
    monkeypatch.setattr(prefix_store, "__version__", "0.0.0")
    names.add(model_digest(parts()))
    monkeypatch.setattr(prefix_store, "processor_kind", lambda: "another processor")
    assert len(names | {model_digest(parts())}) == 5


def test_system_prompts_of_some_length_and_the_first_media_are_kept() -> None:
    end = MIN_SYSTEM_TOKENS - 1
    turns = prompt(image(1, (80, 90)), image(2, (120, 130)), num_tokens=150, ends=(end, 100, 110, 140))
    turns.ids[1] = SYSTEM
    assert stops(turns, TOKENIZER) == [MIN_SYSTEM_TOKENS, 90], "the second picture came with a later message"
    short = prompt(num_tokens=90, ends=(end - 1, 80))
    short.ids[1] = SYSTEM
    assert stops(short, TOKENIZER) == []
    assert stops(prompt(num_tokens=90, ends=(70, 80)), TOKENIZER) == [], "no system prompt but a long question"
    pictures = prompt(image(1, (3, 5), (9, 11)), image(2, (13, 17)), num_tokens=40, ends=(30,))
    assert stops(pictures, TOKENIZER) == [17], "all pictures of a message are one beginning"
    voice = prompt(image(1, (10, 20)), num_tokens=90, ends=(70, 80))
    voice.ids[1] = SYSTEM
    assert stops(voice, TOKENIZER) == [71], "a medium inside the system prompt is kept with it"


def test_the_longest_beginning_is_found(tmp_path: Path) -> None:
    turns = prompt(image(1, (80, 90)), num_tokens=120, ends=(69, 100))
    turns.ids[1] = SYSTEM
    store(tmp_path).keep(read(turns), turns)
    assert len(entries(tmp_path)) == 2
    assert found(store(tmp_path), turns).cache.length == 90
    other = prompt(image(2, (80, 90)), num_tokens=120, ends=(69, 100))
    other.ids[1] = SYSTEM
    assert found(store(tmp_path), other).cache.length == 70, "the system prompt alone"


def test_what_memory_holds_is_not_read_from_disk(tmp_path: Path) -> None:
    store(tmp_path).keep(read(PHOTO, seed=1), PHOTO)
    held = read(PHOTO, seed=2)
    numbers = held.cache.arrays[0].copy()
    found(store(tmp_path), PHOTO, held)
    assert held.cache.length == len(PHOTO.ids) and np.array_equal(held.cache.arrays[0], numbers)


def test_a_prompt_that_was_broken_off_is_kept_as_far_as_it_was_read(tmp_path: Path) -> None:
    broken = read(PHOTO)
    broken.keys = broken.keys[: STOP - 1]
    store(tmp_path).keep(broken, PHOTO)
    assert entries(tmp_path) == []


def test_caches_of_another_kind_are_left_alone(tmp_path: Path, silent: None) -> None:
    conversation = Conversation(SimpleNamespace(length=20), prompt_keys(PHOTO))  # type: ignore[arg-type]
    store(tmp_path / "none").keep(conversation, PHOTO)
    store(tmp_path / "none").fill(conversation, prompt_keys(PHOTO))
    assert not (tmp_path / "none").exists()


def test_options_choose_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(storage.HOME_VARIABLE, str(tmp_path))
    assert open_store(None, parts()) is None and open_store(False, parts()) is None
    usual, own = open_store(True, parts()), open_store(tmp_path / "own", parts(), 7)
    assert usual is not None and usual.folder == default_folder() == tmp_path / "prefixes"
    assert own is not None and (own.folder, own.limit_mb) == (tmp_path / "own", 7)
    with pytest.raises(OptionError, match="above 0"):
        open_store(True, parts(), -1)
    with pytest.raises(OptionError, match="no prefixes are kept"):
        open_store(None, parts(), 7)


# --- an engine -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return tiny_engine(tmp_path_factory.mktemp("tiny"), tiny().language, bits=8)


def step_of(engine: Engine, where: PrefixStore, inputs: ModelInputs, looked: list[int]) -> tuple[Step, int]:
    """A prompt read as by a new process."""
    def encode(media: Sequence[ImageMedia]) -> list[np.ndarray]:
        looked.append(len(media))
        return [np.random.default_rng(7).normal(size=(6, engine.config.width)) for _ in media]

    conversation, keys = Conversation(engine.new_cache(16)), prompt_keys(inputs)
    where.fill(conversation, keys)
    step, num_cached = prefill(conversation, inputs, keys, engine, encode, threading.Event())
    where.keep(conversation, inputs)
    assert step is not None
    return step, num_cached


@pytest.mark.parametrize("num_tokens", [STOP + MIN_RUN_TOKENS, 40, STOP + 129, 150])
def test_logits_are_those_without_the_store(engine: Engine, tmp_path: Path, num_tokens: int) -> None:
    inputs, looked = prompt(image(0.5, (2, 8)), num_tokens=num_tokens, ends=(), first=10), []
    inputs.ids[8:] %= 90
    first, num_first = step_of(engine, store(tmp_path), inputs, looked)
    again, num_again = step_of(engine, store(tmp_path), inputs, looked)
    assert (num_first, num_again, looked) == (0, STOP, [1])
    assert np.array_equal(first.logits, again.logits)
    length = min(len(first.hidden), len(again.hidden))
    assert np.array_equal(first.hidden[-length:], again.hidden[-length:])


# --- files that cannot be used ---------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[-3] ^= 1
    path.write_bytes(whole)


def replace_by_noise(path: Path) -> None:
    path.write_bytes(b"no tensors")


def replace_by_another(path: Path) -> None:
    other = prompt(image(0.75, (2, 8)))
    store(path.parent.parent).keep(read(other), other)
    (another,) = (entry.path for entry in kept(path.parent.parent) if entry.path != path)
    another.replace(path)


@pytest.mark.parametrize("harm", [cut, flip, replace_by_noise, replace_by_another])
def test_a_damaged_entry_is_removed_and_never_used(tmp_path: Path, harm) -> None:
    store(tmp_path).keep(read(PHOTO), PHOTO)
    harm(kept(tmp_path)[0].path)
    with pytest.warns(UserWarning, match="damaged and is removed"):
        assert found(store(tmp_path), PHOTO).cache.length == 0
    assert entries(tmp_path) == []
    store(tmp_path).keep(read(PHOTO), PHOTO)
    assert found(store(tmp_path), PHOTO).cache.length == STOP


def test_an_entry_of_other_shapes_is_refused(tmp_path: Path) -> None:
    store(tmp_path).keep(read(PHOTO), PHOTO)
    wide = Conversation(KVCache.empty(replace(CONFIG, head_width=4), 8))
    with pytest.warns(UserWarning, match="other tensors"):
        found(store(tmp_path), PHOTO, wide)
    assert wide.cache.length == 0


def test_files_of_other_names_are_nobodys_business(tmp_path: Path, silent: None) -> None:
    store(tmp_path).keep(read(PHOTO), PHOTO)
    model = kept(tmp_path)[0].path.parent
    strangers = [tmp_path / "notes.txt", model / "notes.safetensors", tmp_path / "mine" / kept(tmp_path)[0].path.name]
    for stranger in strangers:
        stranger.parent.mkdir(exist_ok=True)
        stranger.write_bytes(bytes(2_000_000))
    tidy(tmp_path, 1.0)
    assert found(store(tmp_path), PHOTO).cache.length == STOP
    assert len(clear(tmp_path)) == 1 and entries(tmp_path) == []
    assert all(stranger.is_file() for stranger in strangers)


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_the_limit_is_kept_and_the_longest_unused_goes_first(tmp_path: Path) -> None:
    prompts = [prompt(image(value, (2, 8))) for value in (1, 2, 3)]
    for inputs in prompts[:2]:
        store(tmp_path).keep(read(inputs), inputs)
        for entry in kept(tmp_path):
            os.utime(entry.path, (entry.used_ns / 1e9 - 100, entry.used_ns / 1e9 - 100))
    size_mb = kept(tmp_path)[0].bytes / 1e6
    assert found(store(tmp_path), prompts[0]).cache.length == STOP  # the first is used, so the second has waited longer
    store(tmp_path, limit_mb=2.5 * size_mb).keep(read(prompts[2]), prompts[2])
    assert len(entries(tmp_path)) == 2
    assert [found(store(tmp_path), inputs).cache.length for inputs in prompts] == [STOP, 0, STOP]


def test_models_share_the_limit(tmp_path: Path) -> None:
    store(tmp_path, "old").keep(read(PHOTO), PHOTO)
    os.utime(kept(tmp_path)[0].path, (1e9, 1e9))
    store(tmp_path, "new", limit_mb=1.5 * kept(tmp_path)[0].bytes / 1e6).keep(read(PHOTO), PHOTO)
    assert found(store(tmp_path, "old"), PHOTO).cache.length == 0
    assert found(store(tmp_path, "new"), PHOTO).cache.length == STOP


def test_what_is_above_the_limit_alone_is_told_once(tmp_path: Path) -> None:
    small = store(tmp_path, limit_mb=1e-4)
    with pytest.warns(UserWarning, match="raise it") as told:
        small.keep(read(PHOTO), PHOTO)
        small.keep(read(PHOTO), PHOTO)
    assert len(told) == 1 and entries(tmp_path) == []


def test_a_disk_that_is_nearly_full_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda folder: SimpleNamespace(free=500_000_000))
    full = store(tmp_path / "new")
    with pytest.warns(UserWarning, match="no room to write") as told:
        full.keep(read(PHOTO), PHOTO)
        full.keep(read(PHOTO), PHOTO)
    assert len(told) == 1 and not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    blocked = store(tmp_path / "file" / "prefixes")
    with pytest.warns(UserWarning, match="prefixes are not kept, which changes no answer") as told:
        blocked.keep(read(PHOTO), PHOTO)
        blocked.keep(read(PHOTO), PHOTO)
    assert len(told) == 1
    assert found(blocked, PHOTO).cache.length == 0


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
def test_only_the_user_may_read(tmp_path: Path) -> None:
    store(tmp_path / "prefixes").keep(read(PHOTO), PHOTO)
    path = kept(tmp_path / "prefixes")[0].path
    modes = [stat.S_IMODE(place.stat().st_mode) for place in (path, path.parent, path.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]


def test_what_a_killed_process_half_wrote_goes(tmp_path: Path) -> None:
    store(tmp_path).keep(read(PHOTO), PHOTO)
    model = kept(tmp_path)[0].path.parent
    old, new = (model / f"{storage.WORK_PREFIX}{name}.safetensors" for name in ("old", "new"))
    for path in (old, new):
        path.touch()
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    tidy(tmp_path, 1.0)
    assert not old.exists() and new.exists(), "the new one may still be written"
    clear(tmp_path)
    assert not tmp_path.exists()


def write_many(folder: Path, values: Sequence[float], limit_mb: float) -> None:
    """What one of several processes does."""
    for value in values:
        inputs = prompt(image(value, (2, 8)))
        store(folder, limit_mb=limit_mb).keep(read(inputs, seed=int(value)), inputs)


def test_two_processes_write_at_once(tmp_path: Path, silent: None) -> None:
    store(tmp_path).keep(read(PHOTO), PHOTO)
    limit_mb = 5.5 * kept(tmp_path)[0].bytes / 1e6
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(tmp_path, values, limit_mb))
               for values in (range(1, 20), range(10, 30))]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        found(store(tmp_path), prompt(image(15, (2, 8))))
        time.sleep(0.01)
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert 1 <= len(entries(tmp_path)) <= 5
    for value in range(1, 30):
        after = found(store(tmp_path), prompt(image(value, (2, 8))))
        before = read(prompt(image(value, (2, 8))), seed=value)
        assert after.cache.length in (0, STOP)
        assert all(np.array_equal(one[:, :, : after.cache.length], other[:, :, : after.cache.length])
                   for one, other in zip(after.cache.arrays, before.cache.arrays, strict=True))
