"""The ELBO along a fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pavi.errors import DataError
from pavi.plot.canvas import BLUE, GREY, SMALL, axes

if TYPE_CHECKING:
    from pavi.posterior import Posterior
    from pavi.schedule import History

# Below the settled records, so many times their range is shown of the climb.
_CLIMB = 1.5


def elbo(
    posterior: Posterior | History,
    *,
    phases: Mapping[str, int] | None = None,
    ax: Any = None,
) -> Any:
    """The ELBO along a fit, with two standard errors to either side.

    The first steps lie far below the rest. The limits are those of the second half, with some room
    below it; how many records lie lower is written down.

    Args:
        posterior: a posterior, or its history.
        phases: step at which each phase begins, by name, if others than the history's own.
        ax: matplotlib axes; those of a new figure by default.

    Returns:
        The axes.

    Raises:
        DataError: the history has no records with a finite ELBO.
        BackendError: matplotlib is not installed.
    """
    history: Any = getattr(posterior, "history", posterior)
    step = np.asarray(history.step)
    value, error = (np.asarray(a, np.float64) for a in (history.elbo, history.elbo_se))
    known = np.isfinite(value)
    if not known.any():
        raise DataError(
            "The history holds no finite ELBO: this posterior was not fitted here, or every step "
            "of its fit was left out."
        )
    step, value, error = step[known], value[known], error[known]
    # Of a single step the error is not known.
    error = np.nan_to_num(error)
    low, high = value - 2 * error, value + 2 * error

    ax = axes(ax)
    ax.fill_between(step, low, high, color=BLUE, alpha=0.25, linewidth=0)
    ax.plot(step, value, color=BLUE, linewidth=1.3)
    settled = slice(len(step) // 2, None)
    top, bottom = high[settled].max(), low[settled].min()
    span = max(top - bottom, 1e-6 * abs(top), 1e-12)
    floor = max(bottom - _CLIMB * span, low.min())
    ceiling = max(top, min(high.max(), top + span))
    ax.set_ylim(floor - 0.05 * span, ceiling + 0.1 * span)
    ax.set_xlim(0, step[-1])
    hidden = int((value < floor).sum())
    if hidden:
        ax.annotate(
            f"{hidden} of {len(step)} records lie lower, the first at {_minus(value[0])}",
            (0.99, 0.02),
            xycoords="axes fraction",
            ha="right",
            fontsize=SMALL,
            color=GREY,
        )
    _mark(ax, history.phases() if phases is None else phases, step[-1])
    ax.ticklabel_format(axis="y", useOffset=False, style="plain")
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    ax.set(xlabel="training step", ylabel="ELBO in nats, ± 2 standard errors")
    return ax


def _mark(ax: Any, phases: Mapping[str, int], last: int) -> None:
    """A line where each phase but the first begins, and its name."""
    for name, start in phases.items():
        if start >= last:
            continue
        if start > 0:
            ax.axvline(start, color=GREY, linewidth=0.8, linestyle=":")
        ax.annotate(
            name,
            (start, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, -2),
            textcoords="offset points",
            va="top",
            fontsize=SMALL,
            color=GREY,
        )


def _minus(value: float) -> str:
    """A number with the minus sign of the axis' labels."""
    return f"{value:,.0f}".replace("-", "\N{MINUS SIGN}")
