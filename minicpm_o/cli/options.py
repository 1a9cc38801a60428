"""Options that several verbs share, each worded once. Imports nothing heavy: `--help` reads this."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
import typer.core

ModelOption = Annotated[str, typer.Option("--model", "-m", envvar="MINICPM_O_MODEL",
                                          help="Name of a model, or the folder of a bundle or official checkpoint.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", "-t", envvar="MINICPM_O_THREADS", min=1,
                                                   help="Threads to compute on; by default what fits the machine.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]
MaxTokensOption = Annotated[int | None, typer.Option("--max-tokens", min=1, show_default=False,
                                                     help="Longest answer; by default the model's own limit.")]
TemperatureOption = Annotated[float | None, typer.Option("--temperature", min=0.0, show_default=False, help=(
    "0 always takes the likeliest word, as nano does by default; official models draw."))]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, help="Repeats the draws of a temperature above 0.")]
TranscriptOption = Annotated[bool | None, typer.Option("--transcript/--own-ears", show_default=False, help=(
    "Of nano: who writes down what is said in a sound: the recogniser (the default), or the model's own ears."))]
UrlsOption = Annotated[bool, typer.Option("--allow-urls", help="Fetch pictures and sounds at http(s) addresses.")]
_PREFIXES = (
    "Keep beginnings of prompts on disk, so that the next question about the same picture is answered sooner; {} They "
    "are made of the pictures, sounds and system prompts given and lie beside the models, not encrypted, for this user "
    "to read; `minicpm-o models --clear-prefixes` removes them. Not of checkpoints that torch runs.")
PrefixOption = Annotated[float | None, typer.Option(
    "--prefix-cache-mb", envvar="MINICPM_O_PREFIX_CACHE_MB", min=0.0, show_default=False,
    help=_PREFIXES.format("so many MB at most, 256 by default; 0 keeps and uses none."))]
ServedPrefixOption = Annotated[float, typer.Option("--prefix-cache-mb", min=0.0, help=_PREFIXES.format(
    "so many MB at most; by default 0, none, as they are of what callers send. Never of live sessions."))]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No notes on stderr.")]
VoiceOption = Annotated[str | None, typer.Option("--voice", help="Of nano: a voice that `minicpm-o doctor` lists.")]
SpeedOption = Annotated[float, typer.Option("--speed", help="Of nano: 1 is the voice's own speed.")]

# Of official models
DeviceOption = Annotated[str | None, typer.Option("--device", help=(
    "Of a checkpoint: cpu, cuda, cuda:1, mps, or auto for the best there is."))]
DtypeOption = Annotated[str | None, typer.Option("--dtype", help=(
    "Of a checkpoint: float32, bfloat16 or float16; by default as it is stored."))]
ContextOption = Annotated[int | None, typer.Option("--context", min=1, help=(
    "Of official models: tokens of conversation that the plan of memory reckons with."))]
MemoryCheckOption = Annotated[bool, typer.Option("--memory-check/--no-memory-check", show_default=False, help=(
    "Of official models: refuse beforehand what does not fit, the default, or try all the same."))]
ThinkingOption = Annotated[bool, typer.Option("--thinking", help="Of 4.5: think aloud before the answer.")]
SlicesOption = Annotated[int | None, typer.Option("--slices", min=1, help=(
    "Of official models: slices of a picture at most."))]
RefAudioOption = Annotated[str | None, typer.Option("--ref-audio", metavar="FILE", help=(
    "Of official models: a sound of the voice to speak in."))]
ModeOption = Annotated[str | None, typer.Option("--mode", help=(
    "Of official models: system prompt default, omni, audio_assistant, audio_roleplay or voice_cloning; none by "
    "default, audio_assistant with --ref-audio."))]
SystemLanguageOption = Annotated[str | None, typer.Option("--language", help=(
    "Of official models: en or zh, of the system prompt."))]

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
