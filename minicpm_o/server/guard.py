"""Who may call, and how much they may send: checked before any handler runs, for HTTP and WebSocket alike.

Plain ASGI, so that bodies are counted while they come and streamed answers pass through untouched.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException

from ..inputs.sources import MIB
from .config import ServerConfig
from .errors import ApiError, error_response

Scope: TypeAlias = "MutableMapping[str, Any]"
Receive: TypeAlias = "Callable[[], Awaitable[MutableMapping[str, Any]]]"
Send: TypeAlias = "Callable[[MutableMapping[str, Any]], Awaitable[None]]"
App: TypeAlias = "Callable[[Scope, Receive, Send], Awaitable[None]]"

KEY_PROTOCOL = "openai-insecure-api-key."
"""How browsers bring a key to a WebSocket, which lets them set no header: as one of the protocols they offer."""
POLICY_VIOLATION = 1008


class Guard:
    """Wraps an application."""

    def __init__(self, app: App, config: ServerConfig) -> None:
        self.app = app
        self.config = config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refused(scope, headers)
        if refused is not None:
            await _refuse(refused, scope, receive, send)
            return
        if scope["type"] == "websocket" or scope["method"] in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        await self._counted(scope, receive, send, headers)

    def _refused(self, scope: Scope, headers: dict[str, str]) -> ApiError | None:
        """Why a call is not served; None where it is."""
        origin = headers.get("origin")
        if origin is not None and not self._is_own_page(origin, headers.get("host", "")):
            return ApiError(f"pages of {origin} may not call this server; start it with --origin {origin} to allow "
                            "them", status=403, code="origin_not_allowed")
        if self.config.is_loopback and not _is_loopback_name(headers.get("host", "")):
            return ApiError(f"the host name {headers.get('host')!r} is not this machine's own; a page may be trying to "
                            "reach it through a name of its own (DNS rebinding)", status=403, code="host_not_allowed")
        if not self._needs_key(scope) or _is_among(_key(headers), self.config.api_keys):
            return None
        return ApiError("this server needs an API key: send it as 'Authorization: Bearer KEY'", status=401,
                        code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    def _is_own_page(self, origin: str, host: str) -> bool:
        return "*" in self.config.origins or origin in self.config.origins or urlsplit(origin).netloc == host

    def _needs_key(self, scope: Scope) -> bool:
        """Health and metrics are for load balancers and Prometheus, the page's files for everybody; calls are not."""
        is_api = scope["path"].startswith(("/v1", "/openapi"))
        return bool(self.config.api_keys) and is_api and scope.get("method") != "OPTIONS"

    async def _counted(self, scope: Scope, receive: Receive, send: Send, headers: dict[str, str]) -> None:
        """Let a body through up to the limit, whatever its length is said to be."""
        limit = round(self.config.limits.max_body_mb * MIB)
        words = (f"the request is larger than {self.config.limits.max_body_mb:g} MB; send smaller media, or start the "
                 "server with a larger --max-body-mb")
        if headers.get("content-length", "0").isdigit() and int(headers.get("content-length", "0")) > limit:
            await _refuse(ApiError(words, status=413, code="request_too_large"), scope, receive, send)
            return
        size = 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit:
                raise HTTPException(413, words)  # the one kind that FastAPI hands on while it reads a body
            return message

        await self.app(scope, counted, send)


async def _refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await error_response(error)(scope, receive, send)
        return
    await receive()  # websocket.connect; a refusal before accepting is an HTTP 403 to the client
    await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": error.message[:120]})


def _key(headers: dict[str, str]) -> str:
    """The key that a caller brought, or ""."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    offered = (name.strip() for name in headers.get("sec-websocket-protocol", "").split(","))
    return next((name.removeprefix(KEY_PROTOCOL) for name in offered if name.startswith(KEY_PROTOCOL)), "")


def _is_among(key: str, keys: Iterable[str]) -> bool:
    """Compared in constant time, every key, so that the time taken tells nothing."""
    return sum(hmac.compare_digest(key.encode(), known.encode()) for known in keys) > 0


def _is_loopback_name(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    return name in ("localhost", "127.0.0.1", "::1") or name.endswith(".localhost")
