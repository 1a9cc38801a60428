"""Options that several verbs share, each worded once. Imports nothing heavy: `--help` reads this."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
import typer.core

ModelOption = Annotated[str, typer.Option("--model", "-m", envvar="MINICPM_O_MODEL",
                                          help="Name of a model or the folder of a bundle.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", "-t", envvar="MINICPM_O_THREADS", min=1,
                                                   help="Threads to compute on; by default what fits the machine.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]
MaxTokensOption = Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer.")]
TemperatureOption = Annotated[float, typer.Option("--temperature", min=0.0, help="0 always takes the likeliest word.")]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, help="Repeats the draws of a temperature above 0.")]
TranscriptOption = Annotated[bool, typer.Option("--transcript/--own-ears", help="Write the recogniser's text beside "
                                                "each sound, or leave the model to its own ears.")]
UrlsOption = Annotated[bool, typer.Option("--allow-urls", help="Fetch pictures and sounds at http(s) addresses.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No notes on stderr.")]
VoiceOption = Annotated[str | None, typer.Option("--voice", help="A voice that `minicpm-o doctor` lists.")]
SpeedOption = Annotated[float, typer.Option("--speed", help="1 is the voice's own speed.")]

MEDIA_KINDS = ("image", "audio", "video")
MEDIA_ORDER = "media_order"


class MediaCommand(typer.core.TyperCommand):
    """A command that remembers in which order --image, --audio and --video came: the prompt keeps it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        values, _, order = self.make_parser(ctx).parse_args(args=list(args))
        ctx.meta[MEDIA_ORDER] = in_order(values, [parameter.name for parameter in order])
        return super().parse_args(ctx, args)


def in_order(values: dict[str, Any], names: Sequence[str | None]) -> list[tuple[str, str]]:
    """(kind, source) as they came; values: option name to its values, names: option names in order of occurrence."""
    left = {kind: iter(values.get(kind) or ()) for kind in MEDIA_KINDS}
    return [(name, next(left[name])) for name in names if name in left]
