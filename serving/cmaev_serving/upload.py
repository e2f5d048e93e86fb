"""Receiving bodies: limited in size and time, into a file that is gone after the request."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.requests import ClientDisconnect, Request

from cmaev_serving.problems import ServingError, bad_request


@contextlib.asynccontextmanager
async def received(
    request: Request, folder: Path, *, max_bytes: int, seconds: float
) -> AsyncIterator[Path]:
    """The body of a request as a file, which is removed in the end if it is still there.

    Args:
        request: its body is read.
        folder: for the file.
        max_bytes: largest body.
        seconds: longest time to receive it.

    Raises:
        ServingError: 413 if it is too large, 408 if it takes too long, 400 if there is none.
    """
    target = folder / uuid.uuid4().hex
    try:
        await _receive(request, target, max_bytes, seconds)
        yield target
    finally:
        target.unlink(missing_ok=True)


async def _receive(request: Request, target: Path, max_bytes: int, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            size = await _write(request, target, max_bytes)
    except TimeoutError:
        raise ServingError(
            408,
            f"the body did not arrive within {seconds:g} seconds",
            title="Too slow",
            field="body",
            fix="send it again over a faster connection",
        ) from None
    except ClientDisconnect:
        raise bad_request(
            "the connection ended before the body did", field="body", fix="send it again"
        ) from None
    if not size:
        raise bad_request("the body is empty", field="body", fix="send the bytes of a file")


async def _write(request: Request, target: Path, max_bytes: int) -> int:
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    size = 0
    with open(target, "xb", buffering=0) as file:
        async for chunk in request.stream():
            size += len(chunk)
            if size > max_bytes:
                raise _too_large(max_bytes)
            file.write(chunk)
    return size


def _too_large(max_bytes: int) -> ServingError:
    return ServingError(
        413,
        f"the body is larger than the limit of {max_bytes} bytes",
        title="Too large",
        field="body",
        fix="send less, or raise the limit in the settings of the serving agent",
    )
