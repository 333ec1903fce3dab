"""The report as one self-contained HTML file: no script, no address, the plot inside."""

from collections import Counter
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader

from ..verdict import size
from . import plot
from .judged import Judged

_TEMPLATES = Environment(loader=PackageLoader(__package__), autoescape=True)


def render(judged: Sequence[Judged], *, color: bool = False) -> str:
    """A page with a section a record, side by side in the plot at its top."""
    _TEMPLATES.filters["bytes"] = size
    return _TEMPLATES.get_template("report.html").render(
        judged=judged,
        together=_svg(judged) if len(judged) > 1 else "",
        plots=[_svg([each]) for each in judged],
        profiles=[_by_profile(each) for each in judged],
    )


def _svg(judged: Sequence[Judged]) -> str:
    picture = plot.draw(judged, "svg").decode("utf-8")
    return picture[picture.index("<svg") :]


def _by_profile(judged: Judged) -> list[tuple[str, int, int]]:
    """Profiles of the last readers looked at: how many there were, and held the server up."""
    lines = judged.record.readers
    lines = [each for each in lines if each.phase == lines[-1].phase]
    total = Counter(each.profile for each in lines)
    pressed = Counter(each.profile for each in lines if each.pressed)
    return [(name, number, pressed[name]) for name, number in total.items()]
