"""Every error as RFC 9457 problem details that name the field at fault and the fix."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError, IntegrityError, OperationalError
from starlette.exceptions import HTTPException

from cmaev_spec.job import SpecError, spec_problems
from cmaev_spec.serving_protocol import Problem
from cmaev_spec.state import TransitionError

MEDIA_TYPE = "application/problem+json"
PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "What went wrong, which field is at fault and how to fix it (RFC 9457)",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}

log = structlog.get_logger(__name__)


class ProblemError(HTTPException):
    """An error that the client is told about."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        field: str | None = None,
        fix: str | None = None,
        errors: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.problem = Problem(
            title=HTTPStatus(status).phrase,
            status=status,
            detail=detail,
            field=field,
            fix=fix,
            errors=tuple({"field": name, "message": message} for name, message in errors),
        )
        super().__init__(status, detail, headers)


def not_found(detail: str, *, fix: str | None = None) -> ProblemError:
    """404: the thing is not there."""
    return ProblemError(404, detail, fix=fix)


def conflict(detail: str, *, field: str | None = None, fix: str | None = None) -> ProblemError:
    """409: the state of things does not allow it."""
    return ProblemError(409, detail, field=field, fix=fix)


def unprocessable(problems: Sequence[tuple[str, str]], *, fix: str | None = None) -> ProblemError:
    """422: fields that are wrong, as (field, message)."""
    field, message = problems[0]
    return ProblemError(422, f"{field}: {message}", field=field, fix=fix, errors=problems)


def unavailable(detail: str, *, retry_after: int, fix: str | None = None) -> ProblemError:
    """503: something that is needed is away; trying again later can help."""
    return ProblemError(503, detail, fix=fix, headers={"Retry-After": str(retry_after)})


def install(app: FastAPI) -> None:
    """Turns every exception into a problem answer."""
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(SpecError, _on_spec_error)
    app.add_exception_handler(TransitionError, _on_transition_error)
    app.add_exception_handler(DataError, _on_unstorable_value)
    app.add_exception_handler(IntegrityError, _on_collision)
    app.add_exception_handler(OperationalError, _on_database_error)
    app.add_exception_handler(Exception, _on_surprise)


def problem_response(error: ProblemError) -> JSONResponse:
    """The answer for a problem."""
    return JSONResponse(
        error.problem.model_dump(exclude_defaults=True),
        status_code=error.status_code,
        headers=dict(error.headers or {}),
        media_type=MEDIA_TYPE,
    )


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error, ProblemError):
        return problem_response(error)
    detail, fix = error.detail, None
    if error.status_code == 404:
        detail, fix = f"there is nothing at {request.url.path}", "see /docs for what there is"
    elif error.status_code == 405:
        detail = f"{request.url.path} does not take {request.method}"
    return problem_response(ProblemError(error.status_code, detail, fix=fix, headers=error.headers))


async def _on_invalid_request(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = []
    for item in error.errors():
        if item["type"] == "json_invalid":
            problems.append(("body", f"is not JSON: {item['ctx']['error']}"))
            continue
        where, *path = item["loc"]
        [(field, message)] = spec_problems([{**item, "loc": tuple(path)}])
        whole = not path and not item["type"].startswith("union_tag")
        problems.append((str(where) if whole else field, message))
    return problem_response(unprocessable(problems))


async def _on_spec_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SpecError)
    return problem_response(unprocessable(error.problems))


async def _on_transition_error(_request: Request, error: Exception) -> JSONResponse:
    return problem_response(conflict(str(error), field="state"))


async def _on_unstorable_value(_request: Request, error: Exception) -> JSONResponse:
    log.warning("unstorable_value", error=str(error))
    return problem_response(
        unprocessable(
            [("request", "a value in it cannot be stored")], fix="leave out NUL characters"
        )
    )


async def _on_collision(_request: Request, error: Exception) -> JSONResponse:
    log.warning("collision", error=str(error))
    return problem_response(
        conflict("another request made the same thing at the same moment", fix="try again")
    )


async def _on_database_error(_request: Request, error: Exception) -> JSONResponse:
    log.error("database_unavailable", error=str(error))
    return problem_response(unavailable("the database does not answer", retry_after=2))


async def _on_surprise(_request: Request, _error: Exception) -> JSONResponse:
    # the server logs the traceback; the client learns nothing about our inside
    request_id = structlog.contextvars.get_contextvars().get("request_id", "unknown")
    return problem_response(
        ProblemError(
            500,
            f"an unexpected error; the log has it under request {request_id}",
            fix="report it with that request id",
        )
    )
