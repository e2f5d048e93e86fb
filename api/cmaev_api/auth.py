"""Who may do what: `Authorization: Bearer <key>`, and the scopes a key has."""

from typing import Annotated

import structlog
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from cmaev_api.errors import ProblemError
from cmaev_api.keys import Scope, find_key

bearer = HTTPBearer(auto_error=False, description="an API key; the first start makes one")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]


class RequireScope:
    """A dependency that lets a request pass only with a key of one scope."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    def __call__(self, request: Request, credentials: Credentials) -> None:
        """Checks the key of a request.

        Raises:
            ProblemError: 401 without a live key, 403 with a key of another scope.
        """
        if credentials is None:
            raise _unauthorized("this needs an API key")
        with request.app.state.database.read() as session:
            key = find_key(session, credentials.credentials)
        if key is None:
            raise _unauthorized("the API key is wrong or revoked")
        if self.scope not in key.scopes:
            raise ProblemError(
                403,
                f"this needs a key with the scope {self.scope!r}; yours has {key.scopes}",
                field="Authorization",
                fix=f"make one with `cmaev keys create NAME --scope {self.scope}`",
            )
        structlog.contextvars.bind_contextvars(key=key.id)


require_admin = Depends(RequireScope("admin"))
require_worker = Depends(RequireScope("worker"))


def _unauthorized(detail: str) -> ProblemError:
    return ProblemError(
        401,
        detail,
        field="Authorization",
        fix="send `Authorization: Bearer KEY`; the first key is in the state folder, file api-key",
        headers={"WWW-Authenticate": 'Bearer realm="cmaev"'},
    )
