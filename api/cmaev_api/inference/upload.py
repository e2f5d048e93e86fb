"""Taking in a posted video: to a file on disk, never whole into memory."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import BinaryIO

from anyio.to_thread import run_sync
from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from cmaev_api.errors import ProblemError, unprocessable

CHUNK = 1 << 18
MULTIPART = "multipart/form-data"


@dataclass(frozen=True)
class Video:
    """A video on disk."""

    file: BinaryIO
    size: int

    async def chunks(self) -> AsyncIterator[bytes]:
        """Its bytes from the start."""
        await run_sync(self.file.seek, 0)
        while chunk := await run_sync(self.file.read, CHUNK):
            yield chunk


@asynccontextmanager
async def receive_video(request: Request) -> AsyncIterator[Video]:
    """Reads the video of a request: the body itself, or the multipart field `file`.

    Raises:
        ProblemError: 415 for another type of content, 422 for an empty video or a form without
            `file`; 413 comes from the limit on bodies (cmaev_api.middleware).
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == MULTIPART:
        async with _form_file(request) as file:
            yield await _measured(file)
    elif content_type in {"", "application/octet-stream"} or content_type.startswith("video/"):
        with tempfile.TemporaryFile(prefix="cmaev-upload-") as file:
            async for chunk in request.stream():
                await run_sync(file.write, chunk)
            yield await _measured(file)
    else:
        raise ProblemError(
            415,
            f"a video cannot be {content_type}",
            field="Content-Type",
            fix=f"send {MULTIPART} with the field `file`, video/* or application/octet-stream",
        )


@asynccontextmanager
async def _form_file(request: Request) -> AsyncIterator[BinaryIO]:
    try:
        form = await request.form(max_files=1, max_fields=4)
    except ProblemError:
        raise
    except HTTPException as error:
        raise ProblemError(400, f"the form cannot be read: {error.detail}", field="file") from None
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise unprocessable([("file", "the form has no file under this name")])
        yield file.file
    finally:
        await form.close()


async def _measured(file: BinaryIO) -> Video:
    size = await run_sync(file.seek, 0, 2)
    if size == 0:
        raise unprocessable([("file", "the video is empty")], fix="send the bytes of a video file")
    return Video(file, size)
