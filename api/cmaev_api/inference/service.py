"""From a video to an answer: through the agent, whose troubles become clear answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from cmaev_api.errors import ProblemError, unavailable
from cmaev_api.inference.upload import Video
from cmaev_api.models.agent import AgentRefusalError, AgentUnreachableError, ServingAgent
from cmaev_api.settings import Settings

OUR_FAULT = {401, 403, 404, 405}
"""Answers of the agent that the client can do nothing about."""

AGENT_AWAY = (
    "try again in a moment; if it stays away, `cmaev doctor` tells more, and `cmaev up` without "
    "--no-serving starts one"
)


class InferenceService:
    """Passes videos to the serving agent, a bounded number at a time."""

    def __init__(self, agent: ServingAgent, *, settings: Settings) -> None:
        self._agent = agent
        self._settings = settings
        self._in_hand = 0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """A place for one video, which bounds the disk that uploads take.

        Raises:
            ProblemError: 503 if all places are taken.
        """
        if self._in_hand >= self._settings.max_inferences:
            raise unavailable(f"{self._in_hand} videos are in hand already", retry_after=1)
        self._in_hand += 1
        try:
            yield
        finally:
            self._in_hand -= 1

    async def classify(self, model: str, video: Video, *, top_k: int) -> bytes:
        """Returns the JSON of a Classification.

        Raises:
            ProblemError: what the agent has to say about the video, 503 if the agent or the model
                is away, 504 if the answer takes too long.
        """
        seconds = self._settings.inference_seconds
        try:
            async with asyncio.timeout(seconds):
                return await self._agent.classify(
                    model, video.chunks(), size=video.size, top_k=top_k
                )
        except (TimeoutError, httpx.TimeoutException):
            raise ProblemError(
                504, f"no answer within {seconds:g} s", fix="send a shorter video"
            ) from None
        except AgentUnreachableError as error:
            raise unavailable(str(error), retry_after=5, fix=AGENT_AWAY) from None
        except AgentRefusalError as error:
            raise _passed_on(error, model) from None


def _passed_on(error: AgentRefusalError, model: str) -> ProblemError:
    problem = error.problem
    if error.status in OUR_FAULT:
        return unavailable(
            f"model {model!r} is not loaded at the moment ({problem.detail})",
            retry_after=5,
            fix=f"`cmaev models list`, or GET /v1/models/{model}, tells its status",
        )
    return ProblemError(
        error.status,
        problem.detail,
        field=problem.field,
        fix=problem.fix,
        errors=[(item.get("field", ""), item.get("message", "")) for item in problem.errors],
        headers={"Retry-After": "5"} if error.status in {429, 503} else None,
    )
