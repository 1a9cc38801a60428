"""Text to token ids and back for MiniCPM-o 2.6 and 4.5: Qwen2's byte-level BPE and the tokens added to it.

Read from a folder: tokenizer.json, or vocab.json, merges.txt, added_tokens.json and tokenizer_config.json. Added tokens
are known by their strings alone, since their ids differ from version to version. They count only in text that is said
to be markup: a user who writes "<image>" or "<|im_end|>" gets the letters. Knows nothing of media.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError

if TYPE_CHECKING:
    import tokenizers

WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
         r"|\s+(?!\S)|\s+")
"""Where Qwen2 cuts text before BPE; merges never cross a cut."""


@dataclass(frozen=True)
class OfficialSpecialTokens:
    """Ids of the tokens that carry structure; None where a version has no such token."""

    endoftext: int
    im_start: int
    im_end: int
    unk: int
    """The placeholder: stands where an encoder's output will be scattered."""
    image_start: int
    image_end: int
    slice_start: int
    slice_end: int
    image_id_start: int
    image_id_end: int
    unit_start: int
    unit_end: int
    audio_start: int
    audio_end: int
    spk_bos: int
    spk: int
    spk_eos: int
    tts_bos: int
    tts_eos: int
    listen: int
    speak: int
    interrupt: int
    vad_start: int
    vad_end: int
    think_start: int | None = None
    think_end: int | None = None
    turn_bos: int | None = None
    turn_eos: int | None = None
    chunk_bos: int | None = None
    chunk_eos: int | None = None
    chunk_tts_bos: int | None = None
    chunk_tts_eos: int | None = None
    tts_pad: int | None = None
    default_voice: int | None = None
    """2.6 alone: names the voice it has when no sound shows it another."""

    @property
    def placeholder(self) -> int:
        return self.unk


OFFICIAL_STRINGS = {
    "endoftext": "<|endoftext|>", "im_start": "<|im_start|>", "im_end": "<|im_end|>", "unk": "<unk>",
    "image_start": "<image>", "image_end": "</image>", "slice_start": "<slice>", "slice_end": "</slice>",
    "image_id_start": "<image_id>", "image_id_end": "</image_id>", "unit_start": "<unit>", "unit_end": "</unit>",
    "audio_start": "<|audio_start|>", "audio_end": "<|audio_end|>",
    "spk_bos": "<|spk_bos|>", "spk": "<|spk|>", "spk_eos": "<|spk_eos|>",
    "tts_bos": "<|tts_bos|>", "tts_eos": "<|tts_eos|>", "listen": "<|listen|>", "speak": "<|speak|>",
    "interrupt": "<|interrupt|>", "vad_start": "<|vad_start|>", "vad_end": "<|vad_end|>",
    "think_start": "<think>", "think_end": "</think>", "turn_bos": "<|turn_bos|>", "turn_eos": "<|turn_eos|>",
    "chunk_bos": "<|chunk_bos|>", "chunk_eos": "<|chunk_eos|>",
    "chunk_tts_bos": "<|chunk_tts_bos|>", "chunk_tts_eos": "<|chunk_tts_eos|>",
    "tts_pad": "<|tts_pad|>", "default_voice": "<reserved_53>",
}
"""Field of OfficialSpecialTokens -> token."""


@dataclass(frozen=True)
class Added:
    """A token beside the merged ones: found whole in markup. Special ones are dropped from text that is shown."""

    id: int
    is_special: bool


