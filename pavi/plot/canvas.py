"""What every picture is drawn on. Matplotlib is imported by the first one, not by `import pavi`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from pavi.errors import BackendError

# Of Okabe and Ito's palette, whose colours colour-blind readers can tell apart.
BLUE, ORANGE = "#0072B2", "#D55E00"
GREY = "#5f6b77"

SMALL = 8.0  # points: of labels inside a picture


def axes(ax: Any, *, width: float = 6.4, height: float = 4.2) -> Any:
    """`ax`, or axes of a new figure of pyplot's if it is None, without a frame.

    Args:
        ax: matplotlib axes, or None.
        width: of a new figure, in inches.
        height: of a new figure, in inches.

    Raises:
        BackendError: matplotlib is not installed.
    """
    if ax is None:
        pyplot = imported("matplotlib.pyplot")
        _, ax = pyplot.subplots(figsize=(width, height), layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def sheet(rows: int, *, width: float, height: float) -> tuple[Any, np.ndarray]:
    """A figure that needs no display and leaves pyplot alone, and its axes `[rows]`.

    Args:
        rows: number of axes, one below the other.
        width: in inches.
        height: in inches.

    Raises:
        BackendError: matplotlib is not installed.
    """
    figure = imported("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")
    imported("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, 1, squeeze=False)[:, 0]


def legend_above(ax: Any) -> None:
    """A legend above the axes, where nothing is drawn."""
    ax.legend(frameon=False, fontsize=SMALL, ncols=3, loc="lower left", bbox_to_anchor=(0.0, 1.0))


def name_points(ax: Any, x: np.ndarray, y: np.ndarray, names: np.ndarray, count: int) -> None:
    """Writes the names of the first points beside them, where they cover none of the points.

    Args:
        ax: matplotlib axes, with their limits.
        x: of the points, `[points]`.
        y: of the points, `[points]`.
        names: of the points, `[points]`.
        count: how many to name.
    """
    ax.autoscale_view()
    pixels = ax.figure.dpi / 72
    taken = ax.transData.transform(np.stack([x, y], axis=1)) / pixels
    for i in range(min(count, len(x))):
        # A letter is about 0.6 as wide as it is high.
        text, place = str(names[i]), taken[i]
        extent = np.array([0.6 * len(text), 1.0]) * SMALL
        corners = [(5.0, 2.0), (5.0, -9.0), (-5.0 - extent[0], 2.0), (-5.0 - extent[0], -9.0)]
        covered = [
            ((taken > place + c - 3) & (taken < place + c + extent + 3)).all(1).sum()
            for c in corners
        ]
        corner = corners[int(np.argmin(covered))]
        ax.annotate(text, (x[i], y[i]), xytext=corner, textcoords="offset points", fontsize=SMALL)
        # The name is in the way of those after it.
        along = place + corner + np.linspace(0.0, 1.0, 8)[:, None] * extent
        taken = np.concatenate([taken, along])


def imported(module: str) -> Any:
    """A module of the extra `plots`.

    Raises:
        BackendError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise BackendError(
            f"pavi.plot needs {package}, which cannot be imported: {error}. Install its extra, "
            f"pip install 'pavi-vi[plots]'."
        ) from error
