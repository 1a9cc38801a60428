"""Which row of a set is kept out of training: a rule on the file's name, so no list of names has to be kept.

A row is validation when the sha256 of "set/name" falls into the first VALIDATION_PERCENT of 100.
"""

from __future__ import annotations

import hashlib

VALIDATION_PERCENT = 8


def is_validation(set_name: str, name: str) -> bool:
    """True when the row `name` (its media path, or its text for synthesised speech) of `set_name` is kept out."""
    digest = hashlib.sha256(f"{set_name}/{name}".encode()).hexdigest()
    return int(digest, 16) % 100 < VALIDATION_PERCENT
