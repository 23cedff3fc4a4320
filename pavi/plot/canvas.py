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
