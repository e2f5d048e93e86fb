"""Shards: tar files in the WebDataset layout, of which one video is read by one range request.

A video `KEY.mp4` has its label beside it: as `label` in `KEY.json`, or in `KEY.cls`. An `index.csv`
beside the shards says where each video begins; shards without one are scanned.
"""

import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from cmaev.data.errors import DataError
from cmaev.data.folder import VIDEO_SUFFIXES
from cmaev.data.index_format import MEMBER
from cmaev.data.listing import Listing, Row
from cmaev.data.storage import open_binary, reporting

# The later one decides: a name says more than a number.
_NOTES: Final = (".cls", ".json")
_LARGEST_NOTE: Final = 1 << 20


def read_shards(shards: list[str]) -> Listing:
    """Scans shards that have no index.

    Args:
        shards: paths or URLs of tar files.

    Raises:
        DataError: naming a shard that is no whole tar file, when its rows are read.
    """
    rows = (row for shard in shards for row in _scan(shard))
    return Listing(rows=rows, numbers=MEMBER, line_word="")


def scan_members(shard: str) -> tuple[dict[str, tarfile.TarInfo], dict[str, str]]:
    """The files in a shard by name, and the text of those that hold labels.

    Raises:
        DataError: if it is no whole tar file.
    """
    members, texts = {}, {}
    with _open_shard(shard) as tar:
        for member in filter(tarfile.TarInfo.isreg, tar):
            members[member.name] = member
            if _split(member.name)[1] in _NOTES and member.size <= _LARGEST_NOTE:
                file = tar.extractfile(member)
                assert file is not None, "only regular files are read"
                texts[member.name] = file.read().decode("utf-8", "replace")
    return members, texts


def _scan(shard: str) -> Iterator[Row]:
    members, texts = scan_members(shard)
    labels: dict[str, str] = {}
    for suffix in _NOTES:
        for name, text in texts.items():
            key, found = _split(name)
            if found == suffix:
                labels[key] = _label(text, suffix) or labels.get(key, "")
    for name, member in members.items():
        key, suffix = _split(name)
        if suffix in VIDEO_SUFFIXES:
            place = member.offset_data, member.size
            yield Row(0, f"{shard}/{name}", labels.get(key, ""), place)


@contextmanager
def _open_shard(shard: str) -> Iterator[tarfile.TarFile]:
    with reporting(shard), open_binary(shard) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                yield tar
                for member in tar.getmembers():
                    if member.isreg() and member.offset_data + member.size > end:
                        raise tarfile.ReadError(f"it ends within {member.name}")
        except tarfile.TarError as error:
            raise DataError(f"{shard}: it is no whole tar file: {error}; copy it again") from None


def _split(name: str) -> tuple[str, str]:
    """The key of a member, up to the first dot of its name, which its files share; the suffix."""
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.partition('.')[0]}", os.path.splitext(file)[1].lower()


def _label(text: str, suffix: str) -> str:
    if suffix == ".cls":
        return text.strip()
    try:
        notes = json.loads(text)
    except ValueError:
        return ""
    return str(notes["label"]) if isinstance(notes, dict) and "label" in notes else ""
