"""Errors as OpenAI's API writes them: {"error": {"message", "type", "param", "code"}}, with the fitting status."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ..errors import ContextFullError, InputError, MiniCPMOError, MissingExtraError

logger = logging.getLogger("minicpm_o.server")


class ApiError(Exception):
    """A refusal with its status and its place in the request."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None,
                 headers: dict[str, str] | None = None, **details: Any) -> None:
        """details: numbers that clients need, beside the words."""
        super().__init__(message)
        self.message, self.status, self.param, self.code = message, status, param, code
        self.headers = headers or {}
        self.details = details

    @property
    def type(self) -> str:
        """OpenAI's name for the kind."""
        return _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")

    def body(self) -> dict[str, Any]:
        """The object under "error"."""
        return {"message": self.message, "type": self.type, "param": self.param, "code": self.code, **self.details}


_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error",
          503: "service_unavailable_error"}


def as_api_error(error: BaseException, param: str | None = None) -> ApiError:
    """Any error as a refusal; what was not meant for callers is logged and told as an internal error."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ContextFullError):
        return ApiError(str(error), param=param or "messages", code="context_length_exceeded")
    if isinstance(error, InputError):
        return ApiError(str(error), param=param, code="invalid_value")
    if isinstance(error, MissingExtraError):
        return ApiError(str(error), status=501, param=param, code="missing_extra")
    logger.error("request failed", exc_info=error)
    if isinstance(error, MiniCPMOError):
        return ApiError(str(error), status=500, code="model_error")
    return ApiError("the server failed at this request; its log says why", status=500, code="internal_error")


def error_response(error: ApiError) -> JSONResponse:
    return JSONResponse({"error": error.body()}, error.status, headers=error.headers)


def add_handlers(app: FastAPI) -> None:
    """Every way to fail has the same shape."""

    @app.exception_handler(ApiError)
    async def _refused(_: Request, error: ApiError) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(MiniCPMOError)
    async def _own(_: Request, error: MiniCPMOError) -> JSONResponse:
        return error_response(as_api_error(error))

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(_from_validation(error.errors()))

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}.get(error.status_code)
        told = ApiError(str(error.detail), status=error.status_code, code=code, headers=dict(error.headers or {}))
        return error_response(told)

    @app.exception_handler(Exception)
    async def _unexpected(_: Request, error: Exception) -> JSONResponse:
        return error_response(as_api_error(error))


def _from_validation(problems: Any) -> ApiError:
    """What pydantic found, in one sentence with the first place."""
    first = dict(problems[0])
    place = ".".join(str(step) for step in first["loc"] if step != "body")
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if first["type"] == "json_invalid":
        return ApiError(f"the body is no valid JSON: {first.get('ctx', {}).get('error', message)}", code="invalid_json")
    if first["type"] == "extra_forbidden":
        return ApiError(f"unknown argument {place!r}; leave it out{more}", param=place, code="unknown_parameter")
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    return ApiError(f"{place or 'the request'}: {message}{more}", param=place or None, code=code)
