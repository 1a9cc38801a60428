"""Made-up tokenizers of the official layout: every special token in its place, the words in between invented.

A letter is a token, as are pairs of small letters and the words that begin with a space and such a pair, so that text
takes fewer tokens than letters; what is left of the vocabulary are invented words that no text reaches, there to be
decoded. Knows no model.

Source: the added tokens of MiniCPM-o 2.6 and 4.5 in their order, and of the text tokenizer of ChatTTS.
"""

from __future__ import annotations

import json
from itertools import count, product
from pathlib import Path
from typing import Any

UNKNOWN = "<unk>"
QWEN = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> "
    "<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|> "
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>"
).split()
_PLACES = (
    "<image> </image> <ref> </ref> <box> </box> <quad> </quad> <point> </point> <slice> </slice> <image_id> "
    "</image_id> <unit> </unit>"
).split()
_SOUNDS = (
    "<|audio_start|> <|audio|> <|audio_end|> <|spk_bos|> <|spk|> <|spk_eos|> <|tts_bos|> <|tts_eos|> <|listen|> "
    "<|speak|> <|interrupt|> <|vad_start|> <|vad_end|>"
).split()
ADDED_26 = (*QWEN, *_PLACES, "<asr>", "</asr>", "<query>", "</query>", *_SOUNDS, "<reserved_43>", "<reserved_53>")
ADDED_45 = (
    *QWEN, "<tool_response>", "</tool_response>", "<think>", "</think>", *_PLACES,
    *(mark for name in ("answer", "focus", "line", "perception", "source_image", "image_save_to")
      for mark in (f"<{name}>", f"</{name}>")),
    *_SOUNDS, *(f"<|{name}_{end}|>" for name in ("emotion", "speed", "pitch") for end in ("start", "end")),
    *"<|turn_bos|> <|turn_eos|> <|chunk_eos|> <|chunk_bos|> <|chunk_tts_bos|> <|chunk_tts_eos|> <|tts_pad|>".split(),
    *(f"<|timbre_{number}|>" for number in range(7, 32)),
)
PLAIN = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
"""Added tokens that stay in text that is shown."""
CHATTTS = (
    "[Sasr] [Pasr] [Easr] [Stts] [Ptts] [Etts] [Sbreak] [Pbreak] [Ebreak] [uv_break] [v_break] [lbreak] [llbreak] "
    "[undefine] [laugh] [spk_emb] [empty_spk] [music] [pure]"
).split() + [f"[{name}_{level}]" for name, levels in (("break", 8), ("laugh", 3), ("oral", 10), ("speed", 10))
             for level in range(levels)]
"""Last tokens of ChatTTS's text tokenizer."""
SMALL = "abcdefghijklmnopqrstuvwxyz"
MIN_WORDS = 512
"""Fewest tokens before the special ones: the letters of bytes, and room for `<unk>`."""

_QWEN_WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
               r"|\s+(?!\S)|\s+")


def added_tokens(version: str) -> tuple[str, ...]:
    """The special tokens that follow the words, in order."""
    return ADDED_45 if version == "4.5" else ADDED_26


def unknown_place(words: int) -> int:
    """Where `<unk>` stands among the words: 128244 of 151643, as in the released vocabularies, else in proportion."""
    return words * 128_244 // 151_643


def write_tokenizer(folder: Path, version: str, vocab_size: int) -> None:
    """tokenizer.json and tokenizer_config.json of `vocab_size` tokens, the special ones of that version last."""
    added = added_tokens(version)
    words, merges = _words(vocab_size - len(added))
    special = [(words.index(UNKNOWN), UNKNOWN), *enumerate(added, start=len(words))]
    entries = [{"id": place, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": text not in PLAIN} for place, text in special]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": _QWEN_WORDS}, "behavior": "Isolated", "invert": False}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
             "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
             "vocab": {word: place for place, word in enumerate(words)}, "merges": merges}
    _write(folder / "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": entries, "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]}, "post_processor": None,
        "decoder": level, "model": model})
    _write(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>", "unk_token": UNKNOWN, "clean_up_tokenization_spaces": False,
        "model_max_length": 131_072 if version == "4.5" else 32_768,
        "bad_token_ids": [place for place, word in enumerate(words) if "\x7f" < word <= "ÿ"]})  # parts of characters


def _words(size: int) -> tuple[list[str], list[list[str]]]:
    """So many words (the letters of byte-level BPE, pairs, invented ones) and the merges that reach the pairs."""
    from tokenizers.pre_tokenizers import ByteLevel

    space = "Ġ"  # byte-level BPE's letter for a space
    letters = sorted(ByteLevel.alphabet())
    pairs = [[first, second] for first, second in product(SMALL, SMALL)]
    merges = (pairs + [[space, first + second] for first, second in pairs])[: max(size - len(letters) - 1, 0)]
    words = letters + ["".join(merge) for merge in merges]
    invented = (f"{space}{word}" for number in count() if (word := _invented(number)))
    while len(words) < size - 1:
        words.append(next(invented))
    words.insert(unknown_place(size), UNKNOWN)
    return words, merges


def _invented(number: int) -> str:
    """A different word of syllables for every number, at least three of them: shorter ones are reached by merges."""
    syllables = [consonant + vowel for consonant, vowel in product("bdfgklmnprstvz", "aeiou")]
    word = ""
    for _ in range(3):
        number, place = divmod(number, len(syllables))
        word += syllables[place]
    return word + (str(number) if number else "")


def write_chattts_tokenizer(folder: Path, size: int) -> None:
    """BERT's kind of tokenizer with ChatTTS's tokens last, for the voice of 2.6."""
    head = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [*SMALL, *"0123456789", *".,!?;:'\"-()，。！？"]
    words = [*head, *letters, *(f"##{letter}" for letter in letters)]
    words += [f"[unused{number}]" for number in range(size - len(words) - len(CHATTTS))] + CHATTTS
    entries = [{"id": words.index(text), "content": text, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True} for text in [*head, *CHATTTS]]
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": entries,
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": {word: place for place, word in enumerate(words)}}})
    _write(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]",
        "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]", "model_max_length": 512})


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False, indent=1), encoding="utf-8")
