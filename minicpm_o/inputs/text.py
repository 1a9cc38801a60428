"""Text to token ids and back, and the one table of special tokens.

Special tokens are resolved by their string and never parsed out of user text: a user who writes "<image>" gets the
letters, not a picture. Knows nothing of media.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError

if TYPE_CHECKING:
    import tokenizers


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the tokens that carry structure."""

    endoftext: int
    im_start: int
    im_end: int
    image_start: int
    image_end: int
    slice_start: int
    slice_end: int
    audio_start: int
    audio_end: int
    placeholder: int
    """Stands where an encoder's output will be scattered."""

    @property
    def markers(self) -> tuple[int, ...]:
        """The media tokens, whose embeddings are trained with the connectors."""
        return tuple(getattr(self, f.name) for f in fields(self) if f.name in _MARKER_NAMES)


SPECIAL_STRINGS = {
    "endoftext": "<|endoftext|>",
    "im_start": "<|im_start|>",
    "im_end": "<|im_end|>",
    "image_start": "<image>",
    "image_end": "</image>",
    "slice_start": "<slice>",
    "slice_end": "</slice>",
    "audio_start": "<|audio_start|>",
    "audio_end": "<|audio_end|>",
    "placeholder": "<unk>",
}
_MARKER_NAMES = ("image_start", "image_end", "slice_start", "slice_end", "audio_start", "audio_end", "placeholder")


class Tokenizer:
    """The language model's tokenizer."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        self._backend.encode_special_tokens = True  # "<image>" typed by a user stays text
        self.special = SpecialTokens(**{name: self.id_of(text) for name, text in SPECIAL_STRINGS.items()})

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Read a tokenizer.json. Raises CheckpointError when it is absent or not one."""
        import tokenizers

        try:
            return cls(tokenizers.Tokenizer.from_str(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise CheckpointError(f"cannot read the tokenizer {path}: {error}") from error
        except Exception as error:  # the library raises bare Exception on malformed files
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{path} is not a tokenizer.json: {error}") from error

    @property
    def vocab_size(self) -> int:
        return int(self._backend.get_vocab_size())

    @property
    def added_ids(self) -> frozenset[int]:
        """Ids of the tokens beside the merged ones: what no plain text holds."""
        return frozenset(int(token_id) for token_id in self._backend.get_added_tokens_decoder())

    def id_of(self, token: str) -> int:
        """The id of one token by its string. Raises CheckpointError when the vocabulary lacks it."""
        token_id = self._backend.token_to_id(token)
        if token_id is None:
            raise CheckpointError(f"the tokenizer has no token {token!r}; it does not belong to this model")
        return int(token_id)

    def encode(self, text: str) -> list[int]:
        """Text to ids; strings that look like special tokens are encoded as the letters they are."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text; special tokens are dropped."""
        return str(self._backend.decode([int(i) for i in ids], skip_special_tokens=True))
