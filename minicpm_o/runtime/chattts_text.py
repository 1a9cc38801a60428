"""Text to the ids that the voice of 2.6 reads, as text comes in.

Knows no network. The tokenizer is BERT's with marks of ChatTTS (`[Stts]`, `[spk_emb]`, `[Etts]`, `[Ptts]`), which are
never parsed out of text: who writes "[Etts]" hears it spelt.

Source: assets/chattts_tokenizer of MiniCPM-o 2.6 and the layout of its modeling_minicpmo.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CheckpointError
from ..model.config import ChatTTSConfig
from .chattts import SpeechTokens, text_validity

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MARKS = {"start": "[Stts]", "speaker": "[spk_emb]", "end": "[Etts]", "pad": "[PAD]", "audio_bos": "[Ptts]"}
SENTENCE_ENDS = frozenset(".。!?！？")
UNSPOKEN = str.maketrans("", "", "*")
"""Stars of markdown, which nobody says."""


class ChatTTSText:
    """The voice's tokenizer."""

    def __init__(self, tokenizer: Tokenizer, *, where: str = "the tokenizer") -> None:
        ids = {name: tokenizer.token_to_id(mark) for name, mark in MARKS.items()}
        found = {name: token for name, token in ids.items() if token is not None}
        absent = [mark for name, mark in MARKS.items() if name not in found]
        if absent:
            raise CheckpointError(f"{where} lacks {' '.join(absent)}; give the folder assets/chattts_tokenizer of "
                                  f"MiniCPM-o 2.6")
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True  # marks in text are text
        self.tokenizer = tokenizer
        self.tokens = SpeechTokens(**found)

    @classmethod
    def from_folder(cls, folder: Path) -> ChatTTSText:
        """Read tokenizer.json, or vocab.txt. Raises CheckpointError when neither is there or one is damaged."""
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        if not path.is_file():
            return cls(_from_vocabulary(folder), where=str(folder / "vocab.txt"))
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception on malformed files
            raise CheckpointError(f"{path} cannot be read ({error}); download it again") from error
        return cls(tokenizer, where=str(path))

    def encode(self, text: str) -> list[int]:
        """Ids of a whole text, without marks."""
        return list(self.tokenizer.encode(text.translate(UNSPOKEN), add_special_tokens=False).ids)

    def stream(self, pieces: Iterable[str]) -> Iterator[int]:
        """Ids as pieces of text come in, the same as of the whole: a word waits until the next one has begun."""
        pending = ""
        for piece in pieces:
            pending += piece.translate(UNSPOKEN)
            encoded = self.tokenizer.encode(pending, add_special_tokens=False)
            if not encoded.ids:
                continue
            last = encoded.word_ids[-1]
            first_of_last = encoded.word_ids.index(last)
            yield from encoded.ids[:first_of_last]
            pending = pending[encoded.offsets[first_of_last][0] :]
        yield from self.tokenizer.encode(pending, add_special_tokens=False).ids

    def layout(self, ids: Sequence[int], config: ChatTTSConfig) -> tuple[np.ndarray, np.ndarray]:
        """All ids of a segment, up to and with [Ptts], and which of them count: int64 and bool of one length.

        Text beyond the reserved length is cut off.
        """
        room = config.text_reserved_tokens
        ids = list(ids[:room])
        filler = [self.tokens.end, *[self.tokens.pad] * room][: room - len(ids)]
        full = [self.tokens.start, self.tokens.speaker, *ids, *filler, self.tokens.audio_bos]
        return np.array(full, np.int64), text_validity(config, len(ids))

    def ends_sentence(self, ids: Sequence[int]) -> bool:
        """Whether the last id ends a sentence; a full stop after a digit belongs to a number."""
        words = [self.tokenizer.id_to_token(token) or "" for token in ids[-2:]]
        if not words or words[-1] not in SENTENCE_ENDS:
            return False
        return not (words[-1] == "." and len(words) == 2 and words[0][-1:].isdigit())


def _from_vocabulary(folder: Path) -> Tokenizer:
    """BERT's tokenizer of a vocab.txt; every word in brackets is a mark."""
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    path = folder / "vocab.txt"
    try:
        words = path.read_text(encoding="utf-8").splitlines()
        settings = _settings(folder)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} has neither tokenizer.json nor vocab.txt; speech needs the checkpoint's "
                              f"assets/chattts_tokenizer, download it") from error
    except (ValueError, OSError) as error:
        raise CheckpointError(f"the tokenizer in {folder} cannot be read ({error}); download it again") from error
    tokenizer = Tokenizer(WordPiece({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=bool(settings.get("do_lower_case", True)))
    tokenizer.pre_tokenizer = BertPreTokenizer()
    marks = [word for word in words if word.startswith("[") and word.endswith("]") and len(word) > 2]
    added = settings.get("added_tokens_decoder", {}).values()
    tokenizer.add_special_tokens([AddedToken(word, normalized=False, special=True)
                                  for word in dict.fromkeys([*marks, *(entry["content"] for entry in added)])])
    return tokenizer


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
