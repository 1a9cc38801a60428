"""`minicpm-o serve`: open the model, listen, and say where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import MissingExtraError
from .loading import Loading
from .output import say


def serve(loading: Loading, config: Any, voice: str | None, *, warm: bool, quiet: bool) -> None:
    """Blocks until the server is told to stop. Raises MissingExtraError without the packages of the server."""
    try:
        from ..server.app import create_app
        from ..server.run import open_port
        from ..server.run import serve as run
    except ImportError as cause:
        raise MissingExtraError("serving needs fastapi, uvicorn and more; install minicpm-o[serve]") from cause

    listener = open_port(config)  # before the model is opened: a port that is taken should not cost that time
    model, _ = loading.open()
    model.voice = voice or model.voice
    if warm:
        warm_up(model)
    if not quiet:
        for line in greeting(config, listener.getsockname()[1], model.name):
            say(line)
    run(create_app(model, config), config, listener)


def config_from(**given: Any) -> Any:
    """The server's config from the options of the command line. Raises OptionError."""
    from ..server.config import Limits, ServerConfig

    limits = Limits(**{name: given.pop(name) for name in list(given) if name in Limits.__dataclass_fields__})
    for name in ("media_folder", "ssl_certfile", "ssl_keyfile"):
        given[name] = None if given[name] is None else Path(given[name])
    return ServerConfig(limits=limits, **given)


def warm_up(model: Any) -> None:
    """Open all parts and run each once, so that the first caller waits no longer than the others."""
    import numpy as np

    model.chat("Hello.", max_tokens=2)
    if model.voices():
        model.written_down(np.zeros(16_000, np.float32))
        for voice in {model.voice, model.voice or model.quick_voice("Hello.")}:
            for _ in model.speak_stream("Hello.", voice=voice):
                pass


def greeting(config: Any, port: int, name: str) -> list[str]:
    """What is said when the server listens."""
    scheme = "https" if config.ssl_certfile else "http"
    shown = "127.0.0.1" if config.host in ("0.0.0.0", "::") else config.host
    address = f"{scheme}://{f'[{shown}]' if ':' in shown else shown}:{port}"
    lines = [f"{name} is served at {address}"]
    if config.with_page:
        lines.append(f"  page      {address}/")
    lines.append(f"  OpenAI    {address}/v1   (base_url; {'any key' if not config.api_keys else 'with your key'})")
    lines.append(f"  live      {address.replace('http', 'ws', 1)}/v1/realtime")
    if not config.is_loopback and not config.api_keys:
        lines.append("  everybody who reaches this port is served: set --api-key, or listen on 127.0.0.1")
    if not config.is_loopback and scheme == "http":
        lines.append("  browsers give a page the microphone over https alone: set --ssl-certfile and --ssl-keyfile")
    return lines
