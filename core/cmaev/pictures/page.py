"""One HTML page that holds all pictures of a run: no script, and nothing outside the file."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

from cmaev_spec.files import write_atomic

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
figure { margin: 0 0 2rem; overflow-x: auto; }
figcaption { margin-bottom: .4rem; overflow-wrap: anywhere; }
td, th { padding: .15rem 1.5rem .15rem 0; text-align: left; }
td { font-variant-numeric: tabular-nums; }
"""


@dataclass(frozen=True)
class Picture:
    """A PNG and what it shows."""

    path: Path
    caption: str


def write_page(
    path: Path,
    *,
    title: str,
    notes: Sequence[str],
    figures: Mapping[str, float],
    pictures: Sequence[Picture],
) -> None:
    """Writes the page.

    Args:
        path: the HTML file.
        title: heads the page.
        notes: lines below the title.
        figures: what the run ended with; a table, where there are any.
        pictures: in the order of the page.
    """
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{value:.6g}</td></tr>\n" for name, value in figures.items()
    )
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{escape(note)}</p>" for note in notes),
        f"<table>\n{rows}</table>" if rows else "",
        *(_figure(picture) for picture in pictures),
        "</body></html>",
    ]
    write_atomic(path, "\n".join(part for part in parts if part) + "\n")


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.path.read_bytes()).decode()
    caption = escape(picture.caption)
    return (
        f"<figure><figcaption>{caption}</figcaption>"
        f'<img alt="{caption}" src="data:image/png;base64,{data}"></figure>'
    )
