"""Prepare everything that `minicpm_o.training.nano` reads.

    python -m minicpm_o.training.prepare --data SETS --out FEATURES

Works offline, on parts of nano that are on this machine (`minicpm-o pull nano --voices`). A stage that is finished is
passed over, one that was broken off goes on.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from ...errors import MiniCPMOError
from ...inputs.text import Tokenizer
from ...model.config import NanoConfig
from ..recipe import Precision
from .chat import open_mind, prepare_chat, prepare_language
from .colours import open_classes, prepare_colours
from .hearing import open_ears, prepare_hearing
from .images import open_eyes, prepare_images
from .speech import plan_speech, prepare_speech
from .texts import WORDNET, prepare_texts, read_texts


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    data: Path
    out: Path
    voices: tuple[str, ...]
    wordnet: Path
    threads: int
    limit: int | None
    precision: Precision
    config: NanoConfig


def _texts(options: Options) -> None:
    prepare_texts(options.data, options.out, options.wordnet, limit=options.limit)


def _images(options: Options) -> None:
    vision = options.config.vision
    prepare_images(options.data, options.out, lambda: open_eyes(vision, options.threads), vision, limit=options.limit)


def _colours(options: Options) -> None:
    prepare_colours(options.data, options.out, lambda: open_classes(options.config.vision))


def _speech(options: Options) -> None:
    texts = read_texts(options.out, options.limit)
    for plan in plan_speech(texts, options.data, options.voices, threads=options.threads, limit=options.limit):
        prepare_speech(options.out, plan)


def _hearing(options: Options) -> None:
    hearing = options.config.hearing
    for name in (*options.voices, "fsdd"):
        prepare_hearing(options.out, name, lambda: open_ears(hearing, options.precision), hearing)


def _chat(options: Options) -> None:
    weights, path = prepare_language(options.out)
    tokenizer = Tokenizer.from_file(path)
    prepare_chat(options.out, read_texts(options.out, options.limit), tokenizer, lambda: open_mind(weights, tokenizer))


STAGES: dict[str, Callable[[Options], None]] = {
    "texts": _texts,
    "images": _images,
    "colours": _colours,
    "speech": _speech,
    "hearing": _hearing,
    "chat": _chat,
}
"""In the order in which they need each other."""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m minicpm_o.training.prepare", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the unpacked training sets")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; `--features` of the training")
    parser.add_argument("--only", choices=STAGES, nargs="+", help="run these stages alone")
    parser.add_argument("--voices", default="flite,kokoro", help="who speaks the texts: flite, kokoro or both")
    parser.add_argument("--wordnet", type=Path, default=WORDNET, help="folder of WordNet's data files; optional")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=get_args(Precision), default="fp32",
                        help="what sounds are encoded in; bf16 is faster on processors that have it")
    parser.add_argument("--limit", type=int, help="at most so many rows of a set and texts of a kind: for a trial")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stages; a mistake of the user ends with exit code 2 and one sentence."""
    import torch

    parser = make_parser()
    given = parser.parse_args(arguments)
    if given.threads < 1 or (given.limit is not None and given.limit < 1):
        parser.error("--threads and --limit must be at least 1")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(given.threads)
    voices = tuple(dict.fromkeys(name.strip() for name in given.voices.split(",") if name.strip()))
    options = Options(given.data, given.out, voices, given.wordnet, given.threads, given.limit, given.precision,
                      NanoConfig())
    try:
        for name, stage in STAGES.items():
            if not given.only or name in given.only:
                stage(options)
    except MiniCPMOError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
