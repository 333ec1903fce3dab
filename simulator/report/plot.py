"""The picture: process and kernel memory over time, above the level without readers."""

import io
from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..plan import MIB
from .judged import Judged

COLORS = {"process": "#2f6db5", "kernel": "#e39a3b"}
BUDGET = "#7a2020"
WIDTH, HEIGHT = 9.0, 3.6
"""Inches of one panel; two stand beside each other."""
SHADED = ("staircase", "hold", "ratchet")


def draw(judged: Sequence[Judged], kind: str) -> bytes:
    """The records' panels side by side on one scale, as `png` or `svg`."""
    width = WIDTH if len(judged) == 1 else WIDTH * 0.62 * len(judged)
    figure = Figure(figsize=(width, HEIGHT), layout="constrained")
    axes = figure.subplots(1, len(judged), sharey=True, squeeze=False)[0]
    for place, each in zip(axes, judged, strict=True):
        _panel(place, each)
    axes[0].set_ylabel("MiB above the level without readers")
    axes[0].set_ylim(bottom=0)
    axes[0].legend(loc="upper left", frameon=False, fontsize=8)
    out = io.BytesIO()
    # Without a date and chance the same record gives the same file.
    with rc_context({"svg.hashsalt": "weir"}):
        figure.savefig(
            out, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None
        )
    return out.getvalue()


def _panel(axes: Axes, judged: Judged) -> None:
    found = {name: dict(judged.growth(name)) for name in ("process", "kernel")}
    shown = [(name, line) for name, line in found.items() if line]
    times = sorted(set.intersection(*(set(line) for _, line in shown))) if shown else []
    if times:
        axes.stackplot(
            times,
            [[max(0.0, line[at]) for at in times] for _, line in shown],
            labels=[name for name, _ in shown],
            colors=[COLORS[name] for name, _ in shown],
        )
    _mark_phases(axes, judged)
    _mark_budget(axes, judged)
    axes.set_title(
        f"{judged.name}: {judged.verdict.outcome}", fontsize=10, loc="left", parse_math=False
    )
    axes.set_xlabel("seconds")
    axes.margins(x=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _mark_phases(axes: Axes, judged: Judged) -> None:
    """Plateaus are shaded where they were judged, with the number of readers."""
    for phase in judged.record.phases:
        looks = judged.record.looks(phase).times
        if phase.kind not in SHADED or not looks:
            continue
        axes.axvspan(looks[0], looks[-1], color="black", alpha=0.07, linewidth=0)
        axes.annotate(
            str(phase.readers),
            ((looks[0] + looks[-1]) / 2, 0.99),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="top",
            fontsize=7,
            color="#444444",
        )


def _mark_budget(axes: Axes, judged: Judged) -> None:
    """What the budgets allow for the readers that are there."""
    budget = (judged.verdict.user_budget + judged.verdict.kernel_budget) / MIB
    samples = [each for each in judged.record.samples if each.phase != "warm-up"]
    axes.plot(
        [each.at for each in samples],
        [each.readers * budget for each in samples],
        color=BUDGET,
        linewidth=1,
        linestyle="--",
        drawstyle="steps-post",
        label="both budgets",
    )
