"""Where the control plane is and with which key: CMAEV_ variables, then the local stack's files."""

import json
import os
from pathlib import Path

import httpx

from cmaev_spec.exits import BadInput

DEFAULT_URL = "http://127.0.0.1:8080"
DEFAULT_STATE_DIR = "~/.local/share/cmaev"


def find_url() -> str:
    """CMAEV_URL, else where the stack of the state folder listens, else the default.

    Raises:
        BadInput: if CMAEV_URL is no address.
    """
    url = os.environ.get("CMAEV_URL") or _stack_url() or DEFAULT_URL
    try:
        httpx.URL(url)
    except httpx.InvalidURL as error:
        raise BadInput(f"CMAEV_URL: {url!r} is no address: {error}") from None
    return url


def find_key() -> str:
    """CMAEV_API_KEY, else the key that the first start left in the state folder.

    Raises:
        BadInput: if there is no key, or it is none that a request can carry.
    """
    key = os.environ.get("CMAEV_API_KEY")
    source = "CMAEV_API_KEY"
    if not key:
        file = _state_dir() / "api-key"
        try:
            key = file.read_text(encoding="utf-8", errors="replace").strip()
        except OSError as error:
            raise BadInput(
                "no API key: set CMAEV_API_KEY, or CMAEV_STATE_DIR to the stack's state folder "
                f"({file}: {error.strerror})"
            ) from None
        source = str(file)
    return header_value(key, source=source)


def header_value(text: str, *, source: str) -> str:
    """Returns what a request header can carry.

    Raises:
        BadInput: naming `source`, where the text came from.
    """
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise BadInput(f"{source}: must be ASCII letters, digits and signs, without spaces")
    return text


def _state_dir() -> Path:
    return Path(os.environ.get("CMAEV_STATE_DIR") or DEFAULT_STATE_DIR).expanduser()


def _stack_url() -> str | None:
    """Address in `stack.json`, which is there while a stack is up."""
    try:
        content = json.loads((_state_dir() / "stack.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    url = content.get("api") if isinstance(content, dict) else None
    return url if isinstance(url, str) and url else None
