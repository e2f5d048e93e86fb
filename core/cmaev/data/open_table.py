"""From an index to its table: which form it has, and the cache of converted tables.

Large indexes are converted once. Their tables lie in CMAEV_CACHE_DIR, or `cmaev` in the user's
cache folder, under a hash of all that decides them.
"""

import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cmaev.data.errors import DataError
from cmaev.data.index_format import read_text
from cmaev.data.index_table import build_table, check_files, check_labels_agree
from cmaev.data.listing import Listing
from cmaev.data.storage import Root, is_url, local_or_url, parent, read_bytes
from cmaev.data.table import Table
from cmaev_spec.files import write_atomic

_FORMAT: Final = "1"
# Smaller indexes are read in a moment; they are read, and their videos looked for, each time.
CACHE_FROM_BYTES: Final = 1 << 20


def open_table(
    path: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None
) -> Table:
    """The table of an index; see `cmaev.data.index.open_index`.

    Raises:
        DataError: naming file, line and the fix.
    """
    source = local_or_url(path)
    base = Root(parent(source) if root is None else local_or_url(root))
    data = read_index(source)
    if len(data) < CACHE_FROM_BYTES:
        return _convert(source, read_text(source, data, base), base)
    key = hashlib.sha256(data)
    key.update("\0".join((_FORMAT, source, base.folder)).encode("utf-8", "surrogateescape"))
    return _cached(key.hexdigest(), lambda: _convert(source, read_text(source, data, base), base))


def read_index(source: str) -> bytes:
    """The bytes of an index file.

    Raises:
        DataError: if there is none, or it cannot be read.
    """
    if not is_url(source) and not os.path.exists(source):
        raise DataError(f"{source}: there is no such index file; check the path")
    return read_bytes(source)


def _convert(source: str, listing: Listing, root: Root) -> Table:
    table = Table.hold(build_table(source, listing, root))
    check_files(table)
    check_labels_agree(table)
    return table


def _cached(key: str, convert: Callable[[], Table]) -> Table:
    file = cache_folder() / "indexes" / f"{key}.safetensors"
    try:
        return Table.map_file(file)
    except (OSError, ValueError):
        table = convert()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, table.to_bytes())
        return Table.map_file(file)
    except OSError as error:
        warnings.warn(
            f"{file.parent}: converted indexes cannot be kept there ({error.strerror}), so this "
            "one is held in memory; set CMAEV_CACHE_DIR to a folder that can be written",
            stacklevel=2,
        )
        return table


def cache_folder() -> Path:
    """Where converted indexes are kept."""
    own = os.environ.get("CMAEV_CACHE_DIR")
    if own:
        return Path(own)
    user = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(user) / "cmaev"
