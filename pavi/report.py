"""What a fit shows a person: the posterior table, two pictures, and the plate diagram."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from pavi.graph import PlateGraph, Variable

MAX_TABLE_ROWS = 60
MAX_LABELLED = 100  # elements of a plate that still get a label each
MAX_DRAWN = 600  # elements of a plate that are drawn at all
MAX_PANELS = 6  # components of an event that get a panel each

_BLUE, _GREY = "#1f5fa8", "#6b7785"


class History(Protocol):
    """The ELBO along a fit: arrays [records] of equal length."""

    @property
    def step(self) -> np.ndarray: ...
    @property
    def elbo(self) -> np.ndarray: ...
    @property
    def elbo_se(self) -> np.ndarray: ...


@dataclass(frozen=True)
class Summary:
    """Moments and quantiles of one scalar quantity."""

    name: str
    mean: float
    sd: float
    q05: float
    q50: float
    q95: float


def summarise(draws: Mapping[str, np.ndarray], names: Iterable[str]) -> list[Summary]:
    """Returns one summary for each scalar of the named arrays [draws, *event]."""
    rows = []
    for name in names:
        values = np.asarray(draws[name], dtype=np.float64)
        for place in np.ndindex(values.shape[1:]):
            scalar = values[(slice(None), *place)]
            label = f"{name}[{','.join(map(str, place))}]" if place else name
            q05, q50, q95 = np.quantile(scalar, (0.05, 0.5, 0.95))
            rows.append(Summary(label, scalar.mean(), scalar.std(ddof=1), q05, q50, q95))
    return rows


def table(rows: Sequence[Summary]) -> str:
    """Returns the rows as aligned text, each with as many decimals as its sd supports."""
    header = ("", "mean", "sd", "5%", "50%", "95%")
    body = [
        (row.name, *(_number(v, row.sd) for v in (row.mean, row.sd, row.q05, row.q50, row.q95)))
        for row in rows[:MAX_TABLE_ROWS]
    ]
    widths = [max(len(line[column]) for line in (header, *body)) for column in range(len(header))]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in (header, *body)
    ]
    if len(rows) > MAX_TABLE_ROWS:
        lines.append(f"... and {len(rows) - MAX_TABLE_ROWS:,} more")
    return "\n".join(lines)


def _number(value: float, sd: float) -> str:
    """Formats a value to three significant digits of its sd."""
    if not (math.isfinite(value) and math.isfinite(sd) and sd > 0):
        return f"{value:.4g}"
    decimals = 2 - math.floor(math.log10(sd))
    if decimals > 8 or abs(value) >= 1e9:
        return f"{value:.4e}"
    return f"{value:.{max(decimals, 0)}f}"


def plot_elbo(history: History, path: Path, title: str) -> None:
    """Draws the ELBO with two standard errors: over the whole fit, and over its second half."""
    figure, axes = _canvas(1, 2, width=9.0, height=3.4)
    step, elbo = np.asarray(history.step), np.asarray(history.elbo, dtype=np.float64)
    error = np.asarray(history.elbo_se, dtype=np.float64)
    # The first steps lie far below the rest and set the scale: the right panel leaves them out.
    parts = (("all steps", slice(None)), ("second half", slice(len(step) // 2, None)))
    for axis, (label, part) in zip(axes.flat, parts, strict=True):
        low, high = elbo[part] - 2 * error[part], elbo[part] + 2 * error[part]
        axis.fill_between(step[part], low, high, color=_BLUE, alpha=0.25, linewidth=0)
        axis.plot(step[part], elbo[part], color=_BLUE, linewidth=1.2)
        axis.set(xlabel="step", title=label)
        axis.ticklabel_format(axis="y", useOffset=False)
    axes.flat[0].set_ylabel("ELBO (nats)")
    figure.suptitle(title)
    figure.savefig(path, dpi=130)


def plot_effects(
    draws: np.ndarray, labels: Sequence[object], path: Path, *, name: str, plate: str
) -> None:
    """Draws each element's mean with its 50 % and 90 % intervals, in the order of the means.

    Args:
        draws: One latent's draws [draws, plate, *event].
        labels: The plate's coordinates [plate].
        path: Where the picture goes.
        name: The latent's name.
        plate: The plate's name.
    """
    size = draws.shape[1]
    components = draws.reshape(draws.shape[0], size, -1).astype(np.float64)
    panels = min(components.shape[2], MAX_PANELS)
    shown = min(size, MAX_DRAWN)
    width = float(np.clip(0.14 * shown, 6.0, 15.0))
    figure, axes = _canvas(panels, 1, width=width, height=3.6 if panels == 1 else 2.9 * panels)
    for component, axis in enumerate(axes.flat):
        values = components[:, :, component]
        order = np.argsort(values.mean(axis=0))
        order = order[np.linspace(0, size - 1, shown).round().astype(int)]
        q05, q25, q75, q95 = np.quantile(values[:, order], (0.05, 0.25, 0.75, 0.95), axis=0)
        place = np.arange(shown)
        axis.vlines(place, q05, q95, color=_BLUE, alpha=0.45, linewidth=1.0)
        axis.vlines(place, q25, q75, color=_BLUE, linewidth=2.4)
        axis.plot(place, values[:, order].mean(axis=0), "o", color=_BLUE, markersize=2.6)
        axis.axhline(values.mean(), color=_GREY, linewidth=0.8, linestyle="--")
        axis.set_ylabel(name if components.shape[2] == 1 else f"{name}[{component}]")
        axis.set_xlim(-1, shown)
        if shown == size <= MAX_LABELLED:
            axis.set_xticks(place, [str(labels[i]) for i in order], rotation=90, fontsize=7)
        else:
            axis.set_xticks([])
    count = f"{size:,}" if shown == size else f"{shown:,} of {size:,}"
    axes.flat[-1].set_xlabel(f"{plate} ({count}, in the order of the means)")
    figure.suptitle(f"{name} by {plate}: mean, 50 % and 90 % intervals")
    figure.savefig(path, dpi=130)


def _canvas(rows: int, columns: int, *, width: float, height: float) -> tuple[Any, np.ndarray]:
    """Returns a figure that needs no display and leaves a notebook's own backend alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def to_dot(graph: PlateGraph) -> str:
    """Returns the plate diagram in Graphviz's language, observed variables grey.

    A box holds the variables of one set of plates. It lies inside the box of its owners where there
    is one; where two owners cross, boxes cannot, so it stands alone and its label names both.
    """
    boxes: dict[frozenset[str], list[Variable]] = {}
    labels: dict[frozenset[str], str] = {}
    for variable in graph.variables.values():
        key = _closure(graph, variable.plates)
        boxes.setdefault(key, []).append(variable)
        labels.setdefault(key, _box_label(graph, variable.plates))
    parents = {key: _enclosing(key, boxes) for key in boxes}

    lines = ["digraph model {", "  rankdir=TB;", "  node [shape=ellipse];"]

    def draw(key: frozenset[str], depth: int) -> None:
        pad = "  " * depth
        if key:
            lines.append(f"{pad}subgraph {_quote('cluster_' + ' '.join(sorted(key)))} {{")
            lines.append(f"{pad}  label={_quote(labels[key])}; labeljust=r; labelloc=b;")
        inner = pad + "  " if key else pad
        for variable in boxes.get(key, ()):
            shape = {
                "observed": " [style=filled, fillcolor=lightgrey]",
                "covariate": " [shape=plaintext]",
            }.get(variable.kind, "")
            lines.append(f"{inner}{_quote(variable.name)}{shape};")
        for child in boxes:
            if child and parents[child] == key:
                draw(child, depth + 1 if key else depth)
        if key:
            lines.append(f"{pad}}}")

    draw(frozenset(), 1)
    lines.extend(
        f"  {_quote(parent)} -> {_quote(variable.name)};"
        for variable in graph.variables.values()
        for parent in variable.parents
    )
    return "\n".join([*lines, "}"]) + "\n"


def _closure(graph: PlateGraph, plates: Sequence[str]) -> frozenset[str]:
    return frozenset(plates).union(*(graph.owners(plate) for plate in plates))


def _box_label(graph: PlateGraph, plates: Sequence[str]) -> str:
    crossed = [plate for plate in plates if len(graph.plates[plate].within) > 1]
    suffix = "".join(f" (within {' and '.join(graph.plates[plate].within)})" for plate in crossed)
    return " x ".join(plates) + suffix


def _enclosing(key: frozenset[str], boxes: Mapping[frozenset[str], object]) -> frozenset[str]:
    """Returns the largest box that strictly holds this one, or none where two of them cross."""
    around = [other for other in boxes if other < key]
    largest = max(around, key=len, default=frozenset())
    return largest if all(other <= largest for other in around) else frozenset()


def _quote(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
