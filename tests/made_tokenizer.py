"""A byte-level BPE of some hundred tokens in the files of an official checkpoint, made for tests."""

from __future__ import annotations

import json
from pathlib import Path

from minicpm_o.inputs.official_tokenizer import OFFICIAL_STRINGS, OfficialTokenizer

MERGES = ["h i", "Ċ Ċ", "e r", "< u", "<u n", "<un k", "<unk >", "Ã ©"]
"""Words, two new lines, the placeholder's own letters, and é."""
ONLY_45 = ("think_start", "think_end", "turn_bos", "turn_eos", "chunk_bos", "chunk_eos", "chunk_tts_bos",
           "chunk_tts_eos", "tts_pad")
BAD_TOKEN_IDS = [3, 5]


def write_tokenizer(folder: Path, version: str = "4.5", *, without: str | None = None) -> Path:
    """vocab.json, merges.txt, added_tokens.json and tokenizer_config.json; `without` leaves out one added token."""
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = MERGES
    words = [line.replace(" ", "") for line in merges]
    vocabulary = {text: i for i, text in enumerate([*letters, *words])}
    left_out = {"default_voice"} if version == "4.5" else set(ONLY_45)
    names = [text for name, text in OFFICIAL_STRINGS.items() if name not in left_out and text not in (without, "<unk>")]
    added = {text: len(vocabulary) + i for i, text in enumerate([*names, "<tool_call>", "</tool_call>"])}
    if without != "<unk>":
        added["<unk>"] = vocabulary["<unk>"]
    plain = ("<think>", "</think>", "<tool_call>", "</tool_call>")
    described = {token_id: {"content": text, "special": text not in plain} for text, token_id in added.items()}
    settings = {"added_tokens_decoder": described, "bad_token_ids": BAD_TOKEN_IDS}
    write(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    write(folder / "added_tokens.json", added)
    write(folder / "tokenizer_config.json", settings)
    return folder


def write_tokenizer_json(source: Path, target: Path) -> Path:
    """The same tokenizer as one tokenizer.json."""
    import tokenizers
    from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

    from minicpm_o.inputs.official_tokenizer import WORDS

    backend = tokenizers.Tokenizer(models.BPE.from_file(str(source / "vocab.json"), str(source / "merges.txt")))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(tokenizers.Regex(WORDS), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    described = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))["added_tokens_decoder"]
    for _, item in sorted(described.items(), key=lambda pair: int(pair[0])):
        backend.add_tokens([AddedToken(item["content"], special=item["special"], normalized=False)])
    backend.save(str(target / "tokenizer.json"))
    return target


def write(path: Path, values: object) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")


def made_tokenizer(folder: Path, version: str = "4.5") -> OfficialTokenizer:
    return OfficialTokenizer.from_folder(write_tokenizer(folder, version))
