"""From an index to its table: which form it has, and the cache of converted tables.

Large indexes are converted once. Their tables lie in CMAEV_CACHE_DIR, or `cmaev` in the user's
cache folder, under a hash of all that decides them.
"""

import hashlib
import os
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from cmaev.data.errors import DataError
from cmaev.data.folder import read_folder
from cmaev.data.index_format import read_text
from cmaev.data.index_table import build_table, check_files, check_labels_agree
from cmaev.data.listing import Listing
from cmaev.data.shards import read_shards
from cmaev.data.something import read_something
from cmaev.data.storage import (
    Root,
    is_file,
    is_folder,
    is_url,
    join,
    local_or_url,
    match_files,
    parent,
    read_bytes,
    stamp,
)
from cmaev.data.table import Table
from cmaev_spec.files import write_atomic

_FORMAT: Final = "1"
# Smaller indexes are read in a moment; they are read, and their videos looked for, each time.
CACHE_FROM_BYTES: Final = 1 << 20
KEEP_SECONDS: Final = 60 * 24 * 3600
"""How long a table is kept that nobody opens."""
INDEX_NAME: Final = "index.csv"
_FILE_SUFFIXES: Final = (".csv", ".tsv", ".txt", ".json", ".list", ".lst")


def open_table(
    path: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None
) -> Table:
    """The table of an index; see `cmaev.data.index.open_index`.

    Raises:
        DataError: naming file, line and the fix.
    """
    source = local_or_url(path)
    if source.endswith(".tar"):
        return _open_shards(source, match_files(source) if "*" in source else [source])
    if not _is_folder(source):
        return _open_file(source, Root(parent(source) if root is None else local_or_url(root)))
    inner = join(source.rstrip("/"), INDEX_NAME)
    if is_file(inner):
        return _open_file(inner, Root(parent(inner) if root is None else local_or_url(root)))
    if root is not None:
        warnings.warn(
            f"root has no effect on {source}, whose paths start from itself", stacklevel=2
        )
    shards = match_files(join(source.rstrip("/"), "*.tar"))
    if shards:
        return _open_shards(source, shards)
    return _convert(source, read_folder(source), Root(source))


def _is_folder(source: str) -> bool:
    """Asking a server takes time, so the names of files are believed."""
    if is_url(source):
        return not source.lower().endswith(_FILE_SUFFIXES) and is_folder(source)
    return os.path.isdir(source)


def _open_file(source: str, root: Root) -> Table:
    if not is_url(source) and not os.path.exists(source):
        raise DataError(f"{source}: there is no such index file; check the path")
    data = read_bytes(source)
    read = read_something if source.lower().endswith(".json") else read_text

    def convert() -> Table:
        return _convert(source, read(source, data, root), root)

    if len(data) < CACHE_FROM_BYTES:
        return convert()
    return _cached([hashlib.sha256(data).hexdigest(), source, root.folder], convert)


def _open_shards(source: str, shards: list[str]) -> Table:
    if not shards:
        raise DataError(f"{source}: no shards match; check the path")
    key = [source, *(part for shard in shards for part in (shard, stamp(shard)))]
    return _cached(key, lambda: _convert(source, read_shards(shards), Root(".")))


def _convert(source: str, listing: Listing, root: Root) -> Table:
    table = Table.hold(build_table(source, listing, root))
    check_files(table)
    check_labels_agree(table)
    return table


def _cached(key: list[str], convert: Callable[[], Table]) -> Table:
    """The table that was kept under a key, else the converted one, kept if possible.

    Of several processes that convert at once, each writes the same file, whole.
    """
    text = "\0".join((_FORMAT, *key)).encode("utf-8", "surrogateescape")
    file = cache_folder() / "indexes" / f"{hashlib.sha256(text).hexdigest()}.safetensors"
    try:
        table = Table.map_file(file)
    except (OSError, ValueError):
        table = convert()
    else:
        with suppress(OSError):  # A cache that cannot be written to is never tidied either.
            os.utime(file)
        return table
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _forget_unused(file.parent)
        write_atomic(file, table.to_bytes())
        return Table.map_file(file)
    except OSError as error:
        warnings.warn(
            f"{file.parent}: converted indexes cannot be kept there ({error.strerror}), so this "
            "one is held in memory; set CMAEV_CACHE_DIR to a folder that can be written",
            stacklevel=2,
        )
        return table


def _forget_unused(folder: Path) -> None:
    """Removes tables that nobody has opened for long."""
    oldest = time.time() - KEEP_SECONDS
    for file in folder.iterdir():
        with suppress(FileNotFoundError):  # Another process tidies too.
            if file.stat().st_mtime < oldest:
                file.unlink()


def cache_folder() -> Path:
    """Where converted indexes are kept."""
    own = os.environ.get("CMAEV_CACHE_DIR")
    if own:
        return Path(own)
    user = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(user) / "cmaev"
