"""Whether posteriors are calibrated: the ranks of the truth among the draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pavi.errors import DataError
from pavi.plot.canvas import BLUE, GREY, ORANGE, axes, legend_above
from pavi.uniformity import ecdf_envelope

MAX_NAMED = 8  # quantities outside of the envelope that are named


def calibration(
    ranks: Mapping[str, Any] | Any,
    num_draws: int,
    *,
    probability: float = 0.95,
    ax: Any = None,
) -> Any:
    """The distribution function of ranks less that of uniform ones, with a simultaneous envelope.

    Where the posterior is calibrated, the rank of the truth among its draws is uniform. A curve
    above 0 on the left and below 0 on the right: intervals too narrow; the reverse: too wide. Above
    0 throughout: the posterior lies too high; below: too low. The envelope is `ecdf_envelope`'s; it
    is of each curve by itself, so that of 100 of them some 5 leave one of 95 %.

    Args:
        ranks: number of draws below the truth, `[data sets]`, of each quantity by name; or
            `[data sets]` of one, or `[data sets, quantities]`.
        num_draws: number of draws that the truth was ranked among.
        probability: that a calibrated quantity stays within the envelope.
        ax: matplotlib axes; those of a new figure by default.

    Returns:
        The axes.

    Raises:
        DataError: ranks that there cannot be.
        BackendError: matplotlib is not installed.
    """
    named = _named(ranks)
    first = next(iter(named.values()))
    envelope = ecdf_envelope(len(first), num_draws, probability)
    z = envelope.uniform
    difference = {name: envelope.ecdf(value) - z for name, value in named.items()}
    outside = [name for name, value in named.items() if not envelope.holds(value)]

    ax = axes(ax)
    # The distribution functions meet at 0 and at 1.
    ends = np.array([0.0, *z, 1.0])
    low, high = (np.array([0.0, *(b - z), 0.0]) for b in (envelope.lower, envelope.upper))
    label = f"{100 * probability:g} % of calibrated ones stay within"
    ax.fill_between(ends, low, high, color=GREY, alpha=0.2, linewidth=0, label=label)
    ax.axhline(0.0, color=GREY, linewidth=0.8)
    inside = [name for name in difference if name not in outside]
    for place, name in enumerate(inside):
        curve = np.array([0.0, *difference[name], 0.0])
        several = f"within: {len(inside)} of {len(named)}" if len(named) > 1 else name
        alpha = 0.9 if len(named) <= MAX_NAMED else 0.4
        ax.plot(
            ends,
            curve,
            color=BLUE,
            linewidth=1.0,
            alpha=alpha,
            label=several if place == 0 else "_",
        )
    styles = ("-", "--", "-.", ":")
    for place, name in enumerate(outside):
        curve = np.array([0.0, *difference[name], 0.0])
        label = f"outside: {name}" if place < MAX_NAMED else "_"
        ax.plot(ends, curve, color=ORANGE, linewidth=1.4, linestyle=styles[place % 4], label=label)
    if len(outside) > MAX_NAMED:
        ax.plot([], [], color=ORANGE, label=f"... and {len(outside) - MAX_NAMED} more outside")
    ax.set_xlim(0, 1)
    ax.set(
        xlabel=f"share of the {num_draws:,} draws below the truth",
        ylabel="share of data sets, less that expected",
    )
    legend_above(ax)
    return ax


def _named(ranks: Mapping[str, Any] | Any) -> dict[str, np.ndarray]:
    """Ranks `[data sets]` by name."""
    if isinstance(ranks, Mapping):
        named = {str(name): np.asarray(value) for name, value in ranks.items()}
    else:
        array = np.asarray(ranks)
        if array.ndim not in (1, 2):
            raise DataError(
                f"calibration: ranks have shape {array.shape}; expected [data sets], or "
                f"[data sets, quantities]."
            )
        columns = array.reshape(len(array), -1).T
        names = ["ranks"] if len(columns) == 1 else map(str, range(len(columns)))
        named = dict(zip(names, columns, strict=True))
    if not named:
        raise DataError("calibration: there are no ranks.")
    return named
