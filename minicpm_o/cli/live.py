"""The verbs of live use: serve and talk. Their work is imported inside, as everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import (
    ContextOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    MemoryCheckOption,
    ModelOption,
    QuietOption,
    ServedPrefixOption,
    ThreadsOption,
    VoiceOption,
)

KeyOption = Annotated[list[str] | None, typer.Option("--api-key", envvar="MINICPM_O_API_KEY", show_default=False, help=(
    "Callers must bring this key; may be given several times. By default everybody who reaches the port is served."))]
OriginOption = Annotated[list[str] | None, typer.Option("--origin", show_default=False, help=(
    'Pages of another address that may call, such as https://example.org; "*" for all. The own page always may.'))]


def serve(
    model: ModelOption = "nano",
    host: Annotated[str, typer.Option("--host", envvar="MINICPM_O_HOST", help=(
        "Address to listen on; 127.0.0.1 is reached from this machine alone, 0.0.0.0 from everywhere."))] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, envvar="MINICPM_O_PORT", help=(
        "Port to listen on; 0 takes any that is free."))] = 8000,
    served_name: Annotated[str | None, typer.Option("--served-model-name", show_default=False, help=(
        "Name of the model in the API; by default its own."))] = None,
    api_key: KeyOption = None,
    origin: OriginOption = None,
    allow_urls: Annotated[bool, typer.Option("--allow-urls", help=(
        "Fetch media from public http(s) addresses that callers send; never from private networks."))] = False,
    media_path: Annotated[Path | None, typer.Option("--media-path", show_default=False, help=(
        "Read file:// addresses below this folder."))] = None,
    ssl_certfile: Annotated[Path | None, typer.Option("--ssl-certfile", show_default=False, help=(
        "Certificate for https, which browsers want before they give a page the microphone."))] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option("--ssl-keyfile", show_default=False, help=(
        "Key of the certificate."))] = None,
    voice: VoiceOption = None,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Serve the page for people.")] = True,
    warm: Annotated[bool, typer.Option("--warm/--no-warm", help=(
        "Open all parts before listening is announced, so that the first caller need not wait."))] = True,
    max_running: Annotated[int, typer.Option("--max-running", min=1, help="Answers computed side by side.")] = 4,
    batch: Annotated[int, typer.Option("--batch", min=1, help=(
        "Answers computed in one run of nano's language model; 1 saves its memory once."))] = 2,
    max_waiting: Annotated[int, typer.Option("--max-waiting", min=1, help="Requests that may wait in line.")] = 32,
    max_sessions: Annotated[int, typer.Option("--max-sessions", min=1, help="Live sessions at once.")] = 4,
    max_body_mb: Annotated[float, typer.Option("--max-body-mb", min=0.1, help="Largest request.")] = 64.0,
    max_media_s: Annotated[float, typer.Option("--max-media-s", min=1, help="Longest sound or video.")] = 600.0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer.")] = 4096,
    drain_s: Annotated[float, typer.Option("--drain-s", min=0.1, help=(
        "Seconds that answers get to end after SIGTERM."))] = 30.0,
    threads: ThreadsOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    context: ContextOption = None,
    memory_check: MemoryCheckOption = True,
    prefix_cache_mb: ServedPrefixOption = 0.0,
    quiet: QuietOption = False,
) -> None:
    """Serve OpenAI's API, live sessions and a page over one model."""
    from .loading import Loading
    from .serve import config_from
    from .serve import serve as run

    config = config_from(
        host=host, port=port, served_name=served_name, api_keys=tuple(api_key or ()), origins=tuple(origin or ()),
        allow_urls=allow_urls, media_folder=media_path, ssl_certfile=ssl_certfile, ssl_keyfile=ssl_keyfile,
        with_page=page, max_running=max_running, batch=batch, max_waiting=max_waiting, max_sessions=max_sessions,
        max_body_mb=max_body_mb, max_media_s=max_media_s, max_tokens=max_tokens, drain_s=drain_s)
    loading = Loading(model, threads, device, dtype, context, memory_check, quiet, prefix_cache_mb)
    run(loading, config, voice, warm=warm, quiet=quiet)


def bench_live(
    image: Annotated[str | None, typer.Option("--image", show_default=False, help=(
        "Picture for the camera; by default a bundled one."))] = None,
    rounds: Annotated[int, typer.Option("--rounds", "-n", min=1, help="How often each of 8 questions is asked.")] = 2,
    load_s: Annotated[float, typer.Option("--load-s", min=1, help="Seconds under load.")] = 60.0,
    chats: Annotated[int, typer.Option("--chats", min=0, help="Text chats at once, under load.")] = 4,
    lives: Annotated[int, typer.Option("--lives", min=1, help="Live sessions at once, under load.")] = 2,
    minutes: Annotated[float, typer.Option("--minutes", min=0.5, help="Length of the long session.")] = 30.0,
    model: ModelOption = "nano",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> dict[str, Any] | None:
    """Measure live use: how soon spoken questions are answered, under load too; cost of a second; memory."""
    from .bench_live import bench_live as run

    return run(image, rounds, load_s, chats, lives, minutes, model=model, threads=threads, as_json=as_json)


def talk(
    model: ModelOption = "nano",
    url: Annotated[str | None, typer.Option("--url", show_default=False, help=(
        "A server to talk with, such as http://127.0.0.1:8000; by default one is started for the call."))] = None,
    audio: Annotated[Path | None, typer.Option("--audio", show_default=False, help=(
        "Play this sound instead of the microphone, once."))] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", show_default=False, help=(
        "Also write what is answered to this sound file."))] = None,
    api_key: Annotated[str | None, typer.Option("--api-key", envvar="MINICPM_O_API_KEY", show_default=False, help=(
        "Key of the server."))] = None,
    voice: VoiceOption = None,
    instructions: Annotated[str | None, typer.Option("--instructions", "-i", show_default=False, help=(
        "How to answer."))] = None,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Talk and listen in the terminal: speak when you like, into an answer too. Ends with Ctrl-C."""
    from .talk import Call
    from .talk import talk as run

    run(Call(url, audio, out, api_key, voice, instructions), model=model, threads=threads, quiet=quiet)
