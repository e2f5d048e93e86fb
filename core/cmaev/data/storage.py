"""Files by path or by fsspec URL (`s3://…`, `gs://…`, `https://…`); fsspec is imported when needed.

Credentials come from the environment, never from a specification or an index.
"""

import errno
import glob
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from cmaev.data.errors import DataError
from cmaev_spec.location import is_url as is_url

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
# A video is read in blocks of this size, each of them once: decoders pass over a file twice.
BLOCK_BYTES: Final = 4 << 20
HELD_BLOCKS: Final = 32


def local_or_url(path: str | os.PathLike[str]) -> str:
    """`path` as text, `file://…` as the local path that it means.

    Raises:
        DataError: for a URL that holds a password.
    """
    text = os.fspath(path)
    parts = _URL.match(text)
    if parts is None:
        return text
    if parts[1].lower() == "file":
        return parts[2]
    if "@" in parts[2].split("/")[0]:
        raise DataError(
            f"{parts[1]}://…@…: a URL must not hold a user or password; give credentials by the "
            "environment (for s3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
        )
    return text


def join(base: str, path: str) -> str:
    """`path` seen from the folder `base`; absolute paths and URLs stay as they are."""
    if is_url(path):
        return local_or_url(path)
    if not is_url(base):
        return os.path.join(base, path)
    return path if path.startswith("/") else f"{base.rstrip('/')}/{path}"


def parent(path: str) -> str:
    """The folder that a path or a URL lies in; `.` for a bare name."""
    return path.rstrip("/").rpartition("/")[0] if is_url(path) else os.path.dirname(path) or "."


def file_system(url: str) -> "tuple[AbstractFileSystem, str]":
    """The file system of a URL, and the URL's path there.

    Raises:
        DataError: if the scheme is unknown or its package is not installed.
    """
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        scheme = url.partition("://")[0]
        raise DataError(
            f"{url}: {scheme}:// cannot be opened: {error}; for s3 install cmaev[s3]"
        ) from None
    return system, path


def is_file(path: str) -> bool:
    """Whether there is a file."""
    if not is_url(path):
        return os.path.isfile(path)
    with reporting(path):
        system, name = file_system(path)
        return bool(system.isfile(name))


def is_folder(path: str) -> bool:
    """Whether there is a folder."""
    if not is_url(path):
        return os.path.isdir(path)
    with reporting(path):
        system, name = file_system(path)
        return bool(system.isdir(name))


def read_bytes(path: str, *, start: int | None = None, size: int | None = None) -> bytes:
    """A file's content, or `size` bytes of it from `start` on, in one request.

    Raises:
        DataError: if it cannot be read, or ends early.
    """
    with reporting(path):
        if is_url(path):
            system, name = file_system(path)
            end = None if start is None or size is None else start + size
            data = cast(bytes, system.cat_file(name, start=start, end=end))
        else:
            with open(path, "rb") as file:
                file.seek(start or 0)
                data = file.read(-1 if size is None else size)
    if size is not None and len(data) != size:
        raise DataError(f"{path}: it ends at {(start or 0) + len(data)} bytes; copy it again")
    return data


def open_binary(path: str) -> BinaryIO:
    """A seekable file, local or behind a URL.

    Raises:
        DataError: if it cannot be opened.
    """
    if is_url(path):
        return open_remote(path)
    with reporting(path):
        return open(path, "rb")


def open_remote(url: str) -> BinaryIO:
    """A seekable file that reads a URL by blocks, each of them once while it stays among the last.

    Raises:
        DataError: if it cannot be opened.
    """
    with reporting(url):
        system, name = file_system(url)
        file = system.open(
            name,
            "rb",
            block_size=BLOCK_BYTES,
            cache_type="blockcache",
            cache_options={"maxblocks": HELD_BLOCKS},
        )
        return cast(BinaryIO, _RemoteFile(file))


class _RemoteFile(io.RawIOBase):
    """A file of fsspec whose failures are all `OSError`, as readers of files expect."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        try:
            data = self._file.read(len(buffer))
        except OSError:
            raise
        except Exception as error:  # Each store has exceptions of its own.
            raise OSError(errno.EIO, str(error)) from error
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


def find_files(folder: str) -> list[str]:
    """All files below a folder, as paths from there; links to folders are followed at its top.

    Raises:
        DataError: if it cannot be listed.
    """
    with reporting(folder):
        if is_url(folder):
            system, name = file_system(folder)
            names = cast(list[str], system.find(name))
            return [found[len(name.rstrip("/")) + 1 :] for found in names]
        with os.scandir(folder) as entries:
            tops = [(entry.name, entry.is_dir()) for entry in entries]
    found = [name for name, is_dir in tops if not is_dir]
    for top in (name for name, is_dir in tops if is_dir):
        for inner, _, names in os.walk(os.path.join(folder, top)):
            base = os.path.relpath(inner, folder)
            found += [os.path.join(base, name) for name in names]
    return found


def match_files(pattern: str) -> list[str]:
    """Paths or URLs of the files that match a pattern with `*`, sorted.

    Raises:
        DataError: if they cannot be listed.
    """
    if not is_url(pattern):
        return sorted(filter(os.path.isfile, glob.glob(pattern)))
    with reporting(pattern):
        system, name = file_system(pattern)
        return sorted(system.unstrip_protocol(found) for found in system.glob(name))


def size_and_time(path: str) -> tuple[int, int]:
    """(bytes, mtime_ns) of a file; the time is -1 behind a URL.

    Raises:
        DataError: if there is none.
    """
    with reporting(path):
        if not is_url(path):
            state = os.stat(path)
            return state.st_size, state.st_mtime_ns
        system, name = file_system(path)
        return int(system.size(name)), -1


def stamp(path: str) -> str:
    """Another text when the file is another one.

    Raises:
        DataError: if there is none.
    """
    if not is_url(path):
        return ":".join(map(str, size_and_time(path)))
    with reporting(path):
        system, name = file_system(path)
        return str(system.checksum(name))


@dataclass(frozen=True)
class Root:
    """The folder, or URL of one, that relative paths start from."""

    folder: str

    def locate(self, path: str) -> str:
        """A path as this process opens it."""
        return join(self.folder, path)

    def kind(self, path: str) -> str | None:
        """`file`, `folder`, or None where there is nothing."""
        found = self.locate(path)
        if is_file(found):
            return "file"
        return "folder" if is_folder(found) else None


@contextmanager
def reporting(path: str) -> Iterator[None]:
    """Turns what goes wrong with a file into an error that names it.

    Raises:
        DataError: for a file that is missing, closed to this user, or unreachable.
    """
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; check the path") from None
    except PermissionError as error:
        hint = "; check the credentials in the environment" if is_url(path) else ""
        raise DataError(f"{path}: access is denied: {error}{hint}") from None
    except OSError as error:
        raise DataError(f"{path}: it cannot be read: {error.strerror or error}") from None
    except DataError:
        raise
    except Exception as error:
        if not is_url(path):
            raise
        # Each store has exceptions of its own.
        kind = type(error).__name__
        raise DataError(f"{path}: it cannot be read: {kind}: {error}") from error