class OfficialTokenizer:
    """The language model's tokenizer."""

    def __init__(self, backend: tokenizers.Tokenizer, added: Mapping[str, Added],
                 bad_token_ids: Iterable[int] = ()) -> None:
        """backend: the BPE alone, without added tokens; those are told apart here, so that plain text holds none."""
        self._backend = backend
        self._added = dict(added)
        self._names = {token.id: text for text, token in self._added.items()}
        longest_first = sorted(self._added, key=len, reverse=True)
        self._markup = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if self._added else None
        self.bad_token_ids = tuple(bad_token_ids)
        """Fragments of broken characters and the like, which a spoken answer never takes."""
        ids: dict[str, Any] = {item.name: self._special_id(item) for item in dataclasses.fields(OfficialSpecialTokens)}
        self.special = OfficialSpecialTokens(**ids)

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> OfficialTokenizer:
        """Read a checkpoint's tokenizer files. Raises CheckpointError when one is missing, broken or of another model.
        """
        path = Path(folder)
        settings = _read_json(path / "tokenizer_config.json") if (path / "tokenizer_config.json").is_file() else {}
        whole = path / "tokenizer.json"
        backend, added = _from_tokenizer_json(whole) if whole.is_file() else _from_vocabulary(path, settings)
        return cls(backend, added, _bad_token_ids(settings, path))

    @property
    def vocab_size(self) -> int:
        """Ids run from 0 to one below this."""
        return max([int(self._backend.get_vocab_size()), *(token.id + 1 for token in self._added.values())])

    @property
    def added_ids(self) -> frozenset[int]:
        """Ids of the tokens beside the merged ones: what no plain text holds."""
        return frozenset(self._names)

    def to_json(self) -> str:
        """Everything as the `tokenizers` library writes it, with the added tokens marked as special."""
        data = json.loads(self._backend.to_str())
        data["added_tokens"] = [
            {"id": token_id, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True} for token_id, name in sorted(self._names.items())]
        return json.dumps(data, ensure_ascii=False)

    def id_of(self, token: str) -> int:
        """The id of one token by its string. Raises CheckpointError when the vocabulary lacks it."""
        token_id = self._find(token)
        if token_id is None:
            raise CheckpointError(f"the tokenizer has no token {token!r}; it does not belong to MiniCPM-o 2.6 or 4.5")
        return token_id

    def encode(self, text: str, *, markup: bool = False) -> list[int]:
        """Text to ids. Added tokens in it count only if it is markup; else they are the letters they are written in."""
        if not markup:
            return list(self._backend.encode(text, add_special_tokens=False).ids)
        pieces = (self.encode(piece) if isinstance(piece, str) else [piece] for piece in self.split_markup(text))
        return list(itertools.chain.from_iterable(pieces))

    def split_markup(self, text: str) -> list[str | int]:
        """Markup as stretches of text and, between them, the ids of added tokens; no stretch is empty."""
        if self._markup is None:
            return [text] if text else []
        return [self._added[piece].id if piece in self._added else piece
                for piece in self._markup.split(text) if piece]

    def decode(self, ids: Iterable[int], *, keep_special: bool = False) -> str:
        """Ids to text; special tokens are dropped, or kept as they are written."""
        text = []
        for is_added, run in itertools.groupby(map(int, ids), key=self._names.__contains__):
            if not is_added:
                text.append(str(self._backend.decode(list(run))))
                continue
            names = (self._names[token_id] for token_id in run)
            text += [name for name in names if keep_special or not self._added[name].is_special]
        return "".join(text)

    def _find(self, token: str) -> int | None:
        if token in self._added:
            return self._added[token].id
        token_id = self._backend.token_to_id(token)
        return None if token_id is None else int(token_id)

    def _special_id(self, field: dataclasses.Field[Any]) -> int | None:
        text = OFFICIAL_STRINGS[field.name]
        return self.id_of(text) if field.default is dataclasses.MISSING else self._find(text)


# Files


def _from_tokenizer_json(path: Path) -> tuple[tokenizers.Tokenizer, dict[str, Added]]:
    import tokenizers

    values = _read_json(path)
    try:
        added = {str(item["content"]): Added(int(item["id"]), bool(item["special"]))
                 for item in values.get("added_tokens") or []}
        return tokenizers.Tokenizer.from_str(json.dumps({**values, "added_tokens": []})), added
    except Exception as error:  # the library raises bare Exception on malformed files
        raise CheckpointError(f"{path} is not a tokenizer.json: {error}") from error


def _from_vocabulary(folder: Path, settings: Mapping[str, Any]) -> tuple[tokenizers.Tokenizer, dict[str, Added]]:
    """Qwen2's pipeline around vocab.json and merges.txt."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    for path in (vocabulary, merges):
        if not path.is_file():
            raise CheckpointError(f"{folder} has neither tokenizer.json nor {path.name}; it holds no tokenizer")
    try:
        backend = tokenizers.Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    except Exception as error:  # the library raises bare Exception on malformed files
        raise CheckpointError(f"{vocabulary} and {merges.name} are not a BPE vocabulary: {error}") from error
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(tokenizers.Regex(WORDS), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    return backend, _added_tokens(folder, settings)


def _added_tokens(folder: Path, settings: Mapping[str, Any]) -> dict[str, Added]:
    """Both files list them; tokenizer_config.json also tells which are special."""
    path = folder / "added_tokens.json"
    added = {text: Added(token_id, True) for text, token_id in (_read_json(path) if path.is_file() else {}).items()}
    described = settings.get("added_tokens_decoder") or {}
    try:
        added.update({str(item["content"]): Added(int(token_id), bool(item.get("special", True)))
                      for token_id, item in described.items()})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"added_tokens_decoder of {folder / 'tokenizer_config.json'} is malformed ({error!r}); "
                              f"expected ids with their content") from error
    return added


def _bad_token_ids(settings: Mapping[str, Any], folder: Path) -> list[int]:
    ids = settings.get("bad_token_ids") or []
    if not isinstance(ids, list) or not all(isinstance(item, int) for item in ids):
        raise CheckpointError(f"bad_token_ids of {folder / 'tokenizer_config.json'} is not a list of whole numbers")
    return ids


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds {type(values).__name__}, expected a JSON object")
    return values
