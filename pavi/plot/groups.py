"""Estimates of groups: each with its intervals, and against what its own data say of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pavi.dist.bounded import Flat
from pavi.dist.supports import Real
from pavi.errors import DataError
from pavi.model import evaluate_spec
from pavi.no_pooling import group_sizes, no_pooling, outcome_of
from pavi.plot.canvas import BLUE, GREY, ORANGE, SMALL, axes
from pavi.plot.place import Place, place_of
from pavi.subsampling import full_batch

if TYPE_CHECKING:
    from pavi.posterior import Posterior

MAX_LABELLED = 100  # elements of a plate that still get a label each
MAX_DRAWN = 600  # elements of a plate that are drawn at all
_LEAST_AREA, _MOST_AREA = 14.0, 150.0  # of a group's marker, in square points


def intervals(
    posterior: Posterior,
    variable: str,
    *,
    plate: str | None = None,
    at: Mapping[str, Any] | None = None,
    component: int | tuple[int, ...] | None = None,
    draws: Mapping[str, np.ndarray] | None = None,
    num_samples: int = 1000,
    seed: int = 0,
    ax: Any = None,
) -> Any:
    """The mean of each group with its 50 % and 90 % intervals, in the order of the means.

    Args:
        posterior: the posterior.
        variable: a latent in plates.
        plate: the plate whose elements are drawn; of several the last by default.
        at: an element of each other plate of the latent, by position or label; else the first.
        component: which element of the latent's event; the first by default.
        draws: draws that `posterior.sample` gave, to spare new ones.
        num_samples: number of draws otherwise.
        seed: seed of these draws.
        ax: matplotlib axes; those of a new figure by default.

    Returns:
        The axes.

    Raises:
        DataError: a name or an element that there is not.
        BackendError: matplotlib is not installed.
    """
    place = place_of(posterior, variable, plate, at, component)
    size = len(place.labels)
    known = None if draws is None else {variable: draws[variable]}
    means = place.along(_means(posterior, known, num_samples, seed)[variable])
    order = np.argsort(means, kind="stable")[_spread(size)]
    values = _drawn(posterior, place, order, draws, num_samples, seed)
    q05, q25, q75, q95 = np.quantile(values, (0.05, 0.25, 0.75, 0.95), axis=0)

    shown = len(order)
    ax = axes(ax, width=width_of(shown), height=4.2)
    x = np.arange(shown)
    ax.vlines(x, q05, q95, color=BLUE, alpha=0.45, linewidth=1.0, label="90 % interval")
    ax.vlines(x, q25, q75, color=BLUE, linewidth=2.4, label="50 % interval")
    ax.plot(x, means[order], "o", color=BLUE, markersize=3.0, label="posterior mean")
    ax.axhline(means.mean(), color=GREY, linewidth=0.8, linestyle="--", label="mean of all")
    ax.set_xlim(-1, shown)
    labelled = shown == size <= MAX_LABELLED
    ax.set_xticks(
        x if labelled else [],
        place.labels[order].astype(str) if labelled else [],
        rotation=90,
        fontsize=SMALL,
    )
    ax.set(
        xlabel=f"{place.plate} ({_shown(shown, size)}), in the order of the means",
        ylabel=f"{place.name}{place.where}",
    )
    ax.legend(frameon=False, fontsize=SMALL, loc="upper left")
    return ax


def width_of(size: int) -> float:
    """Inches by which the labels of so many elements do not touch."""
    return float(np.clip(0.14 * size, 6.4, 15.0))


def shrinkage(
    posterior: Posterior,
    variable: str,
    *,
    raw: Any = None,
    sizes: Any = None,
    outcome: str | None = None,
    plate: str | None = None,
    at: Mapping[str, Any] | None = None,
    component: int | tuple[int, ...] | None = None,
    probability: float = 0.9,
    draws: Mapping[str, np.ndarray] | None = None,
    num_samples: int = 1000,
    seed: int = 0,
    ax: Any = None,
) -> Any:
    """Each group's posterior against the estimate from its own data alone.

    A group on the diagonal keeps what its own data say; the smaller it is, the closer it is drawn
    to the prior's mean. The estimate without pooling is that of the likelihood with all other
    latents at their posterior means: for a Normal outcome, the mean of what is left of the group's
    outcomes when the rest of the predictor is taken off. A group that has none is left out.

    Args:
        posterior: the posterior.
        variable: a latent in plates, on the real line.
        raw: estimates without pooling, `[plate]`, where others are wanted or none can be computed.
        sizes: number of observations of each group, `[plate]`; those present by default.
        outcome: the observed variable that tells of the latent, where there are several.
        plate: the plate whose elements are drawn; of several the last by default.
        at: an element of each other plate of the latent, by position or label; else the first.
        component: which element of the latent's event; the first by default.
        probability: of the intervals.
        draws: draws that `posterior.sample` gave, to spare new ones.
        num_samples: number of draws otherwise.
        seed: seed of these draws.
        ax: matplotlib axes; those of a new figure by default.

    Returns:
        The axes.

    Raises:
        DataError: a name or an element that there is not, or estimates that cannot be computed.
        BackendError: matplotlib is not installed.
    """
    if not 0 < probability < 1:
        raise DataError(f"shrinkage: probability={probability!r}: expected one between 0 and 1.")
    place = place_of(posterior, variable, plate, at, component)
    means = _means(posterior, draws, num_samples, seed)
    if raw is None or sizes is None:
        outcome = outcome_of(posterior.graph, variable, outcome)
    if raw is None and outcome is not None:
        found = no_pooling(posterior.data, means, variable, outcome, place.component)
        x = place.copies(found.estimate)
    else:
        x = place.checked(raw, "raw")
    if sizes is None and outcome is not None:
        count = place.copies(group_sizes(posterior.data, variable, outcome))
    else:
        count = place.checked(sizes, "sizes")
    known = np.flatnonzero(np.isfinite(x))
    if not len(known):
        raise DataError(
            f"shrinkage: no {place.plate} has an estimate of {variable!r} of its own. Give "
            f"estimates as raw=."
        )
    # Groups of all sizes, where there are too many.
    by_size = known[np.argsort(count[known], kind="stable")][::-1]
    chosen = by_size[_spread(len(by_size))]
    values = _drawn(posterior, place, chosen, draws, num_samples, seed)
    tail = (1.0 - probability) / 2
    low, high = np.quantile(values, (tail, 1.0 - tail), axis=0)
    x, y, size = x[chosen], place.along(means[variable])[chosen], count[chosen]

    ax = axes(ax, width=6.8, height=4.8)
    ax.vlines(x, low, high, color=BLUE, alpha=0.35, linewidth=1.0, zorder=2)
    area = _LEAST_AREA + (_MOST_AREA - _LEAST_AREA) * size / max(count.max(), 1.0)
    ax.scatter(
        x, y, s=area, color=BLUE, alpha=0.75, edgecolor="white", linewidth=0.5, zorder=3, label="_"
    )
    ax.axline(
        (float(x.mean()), float(x.mean())),
        slope=1,
        color=GREY,
        linewidth=0.9,
        linestyle=":",
        label=f"no pooling: the {place.plate}'s own estimate",
    )
    _prior_mean(ax, posterior, place, means, chosen, x)
    _size_legend(ax, size, area, f"observations per {place.plate}")
    some = [f"{len(chosen):,} of {len(place.labels):,}"] if len(chosen) < len(place.labels) else []
    if without := len(place.labels) - len(known):
        some.append(f"{without:,} without such an estimate")
    note = f"\n({'; '.join(some)})" if some else ""
    ax.set(
        xlabel=f"{place.name} estimated from the {place.plate}'s own data{place.where}{note}",
        ylabel=f"posterior of {place.name}: mean and {100 * probability:g} % interval",
    )
    return ax


def _prior_mean(
    ax: Any,
    posterior: Posterior,
    place: Place,
    means: Mapping[str, np.ndarray],
    chosen: np.ndarray,
    x: np.ndarray,
) -> None:
    """A line at the prior's mean given its parents' means, or a dash for each group."""
    graph, data = posterior.graph, posterior.data
    values = {name: np.asarray(v, np.float64)[None] for name, v in means.items()}
    spec = evaluate_spec(graph, place.variable, values, full_batch(data, "float64"), 1)
    if isinstance(spec, Flat) or not isinstance(spec.support, Real):
        return
    latent = graph.variables[place.variable]
    shape = (*(data.sizes[plate] for plate in latent.plates), *latent.event)
    mean = np.broadcast_to(np.asarray(spec.unconstrained_moments()[0]), (1, *shape))
    along = place.along(mean)[0][chosen]
    label = "prior mean given the globals"
    if np.ptp(along) <= 1e-9 * max(np.abs(along).max(), 1.0):
        ax.axhline(along[0], color=ORANGE, linewidth=1.2, linestyle="--", label=label, zorder=1)
    else:
        ax.plot(x, along, "_", color=ORANGE, markersize=7, label=label, zorder=1)


def _size_legend(ax: Any, size: np.ndarray, area: np.ndarray, title: str) -> None:
    """What the markers' areas mean: the least, the middle and the largest, and what lines mean."""
    lines = ax.legend(frameon=False, fontsize=SMALL, loc="upper left")
    ax.add_artist(lines)
    order = np.argsort(size, kind="stable")
    places = order[[0, len(order) // 2, -1]]
    _, first = np.unique(size[places], return_index=True)
    handles = [
        ax.scatter([], [], s=area[i], color=BLUE, alpha=0.75, edgecolor="white", linewidth=0.5)
        for i in places[first]
    ]
    labels = [f"{size[i]:,.0f}" for i in places[first]]
    ax.legend(
        handles,
        labels,
        title=title,
        title_fontsize=SMALL,
        frameon=False,
        fontsize=SMALL,
        loc="lower right",
    )


def _means(
    posterior: Posterior, draws: Mapping[str, np.ndarray] | None, num_samples: int, seed: int
) -> dict[str, np.ndarray]:
    """Means of every latent, `[*plates, *event]`."""
    if draws is None:
        return posterior.mean(num_samples, seed=seed)
    return {
        name: np.asarray(np.mean(value, axis=0, dtype=np.float64)) for name, value in draws.items()
    }


def _drawn(
    posterior: Posterior,
    place: Place,
    chosen: np.ndarray,
    draws: Mapping[str, np.ndarray] | None,
    num_samples: int,
    seed: int,
) -> np.ndarray:
    """Draws of the elements that are shown, `[draws, chosen]`."""
    if draws is None:
        return place.draws(posterior, chosen, num_samples, seed)
    return place.along(np.asarray(draws[place.variable]))[:, chosen].astype(np.float64)


def _spread(size: int) -> np.ndarray:
    """Positions of at most `MAX_DRAWN` of so many, evenly."""
    return np.linspace(0, size - 1, min(size, MAX_DRAWN)).round().astype(int)


def _shown(shown: int, size: int) -> str:
    return f"all {size:,}" if shown == size else f"{shown:,} of {size:,}"
