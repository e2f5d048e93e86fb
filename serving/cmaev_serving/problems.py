"""Errors of the serving side that reach a client: RFC 9457 problems with the field and the fix."""

from cmaev_spec.serving_protocol import Problem

MEDIA_TYPE = "application/problem+json"


class ServingError(Exception):
    """A request that cannot be answered, with all that the client may know about it."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        title: str,
        field: str | None = None,
        fix: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.problem = Problem(title=title, status=status, detail=detail, field=field, fix=fix)
        self.retry_after = retry_after

    @classmethod
    def from_problem(cls, problem: Problem) -> "ServingError":
        """The error that a worker has described already."""
        return cls(
            problem.status,
            problem.detail,
            title=problem.title,
            field=problem.field,
            fix=problem.fix,
        )


def bad_video(detail: str) -> ServingError:
    """422: the bytes are no video that can be decoded within the limits."""
    return ServingError(
        422,
        detail,
        title="The video cannot be used",
        field="body",
        fix="send a complete video file with a video stream, such as an mp4, within the limits",
    )


def bad_request(detail: str, *, field: str, fix: str) -> ServingError:
    """400: the request itself is malformed."""
    return ServingError(400, detail, title="Bad request", field=field, fix=fix)


def unavailable(detail: str, *, retry_after: int = 5) -> ServingError:
    """503: trying again later may help."""
    return ServingError(
        503,
        detail,
        title="Not available right now",
        fix=f"send the request again after {retry_after} seconds",
        retry_after=retry_after,
    )


def timed_out(seconds: float) -> ServingError:
    """504: the worker did not answer in time and was stopped."""
    return ServingError(
        504,
        f"the video was not classified within {seconds:g} seconds and the attempt was stopped",
        title="Took too long",
        field="body",
        fix="send a shorter or smaller video, or raise CMAEV_AGENT_TIMEOUT_SECONDS",
        retry_after=5,
    )


def cannot_load(reason: str) -> ServingError:
    """422: the archive is in order, but its model cannot be run here."""
    return ServingError(
        422,
        f"the model cannot be loaded: {reason}",
        title="The model cannot be served",
        field="body",
        fix="export the run again with this version of cmaev; the agent's logs have the details",
    )
