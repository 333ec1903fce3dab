"""Slopes and differences with their uncertainty: Theil-Sen and the bootstrap, by SciPy."""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import DegenerateDataWarning, bootstrap, theilslopes

CONFIDENCE = 0.95
RESAMPLES = 300
"""Enough for an interval that is compared with a budget, in a tenth of a second."""
MOST_POINTS = 60
"""Theil-Sen looks at every pair of points: more of them are thinned out evenly."""


class Figure(NamedTuple):
    """An estimate and the interval that it lies in, with CONFIDENCE; in the unit of its use."""

    value: float
    low: float
    high: float

    def __mul__(self, factor: object) -> "Figure":
        """Scaled by a number of zero or more."""
        assert isinstance(factor, int | float)
        return Figure(*(part * factor for part in self))


def slope(xs: Sequence[float], ys: Sequence[float]) -> Figure | None:
    """How much y changes with x; None if all x are the same.

    The estimate is the median of the slopes between any two points, so that a few wild ones do
    not move it. The interval is the bootstrap's over the points.
    """
    if len(set(xs)) < 2:
        return None
    places = np.linspace(0, len(xs) - 1, min(len(xs), MOST_POINTS)).round().astype(int)
    x, y = np.asarray(xs, float)[places], np.asarray(ys, float)[places]

    def statistic(x: np.ndarray, y: np.ndarray) -> float:
        if not np.ptp(x):
            return float("nan")
        with np.errstate(invalid="ignore"):  # of its own interval, which is not used
            return float(theilslopes(y, x)[0])

    return _with_interval((x, y), statistic, paired=True)


def stairs(steps: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Figure | None:
    """How much y changes with x over plateaus, each with its xs and ys.

    The estimate is the Theil-Sen slope through the medians of the plateaus. The interval is the
    bootstrap's over all points, widened to the slopes between any two medians: looks at one
    plateau agree with each other far better than plateaus do.
    """
    pairs = sorted((float(np.median(xs)), float(np.median(ys))) for xs, ys in steps)
    between = [
        (high[1] - low[1]) / (high[0] - low[0])
        for number, low in enumerate(pairs)
        for high in pairs[number + 1 :]
        if high[0] > low[0]
    ]
    within = slope([x for xs, _ in steps for x in xs], [y for _, ys in steps for y in ys])
    if not between or within is None:
        return None
    value = float(np.median(between))
    return Figure(value, min(within.low, *between, value), max(within.high, *between, value))


def difference(first: Sequence[float], second: Sequence[float]) -> Figure:
    """How much higher the median of the second is than that of the first."""

    def statistic(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.median(b) - np.median(a))

    return _with_interval((np.asarray(first, float), np.asarray(second, float)), statistic)


def _with_interval(
    data: tuple[np.ndarray, np.ndarray], statistic: Callable[..., float], *, paired: bool = False
) -> Figure:
    value = statistic(*data)
    if min(map(len, data)) < 2:
        return Figure(value, value, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # of looks that all agree
        found = bootstrap(
            data,
            statistic,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            method="percentile",
            vectorized=False,
            paired=paired,
            rng=np.random.default_rng(1),  # the same record gets the same verdict
        )
    drawn = found.bootstrap_distribution
    low, high = np.nanpercentile(drawn, [50 - 50 * CONFIDENCE, 50 + 50 * CONFIDENCE])
    return Figure(value, min(value, float(low)), max(value, float(high)))
