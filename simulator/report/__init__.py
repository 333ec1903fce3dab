"""Reports of judged records: all of them read the record, and none measures anything."""

from collections.abc import Callable

from . import html, json, junit, plot, text
from .judged import Judged

__all__ = ["FORMATS", "Judged", "html", "plot", "text"]

FORMATS: dict[str, Callable[..., str]] = {
    "text": text.render,
    "json": json.render,
    "junit": junit.render,
    "html": html.render,
}
