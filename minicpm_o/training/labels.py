"""Labels of picture sets as words: what a person would say for `car_side` or `Faces_easy`."""

from __future__ import annotations

_SPOKEN = {
    "Faces": "person's face",
    "Faces_easy": "person's face",
    "Leopards": "leopard",
    "Motorbikes": "motorbike",
    "airplanes": "airplane",
    "bass": "bass fish",
    "buddha": "buddha statue",
    "car_side": "car",
    "cougar_body": "cougar",
    "cougar_face": "cougar's face",
    "crocodile_head": "crocodile's head",
    "flamingo_head": "flamingo's head",
    "garfield": "cartoon cat, Garfield",
    "gerenuk": "gerenuk, a kind of antelope",
    "hawksbill": "hawksbill turtle",
    "ketch": "ketch, a sailing boat",
    "rhino": "rhinoceros",
    "schooner": "schooner, a sailing ship",
    "snoopy": "cartoon dog, Snoopy",
    "water_lilly": "water lily",
    "wild_cat": "wild cat",
    "windsor_chair": "windsor chair",
    "yin_yang": "yin yang symbol",
    "longsleeve": "long-sleeved shirt",
}
_PLURAL = {"scissors", "shorts", "pants", "sunglasses", "jeans", "binoculars", "headphones", "shoes", "skis"}


def spoken_label(label: str) -> str:
    """The label in words, without an article."""
    return _SPOKEN.get(label, label.replace("_", " "))


def with_article(words: str) -> str:
    """`an airplane`, `a car`, `scissors`."""
    if words.split()[-1].lower() in _PLURAL:
        return words
    return f"{'an' if words[:1].lower() in 'aeiou' else 'a'} {words}"


def sentence(text: str) -> str:
    """First letter large, a full stop at the end, no space before punctuation."""
    text = " ".join(text.split()).strip(' "')
    for mark in ".,?!;:":
        text = text.replace(f" {mark}", mark)
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else text + "."
