"""Where data is: a local path or a URL that fsspec opens."""

import re
from typing import Final

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_url(location: str) -> bool:
    """Whether a location is a URL, such as `s3://bucket/train.csv`, and no local path."""
    return _URL.match(location) is not None
