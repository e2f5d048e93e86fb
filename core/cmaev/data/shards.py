"""Shards: tar files in the WebDataset layout, of which one video is read by one range request.

A video `KEY.mp4` has its label beside it in `KEY.cls`, a number or a name, or as `label` in
`KEY.json`. `index.csv` beside the shards says where each video begins, so that nothing is scanned.
"""

import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

from cmaev.data.errors import DataError
from cmaev.data.folder import VIDEO_SUFFIXES
from cmaev.data.index_format import MEMBER
from cmaev.data.listing import Listing, Row
from cmaev.data.storage import open_binary, reporting

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


def _scan(shard: str) -> Iterator[Row]:
    """The videos of one shard."""
    videos: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, str] = {}
    with ExitStack() as stack:
        stack.enter_context(reporting(shard))
        file = stack.enter_context(open_binary(shard))
        end = file.seek(0, os.SEEK_END)
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in filter(tarfile.TarInfo.isreg, tar):
                    key, suffix = split_member(member.name)
                    if suffix.lower() in VIDEO_SUFFIXES:
                        videos[key] = member
                    elif suffix in (".cls", ".json") and member.size <= _LARGEST_NOTE:
                        label = _label(tar, member, suffix)
                        if label:
                            labels[key] = label
        except tarfile.TarError as error:
            raise DataError(f"{shard}: it is no whole tar file ({error}); write it again") from None
    for key, member in videos.items():
        if member.offset_data + member.size > end:
            raise DataError(f"{shard}: it ends within {member.name}; copy it again")
        yield Row(
            0, f"{shard}/{member.name}", labels.get(key, ""), (member.offset_data, member.size)
        )


def split_member(name: str) -> tuple[str, str]:
    """The key of a member, which its files share, and what comes after it: `a/b.x.mp4`, `a/b`."""
    folder, slash, file = name.rpartition("/")
    key, dot, _ = file.partition(".")
    return f"{folder}{slash}{key}", os.path.splitext(file)[1] if dot else ""


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo, suffix: str) -> str:
    file = tar.extractfile(member)
    assert file is not None, "only regular files are read"
    text = file.read().decode("utf-8", "replace").strip()
    if suffix == ".cls":
        return text
    try:
        notes = json.loads(text)
    except ValueError:
        return ""
    return str(notes["label"]) if isinstance(notes, dict) and "label" in notes else ""
