"""Where the approximation is not to be believed: Pareto's k-hat of each group."""

from __future__ import annotations

from typing import Any

import numpy as np

from pavi.errors import DataError
from pavi.plot.canvas import BLUE, GREY, ORANGE, SMALL, axes, imported, legend_above, name_points


def pareto_k(
    k_hat: Any,
    sizes: Any,
    threshold: float = 0.7,
    *,
    labels: Any = None,
    plate: str = "group",
    worst: int = 5,
    ax: Any = None,
) -> Any:
    """Pareto's k-hat of each group by its size, the worst ones by name.

    Above the threshold the draws of a group cannot be corrected by importance weights, and the
    approximation may be far off there. What is not finite is drawn at the top, as a triangle.

    Args:
        k_hat: of each group, `[groups]`.
        sizes: number of observations of each group, `[groups]`.
        threshold: above which a group is not to be believed; `min(1 - 1 / log10(S), 0.7)` of S
            draws.
        labels: the groups' names, `[groups]`; their positions by default.
        plate: what a group is.
        worst: how many of those above the threshold to name at most.
        ax: matplotlib axes; those of a new figure by default.

    Returns:
        The axes.

    Raises:
        DataError: arrays of other shapes.
        BackendError: matplotlib is not installed.
    """
    k, size = np.asarray(k_hat, np.float64), np.asarray(sizes, np.float64)
    names = np.arange(len(k)) if labels is None and k.ndim else np.asarray(labels)
    if k.ndim != 1 or not len(k) or not k.shape == size.shape == names.shape:
        raise DataError(
            f"pareto_k: k_hat has shape {k.shape}, sizes {size.shape}, labels {names.shape}; "
            f"expected one number and one name for each group."
        )
    finite = np.isfinite(k)
    # -inf: weights without a tail, of an exact approximation.
    shown = np.where(np.isneginf(k), min(0.0, k[finite].min(initial=0.0)), k)
    ceiling = max(1.05 * threshold, k[finite].max(initial=0.0)) + 0.1
    beyond = ~np.isfinite(shown)
    shown = np.where(beyond, ceiling, shown)
    above = shown > threshold

    ax = axes(ax)
    dot: dict[str, Any] = {"s": 18, "alpha": 0.6 if len(k) <= 1000 else 0.3, "linewidth": 0}
    good, bad = ~above, above & ~beyond
    share = f"above: {above.sum():,} of {len(k):,} ({100 * above.mean():.2g} %)"
    ax.scatter(size[good], shown[good], color=BLUE, **dot, label=f"below: {good.sum():,}")
    ax.scatter(size[bad], shown[bad], color=ORANGE, **dot, label=share)
    if beyond.any():
        label = f"of these not finite: {beyond.sum():,}"
        ax.scatter(
            size[beyond], shown[beyond], color=ORANGE, marker="^", s=26, linewidth=0, label=label
        )
    ax.axhline(threshold, color=GREY, linewidth=1.0, linestyle="--")
    ax.annotate(
        f"{threshold:.2f}",
        (1.0, threshold),
        xycoords=("axes fraction", "data"),
        xytext=(3, 0),
        textcoords="offset points",
        va="center",
        fontsize=SMALL,
        color=GREY,
        annotation_clip=False,
    )
    if size.min() > 0 and (ratio := size.max() / size.min()) >= 20:
        ax.set_xscale("log")
        within = (1.0, 2.0, 5.0) if ratio < 2000 else (1.0,)
        ax.xaxis.set_major_locator(imported("matplotlib.ticker").LogLocator(subs=within))
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
        ax.minorticks_off()
    order = np.argsort(-shown, kind="stable")[: above.sum()]
    name_points(ax, size[order], shown[order], names[order], worst)
    ax.set(xlabel=f"observations of the {plate}", ylabel="Pareto k-hat")
    legend_above(ax)
    return ax
