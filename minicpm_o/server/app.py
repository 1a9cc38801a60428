"""The application: routes over one model. `create_app` is what uvicorn, Ray Serve and the tests run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles

from .. import __version__
from . import chat, realtime, speech, transcriptions
from .config import ServerConfig
from .errors import ApiError, add_handlers
from .guard import Guard
from .state import ServerState, state_of

if TYPE_CHECKING:
    from ..api import MiniCPMO

PAGE = Path(__file__).parent / "page"


PAGE_HEADERS = {
    "Content-Security-Policy": ("default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data: blob:; "
                                "media-src 'self' data: blob:; base-uri 'none'; form-action 'self'; "
                                "frame-ancestors 'none'"),
    "Permissions-Policy": "microphone=(self), camera=(self)", "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
"""The page runs its own scripts alone, and nobody puts it into a frame."""


class PageFiles(StaticFiles):
    """The page's files with their headers."""

    async def get_response(self, path: str, scope: Any) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(PAGE_HEADERS)
        return response


def create_app(model: MiniCPMO, config: ServerConfig | None = None) -> FastAPI:
    """The application over an open model; nothing runs before it is served."""
    config = config or ServerConfig()
    state = ServerState.of(model, config)
    app = FastAPI(title="minicpm-o", version=__version__, lifespan=_lifespan, docs_url=None, redoc_url=None,
                  description="OpenAI's API over a model that sees, hears, answers and speaks.")
    app.state.server = state
    add_handlers(app)
    for module in (chat, speech, transcriptions, realtime):
        app.include_router(module.router)
    _add_plain_routes(app)
    _name_models(app, state)
    if config.with_page:
        app.mount("/", PageFiles(directory=PAGE, html=True), name="page")
    app.add_middleware(Guard, config=config)
    if config.origins:
        app.add_middleware(CORSMiddleware, allow_origins=list(config.origins), allow_methods=["*"],
                           allow_headers=["*"])
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state: ServerState = app.state.server
    state.device.start()
    try:
        yield
    finally:
        state.device.stop()


def _add_plain_routes(app: FastAPI) -> None:
    @app.get("/health")
    async def health(request: Request) -> Response:
        """200 while answers can be given; 503 when the server is ending or its device has failed."""
        device = state_of(request).device
        fine = device.is_alive and not device.is_draining
        status = "ok" if fine else "draining" if device.is_draining else "failed"
        return JSONResponse({"status": status, "running": device.num_running, "waiting": device.num_waiting},
                            200 if fine else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        """For Prometheus."""
        state = state_of(request)
        state.metrics.running.set(state.device.num_running)
        state.metrics.waiting.set(state.device.num_waiting)
        return Response(state.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        """The one model that is served."""
        return {"object": "list", "data": [_card(state_of(request))]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> dict[str, Any]:
        """The model by its name."""
        state = state_of(request)
        state.check_model(name)
        return _card(state)

    @app.get("/v1/audio/voices")
    async def voices(request: Request) -> dict[str, Any]:
        """The voices that answers can be spoken in."""
        found = state_of(request).model.voices()
        return {"voices": [{"id": voice.name, "name": voice.name, "language": voice.language} for voice in found]}

    @app.api_route("/v1/{rest:path}", methods=["GET", "POST", "PUT", "DELETE", "PATCH"], include_in_schema=False)
    async def unknown(rest: str) -> None:
        """What OpenAI has and this server has not."""
        raise ApiError(f"/v1/{rest} is not served here", status=404, code="not_found")


def _name_models(app: FastAPI, state: ServerState) -> None:
    """The description says which models a request may name."""
    describe, names = app.openapi, sorted({state.model_name, state.model.name, "default"})

    def described() -> dict[str, Any]:
        found = describe()
        for schema in found["components"]["schemas"].values():
            model = schema.get("properties", {}).get("model")
            if model is not None and model.get("type") == "string":
                model["enum"] = names
        return found

    app.openapi = described  # type: ignore[method-assign]


def _card(state: ServerState) -> dict[str, Any]:
    """As OpenAI lists models, with what it takes and gives as llama-server says it."""
    return {"id": state.model_name, "object": "model", "created": state.created_s, "owned_by": "minicpm-o",
            "architecture": {"input_modalities": ["text", "image", "audio", "video"],
                             "output_modalities": ["text", "audio"]},
            "context_window": state.model.parts.config.language.context_tokens}
